"""Prior images: drawn once, each by its own seed, gone on with after a stop, and never mixed with others."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_checkpoints import add_safety_checker, make_checkpoint, set_weights
from tiny_references import make_references

from figureground.core.errors import FiguregroundError
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.diffusion.render import Sampling
from figureground.finetune import priors
from figureground.finetune.priors import (
    RECIPE,
    draw_missing,
    has_own_images,
    hash_own_images,
    read_drawn_images,
    read_own_images,
    remove_other_images,
)

MUG = {"prompt": "a photo of a mug", "seed": 7, "checkpoint": "sd1"}
SAMPLING = Sampling(size=32, num_inference_steps=1, strength=1.0, guidance_scale=1.0)
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
BATCH = 16
"""On a CPU."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def opened(sd1):
    return open_checkpoint(str(sd1), **CPU)


@pytest.fixture(scope="module")
def three(one_thread, opened, tmp_path_factory):
    """Three drawn images; no test changes them."""
    return draw(tmp_path_factory.mktemp("three") / "prior", opened)


def draw(folder, opened, count=3, recipe=MUG, between_steps=lambda: None, **more):
    draw_missing(folder, recipe, count, opened, SAMPLING, between_steps, show_progress=False, **more)
    return folder


def copy(folder, to):
    to.mkdir(parents=True)
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def drawings(folder):
    return {name: data for name, data in contents(folder).items() if name.endswith(".png")}


def rejected(folder):
    return json.loads((folder / RECIPE).read_text())["rejected"]


def unused():
    raise AssertionError("something is drawn")


# A user's own images


