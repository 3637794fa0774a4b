"""More images for a finished dataset: what is there stays, what comes has keys and noise of a larger recipe."""

import itertools
import json
import re
import subprocess
import time

import pytest
from commands import run, start
from datasets import load_dataset
from tiny_checkpoints import make_checkpoint

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.methods.d3s import D3S
from figureground.methods.extend import extend

TINY = {
    "classes": ["bird", "car"], "backgrounds": ["grass", "snow"], "per_cell": {"train": 2, "validation": 1},
    "num_inference_steps": 2, "size": 32, "threads": 1, "device": "cpu", "shard_size": 3, "batch_size": 3,
    "image_format": "png",
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint")))


def bytes_below(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_extension_adds_shards_and_leaves_the_others_as_they_are(checkpoint, tmp_path):
    out = D3S("pocket", checkpoint=checkpoint, **TINY).build(tmp_path / "d3s", show_progress=False)
    before = bytes_below(out)
    extend(out, {"train": 4}, show_progress=False)
    after = bytes_below(out)
    kept = [p for p in before if p.parts[0] in ("data", "webdataset") or "shards" in p.parts]
    assert kept
    assert all(after[p] == before[p] for p in kept)
    added = sorted(p.name for p in set(after) - set(before) if p.parts[0] == "data")
    assert added == [f"train-e1-{i:05d}-of-00003.parquet" for i in range(3)]
    data = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 16, "validation": 4}
    assert len(set(data["train"]["key"])) == 16
    index = json.loads((out / "_figureground" / "index.json").read_text())
    assert index["splits"]["train"]["cells"] == [[0, 0, 4], [0, 1, 4], [1, 0, 4], [1, 1, 4]]
    steps = json.loads((out / "_figureground" / "recipe.json").read_text())["lineage"]
    assert steps == [{"did": "extend", "per_cell": {"train": 4, "validation": 1}, "planned_before": 12, "planned": 20}]


@pytest.mark.parametrize("correlation", [0.9, 0.95])
def test_a_set_of_strong_correlation_can_grow_by_any_number(correlation):
    table = {"kind": "correlated", "correlation": correlation}
    for first, *steps in ((1, 2, 3), (3, 4, 8), (9, 10, 18)):
        per_cell = [{"train": n, "validation": 1} for n in (first, *steps)]
        builder = D3S("pocket", table=table, allow_empty=True, per_cell=per_cell[0], extended=per_cell[1:])
        counts = [each["train"] for each in (*builder.earlier, builder.counts)]
        assert [int(each.sum()) for each in counts] == [100 * n for n in (first, *steps)]
        assert all((after >= before).all() for before, after in itertools.pairwise(counts))


def test_its_keys_and_their_noise_are_those_of_a_larger_recipe(checkpoint, tmp_path):
    out = D3S("pocket", checkpoint=checkpoint, **TINY).build(tmp_path / "d3s", show_progress=False)
    extend(out, {"train": 3}, show_progress=False)
    small = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    plan = D3S("pocket", checkpoint=checkpoint, **TINY).plan()
    base = {s.key: s for shard in plan.shards() for s in plan.specs(shard)}
    seeds = {row["key"]: json.loads(row["provenance"])["seed"] for row in small}
    larger = D3S("pocket", checkpoint=checkpoint, **{**TINY, "per_cell": {"train": 3, "validation": 1}}).plan()
    expected = {s.key: s.seed for shard in larger.shards() if shard.split == "train" for s in larger.specs(shard)}
    assert seeds == expected
    assert set(base) < set(seeds) | {k for k in base if k.startswith("validation")}


def test_splits_still_share_no_source_image_after_an_extension(checkpoint, tmp_path):
    out = D3S("pocket", checkpoint=checkpoint, **TINY).build(tmp_path / "d3s", show_progress=False)
    extend(out, {"validation": 6}, show_progress=False)
    data = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    used = {
        split: {json.loads(p)["guide"][name] for p in rows["provenance"] for name in ("cutout", "template")}
        for split, rows in data.items()
    }
    assert used["train"].isdisjoint(used["validation"])


def test_a_second_extension_and_the_saved_recipe_go_on_from_the_first(checkpoint, tmp_path):
    out = D3S("pocket", checkpoint=checkpoint, **TINY).build(tmp_path / "d3s", show_progress=False)
    extend(out, {"train": 3}, show_progress=False)
    extend(out, {"train": 5, "validation": 2}, show_progress=False)
    names = sorted(re.sub(r"-\d.*", "", p.name) for p in (out / "data").iterdir())
    assert dict.fromkeys(names) == dict.fromkeys(["train", "train-e1", "train-e2", "validation", "validation-e2"])
    before = bytes_below(out)
    from figureground.recipe.document import read_recipe

    D3S.from_recipe(read_recipe(out / "_figureground" / "recipe.json")).build(out, show_progress=False)
    assert bytes_below(out) == before
    rebuilt = D3S.from_recipe(read_recipe(out / "_figureground" / "recipe.json")).build(
        tmp_path / "again", show_progress=False
    )
    assert {p: b for p, b in bytes_below(rebuilt).items() if p.parts[0] == "data"} == {
        p: b for p, b in before.items() if p.parts[0] == "data"
    }


def test_a_killed_extension_goes_on_with_the_same_command(checkpoint, tmp_path):
    tiny = {**TINY, "shard_size": 1}
    out = D3S("pocket", checkpoint=checkpoint, **tiny).build(tmp_path / "d3s", show_progress=False)
    whole = D3S("pocket", checkpoint=checkpoint, **tiny).build(tmp_path / "whole", show_progress=False)
    extend(whole, {"train": 12}, show_progress=False)
    command = ["extend", str(out), "--per-cell", "train=12"]
    stopped = start(*command, stderr=subprocess.DEVNULL)
    while not list((out / "_figureground" / "shards").glob("train-e1-*.json")):
        time.sleep(0.01)
        assert stopped.poll() is None
    stopped.kill()
    stopped.wait()
    assert len(list((out / "_figureground" / "shards").glob("train-e1-*.json"))) < 40
    # What is announced is whole until the rest is there.
    assert len(load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))) == 8
    code, output, _ = run(*command)
    assert code == 0
    assert "52 samples" in output
    same = {p: b for p, b in bytes_below(whole).items() if p.parts[0] in ("data", "webdataset")}
    assert {p: b for p, b in bytes_below(out).items() if p.parts[0] in ("data", "webdataset")} == same


