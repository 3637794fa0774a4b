"""D3S whose cut-outs are made from photographs, as a stage of the build."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from disc_photographs import disc, save_class
from PIL import Image
from tiny_onnx import save_salient

from figureground import D3S
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.hashing import digest
from figureground.methods.registry import open_dataset
from figureground.recipe.document import read_recipe
from figureground.report.showing import show
from figureground.shards.finished import FinishedDataset

SETTINGS = {
    "classes": "folders", "backgrounds": ["grass", "snow"], "per_cell": {"train": 1, "validation": 1}, "size": 64,
    "num_inference_steps": 2, "batch_size": 4, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    save_class(folder / "photos" / "ball", 3)
    save_class(folder / "photos" / "apple", 3, start=10)
    disc(center=(0.5, 1.0), radius=0.5).save(folder / "photos" / "ball" / "cut.png")
    (folder / "photos" / "apple" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "photos" / "LICENSE").write_text("SPDX-License-Identifier: CC0-1.0\n")
    save_salient(folder / "tiny.onnx")
    return folder


def method(here, **more):
    cutouts = {"from": str(here / "photos"), "segmenter": f"onnx:{here / 'tiny.onnx'}", **more}
    return D3S("pocket", cutouts=cutouts, **SETTINGS)


@pytest.fixture(scope="module")
def built(here, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "out"
    made = method(here)
    made.build(out, show_progress=False)
    return out, made


def test_it_builds_from_photographs_alone(built):
    out, made = built
    dataset = FinishedDataset(out)
    assert dataset.samples == 8
    assert sorted(dataset.columns.foregrounds) == ["apple", "ball"]
    stage = out / "_figureground" / "stages" / "cutouts"
    assert len(list(stage.glob("*/*.png"))) == 6
    message = made.done_message(out)
    assert "6 of 8 photographs became cut-outs" in message
    assert "1 cut by the border" in message
    assert "apple/broken.jpg" in message


def test_the_card_credits_the_photographs(built):
    text = (built[0] / "README.md").read_text()
    assert "CC0-1.0" in text
    assert "photos" in text


def test_the_saved_recipe_rebuilds_and_redraws_its_guides(built):
    out, made = built
    saved = out / "_figureground" / "recipe.json"
    fields = read_recipe(saved)
    assert fields["cutouts"]["segmenter"].startswith("onnx:../")
    again = D3S.from_recipe(fields)
    assert digest(again.identity()) == json.loads(saved.read_text())["sha256"]
    opened = open_dataset(out)
    assert opened is not None
    assert opened.cutouts["train"].items.keys() == made.cutouts["train"].items.keys()
    show(out)
    assert (out / "report.html").is_file()


def test_everything_that_decides_cut_outs_is_in_the_recipes_hash(here, tmp_path):
    before = digest(method(here).identity())
    assert digest(method(here).identity()) == before
    assert digest(method(here, most_cut=0.2).identity()) != before
    marks = tmp_path / "marks.csv"
    marks.write_text("file,mark\nball/0.png,leave\n")
    assert digest(method(here, marks=str(marks)).identity()) != before
    moved = tmp_path / "moved"
    shutil.copytree(here, moved)
    assert digest(method(moved).identity()) == before
    disc(number=77).save(moved / "photos" / "ball" / "0.png")
    assert digest(method(moved).identity()) != before


def test_plan_needs_no_cut_outs_yet(here, capsys):
    from figureground.methods import forecast

    description = forecast.describe(method(here))
    assert "made from photographs" in description
    assert "onnx:tiny.onnx" in description


def test_photographs_with_masks_need_no_segmenter(here, tmp_path):
    shutil.copytree(here / "photos", tmp_path / "photos")
    made = D3S("pocket", cutouts={"from": str(tmp_path / "photos")}, **SETTINGS)
    with pytest.raises(RecipeError, match=r"^cutouts\.segmenter: .*7 photographs .*apple/0\.png"):
        made.build(tmp_path / "out", show_progress=False)
    for path in (tmp_path / "photos").glob("*/*.png"):
        with Image.open(path) as image:
            y, x = np.mgrid[: image.height, : image.width]
            inside = np.hypot(x / image.width - 0.5, (y - image.height / 2) / image.width) < 0.2
        Image.fromarray(inside.astype(np.uint8) * 255).save(path.with_suffix(".mask.png"))
    made = D3S("pocket", cutouts={"from": str(tmp_path / "photos")}, **SETTINGS)
    made.build(tmp_path / "out", show_progress=False)
    assert "7 of 8 photographs became cut-outs" in made.done_message(tmp_path / "out")


def test_too_few_cut_outs_say_where_to_look(here, tmp_path):
    with pytest.raises(FiguregroundError, match=r"cutouts\.html"):
        method(here, least_area=0.5).build(tmp_path / "out", show_progress=False)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"most_cat": 0.1}, r"cutouts\.most_cat.*most_cut"), ({"most_cut": 2.0}, r"^cutouts\.most_cut: 2\.0 is not"),
     ({"from": "nowhere"}, "nowhere"), ({"segmenter": "onnx:gone.onnx"}, r"gone\.onnx"),
     ({"segmenter": ""}, r"cutouts\.segmenter"), ({"marks": "gone.csv"}, r"gone\.csv")],
)  # fmt: skip
def test_wrong_settings_are_named_before_any_work(changes, named, here, tmp_path):
    with pytest.raises((RecipeError, FiguregroundError), match=named):
        method(here, **changes).build(tmp_path / "out", show_progress=False)
    assert not list(tmp_path.rglob("*.png"))


def test_settings_are_typed_on_the_command_line(here):
    value = f"{{from: {here / 'photos'}, segmenter: 'onnx:{here / 'tiny.onnx'}', max_edge: 64}}"
    made = D3S.from_recipe({}, [f"cutouts={value}", "cutouts.most_cut=0.2", "classes=folders"], "pocket")
    assert made.config.cutouts["most_cut"] == 0.2
    assert made.config.cutouts["max_edge"] == 64
    assert [c.name for c in made.classes] == ["apple", "ball"]
