"""Code shared by SCGS and DDB: inputs refused before any work, and stages whose files were damaged or taken away."""

import csv
import json
import shutil

import pytest
from PIL import Image
from repaint_datasets import EASY, SIZES, STAGES, draw, rows, sure, torn
from tiny_classifiers import make_classifier

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.methods.ddb import DDB
from figureground.methods.scgs import SCGS
from figureground.pocket import birds

WRONG = {"per_class": 2, **SIZES}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return birds.write(
        tmp_path_factory.mktemp("data") / "birds", 40, 8, 8, bias_aligned_share=0.95, size=32, show_progress=False
    )


@pytest.fixture(scope="module")
def ddb(data, tmp_path_factory):
    return DDB("pocket", data=str(data), **EASY).build(tmp_path_factory.mktemp("built") / "ddb", show_progress=False)


@pytest.fixture(scope="module")
def classifier(ddb):
    return str(ddb / STAGES / "classifier" / "early-stopped")


def unrendered(built, folder, *stages):
    """A copy of a dataset as it was before its images were made, and before certain stages were done."""
    out = shutil.copytree(built, folder)
    for name in ("data", "webdataset", "_figureground/shards", "_figureground/scores"):
        shutil.rmtree(out / name)
    for name in ("README.md", "croissant.json", "_figureground/index.json", "_figureground/numerics.json"):
        (out / name).unlink()
    for name in stages:
        (out / STAGES / name / "done.json").unlink()
    return out


# At the door