@pytest.mark.parametrize(
    ("per_cell", "message"),
    [
        ({"train": 1}, r"extended.train: .* of 4 cells: bird on grass"),
        ({"train": 2}, "has train=2, validation=1 already"),
        ({"trian": 4}, "did you mean 'train'"),
        ({"train": "4"}, r"extended\[0\].train: '4' .*a whole number"),
    ],
)
def test_what_adds_nothing_is_refused_and_changes_nothing(per_cell, message, checkpoint, tmp_path):
    out = D3S("pocket", checkpoint=checkpoint, **TINY).build(tmp_path / "d3s", show_progress=False)
    before = bytes_below(out)
    with pytest.raises(RecipeError, match=message):
        extend(out, per_cell, show_progress=False)
    assert bytes_below(out) == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("formats=[parquet]", "was begun as parquet and webdataset"),
        ("device=cuda:99", "cuda:99"),
        ("threads=2", "other numerics"),
    ],
)
def test_an_extension_that_fails_at_once_leaves_the_dataset_finished(setting, message, checkpoint, tmp_path):
    out = D3S("pocket", checkpoint=checkpoint, **TINY).build(tmp_path / "d3s", show_progress=False)
    before = bytes_below(out)
    with pytest.raises(FiguregroundError, match=message):
        extend(out, {"train": 3}, [setting], show_progress=False)
    assert bytes_below(out) == before
    extend(out, {"train": 3}, show_progress=False)


def test_what_cannot_be_extended_says_why(checkpoint, tmp_path):
    with pytest.raises(FiguregroundError, match="holds no dataset"):
        extend(tmp_path, {"train": 3})
    limited = D3S("pocket", checkpoint=checkpoint, **TINY, limit=5).build(tmp_path / "limited", show_progress=False)
    with pytest.raises(RecipeError, match="built with a limit"):
        extend(limited, {"train": 3})
    out = D3S("pocket", checkpoint=checkpoint, **TINY).build(tmp_path / "d3s", show_progress=False)
    with pytest.raises(RecipeError, match=r"strength: extend keeps the recipe"):
        extend(out, {"train": 3}, ["strength=0.5"])
    next((out / "_figureground" / "shards").glob("validation*.json")).unlink()
    with pytest.raises(FiguregroundError, match="isn't finished"):
        extend(out, {"train": 3})


def test_a_changed_source_is_refused(checkpoint, tmp_path):
    import shutil

    from figureground.core.resources import find_resource

    mine = tmp_path / "cutouts"
    shutil.copytree(find_resource("templates/pocket/cutouts"), mine)
    out = D3S("pocket", checkpoint=checkpoint, cutouts=str(mine), **TINY).build(tmp_path / "d3s", show_progress=False)
    next((mine / "bird").glob("*.png")).unlink()
    with pytest.raises(FiguregroundError, match=r"have changed since the build.*\n.*cutouts"):
        extend(out, {"train": 3})
