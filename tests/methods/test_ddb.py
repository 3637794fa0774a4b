"""DDB: another class's object in the same scene; on pocketbirds, with the pocket model."""

import contextlib
import csv
import io
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image
from repaint_datasets import EASY, STAGES, build_with_a_kill, draw, list_planned_images, rows
from tiny_checkpoints import make_checkpoint
from tiny_classifiers import make_classifier
from tiny_transformers import make_transformer

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.hashing import digest
from figureground.curation.curating import curate
from figureground.data.layouts import read_groups
from figureground.learn.errors import read_errors
from figureground.learn.training_data import gather
from figureground.methods.ddb import DDB
from figureground.methods.registry import open_dataset
from figureground.models.bundled import SEGMENTER
from figureground.pocket import birds
from figureground.report.showing import show
from figureground.vision.classifiers import open_classifier

SMALL = {**EASY, "shard_size": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return birds.write(
        tmp_path_factory.mktemp("data") / "birds", 40, 8, 8, bias_aligned_share=0.95, size=32, show_progress=False
    )


@pytest.fixture(scope="module")
def built(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "ddb"
    return DDB("pocket", data=str(data), **SMALL).build(out, show_progress=False)


@pytest.fixture(scope="module")
def wordless(data, built, tmp_path_factory):
    """Nothing learned, objects found by a segmenter in a directory, and all paths relative to the data's folder."""
    folder = data.parent
    shutil.copytree(SEGMENTER, folder / "finders" / "my-clipseg")
    shutil.copytree(built / STAGES / "classifier" / "early-stopped", folder / "judge")
    settings = {**SMALL, "prompt": "a photo of a {noun}", "nouns": {"mug": "cup"}, "phrases": {"mug": "mug"},
                "segmenter": "finders/my-clipseg", "classifier": "./judge", "mask_dilation": 0.0}  # fmt: skip
    with contextlib.chdir(folder):
        DDB("pocket", data=data.name, **settings).build("out", show_progress=False)
    return folder / "out"


def scores(out):
    with (out / "_figureground" / "scores" / "ddb.csv").open(newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def test_the_new_image_has_the_painted_class_and_the_scene_of_its_source(data, built):
    train = read_groups(data).of_split(0)
    of = {key: (int(train.y[i]), int(train.a[i])) for i, key in enumerate(train.keys)}
    found = load_dataset(str(built), split="train")
    assert found.features["foreground"].names == list(birds.OBJECTS)
    assert found.features["background"].names == list(birds.SCENES)
    assert len(found) == 2 * 3
    for row in found:
        provenance = json.loads(row["provenance"])
        y, a = of[row["source"]]
        assert row["foreground"] == 1 - y
        assert row["background"] == a
        assert provenance["source_class"] == birds.OBJECTS[y]
        assert provenance["token"] == f"<{birds.OBJECTS[1 - y]}>"
        assert row["prompt"] == f"a photo of a <{birds.OBJECTS[1 - y]}>"
    assert read_groups(built).counts(0).sum() == 6


def test_sources_are_the_images_of_lowest_loss(data, built):
    errors = read_errors(built / STAGES / "classifier")
    best = set()
    for label in (0, 1):
        mine = np.flatnonzero((errors.y == label) & ~errors.wrong)
        best |= {errors.keys[i] for i in sorted(mine, key=lambda i: (errors.loss[i], errors.keys[i]))[:3]}
    assert {row["source"] for row in rows(built)} == best


def test_every_candidate_has_scores_and_pruning_is_a_rule_of_curate(data, built, tmp_path):
    found, table = scores(built), rows(built)
    assert set(found) == {row["key"] for row in table}
    classifier = open_classifier(str(built / STAGES / "classifier" / "early-stopped"))
    images = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in table]
    probabilities = classifier.read(images).logits.softmax(1).tolist()
    for row, probability in zip(table, probabilities, strict=True):
        score = found[row["key"]]
        assert classifier.labels == birds.OBJECTS
        assert float(score["probability"]) == pytest.approx(probability[row["foreground"]], abs=1e-5)
        assert score["predicted"] == birds.OBJECTS[int(np.argmax(probability))]
        assert 0 <= float(score["attribution"]) <= 1
        assert 0 < float(score["area"]) < 1
        ratio = float(score["attribution"]) / float(score["area"])
        assert float(score["attribution_ratio"]) == pytest.approx(ratio, rel=1e-3)
    middle = sorted(float(row["probability"]) for row in found.values())[len(found) // 2]
    builder = DDB("pocket", data=str(data), **SMALL, min_probability=middle, min_attribution_ratio=0)
    curate(built, tmp_path / "pruned", builder.pruning_rule())
    kept = {row["key"] for row in rows(tmp_path / "pruned")}
    assert kept == {key for key, row in found.items() if float(row["probability"]) >= middle}
    by_class = DDB("pocket", data=str(data), **SMALL, min_probability={"mug": 0.4}, min_attribution_ratio={})
    assert by_class.pruning_rule() == "(foreground != 'mug' or scores.ddb.probability >= 0.4)"


def pictures(panel):
    return {picture.title: picture.image for picture in panel.pictures}


def test_a_sample_shows_its_source_region_and_scores(data, built):
    found, errors = scores(built), read_errors(built / STAGES / "classifier")
    ratios = sorted(float(row["attribution_ratio"]) for row in found.values())
    builder = DDB("pocket", data=str(data), **SMALL, min_probability=0, min_attribution_ratio=ratios[3])
    builder.read_stages(built / STAGES)
    for row in rows(built):
        shown, pruning = builder.panels(built, json.loads(row["provenance"]))
        assert (shown.title, pruning.title) == ("Source and repainted object", "Pruning")
        drawn, facts, score = pictures(shown), dict(shown.facts), found[row["key"]]
        source = np.asarray(Image.open(data / row["source"]).convert("RGB"))
        assert np.array_equal(np.asarray(drawn["source"]), source)
        assert np.array_equal(np.asarray(drawn["mask"]), np.asarray(builder.read_mask(row["source"])))
        assert drawn["region"].size == drawn["source"].size
        assert facts["painted class"] == birds.OBJECTS[row["foreground"]] != facts["class of the source"]
        loss = errors.loss[errors.keys.index(row["source"])]
        assert float(facts["loss of the source"].split(",")[0]) == pytest.approx(loss, rel=1e-2)
        pruning_facts = dict(pruning.facts)
        assert pruning_facts[f"probability of {facts['painted class']}"].startswith(
            f"{float(score['probability']):.3f} "
        )
        kept = float(score["attribution_ratio"]) >= ratios[3]
        assert pruning_facts["pruning"].startswith("keeps" if kept else "drops")
        levels = np.asarray(pictures(pruning)["attribution"]).sum(-1)  # the colours' lightness rises
        region = np.asarray(drawn["mask"]) >= 128
        denser = levels[region].mean() > levels[~region].mean()
        assert denser or float(score["attribution_ratio"]) < 1.5


def test_the_overview_shows_what_curate_would_drop(data, built, tmp_path):
    middle = sorted(float(row["probability"]) for row in scores(built).values())[3]
    fields = {**SMALL, "min_probability": {"mug": middle}, "min_attribution_ratio": {}}
    builder = DDB("pocket", data=str(data), **fields)
    curate(built, tmp_path / "pruned", builder.pruning_rule())
    kept = {row["key"] for row in rows(tmp_path / "pruned")}
    table = {row["key"]: row for row in rows(built)}
    dropped = table.keys() - kept
    assert dropped
    pruning, images = builder.overview(built)
    assert [image.mode for image in pictures(pruning).values()] == ["RGB", "RGB"]
    facts = dict(pruning.facts)
    assert facts["dropped"].startswith(f"{len(dropped)} of 6 ")
    for label, name in enumerate(birds.OBJECTS):
        of = [row for row in table.values() if row["foreground"] == label]
        assert facts[f"dropped of {name}"].startswith(f"{sum(row['key'] in dropped for row in of)} of {len(of)} ")
    shown = {title.split(",")[0]: image for title, image in pictures(images).items()}
    assert shown.keys() == dropped
    for key, image in shown.items():
        stored = Image.open(io.BytesIO(table[key]["image"]["bytes"])).convert("RGB")
        assert np.array_equal(np.asarray(image), np.asarray(stored))
    (pruning,) = DDB("pocket", data=str(data), **{**fields, "min_probability": 0.0}).overview(built)
    assert dict(pruning.facts)["dropped"].startswith("0 of 6 ")


def test_panels_name_what_is_gone(data, built, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(built, tmp_path / "out")
    builder = DDB("pocket", data=str(tmp_path / "data"), **SMALL, min_probability=1.0)
    row = rows(built)[0]
    provenance = json.loads(row["provenance"])
    assert builder.identity()  # reads the data, before they change
    (tmp_path / "data" / row["source"]).unlink()
    shown, _ = builder.panels(tmp_path / "out", provenance)
    assert set(pictures(shown)) == {"mask"}
    assert row["source"] in dict(shown.facts)["region"]
    for shard in (tmp_path / "out" / "data").glob("*.parquet"):
        shard.write_bytes(b"")
    _, images = builder.overview(tmp_path / "out")
    assert not images.pictures
    assert sum(value.startswith("missing") for _, value in images.facts) == 6
    shutil.rmtree(tmp_path / "out" / STAGES / "attribution")
    assert "attribution maps" in dict(builder.panels(tmp_path / "out", provenance)[1].facts)["attribution"]
    (tmp_path / "out" / "_figureground" / "scores" / "ddb.csv").write_text("key,probability\nx,y\n")
    shutil.rmtree(tmp_path / "out" / STAGES / "sources")
    shown, pruning = builder.panels(tmp_path / "out", provenance)
    assert "stage sources" in dict(shown.facts)
    assert "ddb.csv" in dict(pruning.facts)["scores"]
    (overview,) = builder.overview(tmp_path / "out")
    assert "ddb.csv" in dict(overview.facts)["scores"]
    assert str(tmp_path) not in str([shown, pruning, images, overview])


def test_the_report_of_a_set_without_its_stages_is_drawn(built, tmp_path):
    shutil.copytree(built, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / STAGES)
    assert show(tmp_path / "out").files == [tmp_path / "out" / "preview.png", tmp_path / "out" / "report.html"]


def test_thresholds_of_pruning_may_change_in_a_finished_set(data, built):
    before = scores(built)
    DDB("pocket", data=str(data), **SMALL, min_probability=0.9).build(built, show_progress=False)
    assert scores(built) == before


def test_a_finished_set_is_left_as_it_is_and_its_stages_too(data, built):
    files = [path for path in built.rglob("*") if path.is_file() and {"stages", "data", "scores"} & set(path.parts)]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert len(files) > 20
    DDB("pocket", data=str(data), **SMALL).build(built, show_progress=False)
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_without_a_word_nothing_is_learned(wordless):
    assert {row["prompt"] for row in rows(wordless)} == {"a photo of a cup", "a photo of an umbrella"}
    assert not list((wordless / STAGES).glob("tokens*"))
    assert all("token" not in json.loads(row["provenance"]) for row in rows(wordless))


def test_a_segmenter_s_directory_is_called_by_its_last_name_alone(data, wordless):
    assert {json.loads(row["provenance"])["segmenter"] for row in rows(wordless)} == {"my-clipseg"}
    for path in (wordless / "README.md", *(wordless / "data").iterdir(), *(wordless / "webdataset").iterdir()):
        assert b"finders" not in path.read_bytes()
    saved = (wordless / "_figureground" / "recipe.json").read_text()
    assert "finders/my-clipseg" in saved
    assert str(data.parent) not in saved


def test_a_dataset_is_opened_again_from_anywhere(data, wordless, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    again = open_dataset(wordless)
    assert again.data.fingerprint == read_groups(data).fingerprint
    assert json.loads((wordless / "_figureground" / "recipe.json").read_text())["sha256"] == digest(again.identity())


def test_a_phrase_that_is_found_in_hardly_any_image_is_named(data, tmp_path):
    settings = {**SMALL, "segmenter": "pocket", "phrases": {"mug": "rocket"}}
    with pytest.raises(FiguregroundError, match=r"of 'mug' have no usable mask.*nothing found.*segmenter=.*phrases"):
        DDB("pocket", data=str(data), **settings).build(tmp_path / "out", show_progress=False)


def test_a_classifier_of_other_classes_is_refused(data, tmp_path):
    folder = make_classifier(tmp_path / "classifier", labels={0: "mug", 1: "umbrella", 2: "cat"})
    with pytest.raises(FiguregroundError, match=r"has 3 classes \(mug, umbrella, cat\), .*the data have 2"):
        DDB("pocket", data=str(data), **SMALL, classifier=str(folder)).build(tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": 2}, "sources: 2"),
        ({"per_source": 0}, "per_source: 0"),
        ({"inversion": {"max_train_step": 3}}, "inversion.max_train_step: .*did you mean 'max_train_steps'"),
        ({"inversion": {"vectors": 0}}, r"^inversion\.vectors: 0 is not"),
        ({"inversion": {"templates": ["a mug"]}}, r"^inversion\.templates: 'a mug' lacks {token}, the placeholder"),
        ({"inversion": {"checkpoint": "x"}}, "inversion.checkpoint: checkpoint is a setting of the recipe itself"),
        ({"phrases": {"cat": "a cat"}}, "cat: phrases has no such field; available: mug, umbrella"),
        ({"phrases": {"mug": ""}}, "phrases.mug: '' is not a text"),
        ({"min_probability": 2}, "min_probability: 2"),
        ({"min_attribution_ratio": {"mug": -1}}, "min_attribution_ratio.mug: -1 is not a number of at least 0"),
        ({"min_probability": {"mug": 2}}, "min_probability.mug: 2 is not a number from 0 to 1"),
        ({"min_attribution": 0.1}, "min_attribution: .*min_attribution_ratio"),
        ({"segmenter": ""}, "segmenter: '' is not a text"),
        ({"outside": "x"}, "outside: 'x' is not one of"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(data, settings, message):
    with pytest.raises(RecipeError, match=message):
        DDB("pocket", data=str(data), **{**SMALL, **settings})


@pytest.mark.slow
def test_two_workers_that_are_killed_while_they_learn_words_go_on_there_and_end_alike(data, built, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log.jsonl"
    options = ["--workers", "2", "--log-json", str(log)]
    done = build_with_a_kill("ddb", data, out, SMALL, "tokens-0/learned/state.pt", options)
    assert done - {"tokens-1"} == {"classifier", "sources", "masks", "jobs"}
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert {each["stage"] for each in events if each["event"] == "stage"} == {"tokens-0", "tokens-1"}
    assert [row["image"] for row in rows(out)] == [row["image"] for row in rows(built)]
    assert scores(out).keys() == scores(built).keys()  # judged with other numbers of threads
    for key, each in scores(built).items():
        assert float(scores(out)[key]["probability"]) == pytest.approx(float(each["probability"]), abs=1e-4)


def test_what_is_left_of_one_class_can_be_added_to_training(data, built, tmp_path):
    curate(built, tmp_path / "mugs", "foreground == 'mug'")
    groups = read_groups(tmp_path / "mugs")
    assert set(groups.y) == {0}
    assert groups.classes == birds.OBJECTS
    both = gather(read_groups(data), [groups])
    assert both.added.sum() == 3


def test_words_are_learned_for_a_checkpoint_that_was_made_for_inpainting(data, wordless, tmp_path):
    painter = make_checkpoint("sd1", tmp_path / "painter", inpaint=True)
    settings = {**SMALL, "checkpoint": str(painter), "classifier": str(wordless.parent / "judge")}
    out = DDB("pocket", data=str(data), **settings).build(tmp_path / "out", show_progress=False)
    assert {row["prompt"] for row in rows(out)} == {f"a photo of a <{name}>" for name in birds.OBJECTS}
    assert len(rows(out)) == len(scores(out)) == 6
    for label in (0, 1):
        learned = json.loads((out / STAGES / f"tokens-{label}" / "learned" / "inversion.json").read_text())
        assert learned["base"]["checkpoint"] == painter.name


@pytest.mark.slow
def test_words_are_learned_for_flow_matching_in_every_text_encoder(data, wordless, tmp_path):
    checkpoint = make_transformer("sd3", tmp_path)
    settings = {**SMALL, "checkpoint": str(checkpoint), "classifier": str(wordless.parent / "judge")}
    with pytest.raises(RecipeError, match=r"^inversion\.min_snr_gamma: "):
        DDB("pocket", data=str(data), **{**settings, "inversion": {"min_snr_gamma": 5.0}}).check_family()
    out = DDB("pocket", data=str(data), **settings).build(tmp_path / "out", show_progress=False)
    assert {row["prompt"] for row in rows(out)} == {f"a photo of a <{name}>" for name in birds.OBJECTS}
    assert len(rows(out)) == len(scores(out)) == 6
    for label in (0, 1):
        learned = json.loads((out / STAGES / f"tokens-{label}" / "learned" / "inversion.json").read_text())
        assert learned["base"]["family"] == "sd3"
        assert len(learned["cosine_to_noun"]) == 3


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Three classes, six training images each, and a classifier that gets all of them right."""
    folder = tmp_path_factory.mktemp("coloured")
    data = draw(folder / "data", ("red", "green", "blue"), 6)
    settings = {**EASY, "prompt": "a {noun}", "training": {"epochs": 10}}
    DDB("pocket", data=data, **settings).run_planning_stages(folder / "out")
    return data, str(folder / "out" / STAGES / "classifier" / "early-stopped")


@pytest.mark.parametrize("sources", [3, 4])
def test_of_three_classes_every_source_becomes_both_others_and_each_of_them_as_often(coloured, tmp_path, sources):
    data, judge = coloured
    settings = {**EASY, "sources": sources, "per_source": 2, "prompt": "a {noun}", "classifier": judge}
    builder = DDB("pocket", data=data, **settings)
    made = list_planned_images(builder, tmp_path / "out")
    own = {each["source"]: builder.data.classes.index(each["source_class"]) for each in made}
    assert Counter(own.values()) == dict.fromkeys(range(3), sources)
    became = Counter((each["source"], each["foreground"]) for each in made)
    assert became == Counter((source, f) for source, label in own.items() for f in range(3) if f != label)
