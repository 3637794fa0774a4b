"""DDB: another class's object in the same scene; on pocketbirds, with the pocket model."""

import csv
import json

import numpy as np
import pytest
from datasets import load_dataset
from repainted import build_with_kills, rows
from tiny_classifiers import make_classifier

from figureground.builder import open_dataset
from figureground.ddb import DDB
from figureground.errors import FiguregroundError, RecipeError
from figureground.learn.errors import read_errors
from figureground.learn.layouts import read_groups
from figureground.learn.material import gather
from figureground.pocket import birds
from figureground.trust.curate import curate

SMALL = {
    "training": {"epochs": 2}, "sources": 4, "per_source": 2, "steps": 4, "shard_size": 6, "threads": 1,
    "segmenter": "true-masks", "token_images": 3, "inversion": {"steps": 3}, "attribution_steps": 4,
    "image_format": "png",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return birds.write(tmp_path_factory.mktemp("data") / "birds", 60, 8, 8, size=64, show_progress=False)


@pytest.fixture(scope="module")
def built(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "ddb"
    return DDB("pocket", data=str(data), **SMALL).build(out, show_progress=False)


def scores(out):
    with (out / "_figureground" / "scores" / "ddb.csv").open(newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def test_the_new_picture_has_the_painted_class_and_the_scene_of_its_source(data, built):
    train = read_groups(data).of_split(0)
    of = {key: (int(train.y[i]), int(train.a[i])) for i, key in enumerate(train.keys)}
    found = load_dataset(str(built), split="train")
    assert found.features["foreground"].names == list(birds.OBJECTS)
    assert found.features["background"].names == list(birds.SCENES)
    assert len(found) == 2 * 4 * 2
    for row in found:
        told = json.loads(row["provenance"])
        y, a = of[row["source"]]
        assert row["foreground"] == 1 - y
        assert row["background"] == a
        assert told["source_class"] == birds.OBJECTS[y]
        assert row["prompt"] == f"a photo of a <{birds.OBJECTS[1 - y]}>"
    assert read_groups(built).counts(0).sum() == 16


def test_sources_are_the_pictures_of_lowest_loss(data, built):
    errors = read_errors(built / "_figureground" / "stages" / "classifier")
    used = {row["source"] for row in rows(built)}
    for label in (0, 1):
        mine = [i for i in np.flatnonzero((errors.y == label) & ~errors.wrong)]
        best = sorted(mine, key=lambda i: (errors.loss[i], errors.keys[i]))[:4]
        assert {errors.keys[i] for i in best} <= used


def test_every_candidate_has_scores_and_pruning_is_a_rule_of_curate(data, built, tmp_path):
    told = scores(built)
    assert set(told) == {row["key"] for row in rows(built)}
    for row in told.values():
        assert all(0 <= float(row[name]) <= 1 for name in ("probability", "attribution", "area"))
        assert row["predicted"] in birds.OBJECTS
    middle = sorted(float(row["probability"]) for row in told.values())[len(told) // 2]
    builder = DDB("pocket", data=str(data), **SMALL, least_probability=middle, least_attribution=0)
    curate(built, tmp_path / "pruned", builder.pruning_rule())
    kept = {row["key"] for row in rows(tmp_path / "pruned")}
    assert kept == {key for key, row in told.items() if float(row["probability"]) >= middle}
    by_class = DDB("pocket", data=str(data), **SMALL, least_probability={"mug": 0.4}, least_attribution={})
    assert by_class.pruning_rule() == "(foreground != 'mug' or scores.ddb.probability >= 0.4)"


def test_thresholds_of_pruning_may_change_in_a_finished_set(data, built):
    before = scores(built)
    DDB("pocket", data=str(data), **SMALL, least_probability=0.9).build(built, show_progress=False)
    assert scores(built) == before


def test_a_finished_set_is_left_as_it_is_and_its_stages_too(data, built):
    files = [path for path in built.rglob("*") if path.is_file() and {"stages", "data", "scores"} & set(path.parts)]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert len(files) > 20
    DDB("pocket", data=str(data), **SMALL).build(built, show_progress=False)
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_without_a_word_nothing_is_learned(data, tmp_path):
    settings = {**SMALL, "prompt": "a photo of a {noun}", "nouns": {"mug": "cup"}, "per_source": 1, "sources": 3}
    out = DDB("pocket", data=str(data), **settings).build(tmp_path / "out", show_progress=False)
    assert {row["prompt"] for row in rows(out)} == {"a photo of a cup", "a photo of an umbrella"}
    assert not list((out / "_figureground" / "stages").glob("tokens*"))


def test_a_prompt_that_the_text_encoder_would_cut_off_is_refused(data, tmp_path):
    settings = {**SMALL, "prompt": "a {noun} " + "very " * 80, "sources": 3}
    with pytest.raises(RecipeError, match=r"prompt: 'a mug very.* tokens, and the text encoder reads 77"):
        DDB("pocket", data=str(data), **settings).build(tmp_path / "out", show_progress=False)


def test_a_phrase_that_is_found_in_hardly_any_picture_is_named(data, tmp_path):
    settings = {**SMALL, "segmenter": "pocket", "phrases": {"mug": "rocket"}}
    with pytest.raises(FiguregroundError, match=r"of 'mug' have no usable mask.*nothing found.*phrases"):
        DDB("pocket", data=str(data), **settings).build(tmp_path / "out", show_progress=False)


def test_a_classifier_of_other_classes_is_refused(data, tmp_path):
    folder = make_classifier(tmp_path / "classifier", labels={0: "mug", 1: "umbrella", 2: "cat"})
    with pytest.raises(FiguregroundError, match="class"):
        DDB("pocket", data=str(data), **SMALL, classifier=str(folder)).build(tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sources": 2}, "sources: 2"),
        ({"per_source": 0}, "per_source: 0"),
        ({"inversion": {"step": 3}}, "inversion"),
        ({"inversion": {"checkpoint": "x"}}, "inversion.checkpoint: checkpoint is a setting of the recipe itself"),
        ({"phrases": {"cat": "a cat"}}, "phrases"),
        ({"phrases": {"mug": ""}}, "phrases.mug"),
        ({"least_probability": 2}, "least_probability: 2"),
        ({"least_attribution": {"mug": -1}}, "least_attribution.mug"),
        ({"segmenter": ""}, "segmenter"),
        ({"outside": "x"}, "outside: 'x' is not one of"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(data, settings, said):
    with pytest.raises(RecipeError, match=said):
        DDB("pocket", data=str(data), **{**SMALL, **settings})


@pytest.mark.slow
def test_a_build_that_is_killed_in_each_stage_goes_on_there_and_ends_alike(data, built, tmp_path):
    out = tmp_path / "out"
    kills = ["stages/sources/done.json", "stages/tokens-0/learned/inversion.json", "shards/train-00000*.json"]
    build_with_kills("ddb", data, out, SMALL, kills, once="classifier")
    assert scores(out) == scores(built)
    assert [row["image"] for row in rows(out)] == [row["image"] for row in rows(built)]


def test_what_is_left_of_one_class_can_be_added_to_training(data, built, tmp_path):
    curate(built, tmp_path / "mugs", "foreground == 'mug'")
    groups = read_groups(tmp_path / "mugs")
    assert set(groups.y) == {0}
    assert groups.classes == birds.OBJECTS
    both = gather(read_groups(data), [groups])
    assert both.added.sum() == 8


def test_a_dataset_is_opened_again_from_anywhere(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data.parent)
    DDB("pocket", data=data.name, **{**SMALL, "sources": 3, "prompt": "a {noun}"}).build("out", show_progress=False)
    monkeypatch.chdir(tmp_path)
    assert open_dataset(data.parent / "out") is not None
