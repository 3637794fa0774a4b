"""Images that a comparison adds: their settings, the record of those that were made, and which others aren't taken."""

import json
import math
from dataclasses import replace

import pytest
from tiny_classifiers import make_classifier
from tiny_layouts import make_mask, make_table
from torch import nn

from figureground.comparison.generators import Generators
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.data_source import DataSource
from figureground.data.layouts import read_data, read_groups
from figureground.learn.backbones import open_backbone
from figureground.learn.settings import Training
from figureground.pocket import birds

TRUE = {"masks": "true", "count_per_class": 2}


def generators(data, out, overrides=None, training=None, config="pocket", **where):
    source = DataSource.of(data, **where)
    return Generators(
        source=source, train=read_data(source).of_split(0), out=out, overrides=overrides or {}, training=training or {},
        config=config, device="cpu", show_progress=False,
    )  # fmt: skip


def pasting(data, out, **settings):
    return generators(data, out, {"paste": settings})


def no_erm(seed):
    raise AssertionError("a classifier is asked for")


def record(out, name, **facts):
    (out / f"{name}.json").write_text(json.dumps({"directory": name, "images": 4, **facts}))


# Methods


def test_a_method_gets_the_data_the_seed_and_its_own_settings(images, tmp_path):
    made = generators(images, tmp_path, {"scgs": {"per_class": 3}}).make_method("scgs", 5)
    assert (made.config.data, made.config.seed, made.config.per_class) == (str(images), 5, 3)
    assert (made.config.device, made.config.name) == ("cpu", "pocket")
    own = generators(images, tmp_path, {"scgs": {"device": "auto"}}).make_method("scgs", 5)
    assert own.config.device == "auto"


def test_a_method_without_the_config_of_the_comparison_takes_its_default(images, tmp_path):
    def steps(config):
        return generators(images, tmp_path, config=config).make_method("scgs", 0).config

    assert steps("none of these") == steps("pocket") != steps("photographs")


def test_a_methods_classifier_shares_the_training_but_for_what_is_its_own(images, tmp_path):
    shared = {"epochs": 9, "batch_size": 16, "learning_rate": 0.01, "select": "last", "validate_every": 2}
    kind = generators(images, tmp_path, {"scgs": {"training": {"learning_rate": 0.02}}}, shared)
    theirs = generators(images, tmp_path).make_method("scgs", 0).config.training
    assert kind.make_method("scgs", 0).config.training == {**theirs, "batch_size": 16, "learning_rate": 0.02}
    assert theirs["epochs"] != 9


def test_the_layout_of_the_data_is_passed_on(images, tmp_path):
    found = generators(images / birds.TABLE, tmp_path, root=images, y="y").make_method("scgs", 0).config
    assert (found.data, found.root, found.y) == (str(images / birds.TABLE), str(images), "y")


@pytest.mark.parametrize("name", ["data", "seed", "per_clas"])
def test_a_setting_that_a_comparison_cannot_set_is_refused_by_name(images, tmp_path, name):
    with pytest.raises(RecipeError, match=f"^{name}: scgs "):
        generators(images, tmp_path, {"scgs": {name: 1}}).make_method("scgs", 0)


@pytest.mark.parametrize(
    ("name", "settings", "used"),
    [
        ("paste", {}, False), ("paste", {"masks": "attended"}, False), ("paste", {"masks": "true"}, True),
        ("scgs", {}, False), ("scgs", {"mask": "random"}, False), ("scgs", {"mask": "true-masks"}, True),
        ("ddb", {"segmenter": "true-masks"}, True),
    ],
)  # fmt: skip
def test_whether_the_masks_of_the_data_are_used_is_known(images, tmp_path, name, settings, used):
    assert generators(images, tmp_path, {name: settings, "other": TRUE}).uses_masks(name) is used


# Settings of paste


def test_what_decides_pasted_images_is_named_with_its_defaults(images, tmp_path):
    assert pasting(images, tmp_path).check_paste(None) == {"masks": "attended", "count_per_class": 20, "quantile": 0.8}
    assert pasting(images, tmp_path, **TRUE).check_paste(None) == TRUE
    given = pasting(images, tmp_path, quantile=0.5, count_per_class=7).check_paste(None)
    assert given == {"masks": "attended", "count_per_class": 7, "quantile": 0.5}


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"mask": "true"}, "paste.mask"), ({"masks": 1}, "paste.masks"),
        ({"masks": "true", "quantile": 0.8}, "paste.quantile"),
        *(({"quantile": value}, "paste.quantile") for value in (0, 1, -0.5, math.nan, math.inf, True, "0.5", None)),
        *(({"count_per_class": value}, "paste.count_per_class") for value in (0, -1, 2.0, True, "3", None)),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused_by_name(images, tmp_path, settings, field):
    with pytest.raises(RecipeError, match=f"^{field}: "):
        pasting(images, tmp_path, **settings).check_paste(None)


def test_true_masks_are_refused_where_an_image_has_none_with_the_name_of_one(tmp_path):
    make_table(tmp_path / "data")
    for name in ("000", "001", "002"):
        make_mask(tmp_path / "data" / "train" / f"{name}.png")
    with pytest.raises(RecipeError, match=r"^paste\.masks: 7 training images of data .*train/003\.png"):
        pasting(tmp_path / "data", tmp_path / "out", **TRUE).check_paste(None)
    assert pasting(tmp_path / "data", tmp_path / "out").check_paste(None)["count_per_class"] == 5


