"""`figureground scenes`: backgrounds drawn by text-to-image, without the objects of a list of classes."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from commands import run
from PIL import Image

from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.materials.scenes import Drawing, draw_scenes
from figureground.recipe.classes import read_nouns
from figureground.sources.guide import ImagePool
from figureground.sources.marks import GENERATED, read_source_type
from figureground.verification.scene_judge import SceneJudge

POCKET = Drawing(checkpoint="pocket", size=64, num_inference_steps=6, guidance_scale=4.0, images=2, batch_size=4)


def files(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.glob("*/*.png"))}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes") / "out"
    return out, draw_scenes(["grass", "snow"], out, avoid=["bird", "car"], settings=POCKET, show_progress=False)


def test_the_output_is_what_d3s_takes(drawn):
    out, done = drawn
    assert dict(done.kept) == {"grass": 2, "snow": 2}
    pool = ImagePool.read(out, ["grass", "snow"], "scenes")
    assert [len(items) for items in pool.items.values()] == [2, 2]
    with Image.open(pool.items["snow"][0].path) as image:
        assert (image.mode, image.size) == ("RGB", (64, 64))
        assert read_source_type(image) == GENERATED
    facts = json.loads((out / "scenes.json").read_text())
    assert facts["avoid"] == ["bird", "car"]


def test_more_scenes_are_added_and_the_same_are_not_drawn_again(drawn, tmp_path):
    out = shutil.copytree(drawn[0], tmp_path / "out")
    before = files(out)
    more = dataclasses.replace(POCKET, images=3)
    draw_scenes(["grass", "snow"], out, avoid=["bird", "car"], settings=more, show_progress=False)
    after = files(out)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before


def test_what_the_judge_rejects_is_drawn_again_and_kept_aside(tmp_path):
    seen = []

    def judge(images, grounds):
        seen.extend(grounds)
        return ["shows a bird" if len(seen) <= 2 else ""] * len(images)

    out = tmp_path / "out"
    chosen = Drawing(**{**vars(POCKET), "batch_size": 2})
    done = draw_scenes(["grass"], out, judge=judge, settings=chosen, show_progress=False)
    assert seen == [0, 0, 0, 0]
    assert dict(done.kept) == {"grass": 2}
    assert dict(done.rejected) == {"shows a bird": 2}
    left = sorted((out / ".scenes" / "left" / "grass").iterdir())
    assert len(left) == 2
    assert not {path.read_bytes() for path in left} & set(files(out).values())


def test_a_run_that_failed_before_its_first_scene_leaves_the_directory_to_other_settings(tmp_path):
    wrong = dataclasses.replace(POCKET, device="cuda:99")
    with pytest.raises(FiguregroundError, match="cuda:99"):
        draw_scenes(["grass"], tmp_path / "out", settings=wrong, show_progress=False)
    right = dataclasses.replace(POCKET, num_inference_steps=2)
    draw_scenes(["grass"], tmp_path / "out", settings=right, show_progress=False)
    with pytest.raises(UsageError, match="other settings"):
        draw_scenes(["grass"], tmp_path / "out", settings=POCKET, show_progress=False)


def test_another_text_of_a_background_is_refused_and_a_deleted_scene_is_drawn_again(tmp_path):
    quick = dataclasses.replace(POCKET, num_inference_steps=2)
    out = tmp_path / "out"
    draw_scenes({"meadow": "on grass"}, out, settings=quick, show_progress=False)
    with pytest.raises(UsageError, match="'meadow' that were drawn as 'on grass', now 'in snow'"):
        draw_scenes({"meadow": "in snow"}, out, settings=quick, show_progress=False)
    before = files(out)
    (out / "meadow" / "meadow-0001.png").unlink()
    done = draw_scenes({"meadow": "on grass"}, out, settings=quick, show_progress=False)
    after = files(out)
    assert dict(done.kept) == {"meadow": 2}
    assert after["meadow/meadow-0000.png"] == before["meadow/meadow-0000.png"]
    assert after["meadow/meadow-0001.png"] != before["meadow/meadow-0001.png"]
    (out / "meadow" / "meadow-0001.png").unlink()
    once = dataclasses.replace(quick, tries=1)
    assert dict(draw_scenes({"meadow": "on grass"}, out, settings=once, show_progress=False).kept) == {"meadow": 2}


def test_d3s_finds_scenes_of_names_that_are_no_file_names(tmp_path):
    from figureground import D3S

    quick = dataclasses.replace(POCKET, num_inference_steps=2, images=2)
    names = {"Schnee über Bäumen": "in snow", "森林": "in a forest"}
    draw_scenes(names, tmp_path / "out", settings=quick, show_progress=False)
    method = D3S("pocket", scenes=str(tmp_path / "out"), backgrounds=names)
    assert {name: len(items) for name, items in method.scenes["train"].items.items()} == dict.fromkeys(names, 1)


def test_scenes_that_never_pass_are_given_up(tmp_path):
    chosen = Drawing(**{**vars(POCKET), "batch_size": 2, "num_inference_steps": 2, "tries": 2})
    done = draw_scenes(
        ["grass"], tmp_path / "out", judge=lambda images, grounds: ["no"] * len(images), settings=chosen,
        show_progress=False,
    )  # fmt: skip
    assert dict(done.kept) == {"grass": 0}
    assert dict(done.rejected) == {"no": 4}


def test_the_pocket_scorer_tells_empty_scenes_from_others():
    from figureground.pocket import world

    grounds = read_nouns("backgrounds", ["grass", "snow"], "backgrounds", "d3s")
    classes = read_nouns("classes", ["bird", "car"], "classes", "pocket")
    judge = SceneJudge("pocket", classes, grounds, device="cpu")
    drawn = [
        world.render(thing, ground, None, world.generator(f"empty {thing} {ground} {i}")).image
        for ground in ("grass", "snow") for thing in (None, "car") for i in range(3)
    ]  # fmt: skip
    reasons = judge(drawn, [0] * 6 + [1] * 6)
    judge.close()
    empty, shown = reasons[:3] + reasons[6:9], reasons[3:6] + reasons[9:]
    assert sum(not reason for reason in empty) >= 5
    assert sum(reason == "shows car" for reason in shown) >= 5


def test_scorers_that_cannot_say_none_are_refused():
    grounds = read_nouns("backgrounds", ["grass", "snow"], "backgrounds", "d3s")
    classes = read_nouns("classes", ["bird", "car"], "classes", "pocket")
    with pytest.raises(UsageError, match="classifier:pocket can't tell"):
        SceneJudge("classifier:pocket", classes, grounds, device="cpu")


@pytest.mark.parametrize(
    ("backgrounds", "settings", "named"),
    [(["gras"], POCKET, "gras"), (["grass"], Drawing(**{**vars(POCKET), "size": 65}), "65"),
     (["grass"], Drawing(**{**vars(POCKET), "prompt": "a photo"}), "background"),
     (["grass"], Drawing(**{**vars(POCKET), "checkpoint": "./nowhere"}), "nowhere")],
)  # fmt: skip
def test_wrong_settings_are_refused_before_anything_is_drawn(backgrounds, settings, named, tmp_path):
    with pytest.raises((RecipeError, FiguregroundError), match=named):
        draw_scenes(backgrounds, tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_other_settings_and_other_peoples_files_are_left_alone(drawn, tmp_path):
    with pytest.raises(UsageError, match="other settings"):
        draw_scenes(["grass", "snow"], drawn[0], settings=POCKET)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FiguregroundError, match="didn't make"):
        draw_scenes(["grass"], tmp_path, settings=POCKET)


def test_one_background_may_be_named_alone(tmp_path):
    """It was taken for the name of a list."""
    arguments = ["--checkpoint", "pocket", "--size", "64", "--num-inference-steps", "2", "--images", "1"]
    code, _, err = run("scenes", "grass", "--avoid", "bird", "--out", str(tmp_path / "out"), *arguments)
    assert (code, err) == (0, "")
    assert [path.parent.name for path in (tmp_path / "out").glob("*/*.png")] == ["grass"]
    code, _, err = run("scenes", "gras", "--out", str(tmp_path / "other"), *arguments)
    assert code in (1, 2)
    assert "'gras'" in err
    assert "grass" in err
