"""`--log-json`: one line of JSON for each shard, whole also when several processes write, and none lost or kept."""

import json
import os
import signal

import pytest
from commands import markers, recipe, run, start, wait_for
from tiny_checkpoints import make_checkpoint

from figureground.core.errors import UsageError
from figureground.core.event_log import EventLog, open_log


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint"))


def events(text):
    return [json.loads(line) for line in text.splitlines()]


def test_each_shard_of_each_worker_is_a_line_with_its_counts(checkpoint, tmp_path):
    out, log = tmp_path / "d3s", tmp_path / "log.jsonl"
    code, output, _ = run("build", *recipe(checkpoint, workers=2), "--out", str(out), "--log-json", str(log))
    assert code == 0
    assert "60 samples" in output
    entries = events(log.read_text())
    assert [each["event"] for each in (entries[0], entries[-1])] == ["start", "stop"]
    shards = [each for each in entries if each["event"] == "shard"]
    assert sorted(f"{each['shard']}.json" for each in shards) == markers(out)
    workers = {(each["rank"], each["pid"]) for each in shards}
    assert 1 <= len(workers) <= 2  # one may have rendered everything before the other had its model
    assert {rank for rank, _ in workers} <= {0, 1}
    for each in shards:
        marker = json.loads((out / "_figureground" / "shards" / f"{each['shard']}.json").read_text())
        assert (each["samples"], each["rejects"], each["device"]) == (marker["samples"], marker["rejects"], "cpu")
        assert (each["seconds"], each["images_per_second"]) == (marker["seconds"], marker["images_per_second"])
        assert each["bytes"] == sum(file["bytes"] for file in marker["files"].values())
        assert each["time"].endswith("Z")


def test_a_log_on_stdout_is_all_that_is_there_and_says_what_stopped_a_build(checkpoint, tmp_path):
    process = start("build", *recipe(checkpoint), "--out", str(tmp_path / "d3s"), "--log-json", "-")
    wait_for(lambda: len(markers(tmp_path / "d3s")) >= 1, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    entries = events(output)
    assert [each["event"] for each in entries if each["event"] != "shard"] == ["start", "stop"]
    assert entries[-1]["reason"] == "SIGTERM"


def test_a_failure_is_a_line(checkpoint, tmp_path):
    log = tmp_path / "log.jsonl"
    arguments = ["build", *recipe(checkpoint, device="cuda:99"), "--out", str(tmp_path / "d3s")]
    code, _, err = run(*arguments, "--log-json", str(log))
    assert code == 1
    (failure,) = (each for each in events(log.read_text()) if each["event"] == "failure")
    assert failure["error"] in err


@pytest.mark.parametrize("target", ["missing/log.jsonl", ".", "d3s/log.jsonl"])
def test_a_log_that_cannot_be_written_is_refused_and_nothing_is_made(target, tmp_path):
    with pytest.raises(UsageError, match="--log-json"):
        open_log(tmp_path / target, tmp_path / "d3s")
    assert list(tmp_path.iterdir()) == []


def test_lines_of_processes_that_write_at_once_stay_whole(tmp_path):
    log = EventLog(str(tmp_path / "log.jsonl"))
    children = []
    for rank in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(200):
                EventLog(log.target, rank).write("shard", text=str(rank) * 9000)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    entries = events((tmp_path / "log.jsonl").read_text())
    assert len(entries) == 800
    assert all(each["text"] == str(each["rank"]) * 9000 for each in entries)


def test_nothing_is_appended_to_a_file_that_is_no_log(tmp_path):
    """Such as the recipe, after a slip on the command line."""
    recipe_file = tmp_path / "base.yaml"
    recipe_file.write_text("config: pocket\n")
    with pytest.raises(UsageError, match=r"base\.yaml exists and is no log"):
        open_log(recipe_file, tmp_path / "out")
    assert recipe_file.read_text() == "config: pocket\n"
    (tmp_path / "data.json").write_text("{}\n")
    with pytest.raises(UsageError, match=r"data\.json"):
        open_log(tmp_path / "data.json", tmp_path / "out")
    log = tmp_path / "log.jsonl"
    for _ in range(2):
        open_log(log, tmp_path / "out").write("start")
    assert [each["event"] for each in events(log.read_text())] == ["start", "start"]
