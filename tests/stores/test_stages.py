"""Stages of a build into an object store: what one machine has finished, another one goes on from."""

import hashlib
import json
import os
import signal

import pytest
from commands import ENVIRONMENT as PLAIN
from commands import hashes, wait_for
from forked_commands import Forked
from object_store import BUCKET, ENVIRONMENT

from figureground.pocket import birds

SETTINGS = {
    "folds": 2, "training": {"epochs": 2}, "per_class": 4, "num_inference_steps": 2, "shard_size": 4, "threads": 1,
    "image_format": "png",
}  # fmt: skip
FOLDS = {"errors-fold-0", "errors-fold-1"}


@pytest.fixture
def build(s3, tmp_path):
    """Start a build of SCGS on a machine of that name: with a scratch directory of its own."""
    data = birds.write(tmp_path / "birds", 40, 8, 8, bias_aligned_share=0.95, size=32, show_progress=False)
    started = []

    def begin(machine, out, *more):
        values = [f"--set={name}={json.dumps(value)}" for name, value in SETTINGS.items()]
        place = {"AWS_ENDPOINT_URL": s3.endpoint, "XDG_CACHE_HOME": str(tmp_path / machine)}
        arguments = ["build", "scgs", "--data", str(data), "--out", str(out), "--lease", "3", *values, *more]
        started.append(Forked(arguments, env={**PLAIN, **ENVIRONMENT, **place}))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()


def ended(process):
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


@pytest.mark.slow
def test_two_workers_go_on_with_the_folds_of_a_machine_that_was_killed(s3, url, build, tmp_path):
    local, log = tmp_path / "local", tmp_path / "log.jsonl"
    ended(build("one", local, "--workers", "2", "--log-json", str(log)))
    trained = {each["stage"]: each["pid"] for each in read(log)}
    assert set(trained) == FOLDS
    assert len(set(trained.values())) == 2

    killed, prefix = build("one", url), f"{url.removeprefix(f's3://{BUCKET}/')}/"
    wait_for(lambda: s3.count(r"PUT .*/stages/errors-fold-0/done.json"), killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    done = {name.split("/")[-2] for name in s3.names(f"{prefix}_figureground/stages/") if name.endswith("done.json")}
    log.unlink()
    ended(build("two", url, "--workers", "2", "--log-json", str(log)))
    assert {each["stage"] for each in read(log)} == FOLDS - done
    kept = {name: hashlib.sha256(s3.read(prefix + name)).hexdigest() for name in hashes(local)}
    assert kept == hashes(local)


def read(log):
    """The events of finished stages."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [each for each in events if each["event"] == "stage"]
