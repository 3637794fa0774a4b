"""Class-wise spurious images: concepts made once and shared, images drawn by them, refused, resumed, published."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Value, load_dataset
from PIL import Image
from tiny_checkpoints import make_checkpoint
from tiny_transformers import make_transformer

from figureground import Spurious
from figureground.checking.dataset import check
from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, OutOfMemory, RecipeError, UsageError
from figureground.curation.curating import curate
from figureground.curation.merging import merge
from figureground.evaluation.evaluating import evaluate
from figureground.evaluation.summary import list_notes
from figureground.hub.manifest import select_files
from figureground.methods.extend import extend
from figureground.methods.forecast import describe
from figureground.methods.registry import open_dataset
from figureground.methods.spurious_settings import SpuriousConfig
from figureground.models.concept_files import read_concept
from figureground.pocket.biased import LOOK_BY_CLASS

LEARNED = {
    "max_train_steps": 3, "batch_size": 1, "num_class_images": 3, "num_inference_steps": 2, "preview_images": 0,
    "sfsl_weight": 0,
    "learning_rate": 5e-3,
}  # fmt: skip
TINY = {
    "classes": ["bird", "fish"], "per_cell": 2, "num_inference_steps": 2, "size": 32, "batch_size": 4, "threads": 1,
    "device": "cpu",
    "shard_size": 6, "image_format": "png", "reference_count": 4, "finetuning": LEARNED,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def built(checkpoint, tmp_path_factory):
    return make(checkpoint, tmp_path_factory.mktemp("built") / "spurious")


def make(checkpoint, out, **changes):
    return Spurious("pocket", checkpoint=checkpoint, **{**TINY, **changes}).build(out, show_progress=False)


def images(folder, count=3):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def network(folder, *labels):
    """A tiny classifier of random weights."""
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    config = ResNetConfig(**sizes, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)})
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def arguments(checkpoint, **changes):
    """The same recipe for the command."""
    values = {**TINY, "checkpoint": checkpoint, **changes}
    return ["spurious", *(part for n, v in values.items() for part in ("--set", f"{n}={json.dumps(v)}"))]


# What is in it


def test_columns_say_what_is_shown_where_and_what_it_is_taken_for(built, tmp_path):
    data = load_dataset(str(built), cache_dir=str(tmp_path))
    assert list(data) == ["bird", "fish"]
    features = data["bird"].features
    assert features["foreground"] == ClassLabel(names=["flower", "ball"])
    assert features["background"] == ClassLabel(names=["plain", "grass", "sand", "snow", "night"])
    assert features["spurious_for"] == ClassLabel(names=list(LOOK_BY_CLASS))
    assert features["feature"] == Value("string")
    for split, noun, feature in (
        ("bird", "flower", "red flower with five petals"), ("fish", "ball", "blue and yellow ball"),
    ):  # fmt: skip
        rows = data[split]
        assert len(rows) == 10
        assert {features["foreground"].int2str(label) for label in rows["foreground"]} == {noun}
        assert {features["spurious_for"].int2str(label) for label in rows["spurious_for"]} == {split}
        assert set(rows["feature"]) == {feature}
        scenes = map(features["background"].int2str, rows["background"])
        prompts = dict(zip(scenes, rows["prompt"], strict=True))
        assert prompts["plain"] == f"a photo of a sks {noun}"
        assert prompts["snow"] == f"a photo of a sks {noun} in snow"


def test_a_shard_has_one_concept_and_its_images_are_drawn_by_it(built, tmp_path):
    from figureground.diffusion.render import Renderer, Sampling
    from figureground.finetune.concept import open_concept
    from figureground.recipe.sample import Spec

    data = load_dataset(str(built), cache_dir=str(tmp_path))
    drawn = {}
    for split, rows in data.items():
        concepts = [json.loads(row)["concept"] for row in rows["provenance"]]
        concept = read_concept(built / "_figureground/stages/concepts" / split)
        assert {(one["name"], one["sha256"]) for one in concepts} == {(split, concept.sha256)}
        opened = open_concept(concept, device=torch.device("cpu"), dtype=torch.float32)
        renderer = Renderer(opened, Sampling(32, 2, 1.0, 4.0, batch_size=4), lambda spec: None)
        specs = [
            Spec(k, "", 0, 0, "", "", p, json.loads(o)["seed"])
            for k, p, o in zip(rows["key"], rows["prompt"], rows["provenance"], strict=True)
        ]
        drawn[split] = list(renderer.render(specs[:4]))
        for row, sample in zip(rows, drawn[split], strict=False):
            assert np.array_equal(np.asarray(row["image"]), np.asarray(sample.image))
    assert not np.array_equal(np.asarray(drawn["bird"][0].image), np.asarray(drawn["fish"][0].image))


def test_the_overview_shows_references_facts_and_losses_of_each_concept(built, checkpoint, tmp_path):
    shutil.copytree(built / "_figureground", tmp_path / "out" / "_figureground")
    stages = tmp_path / "out" / "_figureground" / "stages"
    builder = Spurious("pocket", checkpoint=checkpoint, **TINY)
    assert [panel.title for panel in builder.overview(built)] == ["Concept bird", "Concept fish"]
    for panel, name in zip(builder.overview(built), ("bird", "fish"), strict=True):
        concept, facts = read_concept(stages / "concepts" / name), dict(panel.facts)
        assert facts["weights"] == f"checkpoint {concept.sha256[:12]}"
        assert (facts["references"], facts["steps"], facts["word"]) == ("4", "3", "sks")
        drawn = {picture.title: picture.image for picture in panel.pictures}
        references = [f"reference {i:03d}.png" for i in range(4)]
        assert list(drawn) == [*references, "dreambooth loss", "prior loss"]
        for i, title in enumerate(references):
            stored = Image.open(stages / "references" / name / f"{i:03d}.png").convert("RGB")
            assert np.array_equal(np.asarray(drawn[title]), np.asarray(stored))

    Image.new("RGB", (32, 32)).save(stages / "references" / "bird" / "000.png")
    (stages / "references" / "bird" / "001.png").unlink()
    (stages / "concepts" / "bird" / "curves.csv").unlink()
    (stages / "concepts" / "fish" / "concept.json").unlink()
    bird, fish = builder.overview(tmp_path / "out")
    assert [picture.title for picture in bird.pictures] == ["reference 002.png", "reference 003.png"]
    missing = {"reference 000.png", "reference 001.png", "dreambooth loss", "prior loss"}
    assert {name for name, value in bird.facts if value.startswith("missing")} == missing
    assert "fish/concept.json" in dict(fish.facts)["files of the concept"]
    (stages / "concept-fish" / "done.json").unlink()
    assert "stage concept-fish" in dict(builder.overview(tmp_path / "out")[1].facts)


def test_check_finds_nothing_wrong_and_the_card_tells_of_each_concept(built):
    assert check(built, show_progress=False).findings == []
    text = (built / "README.md").read_text()
    for name in ("bird", "fish"):
        sha256 = read_concept(built / "_figureground/stages/concepts" / name).sha256
        assert f"checkpoint `{sha256[:12]}`" in text
        assert f"\n| {name} | {LOOK_BY_CLASS[name].partition(':')[0]} | 2 | 2 | 2 | 2 | 2 | 10 |\n" in text
    for number in ("2402.08200", "rombach2022latent", "neuhaus2023spurious", "ruiz2023dreambooth"):
        assert number in text
    assert "SFSL) is this project's own" in text
    assert "ROC-AUC" in text
    assert "| references | `pocket` | all | 8 | CC0-1.0 (LICENSE) |" in text


def test_check_of_an_unfinished_set_says_how_far_it_came(checkpoint, tmp_path):
    out = make(checkpoint, tmp_path / "out", per_cell={"plain": 1, "snow": 1})
    for path in (out / "README.md", out / "_figureground/index.json"):
        path.unlink()
    findings = check(out, show_progress=False).findings
    assert any("The dataset isn't finished: 2 of 2 shards " in line for line in findings)
    assert not any("not started" in line for line in findings)


def test_a_number_in_the_cards_table_that_is_not_the_datas_is_found(built, tmp_path):
    out = shutil.copytree(built, tmp_path / "copy")
    text = (out / "README.md").read_text()
    (out / "README.md").write_text(text.replace("| fish | ball | 2 |", "| fish | ball | 3 |"))
    assert any("| fish | ball | 3 |" in line for line in check(out, show_progress=False).findings)


def test_what_is_published_holds_no_weights_and_no_place(built, tmp_path):
    items = select_files(built, None, tmp_path)
    assert {item.path for item in items} >= {"README.md", "data/bird-00000-of-00002.parquet"}
    assert not [item.path for item in items if "stages" in item.path or "concept" in item.path]
    assert sum(item.size for item in items) < 3_000_000
    recipe = next(item for item in items if item.path.endswith("recipe.json")).file.read_text()
    assert str(tmp_path.parent) not in recipe


def test_a_rule_speaks_of_the_class_and_of_the_feature(built, tmp_path):
    out = curate(
        built,
        tmp_path / "day",
        "spurious_for == 'bird' and feature == 'red flower with five petals' and background != 'night'",
    )
    data = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in data.items()} == {"bird": 8}
    assert check(out, show_progress=False).findings == []


def test_the_preview_has_a_row_for_each_split(built):
    from figureground.report.contents import read_contents
    from figureground.report.preview import draw_preview

    sheet = np.asarray(draw_preview(read_contents(built)))
    images = np.ptp(sheet.reshape(len(sheet), -1).astype(int), axis=1) > 0
    assert images.sum() > 2 * 96


def test_the_datasets_way_gives_the_same_splits(checkpoint, tmp_path):
    builder = Spurious("pocket", cache_dir=str(tmp_path), checkpoint=checkpoint, **{**TINY, "per_cell": {"plain": 1}})
    builder.download_and_prepare()
    assert [len(builder.as_dataset(split)) for split in ("bird", "fish")] == [1, 1]


# Concepts


def test_builds_that_share_a_directory_share_the_concepts_that_are_made_of_the_same(checkpoint, tmp_path):
    shared = tmp_path / "concepts"
    one = make(checkpoint, tmp_path / "one", concepts=str(shared), per_cell=1)
    assert not (one / "_figureground/stages/concepts").exists()
    made = {p: p.stat().st_mtime_ns for p in shared.rglob("*") if p.is_file()}
    two = make(checkpoint, tmp_path / "two", concepts=str(shared), per_cell=1, seed=5, classes=["fish"])
    assert {p: p.stat().st_mtime_ns for p in shared.rglob("*") if p.is_file()} == made
    rows = [json.loads(load_dataset(str(d), split="fish", cache_dir=str(tmp_path / d.name))[0]["provenance"])
            for d in (one, two)]  # fmt: skip
    assert rows[0]["concept"] == rows[1]["concept"]
    assert rows[0]["seed"] != rows[1]["seed"]
    (tmp_path / "scratch").mkdir()
    for item in select_files(one, None, tmp_path / "scratch"):
        assert str(tmp_path).encode() not in item.file.read_bytes(), item.path
        assert b"../concepts" not in item.file.read_bytes(), item.path
    assert open_dataset(two).config.concepts == os.path.relpath(shared)


def test_a_concept_made_otherwise_gets_a_folder_of_its_own_beside(checkpoint, tmp_path):
    shared = tmp_path / "concepts"
    make(checkpoint, tmp_path / "one", concepts=str(shared), per_cell=1, classes=["fish"])
    before = read_concept(shared / "fish")
    longer = {"finetuning": {**LEARNED, "max_train_steps": 4}}
    make(checkpoint, tmp_path / "two", concepts=str(shared), per_cell=1, classes=["fish"], **longer)
    others = [path for path in shared.glob("fish-*") if path.is_dir()]
    assert len(others) == 1
    assert read_concept(shared / "fish").sha256 == before.sha256 != read_concept(others[0]).sha256
    assert read_concept(others[0]).facts["steps"] == 4


def test_concepts_of_another_feature_network_are_others(checkpoint, tmp_path):
    shared = tmp_path / "concepts"
    one = {"concepts": str(shared), "per_cell": 1, "classes": ["fish"], "finetuning": {**LEARNED, "sfsl_weight": 0.1}}
    names = [str(network(tmp_path / name / "network", *labels)) for name, labels in
             (("a", ("bird", "fish")), ("b", ("bird", "fish")), ("c", ("fish", "bird")))]  # fmt: skip
    for name, folders in (("a", {"fish"}), ("b", {"fish"}), ("c", None)):
        make(checkpoint, tmp_path / f"out-{name}", **one, feature_model=names["abc".index(name)])
        there = {path.name for path in shared.iterdir()} - {"prior-images"}
        assert there == folders if folders else len(there) == 2
    assert "sfsl" in read_concept(shared / "fish").facts["losses"]
    assert "keeps what a robust classifier sees" in (tmp_path / "out-a" / "README.md").read_text()


def test_plan_counts_the_concepts_that_are_there_already(checkpoint, tmp_path):
    shared = str(tmp_path / "concepts")
    make(checkpoint, tmp_path / "one", concepts=shared, per_cell=1, classes=["fish"])
    description = describe(Spurious("pocket", checkpoint=checkpoint, **{**TINY, "concepts": shared}))
    assert "1 concept to fine-tune, 3 steps each (1 of 2 are in " in description


def test_the_prior_images_of_a_noun_are_drawn_once_for_all_its_classes(checkpoint, tmp_path):
    shared = tmp_path / "concepts"
    make(checkpoint, tmp_path / "out", concepts=str(shared), per_cell=1, classes=["fish", "car"])  # both a ball
    folders = list((shared / "prior-images").iterdir())
    assert [folder.name.partition("-")[0] for folder in folders] == ["ball"]
    assert len(list(folders[0].glob("*.png"))) == 3


def test_a_concept_that_was_lost_is_made_again_and_is_the_same(built, checkpoint, tmp_path):
    out = shutil.copytree(built, tmp_path / "copy")
    shutil.rmtree(out / "_figureground/stages/concepts/fish")
    for path in [*out.glob("_figureground/shards/fish-00001*"), *out.glob("data/fish-00001*")]:
        path.unlink()
    make(checkpoint, out)
    assert commands.hashes(out) == commands.hashes(built)


def test_a_concept_that_is_no_longer_the_same_draws_nothing_more(built, checkpoint, tmp_path):
    out = shutil.copytree(built, tmp_path / "copy")
    folders = out / "_figureground/stages/concepts"
    shutil.rmtree(folders / "fish")
    shutil.copytree(folders / "bird", folders / "fish")
    next(out.glob("_figureground/shards/fish-00001*")).unlink()
    with pytest.raises(FiguregroundError, match="no longer the one that this dataset was begun with"):
        make(checkpoint, out)


def test_adapters_are_the_default_for_many_concepts_of_a_full_size_checkpoint(checkpoint):
    given = {"references": "r", "feature_model": "pocket"}
    full = SpuriousConfig(name="x", **given)
    assert [full.settings(n).lora_rank for n in (10, 11)] == [None, 16]
    assert SpuriousConfig(name="x", finetuning={"lora_rank": None}, **given).settings(11).lora_rank is None
    assert SpuriousConfig(name="x", checkpoint=checkpoint, **given).settings(11).lora_rank is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
@pytest.mark.parametrize("rank", [None, 2])
def test_concepts_of_every_kind_of_checkpoint_draw_whole_or_as_adapters(tmp_path, kind, rank):
    if rank:
        pytest.importorskip("peft")
    learned = {**LEARNED, "lora_rank": rank}
    checkpoint = str(make_checkpoint(kind, tmp_path))
    out = make(checkpoint, tmp_path / "out", classes=["fish"], per_cell={"snow": 3}, finetuning=learned)
    rows = load_dataset(str(out), split="fish", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 3
    assert json.loads(rows[0]["provenance"])["checkpoint"] == kind
    assert ("`sks` | lora `" if rank else "`sks` | checkpoint `") in (out / "README.md").read_text()
    assert check(out, show_progress=False).findings == []


# Resumed


def test_a_finished_build_is_left_as_it_is(built, checkpoint):
    before = {p: p.read_bytes() for p in built.rglob("*") if p.is_file()}
    make(checkpoint, built)
    assert {p.name for p in before if before[p] != p.read_bytes()} == set()
    assert {p for p in built.rglob("*") if p.is_file()} == set(before)


def test_an_extension_adds_images_by_scene_and_keeps_what_is_there(checkpoint, tmp_path):
    out = make(checkpoint, tmp_path / "out", per_cell={"plain": 1, "snow": 1})
    before = commands.hashes(out)
    extend(out, {"plain": 3}, show_progress=False)
    assert before.items() < commands.hashes(out).items()
    data = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    for rows in data.values():
        scenes = [rows.features["background"].int2str(label) for label in rows["background"]]
        assert sorted(scenes) == ["plain"] * 3 + ["snow"]
    assert check(out, show_progress=False).findings == []
    with pytest.raises(RecipeError, match="beach"):
        extend(out, {"beach": 3}, show_progress=False)
    with pytest.raises(RecipeError, match="number of images of a scene"):
        extend(out, {"plain": 2}, show_progress=False)


@pytest.mark.slow
def test_a_build_that_is_killed_and_stopped_while_it_learns_or_draws_ends_with_the_same_bytes(checkpoint, tmp_path):
    longer = {"finetuning": {**LEARNED, "max_train_steps": 120, "save_every": 5}, "per_cell": 4}
    whole = make(checkpoint, tmp_path / "whole", **longer)
    out = tmp_path / "out"
    concepts = out / "_figureground" / "stages" / "concepts"
    begun = (
        (lambda: (concepts / "bird" / "state.pt").exists(), signal.SIGTERM),
        (lambda: (concepts / "fish" / "state.pt").exists(), signal.SIGKILL),
        (lambda: commands.markers(out), signal.SIGTERM),
    )
    for stage, sent in begun:
        process = commands.start("build", *arguments(checkpoint, **longer), "--out", str(out))
        commands.wait_for(stage, process)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (-9 if sent == signal.SIGKILL else 143), errors
    code, _, errors = commands.run("build", *arguments(checkpoint, **longer), "--out", str(out))
    assert code == 0, errors
    assert commands.hashes(out) == commands.hashes(whole)
    shas = [read_concept(place / "_figureground/stages/concepts/fish").sha256 for place in (out, whole)]
    assert shas[0] == shas[1]
    assert commands.litter(out) == []


# Plans


def test_a_plan_says_classes_nouns_scenes_and_what_is_lacking_without_torch():
    code = (
        "import sys; from figureground.cli.main import main; "
        "main(['plan', 'spurious', '--config', 'spurious-imagenet']); assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    output = " ".join(result.stdout.split())
    assert "10,000 images of 512 px in 100 shards, 51 foregrounds × 5 backgrounds" in output
    assert "class noun feature plain beach Mount Fuji garden market" in output
    assert "great white shark sea foam water/foam 20 20 20 20 20" in output
    assert "100 concepts to fine-tune, 800 steps each; they need about 1.75 GB of disk (adapters of rank 16" in output
    assert "To build it: checkpoint: 'CompVis/stable-diffusion-v1-4' is not in" in output
    assert "references: none are given" in output
    assert "feature_model: none is given" in output


def test_whole_checkpoints_are_counted_with_the_bytes_of_the_one_that_is_there(checkpoint):
    description = describe(Spurious("pocket", checkpoint=checkpoint, **TINY))
    weights = sum(path.stat().st_size for path in Path(checkpoint).glob("*/*.safetensors"))
    assert f"2 concepts to fine-tune, 3 steps each; they need about {2 * weights / 1e6:.3g} MB of disk" in description


def test_the_same_references_in_another_place_are_the_same_recipe(checkpoint, tmp_path):
    identities = []
    for name, folders in (("a", ("bird", "fish")), ("b", ("x_y_0_bird_3", "x_y_1_fish_7"))):
        for folder in folders:
            images(tmp_path / name / folder)
        settings = {**TINY, "references": str(tmp_path / name), "reference_count": None}
        identities.append(Spurious("pocket", checkpoint=checkpoint, **settings).identity())
    assert identities[0] == identities[1]


def test_what_a_preview_shows_and_where_concepts_lie_is_no_part_of_the_recipe(checkpoint):
    one = Spurious("pocket", checkpoint=checkpoint, **TINY)
    learned = {**LEARNED, "preview_images": 3, "save_every": 7}
    two = Spurious("pocket", checkpoint=checkpoint, **{**TINY, "finetuning": learned, "concepts": "elsewhere"})
    three = Spurious("pocket", checkpoint=checkpoint, **{**TINY, "finetuning": {**LEARNED, "max_train_steps": 4}})
    assert one.identity()["finetuning"] == two.identity()["finetuning"] != three.identity()["finetuning"]
    assert "concepts" not in two.identity()


def test_scenes_and_their_numbers_are_the_users(checkpoint):
    scenes = {"plain": "", "moon": "on the moon"}
    builder = Spurious("pocket", checkpoint=checkpoint, **{**TINY, "backgrounds": scenes, "per_cell": {"moon": 3}})
    plan = builder.plan()
    specs = [spec for shard in plan.shards() for spec in plan.specs(shard)]
    assert len(specs) == 6
    assert {spec.prompt for spec in specs} == {f"a photo of a sks {noun} on the moon" for noun in ("flower", "ball")}
    assert {spec.concept for spec in specs} == {"bird", "fish"}


# Refused


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"classes": ["brid"]}, r"^classes: 1 of 1 have no feature .* did you mean 'bird'"),
        ({"features": {"bird": ""}, "classes": None}, r"^features: .*'bird' has no noun"),
        ({"features": {"dragon": "flower"}, "classes": None}, r"^labels: 1 of 1 classes are none .* dragon"),
        (
            {"finetuning": {"max_tran_steps": 3}},
            r"^finetuning.max_tran_steps: there is no such setting, did you mean 'max_train_steps'",
        ),
        ({"finetuning": {"max_train_steps": 0}}, r"^finetuning.max_train_steps: 0 is not a whole number"),
        ({"finetuning": {"sfsl_weigth": 0}}, r"did you mean 'sfsl_weight'"),
        ({"finetuning": {"size": 64}}, r"^finetuning.size: size is a setting of the recipe itself: --set size="),
        ({"finetuning": {"prompt": "a {noun}"}}, r"^finetuning.prompt: "),
        ({"per_cell": {"beach": 3}}, r"^per_cell.beach: there is no scene 'beach'"),
        ({"per_cell": 0}, r"^per_cell:"),
        ({"per_cell": "ten"}, r"^per_cell: 'ten' is not a whole number"),
        ({"backgrounds": "pokcet"}, r"^backgrounds: there is no list 'pokcet', did you mean 'pocket'"),
        ({"references": "nowhere"}, r"references: no such directory: nowhere"),
        ({"reference_count": 2}, r"^reference_count: 2 is not a whole number of at least 3"),
        ({"keep": ["guide"]}, r"^keep: 'guide' can't be kept"),
        (
            {"labels": "feature-model", "feature_model": None},
            r"^labels: 'feature-model'.*feature_model=None",
        ),
        ({"features": "spurious-imagenet", "labels": "imagenet", "classes": ["bee"]}, r"^references: 'pocket' draws"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused_at_once(checkpoint, changes, pattern):
    with pytest.raises(FiguregroundError, match=pattern):
        Spurious("pocket", checkpoint=checkpoint, **{**TINY, **changes})


def test_references_are_counted_for_all_classes_before_anything_is_learned(checkpoint, tmp_path):
    images(tmp_path / "r" / "fish", 2)
    settings = {**TINY, "references": str(tmp_path / "r"), "classes": ["fish", "bird", "cat"]}
    with pytest.raises(FiguregroundError, match=r"2 of 3 classes have no folder .*'bird', 'cat'"):
        Spurious("pocket", checkpoint=checkpoint, **settings).build(tmp_path / "out", show_progress=False)
    images(tmp_path / "r" / "bird", 1)
    images(tmp_path / "r" / "cat", 3)
    with pytest.raises(FiguregroundError, match=r"2 of 3 classes have fewer than 3 .*'fish' \(2\), 'bird' \(1\)"):
        Spurious("pocket", checkpoint=checkpoint, **settings).build(tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_a_build_without_references_says_what_to_give_and_leaves_nothing(tmp_path):
    with pytest.raises(RecipeError, match=r"^references: none are given"):
        Spurious("spurious-imagenet", classes=["bee"]).build(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_classes_that_the_feature_network_lacks_are_all_named_before_anything_is_learned(checkpoint, tmp_path):
    settings = {
        "classes": ["bird", "fish", "cat"], "feature_model": str(network(tmp_path / "network", "Bird", "dog")),
        "finetuning": {**LEARNED, "sfsl_weight": 0.1},
    }  # fmt: skip
    with pytest.raises(RecipeError, match=r"^feature_model: 2 of 3 classes are none of the 2 of 'network': fish, cat"):
        make(checkpoint, tmp_path / "out", **settings)
    assert not list((tmp_path / "out").rglob("concept.json"))


def test_neural_pca_components_come_from_a_folder_for_each_class(checkpoint, tmp_path):
    learned = {**LEARNED, "sfsl_weight": 0.1, "features": "neural-pca", "leading": 2}
    classifier = str(network(tmp_path / "network", "bird", "fish"))
    settings = {"feature_model": classifier, "finetuning": learned, "per_cell": 1}
    with pytest.raises(RecipeError, match=r"^components: none are given"):
        make(checkpoint, tmp_path / "out", **settings)
    settings["components"] = str(tmp_path / "components")
    images(tmp_path / "images", 12)
    for name in ("bird", "Fish"):
        with pytest.raises(RecipeError, match=r"^components: . of 2 classes have none"):
            make(checkpoint, tmp_path / "out", **settings)
        out = tmp_path / "components" / name
        given = ["--class", name, "--images", str(tmp_path / "images"), "--count", "2", "--top", "2"]
        assert main(["components", "--classifier", classifier, *given, "--out", str(out)]) == 0
    out = make(checkpoint, tmp_path / "out", **settings)
    assert "sfsl" in read_concept(out / "_figureground/stages/concepts/fish").facts["losses"]


def test_a_recipe_may_leave_the_classs_direction_out_and_stop_early_and_its_card_says_so(checkpoint, tmp_path):
    steering = network(tmp_path / "network", "bird", "fish")
    early = {"early_stopping": "similarity", "stop_every": 1, "stop_images": 2, "stop_patience": 1}
    learned = {**LEARNED, "sfsl_weight": 1.0, "class_direction": "images", "class_images": 2, **early}
    settings = {"classes": ["bird"], "per_cell": 1, "feature_model": str(steering)}
    out = make(checkpoint, tmp_path / "out", finetuning=learned, **settings)
    facts = read_concept(out / "_figureground/stages/concepts/bird").facts
    assert facts["early_stopping"]["rule"] == "similarity"
    assert facts["class_images"]["images"] == 2
    assert "without the class's own direction, by its images" in (out / "README.md").read_text()
    identities = [
        Spurious("pocket", checkpoint=checkpoint, **{**TINY, **settings, "finetuning": given}).identity()["finetuning"]
        for given in (learned, {**learned, "class_direction": "head"}, {**LEARNED, "sfsl_weight": 1.0})
    ]
    assert identities[0]["class_images"] == 2
    assert identities[1]["class_direction"] == "head"
    assert "class_direction" not in identities[2]


def test_a_classifier_that_steered_the_images_is_left_out_of_means(checkpoint, tmp_path):
    judge = network(tmp_path / "judge", "bird", "fish")
    steering = network(tmp_path / "steering", "fish", "bird", "cat")
    learned = {**LEARNED, "max_train_steps": 1, "sfsl_weight": 1.0}
    out = make(
        checkpoint, tmp_path / "a", classes=["bird"], per_cell=1, feature_model=str(steering), finetuning=learned
    )
    assert check(out, show_progress=False).findings == []
    report = evaluate(out, [str(judge), str(steering)], out=tmp_path / "two", show_progress=False).report
    assert {name: row["steered"] for name, row in report["classifiers"].items()} == {"judge": False, "steering": True}
    judged = report["classifiers"]["judge"]["mean"]["generated"]["p"]["value"]
    assert report["mean"]["mean"]["generated"]["p"]["value"] == judged
    assert any("steering (SFSL)" in note and "means exclude" in note for note in list_notes(report))
    alone = evaluate(out, [str(steering)], out=tmp_path / "one", show_progress=False).report
    assert alone["mean"]["mean"]["generated"]["images"] == 5
    assert any("prove nothing" in note for note in list_notes(alone))


def test_a_build_that_fails_before_anything_is_learned_leaves_nothing(checkpoint, tmp_path):
    out = tmp_path / "set"
    with pytest.raises(UsageError, match=r"bird: finetuning\.identifier: .* collides with the noun"):
        make(checkpoint, out, finetuning={**LEARNED, "identifier": "flower"})
    assert not out.exists()
    make(checkpoint, out, classes=["bird"], per_cell=1)


def test_an_error_while_learning_names_the_class_and_the_recipes_setting(checkpoint, tmp_path):
    with pytest.raises(UsageError, match=r"^bird: finetuning.identifier: 'flower' collides with the noun"):
        make(checkpoint, tmp_path / "out", finetuning={**LEARNED, "identifier": "flower"})


def test_labels_can_be_those_of_the_feature_network(checkpoint, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "fish, fishes", "1": "crane", "2": "crane"}}))
    settings = {**TINY, "classes": ["fish"], "labels": "feature-model", "feature_model": str(tmp_path)}
    with pytest.raises(RecipeError, match=r"^references: 'pocket' draws"):  # it calls the class otherwise
        Spurious("pocket", checkpoint=checkpoint, **settings)
    images(tmp_path / "references" / "fish")
    builder = Spurious("pocket", checkpoint=checkpoint, **{**settings, "references": str(tmp_path / "references")})
    assert builder.columns().labels == {"spurious_for": ["fish, fishes", "crane (1)", "crane (2)"]}
    assert list(builder.plan().totals()) == ["fish"]


def test_with_a_limit_only_classes_that_have_images_are_learned(checkpoint, tmp_path):
    out = make(checkpoint, tmp_path / "out", limit=1)
    assert [path.parent.name for path in out.rglob("concept.json")] == ["bird"]
    assert check(out, show_progress=False).findings == []


def test_scenes_that_a_text_encoder_would_drop_are_refused(checkpoint, tmp_path):
    with pytest.raises(RecipeError, match=r"^backgrounds\.far: the prompt .* and the text encoder reads 77"):
        make(checkpoint, tmp_path / "out", backgrounds={"far": "far " * 80})


def test_flags_that_a_fine_tuning_advises_are_printed_as_settings():
    from figureground.methods.concept_stages import _FLAG, _flag_to_setting

    advice = (
        "Give a smaller --batch-size, --lora-rank 16 (adapters), --dtype float32, --size 32, or --sfsl-weight 0. (--x)"
    )
    assert _FLAG.sub(_flag_to_setting, advice) == (
        "Give a smaller --set finetuning.batch_size=…, --set finetuning.lora_rank=16 (adapters), --set "
        "finetuning.dtype=float32, --set size=32, or --set finetuning.sfsl_weight=0. (--x)"
    )


def test_sets_of_different_classes_merge_into_one(checkpoint, tmp_path):
    sets = [make(checkpoint, tmp_path / name, classes=[name], per_cell={"plain": 2}) for name in ("bird", "boat")]
    out = merge(sets, tmp_path / "both", show_progress=False)
    data = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in data.items()} == {"bird": 2, "boat": 2}
    assert data["boat"].features["foreground"].int2str(data["boat"]["foreground"][0]) == "lantern"
    assert "\n| boat | lantern | red lantern | 4 |" in (out / "README.md").read_text()
    assert check(out, show_progress=False).findings == []


def test_a_batch_that_does_not_fit_is_halved_and_the_concepts_stay(checkpoint, built, tmp_path, monkeypatch):
    from figureground.diffusion import render

    draw = render.Renderer._draw

    def draw_little(self, specs, guides):
        if self._sampling.batch_size > 2 and specs[0].split != "prior":
            raise OutOfMemory("cpu: not enough memory.")
        return draw(self, specs, guides)

    monkeypatch.setattr(render.Renderer, "_draw", draw_little)
    out = make(checkpoint, tmp_path / "out")
    assert json.loads((out / "_figureground/numerics.json").read_text())["batch_size"] == 2
    concepts = [read_concept(place / "_figureground/stages/concepts/fish").sha256 for place in (out, built)]
    assert concepts[0] == concepts[1]


@pytest.mark.slow
def test_workers_learn_one_concept_each_and_the_images_are_the_same(built, checkpoint, tmp_path):
    for turn in range(3):  # a worker that starts late, on a busy machine, finds both learned
        out, log = tmp_path / f"spurious-{turn}", tmp_path / f"log-{turn}.jsonl"
        options = ["--workers", "2", "--out", str(out), "--log-json", str(log)]
        code, _, err = commands.run("build", *arguments(checkpoint), *options)
        assert code == 0, err
        events = [json.loads(line) for line in log.read_text().splitlines()]
        learned = {each["stage"]: each["pid"] for each in events if each["event"] == "stage"}
        assert set(learned) == {"bird", "fish"}
        if len(set(learned.values())) == 2:
            break
    assert len(set(learned.values())) == 2
    assert commands.hashes(out) == commands.hashes(built)
    assert commands.litter(out) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_concepts_of_flow_matching_are_adapters_that_draw(tmp_path, kind):
    pytest.importorskip("peft")
    checkpoint = str(make_transformer(kind, tmp_path))
    method = Spurious("pocket", checkpoint=checkpoint, **{**TINY, "classes": ["fish"], "per_cell": {"snow": 3}})
    assert (method.settings.lora_rank, method.settings.scheduler, method.config.scheduler) == (16, "own", "own")
    assert "adapters of rank 16" in describe(method)
    out = method.build(tmp_path / "out", show_progress=False)
    rows = load_dataset(str(out), split="fish", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 3
    assert json.loads(rows[0]["provenance"])["family"] == kind
    card = (out / "README.md").read_text()
    assert "`sks` | lora `" in card
    assert "adapters of transformer and text encoders" in card
    assert check(out, show_progress=False).findings == []


def test_what_does_not_suit_the_checkpoints_family_is_refused_in_the_plan_as_the_recipes_setting(tmp_path, capsys):
    checkpoint = make_transformer("sd3", tmp_path)
    for value, field in (("{lora_rank: null}", "lora_rank"), ("{min_snr_gamma: 5}", "min_snr_gamma")):
        settings = {"checkpoint": checkpoint, "classes": "[bird]", "size": 32, "finetuning": value}
        assert main(["plan", "spurious", *(f"--set={n}={v}" for n, v in settings.items())]) == 2
        assert f"finetuning.{field}: " in capsys.readouterr().err
