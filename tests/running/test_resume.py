"""Builds that are killed in the middle of a shard: a resume renders only what lacks, and the bytes are the same."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from commands import ENVIRONMENT, hashes, litter, markers, recipe, run, start, wait_for
from forked_commands import Forked
from tiny_checkpoints import add_safety_checker, make_checkpoint

from figureground.checking.dataset import check
from figureground.shards.journal import count_rendered, list_files
from figureground.shards.record import RecordError, read_head
from figureground.shards.shard import JOURNAL

COUNTING = """
import json, os, sys
from figureground import D3S
from figureground.core import signals
from figureground.__main__ import main

class Counting(D3S):
    # D3S that notes each guide that it draws.
    def load_guide(self, spec):
        log = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, f"{spec.key}\\n".encode())
        os.close(log)
        return super().load_guide(spec)

with signals.handle_signals():
    Counting("pocket", **json.loads(sys.argv[1])).build(sys.argv[2], show_progress=False)
"""
TINY = {
    "classes": ["bird", "car"], "backgrounds": ["grass", "snow"], "per_cell": {"train": 4, "validation": 1},
    "shard_size": 16, "num_inference_steps": 6, "size": 32, "batch_size": 5, "threads": 1, "device": "cpu",
}  # fmt: skip
"""20 images: a shard of four batches, the last of which is filled up, and one of a single batch."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def flagging(tmp_path_factory):
    folder = make_checkpoint("sd1", tmp_path_factory.mktemp("flagging"))
    add_safety_checker(folder)
    return str(folder)


def counting(fields, out: Path, log: Path) -> Forked:
    return Forked([json.dumps(fields), str(out), str(log)], script=COUNTING, env=ENVIRONMENT)


def kept(out: Path) -> list[str]:
    """Keys in the journals, one for each time that an image was kept."""
    found = []
    for path in list_files(out):
        with contextlib.suppress(RecordError), path.open("rb") as file:
            at, size = 0, path.stat().st_size
            while at < size:
                file.seek(at)
                head = read_head(file, size - at)
                found += [each["key"] for each in head.results]
                at += head.size
    return found


def stop_after_a_batch(process: Forked, out: Path, number: int, before: int = 0) -> int:
    """Stop a build once its journals hold more images; return the exit code."""
    wait_for(lambda: process.poll() is not None or markers(out) or count_rendered(out)[0] > before)
    if process.poll() is None:
        process.send_signal(number)
    process.communicate(timeout=120)
    return process.returncode


@pytest.mark.parametrize(
    "settings",
    [
        {"keep": ["guide", "mask"], "formats": ["parquet", "webdataset"]},
        {"image_format": "webp", "eta": 0.5, "formats": ["webdataset"]},
    ],
)
def test_a_build_that_is_stopped_after_each_batch_renders_no_kept_image_again(checkpoint, tmp_path, settings):
    fields, out = {**TINY, "checkpoint": checkpoint, **settings}, tmp_path / "stopped"
    assert counting(fields, tmp_path / "whole", tmp_path / "log").wait(120) == 0
    stops = 0
    for turn in range(20):
        before, log = set(kept(out)), tmp_path / f"log{turn}"
        log.touch()
        number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[turn % 3]
        code = stop_after_a_batch(counting(fields, out, log), out, number, len(before))
        assert not before & set(log.read_text().split()), "an image that was kept is drawn again"
        now = kept(out)
        assert len(now) == len(set(now)), "an image is kept twice"
        if not markers(out):
            assert set(now) >= before
        if code == 0:
            break
        stops += 1
        if turn == 1 and (files := list_files(out)):  # as a machine that vanishes leaves it
            newest = max(files, key=lambda path: path.stat().st_mtime_ns)
            os.truncate(newest, newest.stat().st_size - 100)
    assert stops >= 2
    assert hashes(out) == hashes(tmp_path / "whole")
    assert litter(out) == []
    assert not (out / JOURNAL).exists()
    assert check(out, show_progress=False).findings == []


