"""Two processes at once in one directory: what was read before a lock is looked at again under it."""

import json
import threading
import time
from pathlib import Path

import pytest
from tiny_checkpoints import make_checkpoint

from figureground.checking.dataset import check
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.locks import lock
from figureground.methods.d3s import D3S
from figureground.methods.extend import extend
from figureground.recipe.formats import DEFAULT_FORMATS
from figureground.recipe.sample import Reject, Spec
from figureground.running import disk
from figureground.running.building import finish
from figureground.running.directory import claim_directory, has_started
from figureground.running.worker import work
from figureground.shards import index
from figureground.shards.claims import STAGES_LOCK, WORKING_LOCK
from figureground.shards.columns import Columns
from figureground.shards.shard import Shard, ShardError
from figureground.shards.writer import write_shard

TINY = {
    "classes": ["bird", "car"], "backgrounds": ["grass", "snow"], "per_cell": {"train": 1, "validation": 1},
    "num_inference_steps": 2, "size": 32, "threads": 1, "device": "cpu", "shard_size": 2, "batch_size": 2,
    "image_format": "png",
}  # fmt: skip
LOCKS = Path("/proc/locks")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint")))


def saved(out, name="recipe.json"):
    return json.loads((out / "_figureground" / name).read_text())


def at_once(out, *calls):
    """Calls all at once: each is let go on only when all wait for the lock of stages. Returns what each raised."""
    raised = [None] * len(calls)

    def run(i):
        try:
            calls[i]()
        except Exception as error:
            raised[i] = error

    threads = [threading.Thread(target=run, args=[i]) for i in range(len(calls))]
    with lock(out / STAGES_LOCK):
        inode = str((out / STAGES_LOCK).stat().st_ino)
        for thread in threads:
            thread.start()
        latest = time.monotonic() + 60
        while sum("-> FLOCK" in line and f":{inode} " in line for line in LOCKS.open()) < len(calls):
            assert time.monotonic() < latest, raised
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.skipif(not LOCKS.exists(), reason="nothing says who waits for a lock")
def test_two_extensions_at_once_leave_one_whole_dataset(checkpoint, tmp_path):
    out = D3S("pocket", checkpoint=checkpoint, **TINY).build(tmp_path / "d3s", show_progress=False)
    raised = at_once(out, *(lambda n=n: extend(out, {"train": n}, show_progress=False) for n in (2, 3)))
    assert None in raised
    # The other one finds an unfinished extension, or, when that is done, adds to it or has nothing to add.
    assert all(error is None or isinstance(error, FiguregroundError) for error in raised)
    assert check(out, show_progress=False).findings == []
    reached = saved(out)["identity"]["extended"][-1]["train"]
    assert saved(out, "index.json")["splits"]["train"]["planned"] == 4 * reached


@pytest.mark.skipif(not LOCKS.exists(), reason="nothing says who waits for a lock")
def test_builds_in_two_formats_at_once_leave_a_dataset_in_one(checkpoint, tmp_path):
    out = tmp_path / "d3s"
    builders = [D3S("pocket", checkpoint=checkpoint, formats=[kind], **TINY) for kind in DEFAULT_FORMATS]
    raised = at_once(out, *(lambda b=b: b.build(out, show_progress=False) for b in builders))
    assert raised.count(None) == 1
    assert [error.field for error in raised if error] == ["formats"]
    kind = DEFAULT_FORMATS[raised.index(None)]
    assert saved(out, "index.json")["formats"] == saved(out)["execution"]["formats"] == [kind]
    assert check(out, show_progress=False).findings == []


def test_formats_are_those_of_whoever_renders_the_first_shard(checkpoint, tmp_path):
    out = tmp_path / "d3s"
    tar = D3S("pocket", checkpoint=checkpoint, formats=["webdataset"], **TINY)
    parquet = D3S("pocket", checkpoint=checkpoint, formats=["parquet"], **TINY)
    with claim_directory(out, tar.recipe(out / "_figureground"), lambda: ""):
        with lock(out / WORKING_LOCK, shared=True), pytest.raises(RecipeError, match="formats"):
            work(parquet, out, show_progress=False)  # it found no shard, and another process makes one
        work(parquet, out, show_progress=False)
    assert saved(out)["execution"]["formats"] == ["parquet"]


def test_a_start_that_fails_leaves_its_execution_settings_in_no_recipe(checkpoint, tmp_path):
    out = tmp_path / "d3s"
    lost = D3S("pocket", checkpoint=checkpoint, **{**TINY, "device": "cuda:99"})
    good = D3S("pocket", checkpoint=checkpoint, **TINY)

    def fail():
        with claim_directory(out, lost.recipe(out / "_figureground"), lambda: ""):
            good.build(out, show_progress=False)  # a second process, while the first opens its model
            work(lost, out, show_progress=False)

    with pytest.raises(FiguregroundError):
        fail()
    assert saved(out)["execution"]["device"] == saved(out, "numerics.json")["device"] == "cpu"
    recipe = (out / "_figureground" / "recipe.json").read_bytes()
    numerics = (out / "_figureground" / "numerics.json").read_bytes()
    with pytest.raises(FiguregroundError):
        extend(out, {"train": 2}, ["device=cuda:99", "allow_mixed_numerics=true"], show_progress=False)
    assert (out / "_figureground" / "recipe.json").read_bytes() == recipe
    assert (out / "_figureground" / "numerics.json").read_bytes() == numerics
    extend(out, {"train": 2}, ["workers=1", "allow_mixed_numerics=true"], show_progress=False)
    assert saved(out)["execution"] == json.loads(recipe)["execution"]


def test_another_recipe_that_came_meanwhile_is_refused_before_anything_is_drawn(checkpoint, tmp_path):
    out = tmp_path / "d3s"
    one = D3S("pocket", checkpoint=checkpoint, **TINY)
    other = D3S("pocket", checkpoint=checkpoint, seed=7, **TINY)
    out.mkdir()
    with claim_directory(out, one.recipe(out / "_figureground"), lambda: ""):
        (out / "_figureground" / "recipe.json").write_text(json.dumps(other.recipe(out / "_figureground")))
        with pytest.raises(FiguregroundError, match="another recipe"):
            work(one, out, show_progress=False)
        assert not disk.has_shards(out)
        work(other, out, show_progress=False)
        with pytest.raises(ShardError, match="recipe"):
            finish(one, out)
    assert not (out / index.INDEX).exists()


def test_a_build_has_started_when_a_process_renders_or_a_shard_is_done(tmp_path):
    assert not has_started(tmp_path)
    with lock(tmp_path / WORKING_LOCK, shared=True):
        assert has_started(tmp_path)
    assert not has_started(tmp_path)
    columns, spec = Columns(["bird"], ["grass"]), Spec("train-0", "train", 0, 0, "bird", "grass", "a bird", 0)
    shard = Shard("train", 0, 1, 1)
    write_shard(tmp_path, shard, columns, [Reject(spec, "flat")], lambda sample: {})
    assert has_started(tmp_path)