@pytest.mark.parametrize(
    ("builder", "settings", "message"),
    [
        (SCGS, {"prompt": "a {class} {noun}"}, r"prompt: nothing fills '\{class\}'"),
        (SCGS, {"prompt": "a {V} {noun}"}, r"prompt: nothing fills '\{V\}'"),
        (SCGS, {"prompt": "a {noun"}, "prompt: nothing fills '{noun'"),
        (SCGS, {"quantile": 1}, "quantile: 1"),
        (SCGS, {"per_class": 0}, "per_class: 0 plans no image"),
        (SCGS, {"per_class": {"mug": 0}}, "per_class: .* plans no image"),
        (SCGS, {"prompt": "a {noun} " + "very " * 80}, r"prompt: 'a mug very.* tokens, and the text encoder reads 77"),
        (SCGS, {"negative_prompt": "very " * 80}, r"^negative_prompt: 'very.* tokens, and the text encoder reads 77"),
        (DDB, {"prompt": "a thing"}, "prompt: 'a thing' .*'mug' and 'umbrella'"),
        (DDB, {"prompt": "a {noun}", "nouns": {"mug": "umbrella"}}, "'mug' and 'umbrella'"),
        (DDB, {"nouns": {"mug": "a <b>"}}, "nouns.mug: 'a <b>'"),
        (DDB, {"phrases": {"mug": " . "}}, r"phrases.mug: ' . ' names nothing"),
        (DDB, {"inversion": {"vectors": 70}, "prompt": "a photo of a {V} and a {V}"}, "tokens, and the text encoder"),
    ],
)
def test_a_setting_that_no_stage_could_use_is_refused_before_any(data, tmp_path, builder, settings, message):
    base = WRONG if builder is SCGS else EASY
    with pytest.raises(RecipeError, match=message):
        builder("pocket", data=str(data), **{**base, **settings}).build(tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("builder", [SCGS, DDB])
def test_data_without_a_validation_split_train_no_classifier_and_do_with_a_given_one(tmp_path, builder):
    data = draw(tmp_path / "data", ("cat", "dog"), 8, validation=0)
    base = WRONG if builder is SCGS else {**EASY, "prompt": "a {noun}"}
    with pytest.raises(FiguregroundError, match=r"data has no validation split.*split 1.*--classifier"):
        builder("pocket", data=data, **base).build(tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()
    builder("pocket", data=data, **base, classifier="given").check_settings()


def test_a_segmenter_that_is_not_there_is_refused_before_a_classifier_is_trained(data, tmp_path):
    with pytest.raises(FiguregroundError, match="segmenter: no such file or directory"):
        DDB("pocket", data=str(data), **{**EASY, "segmenter": "nowhere"}).build(tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_a_classifier_whose_features_can_t_be_clustered_is_refused_before_it_judges(data, tmp_path):
    given = make_classifier(tmp_path / "c", "deit with teacher", labels={0: "mug", 1: "umbrella"})
    with pytest.raises(FiguregroundError, match="aren't the output of one linear layer"):
        SCGS("pocket", data=str(data), **WRONG, classifier=str(given)).build(tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out" / STAGES / "errors" / "done.json").exists()


def test_the_error_about_large_images_names_the_setting_of_the_backbone(tmp_path):
    (tmp_path / "data").mkdir()
    lines = ["filename,split,y"]
    for i in range(8):
        Image.new("RGB", (120, 100), (20 * i, 0, 0)).save(tmp_path / "data" / f"{i}.png")
        lines.append(f"{i}.png,{i // 4},{'ab'[i % 2]}")
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(RecipeError, match=r"training.backbone: name one.*--set training.backbone"):
        SCGS("pocket", data=str(tmp_path / "data"), **WRONG, folds=2).build(tmp_path / "out", show_progress=False)


# Classes


def test_two_classes_of_nearly_one_name_have_words_of_their_own_and_their_own_answers(tmp_path):
    data = draw(tmp_path / "data", ("A b", "a-b"), 6)
    builder = DDB("pocket", data=data, **EASY)
    words = [builder.word(label) for label in range(2)]
    assert words[0] != words[1]
    assert all(word.startswith("<a-b-") for word in words)
    assert builder.prompt_of(0) != builder.prompt_of(1)
    given = sure(tmp_path / "c", ("A b", "a-b"), (-100, 100))
    out = SCGS("pocket", data=data, **WRONG, classifier=given).build(tmp_path / "scgs", show_progress=False)
    assert {json.loads(row["provenance"])["predicted"] for row in rows(out)} == {"a-b"}


def test_words_differ_whatever_the_classes_are_called(tmp_path):
    data = draw(tmp_path / "data", ("a b", "a-b", "a b class 0", "猫", "犬"), 3)
    words = [DDB("pocket", data=data, **EASY).word(label) for label in range(5)]
    assert len(set(words)) == 5


def test_a_class_that_is_not_asked_for_takes_no_part(data, tmp_path):
    given = torn(tmp_path / "c", ("mug", "umbrella"), data)  # wrong about some of each
    settings = {**WRONG, "per_class": {"umbrella": 2}, "classifier": given}
    out = SCGS("pocket", data=str(data), **settings).build(tmp_path / "out", show_progress=False)
    done = json.loads((out / STAGES / "masks" / "done.json").read_text())
    clusters = json.loads((out / STAGES / "clusters" / "done.json").read_text())["facts"]
    of_mug = {str(row) for part in clusters.get("0", {"rows": []})["rows"] for row in part}
    assert len(of_mug) > 0
    assert not of_mug & set(done["facts"]["files"])
    assert len(rows(out)) == 2


def test_nothing_to_repaint_is_reported_with_the_classes_that_were_asked_for(data, tmp_path):
    given = sure(tmp_path / "c", ("mug", "umbrella"), (100, -100))
    settings = {**WRONG, "per_class": {"mug": 2}, "classifier": given}
    with pytest.raises(FiguregroundError, match=r"nothing to repaint in birds. No training image of mug is pred"):
        SCGS("pocket", data=str(data), **settings).build(tmp_path / "out", show_progress=False)


def test_a_class_that_a_given_classifier_never_gets_right_is_named_with_what_helps(data, tmp_path):
    given = sure(tmp_path / "c", ("mug", "umbrella"), (100, -100))
    with pytest.raises(FiguregroundError, match=r"no image of 'umbrella' right.*--classifier train"):
        DDB("pocket", data=str(data), **EASY, classifier=given).build(tmp_path / "out", show_progress=False)


def test_words_are_learned_from_images_that_differ_and_all_classes_are_looked_at_first(data, ddb, tmp_path, classifier):
    twice = tmp_path / "twice"
    shutil.copytree(data, twice)
    keys = [row["source"] for row in rows(ddb)]
    first, second, *_ = sorted(key for key in keys if "umbrella" in key)
    shutil.copyfile(twice / first, twice / second)
    settings = {**EASY, "classifier": classifier}
    with pytest.raises(FiguregroundError, match=r"'umbrella' has 3 sources .* of which 2 differ"):
        DDB("pocket", data=str(twice), **settings).build(tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out" / STAGES / "tokens-0").exists()
    more = DDB("pocket", data=str(twice), **{**settings, "sources": 5}).build(tmp_path / "more", show_progress=False)
    assert len(rows(more)) == 10


# Stages


@pytest.mark.parametrize(
    ("damaged", "stage", "undone", "removed"),
    [
        ("jobs/done.json", "jobs", [], False),
        ("classifier/errors.npz", "classifier", ["jobs"], False),
        ("classifier/errors.npz", "classifier", ["jobs"], True),
        ("masks/0*.png", "masks", [], False),
        ("masks/0*.png", "masks", ["jobs", "tokens-0"], True),
        ("tokens-0/learned/learned_embeds.safetensors", "tokens-0", [], True),
    ],
)
def test_a_damaged_file_of_a_stage_is_named_and_its_stage_alone_done_again(
    data, ddb, tmp_path, damaged, stage, undone, removed
):
    out = unrendered(ddb, tmp_path / "out", *undone)
    path = next((out / STAGES).glob(damaged))
    path.unlink() if removed else path.write_bytes(path.read_bytes()[:20])
    builder = DDB("pocket", data=str(data), **EASY)
    with pytest.raises(FiguregroundError) as error:
        builder.build(out, show_progress=False)
    message = str(error.value)
    assert path.name in message
    assert f"Remove {out / STAGES / stage} " in message
    shutil.rmtree(out / STAGES / stage)
    others = {each: each.stat().st_mtime_ns for each in (out / STAGES).glob("*/done.json")}
    DDB("pocket", data=str(data), **EASY).build(out, show_progress=False)
    assert {each: each.stat().st_mtime_ns for each in others} == others
    assert [row["image"] for row in rows(out)] == [row["image"] for row in rows(ddb)]


def test_words_that_are_not_those_that_were_learned_are_refused(data, ddb, tmp_path):
    out = unrendered(ddb, tmp_path / "out")
    one, other = (out / STAGES / f"tokens-{label}" / "learned" / "learned_embeds.safetensors" for label in (0, 1))
    shutil.copyfile(other, one)
    with pytest.raises(FiguregroundError, match=r"tokens-0.* Remove .*tokens-0 "):
        DDB("pocket", data=str(data), **EASY).build(out, show_progress=False)


def test_scores_that_are_not_whole_are_taken_again(data, ddb, tmp_path):
    out = shutil.copytree(ddb, tmp_path / "out")
    path = out / "_figureground" / "scores" / "ddb.csv"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    DDB("pocket", data=str(data), **EASY).build(out, show_progress=False)
    assert path.read_text() == whole
    with path.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows(out))


def test_nothing_that_is_published_names_a_place_on_the_machine(data, ddb):
    place = str(data.parent).encode()
    for path in (*(ddb / "data").glob("*"), *(ddb / "webdataset").glob("*"), ddb / "README.md", ddb / "croissant.json",
                 *(ddb / STAGES).rglob("*.json"), *(ddb / "_figureground").glob("*.json")):  # fmt: skip
        if path.name != "recipe.json":  # it rebuilds the set, by a relative path
            assert place not in path.read_bytes(), path


def test_models_in_directories_leave_no_place_in_the_recipe_and_count_by_their_weights(data, tmp_path):
    boxes, cut = tmp_path / "models" / "boxes", tmp_path / "models" / "cut"
    for folder in (boxes, cut):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    backbone = tmp_path / "models" / "backbone"
    sure(backbone, ("mug", "umbrella"), (0, 0))
    settings = {**EASY, "segmenter": f"grounding-dino:{boxes}+sam:{cut}", "training": {"backbone": str(backbone)}}

    def recipe():
        return DDB("pocket", data=str(data), **settings).recipe(tmp_path / "out" / "_figureground")

    before = recipe()
    assert before["identity"]["segmenter"] == "grounding-dino:../../models/boxes+sam:../../models/cut"
    assert before["identity"]["training"] == {"backbone": "../../models/backbone"}
    assert str(tmp_path) not in json.dumps(before)
    sure(backbone, ("mug", "umbrella"), (1, 0))
    changed = recipe()
    assert changed["sha256"] != before["sha256"]
    (cut / "config.json").write_text('{"other": 1}')
    assert recipe()["sha256"] not in (before["sha256"], changed["sha256"])