def test_a_folder_of_images_without_a_recipe_holds_a_users_own(tmp_path, three):
    assert has_own_images(make_references(tmp_path / "own"))
    assert not has_own_images(None)
    assert not has_own_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert not has_own_images(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").touch()
    assert not has_own_images(tmp_path / "empty")
    assert not has_own_images(three)


def test_own_images_are_read_by_name_as_centre_squares(tmp_path):
    wide = Image.new("RGB", (60, 20), "red")
    wide.paste("blue", (20, 0, 40, 20))
    wide.save(tmp_path / "b.png")
    Image.new("L", (10, 30), 90).save(tmp_path / "a.png")
    first, second = read_own_images(tmp_path, 16).images
    assert (first.mode, first.size, first.getpixel((8, 8))) == ("RGB", (16, 16), (90, 90, 90))
    assert (second.size, second.getcolors()) == ((16, 16), [(256, (0, 0, 255))])


def test_the_description_of_own_images_depends_on_names_and_contents(tmp_path):
    own = make_references(tmp_path / "own", 3)
    facts = read_own_images(own, 32).facts
    assert facts == hash_own_images(own)
    assert (facts["images"], facts["drawn"]) == (3, False)
    assert read_own_images(make_references(tmp_path / "same", 3), 16).facts == facts
    (own / "02.png").rename(own / "03.png")  # still the last
    renamed = hash_own_images(own)["sha256"]
    Image.new("RGB", (40, 40), "red").save(own / "03.png")
    assert len({facts["sha256"], renamed, hash_own_images(own)["sha256"]}) == 3


def test_own_images_that_cannot_be_read_are_left_out_and_if_none_can_it_is_an_error(tmp_path):
    own = make_references(tmp_path / "own", 2)
    (own / "00.png").write_bytes((own / "00.png").read_bytes()[:40])
    found = read_own_images(own, 32)
    assert (len(found.images), found.facts["images"]) == (1, 1)
    (own / "01.png").write_bytes(b"")
    with pytest.raises(FiguregroundError, match=r"^--mine .*/own: .*00\.png \(.+\), 01\.png \(.+\)"):
        read_own_images(own, 32, "--mine")


# Drawing


def test_images_are_numbered_and_the_recipe_lies_beside_them(three):
    assert sorted(contents(three)) == ["00000.png", "00001.png", "00002.png", RECIPE]
    assert json.loads((three / RECIPE).read_text()) == {**MUG, "rejected": {}}
    drawn = [np.asarray(Image.open(three / f"0000{i}.png"), int) for i in range(3)]
    assert [image.shape for image in drawn] == [(32, 32, 3)] * 3
    assert min(np.abs(drawn[i] - drawn[i - 1]).max() for i in range(3)) > 1


@pytest.mark.parametrize(("changes", "same"), [({}, 3), ({"seed": 8}, 0), ({"prompt": "a photo of a bird"}, 0)])
def test_an_image_depends_on_the_seed_and_the_prompt(three, opened, tmp_path, changes, same):
    again = drawings(draw(tmp_path / "again", opened, recipe={**MUG, **changes}))
    assert len(again) == 3
    assert sum(again[name] == data for name, data in drawings(three).items()) == same


def test_only_what_is_missing_is_drawn_and_comes_out_the_same(three, opened, tmp_path):
    folder = copy(three, tmp_path / "prior")
    (folder / "00001.png").unlink()
    times = {name: (folder / name).stat().st_mtime_ns for name in ("00000.png", "00002.png", RECIPE)}
    draw(folder, opened)
    assert contents(folder) == contents(three)
    assert {name: (folder / name).stat().st_mtime_ns for name in times} == times
    draw(folder, opened, between_steps=unused)


def test_more_images_are_added_and_fewer_leave_the_others_alone(three, opened, tmp_path):
    folder = copy(three, tmp_path / "prior")
    draw(folder, opened, 5)
    five = contents(folder)
    assert len(five) == 6
    assert contents(three).items() <= five.items()
    draw(folder, opened, 2, between_steps=unused)
    assert contents(folder) == five
    assert len(read_drawn_images(folder, MUG, 2).images) == 2


def test_a_stopped_run_keeps_whole_batches_and_goes_on(opened, tmp_path):
    steps = []

    def stop():
        steps.append(1)
        if len(steps) == 2:  # in the second batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "prior", opened, BATCH + 1, between_steps=stop)
    assert sorted(drawings(tmp_path / "prior")) == [f"{i:05d}.png" for i in range(BATCH)]
    draw(tmp_path / "prior", opened, BATCH + 1, between_steps=lambda: steps.append(1))
    assert len(steps) == 3
    assert contents(tmp_path / "prior") == contents(draw(tmp_path / "whole", opened, BATCH + 1))


def test_of_two_that_draw_at_once_one_draws_and_the_other_waits(three, opened, tmp_path):
    steps = []
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(draw, tmp_path / "prior", opened, between_steps=lambda: steps.append(1)) for _ in range(2)]
    assert [each.result() for each in both] == [tmp_path / "prior"] * 2
    assert len(steps) == 1
    assert contents(tmp_path / "prior") == contents(three)


# Rejected images


@pytest.fixture
def flagging(tmp_path):
    """A checkpoint whose safety checker flags the first and the fourth image that it sees."""
    folder = make_checkpoint("sd1", tmp_path / "checkpoint")
    add_safety_checker(folder)
    opened = open_checkpoint(str(folder), **CPU)
    flags = iter([True, False, False, True])
    opened.text_to_image.safety_checker.forward = lambda images, clip_input: (
        images, [next(flags, False) for _ in images],
    )  # fmt: skip
    return opened


def test_rejected_images_are_recorded_replaced_and_never_drawn_again(flagging, opened, tmp_path):
    folder = draw(tmp_path / "prior", flagging, 4)
    assert rejected(folder) == {"0": "safety-flagged", "3": "safety-flagged"}
    assert sorted(drawings(folder)) == ["00001.png", "00002.png", "00004.png", "00005.png"]
    draw(folder, flagging, 4, between_steps=unused)
    found = read_drawn_images(folder, MUG, 4)
    assert (len(found.images), found.facts["images"], found.facts["rejected"]) == (4, 4, 2)
    assert len(read_drawn_images(folder, MUG, 1).images) == 1
    draw(folder, flagging, 5)
    assert sorted(drawings(folder))[-1] == "00006.png"
    assert len(drawings(folder)) == 5