def test_attended_masks_need_a_backbone_that_can_be_opened_again(images, tmp_path):
    backbone = open_backbone(Training("erm"), ("a", "b"), 16, 0)
    other = replace(backbone, network=nn.Flatten(), name="timm:tiny")
    assert pasting(images, tmp_path).check_paste(backbone)["masks"] == "attended"
    assert pasting(images, tmp_path, **TRUE).check_paste(other) == TRUE
    with pytest.raises(RecipeError, match=r"^paste\.masks: .*timm:tiny"):
        pasting(images, tmp_path).check_paste(other)


def test_the_note_says_whose_masks_cut_the_objects_out(images, tmp_path):
    assert "true masks" in pasting(images, tmp_path, **TRUE).paste_note()
    assert "attention, 30% of each image" in pasting(images, tmp_path, quantile=0.7).paste_note()


# The record of what was made


def test_images_are_made_once_and_their_record_is_what_is_read_again(images, tmp_path):
    paste = pasting(images, tmp_path, **TRUE)
    assert paste.read_record("paste", 3) is None
    facts = paste.make("paste", 3, no_erm)
    assert facts == {"directory": "paste-seed-3", "images": 4, "passed_over": 0, "seconds": facts["seconds"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["paste-seed-3", "paste-seed-3.json"]
    assert paste.read_record("paste", 3) == facts
    assert paste.read_record("paste", 2) is None
    assert len(read_groups(tmp_path / "paste-seed-3")) == 4
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "paste-seed-3").rglob("*.png")}
    assert len(files) == 4
    assert paste.make("paste", 3, no_erm)["images"] == 4
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_images_of_another_seed_are_others(images, tmp_path):
    paste = pasting(images, tmp_path, **TRUE)
    folders = [tmp_path / paste.make("paste", seed, no_erm)["directory"] for seed in (0, 1)]
    one, other = ([path.read_bytes() for path in sorted(folder.rglob("*.png"))] for folder in folders)
    assert len(one) == len(other) == 4
    assert one != other


def test_attended_masks_are_of_the_classifier_of_the_same_seed(images, tmp_path):
    seeds = []

    def erm(seed):
        seeds.append(seed)
        return make_classifier(tmp_path / f"erm-{seed}", labels=dict(enumerate(birds.OBJECTS)), seed=seed)

    out = tmp_path / "out"
    facts = pasting(images, out, quantile=0.5, count_per_class=1).make("paste", 4, erm)
    assert (seeds, facts["images"]) == ([4], 2)
    inputs = json.loads((out / "paste-seed-4" / "paste.json").read_text())["inputs"]
    assert (inputs["masks"], inputs["quantile"], inputs["seed"]) == ("attended", 0.5, 4)


def test_a_stopped_make_has_no_record_and_goes_on(images, tmp_path):
    paste = pasting(images, tmp_path, **TRUE)
    paste.make("paste", 0, no_erm)
    whole = {path.name: path.read_bytes() for path in tmp_path.glob("paste-seed-0/train/*")}
    (tmp_path / "paste-seed-0.json").unlink()
    marker = tmp_path / "paste-seed-0" / "paste.json"
    marker.write_text(marker.read_text().replace('"done": true', '"done": false'))
    (tmp_path / "paste-seed-0" / "train" / "0001-00000.png").unlink()
    assert paste.read_record("paste", 0) is None
    assert paste.make("paste", 0, no_erm)["images"] == 4
    assert {path.name: path.read_bytes() for path in tmp_path.glob("paste-seed-0/train/*")} == whole
    assert paste.read_record("paste", 0)["images"] == 4


def test_a_record_whose_images_are_gone_is_not_believed(images, tmp_path):
    record(tmp_path, "paste-seed-0")
    paste = pasting(images, tmp_path)
    assert paste.read_record("paste", 0) is None
    (tmp_path / "paste-seed-0").mkdir()
    assert paste.read_record("paste", 0) == {"directory": "paste-seed-0", "images": 4}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"images": 4}'])
def test_a_damaged_record_is_refused_by_its_name(images, tmp_path, text):
    (tmp_path / "paste-seed-0.json").write_text(text)
    paste = pasting(images, tmp_path)
    says = r"/paste-seed-0\.json is damaged .*Remove it"
    with pytest.raises(FiguregroundError, match=says):
        paste.read_record("paste", 0)
    with pytest.raises(FiguregroundError, match=says):
        paste.refuse_other_pruning("paste", "True")


# Pruning


def test_images_that_another_rule_pruned_are_refused_and_others_are_not_looked_at(images, tmp_path):
    found = generators(images, tmp_path)
    found.refuse_other_pruning("ddb", "seed > 1")
    record(tmp_path, "ddb-seed-0", rule="seed > 1")
    record(tmp_path, "ddb-seed-10", rule="seed > 1")
    record(tmp_path, "scgs-seed-0", rule="seed > 2")
    found.refuse_other_pruning("ddb", "seed > 1")
    with pytest.raises(FiguregroundError, match=r"images of ddb .*\n  seed > 1\n.*\n  seed > 2\n"):
        found.refuse_other_pruning("ddb", "seed > 2")
    record(tmp_path, "ddb-seed-10", rule="seed > 2")
    with pytest.raises(FiguregroundError, match=r"\n  seed > 2\n"):
        found.refuse_other_pruning("ddb", "seed > 1")