def test_a_journal_of_other_numerics_is_dropped_with_a_word(checkpoint, tmp_path):
    out, whole = tmp_path / "d3s", tmp_path / "whole"
    small = {"per_cell": "{train: 7}", "shard_size": 28}
    assert run("build", *recipe(checkpoint, **small, batch_size=2), "--out", str(whole))[0] == 0
    process = start("build", *recipe(checkpoint, **small, batch_size=3), "--out", str(out))
    assert stop_after_a_batch(process, out, signal.SIGKILL) != 0
    assert count_rendered(out)[0] > 0
    code, _, err = run("build", *recipe(checkpoint, **small, batch_size=2), "--out", str(out))
    assert (code, "numerics" in err) == (0, True)
    assert hashes(out) == hashes(whole)


def test_another_recipe_is_refused_and_takes_nothing_from_the_journal(checkpoint, tmp_path):
    out = tmp_path / "d3s"
    small = {"per_cell": "{train: 7}", "shard_size": 28}
    process = start("build", *recipe(checkpoint, **small), "--out", str(out))
    assert stop_after_a_batch(process, out, signal.SIGTERM) == 143
    _, errors = process.communicate()
    rendered, _ = count_rendered(out)
    assert f"0 of 1 shards are done and kept, and so are {rendered} images" in errors
    code, _, err = run("build", *recipe(checkpoint, **small, seed=1), "--out", str(out))
    assert (code, "seed" in err) == (1, True)
    assert count_rendered(out)[0] == rendered


def test_the_number_of_workers_may_change_and_two_builds_at_once_take_over_from_each_other(checkpoint, tmp_path):
    out, whole = tmp_path / "d3s", tmp_path / "whole"
    small = {"per_cell": "{train: 10}", "shard_size": 20}
    assert run("build", *recipe(checkpoint, **small), "--out", str(whole))[0] == 0
    both = [start("build", *recipe(checkpoint, **small), "--out", str(out)) for _ in range(2)]
    wait_for(lambda: count_rendered(out)[0] > 4 or markers(out))
    for process in both:
        process.kill()
        process.communicate(timeout=120)
    assert run("build", *recipe(checkpoint, **small, workers=2), "--out", str(out))[0] == 0
    assert hashes(out) == hashes(whole)
    assert litter(out) == []
    assert not (out / JOURNAL).exists()


def test_the_count_of_first_rejects_goes_on_after_a_kill(flagging, tmp_path):
    fields = {**TINY, "checkpoint": flagging, "per_cell": {"train": 50}, "shard_size": 200, "batch_size": 4}
    out, log = tmp_path / "d3s", tmp_path / "log"
    assert stop_after_a_batch(counting(fields, out, tmp_path / "first"), out, signal.SIGKILL) != 0
    before = kept(out)
    process = counting(fields, out, log)
    _, errors = process.communicate(timeout=120)
    assert "32 safety-flagged" in errors
    drawn = log.read_text().split()
    assert not set(drawn) & set(before)
    assert len(drawn) + len(before) <= 32 + 2 * 4, "a batch or two are prepared ahead"
    assert not markers(out)


def test_a_stopped_extension_goes_on_in_the_middle_of_its_shard(checkpoint, tmp_path):
    out, whole = tmp_path / "d3s", tmp_path / "whole"
    small = {"per_cell": "{train: 2}", "shard_size": 40}
    for each in (out, whole):
        assert run("build", *recipe(checkpoint, **small), "--out", str(each))[0] == 0
    assert run("extend", str(whole), "--per-cell", "train=12")[0] == 0
    process = start("extend", str(out), "--per-cell", "train=12")
    wait_for(lambda: count_rendered(out)[0] > 0 or len(markers(out)) > 1)
    process.terminate()
    process.communicate(timeout=120)
    before = count_rendered(out)[0]
    assert before > 0
    assert all(path.name.startswith("train-e1-") for path in list_files(out))
    assert run("extend", str(out), "--per-cell", "train=12")[0] == 0
    assert hashes(out) == hashes(whole)
    assert check(out, show_progress=False).findings == []
