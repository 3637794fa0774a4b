"""The default number of images a shard: about 250 MB, at least 16 shards a split, whole batches, and then kept."""

import json
import re

import pytest
from tiny_checkpoints import make_checkpoint

from figureground import D3S
from figureground.methods.forecast import idle_notes, plan
from figureground.methods.scgs import SCGS
from figureground.recipe.shard_size import STEP, bytes_per_image, default_shard_size

TINY = {
    "classes": ["bird", "car"], "backgrounds": ["grass", "snow"], "num_inference_steps": 2, "size": 32, "threads": 1,
    "device": "cpu", "batch_size": 4,
}  # fmt: skip


def shards(images, size):
    return -(-images // size)


@pytest.mark.parametrize(("size", "image_format"), [(64, "jpg"), (512, "jpg"), (512, "png"), (4096, "png")])
@pytest.mark.parametrize(
    "totals", [{"train": 30}, {"train": 1024}, {"train": 120_000, "validation": 10_000}, {"train": 10**7}]
)
def test_a_shard_is_of_whole_batches_about_250_mb_and_a_split_has_16(size, image_format, totals):
    each = bytes_per_image(size, image_format)
    chosen = default_shard_size(totals, each)
    assert chosen % STEP == 0
    assert chosen * each <= 250e6 or chosen == STEP
    assert all(shards(n, chosen) >= 16 for n in totals.values() if n >= 16 * STEP)
    if all(n >= 64 * chosen for n in totals.values()):
        assert chosen * each > 250e6 / 2, "no smaller than it has to be"


def test_a_kept_guide_makes_shards_smaller():
    assert default_shard_size({"train": 10**6}, bytes_per_image(512, "jpg", ["guide"])) < default_shard_size(
        {"train": 10**6}, bytes_per_image(512, "jpg")
    )


def test_the_recipe_alone_decides_and_holds_a_number():
    fields = {**TINY, "per_cell": {"train": 1000, "validation": 5}}
    method = D3S("pocket", **fields, shard_size=None)
    assert method.config.shard_size == 4000 // 16 // STEP * STEP
    assert D3S("pocket", **fields, shard_size=method.config.shard_size).identity() == method.identity()
    assert D3S("pocket", **fields, shard_size=None, workers=7).identity() == method.identity()
    assert D3S("pocket", **fields, shard_size=None, limit=1500).config.shard_size == STEP


def test_a_recipe_without_its_data_is_left_open():
    assert SCGS("pocket", shard_size=None).config.shard_size is None


def test_a_dataset_keeps_its_number_where_the_recipe_leaves_it_open(tmp_path):
    checkpoint = str(make_checkpoint("sd1", tmp_path / "checkpoint"))
    fields = {**TINY, "checkpoint": checkpoint, "per_cell": {"train": 2, "validation": 1}}
    # As a release with another default would have begun it.
    out = D3S("pocket", **fields, shard_size=5).build(tmp_path / "d3s", show_progress=False)
    (out / "_figureground/shards/train-00001-of-00002.json").unlink()
    before = json.loads((out / "_figureground/recipe.json").read_text())
    D3S("pocket", **fields, shard_size=None).build(out, show_progress=False)
    assert json.loads((out / "_figureground/recipe.json").read_text()) == before
    assert (out / "_figureground/shards/train-00001-of-00002.json").exists()


@pytest.mark.parametrize(
    ("images", "size", "workers", "phrase"),
    [
        (640, 640, 4, "shard_size=64"), (640, 64, 5, None), (640, 64, 1, None), (12, 100, 8, "workers=1"),
        (1280, 140, 8, "shard_size=64"), (10_240, 1024, 8, "shard_size="), (100_000, 100, 64, None),
    ],
)  # fmt: skip
def test_a_plan_says_when_workers_would_idle_and_what_to_set(images, size, workers, phrase):
    method = D3S("pocket", **TINY, per_cell={"train": images // 4}, shard_size=size)
    notes = idle_notes(method.plan(), workers)
    assert len(notes) == bool(phrase)
    assert all(phrase in note for note in notes)
    method.config.workers = workers
    found = plan(method)
    assert set(notes) <= set(found["notes"])
    assert (found["idle_share"] >= 0.1) == bool(phrase)


def test_a_note_on_shards_that_dont_divide_evenly_is_a_whole_sentence():
    method = D3S("pocket", **TINY, per_cell={"train": 320}, shard_size=140)
    (note,) = idle_notes(method.plan(), 8)
    assert re.fullmatch(
        r"10 shards don't divide evenly among 8 workers: at the end only 2 would be at work, with \d+% of the workers' "
        r"time idle: set shard_size=64 .*",
        note,
    )
