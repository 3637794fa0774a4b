"""`figureground status`: what the directory says during a build, after a kill, after a failure, and at the end."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from commands import ENVIRONMENT, litter, markers, recipe, run, start, wait_for
from tiny_checkpoints import make_checkpoint

from figureground.shards.claims import claim, note_failure
from figureground.shards.progress import Watch, record_plan
from figureground.shards.shard import Shard


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint"))


def status(out, *flags):
    code, output, err = run("status", str(out), "--json", *flags)
    return code, json.loads(output) if output else err


def test_it_follows_a_build_through_a_kill_to_its_end(checkpoint, tmp_path):
    out = tmp_path / "d3s"
    process = start("build", *recipe(checkpoint, num_inference_steps=25), "--out", str(out))
    wait_for(lambda: len(markers(out)) >= 2, process)
    code, report = status(out)
    assert code == 0
    assert not report["finished"]
    assert (report["shards"], report["images"]) == (15, 60)
    assert 2 <= report["shards_done"] < 15
    assert report["images_done"] == report["samples"] == 4 * report["shards_done"]
    assert {name: split["images"] for name, split in report["splits"].items()} == {"train": 56, "validation": 4}
    (working,) = report["working"]
    assert (working["pid"], working["host"]) == (process.pid, socket.gethostname())
    rate = report["images_per_second"]["recent"]
    assert report["seconds_left"] == pytest.approx((60 - report["images_done"]) / rate, rel=0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, report = status(out)
    assert (code, report["working"], report["failed"], report["finished"]) == (0, [], [], False)
    assert report["images_per_second"]["recent"] is report["seconds_left"] is None

    assert run("build", *recipe(checkpoint, num_inference_steps=25), "--out", str(out))[0] == 0
    code, report = status(out, "--watch")
    assert (
        (code, report["finished"], report["shards_done"], report["samples"], report["seconds_left"])
        == (0, True, 15, 60, 0)
    )  # fmt: skip
    assert report["images_per_second"]["total"] > 0
    assert litter(out) == []
    code, text, _ = run("status", str(out))
    assert f"{out}: finished. 15 of 15 shards, 60 of 60 images, 60 samples" in text


@pytest.fixture
def begun(tmp_path):
    """A directory with a plan of two shards, and nothing done."""
    shards = [Shard("train", i, 2, 8) for i in range(2)]
    (tmp_path / "_figureground" / "shards").mkdir(parents=True)
    (tmp_path / "_figureground" / "recipe.json").write_text("{}")
    record_plan(tmp_path, shards)
    return tmp_path, shards


def test_a_failed_shard_has_its_reason_until_it_is_claimed_again(begun):
    out, (first, second) = begun
    with pytest.raises(ValueError, match="too dark"), claim(out, first):
        raise ValueError("too dark")
    note_failure(out, second, "its worker died 3 times", "node7", 99)
    failed = {each.shard: each for each in Watch(out).read().failed}
    assert failed[first.name].reason == "ValueError: too dark"
    assert failed[first.name].pid == os.getpid()
    assert (failed[second.name].reason, failed[second.name].host) == ("its worker died 3 times", "node7")
    code, output, _ = run("status", str(out), "--watch")  # nothing is in work, so it doesn't wait
    assert code == 1
    assert "too dark" in output
    with claim(out, first):
        progress = Watch(out).read()
        assert [each.shard for each in progress.failed] == [second.name]
        assert [each.shard for each in progress.working] == [first.name]
    assert [each.shard for each in Watch(out).read().failed] == [second.name]


def test_a_claim_of_a_stopped_process_is_nobodys(begun):
    out, (first, _) = begun
    with pytest.raises(KeyboardInterrupt), claim(out, first):
        raise KeyboardInterrupt
    progress = Watch(out).read()
    assert (progress.working, progress.failed) == ([], [])


@pytest.mark.parametrize("text", ["{", "[]", '{"host": 1, "pid": 2, "since": ""}', "\0" * 100_000])
def test_a_lock_file_that_says_nonsense_is_passed_over(begun, text):
    out, (first, _) = begun
    (out / "_figureground" / "shards" / f".{first.name}.lock").write_text(text)
    progress = Watch(out).read()
    assert (progress.working, progress.failed, progress.total("shards")) == ([], [], 2)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("")])
def test_what_is_no_dataset_is_refused(tmp_path, make):
    make(tmp_path / "d3s")
    code, err = status(tmp_path / "d3s")
    assert code == 1
    assert "d3s" in err


def test_it_needs_no_torch(begun):
    script = "import sys; from figureground.cli.main import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", script, "status", str(begun[0])]
    result = subprocess.run(command, env=ENVIRONMENT, text=True, capture_output=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "0 of 2 shards, 0 of 16 images" in result.stdout