def test_if_most_are_rejected_it_is_an_error_that_names_the_prompt_the_reason_and_the_flag(tmp_path):
    folder = make_checkpoint("sd1", tmp_path)
    set_weights(folder, "vae", 0.0)
    with pytest.raises(FiguregroundError, match=r"'a photo of a mug' .*\(flat\).* --mine DIR"):
        draw(tmp_path / "prior", open_checkpoint(str(folder), **CPU), 2, flag="--mine")
    assert drawings(tmp_path / "prior") == {}
    assert len(rejected(tmp_path / "prior")) > 2


# Reading what was drawn


def test_drawn_images_are_read_in_order_with_what_they_are(three):
    found = read_drawn_images(three, MUG, 3)
    assert len(found.images) == 3
    assert all(
        image.tobytes() == Image.open(three / f"{i:05d}.png").tobytes() for i, image in enumerate(found.images)
    )  # fmt: skip
    digest = found.facts["sha256"]
    assert found.facts == {"images": 3, "drawn": True, "rejected": 0, "sha256": digest}
    assert read_drawn_images(three, MUG, 2).facts["sha256"] != digest


def test_another_content_is_another_hash(three, tmp_path):
    folder = copy(three, tmp_path / "prior")
    assert read_drawn_images(folder, MUG, 3).facts == read_drawn_images(three, MUG, 3).facts
    (folder / "00001.png").write_bytes((folder / "00000.png").read_bytes())
    assert read_drawn_images(folder, MUG, 3).facts["sha256"] != read_drawn_images(three, MUG, 3).facts["sha256"]


def test_a_damaged_image_is_named_and_drawn_again_once_it_is_removed(three, opened, tmp_path):
    folder = copy(three, tmp_path / "prior")
    (folder / "00001.png").write_bytes((folder / "00001.png").read_bytes()[:60])
    with pytest.raises(FiguregroundError, match=r"^--mine .*/prior/00001\.png: .*Remove that file"):
        read_drawn_images(folder, MUG, 3, "--mine")
    (folder / "00001.png").unlink()
    assert contents(draw(folder, opened)) == contents(three)


def test_images_of_another_recipe_are_refused_by_field_and_left_alone(three, opened, tmp_path):
    folder = copy(three, tmp_path / "prior")
    other = {**MUG, "prompt": "a photo of a bird", "steps": 9}
    says = r'^--mine .*/prior .*\n  prompt: "a photo of a mug", now "a photo of a bird"\n  steps: null, now 9\n'
    with pytest.raises(FiguregroundError, match=says):
        draw(folder, opened, recipe=other, flag="--mine")
    with pytest.raises(FiguregroundError, match=says):
        read_drawn_images(folder, other, 3, "--mine")
    assert {name: data for name, data in contents(folder).items() if name != priors.LOCK} == contents(three)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"rejected": [1]}', '{"rejected": {"one": "flat"}}'])
def test_a_damaged_recipe_is_refused_by_the_name_of_its_folder(three, opened, tmp_path, text):
    folder = copy(three, tmp_path / "prior")
    (folder / RECIPE).write_text(text)
    says = r"^--mine .*/prior: its prior\.json is damaged"
    with pytest.raises(FiguregroundError, match=says):
        draw(folder, opened, flag="--mine")
    with pytest.raises(FiguregroundError, match=says):
        read_drawn_images(folder, MUG, 3, "--mine")
    assert drawings(folder) == drawings(three)


# Forgetting


def test_images_of_another_recipe_can_be_forgotten_and_nothing_else_is(three, tmp_path):
    folder = copy(three, tmp_path / "prior")
    before = contents(folder)
    remove_other_images(folder, MUG)
    assert contents(folder) == before
    for name in ("notes.txt", "mine.png"):
        (folder / name).write_text("mine")
    remove_other_images(folder, {**MUG, "seed": 8})
    assert sorted(contents(folder)) == ["mine.png", "notes.txt"]


def test_a_users_own_images_are_never_forgotten(tmp_path):
    own = make_references(tmp_path / "own")
    (own / "00.png").rename(own / "00000.png")
    before = contents(own)
    remove_other_images(own, MUG)
    remove_other_images(tmp_path / "none", MUG)
    assert contents(own) == before
    assert not (tmp_path / "none").exists()
