"""Builds into an object store: real processes, a real S3 server on loopback, its faults, and owners that vanish."""

import hashlib
import os
import re
import signal
from collections import Counter

import pytest
from commands import ENVIRONMENT as PLAIN
from commands import hashes, recipe, wait_for
from forked_commands import Forked
from object_store import BUCKET, ENVIRONMENT, Rule
from tiny_checkpoints import make_checkpoint

from figureground.checking.dataset import check
from figureground.core.errors import FiguregroundError
from figureground.recipe.sample import Reject, Spec
from figureground.shards.columns import Columns
from figureground.shards.shard import Shard
from figureground.shards.writer import write_shard
from figureground.stores.scratch import open_scratch, url_of
from figureground.stores.status import StoreWatch
from figureground.stores.urls import parse

SETTINGS = {"per_cell": "{train: 3, validation: 1}", "shard_size": 4, "batch_size": 2, "num_inference_steps": 8}
"""16 images in 4 shards, two batches each."""
DATA = r"/(data|webdataset)/"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def undisturbed(checkpoint, tmp_path_factory):
    """SHA-256 of each data file of a local build."""
    out = tmp_path_factory.mktemp("local") / "d3s"
    process = Forked(["build", *recipe(checkpoint, **SETTINGS), "--out", str(out)], env=PLAIN)
    ended(process)
    return hashes(out)


@pytest.fixture
def build(s3, url, checkpoint, tmp_path):
    """Start a build into the URL on a machine of that name: with a scratch directory of its own."""
    started = []

    def begin(machine, *more, lease=3, **settings):
        place = {"AWS_ENDPOINT_URL": s3.endpoint, "XDG_CACHE_HOME": str(tmp_path / machine)}
        arguments = [*recipe(checkpoint, **{**SETTINGS, **settings}), "--out", url, "--lease", str(lease), *more]
        started.append(Forked(["build", *arguments], env={**PLAIN, **ENVIRONMENT, **place}))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()


def ended(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (out, err)
    return err


def stored(s3, url):
    """SHA-256 of each data object."""
    prefix = url.removeprefix(f"s3://{BUCKET}/")
    names = [name for folder in ("data", "webdataset") for name in s3.names(f"{prefix}/{folder}/")]
    return {name.removeprefix(f"{prefix}/"): hashlib.sha256(s3.read(name)).hexdigest() for name in names}


def left(s3, url):
    """Files that a finished dataset doesn't have."""
    prefix = url.removeprefix(f"s3://{BUCKET}/")
    folders = ("leases", "journal", "failed", "probe", ".planned")
    return [name for folder in folders for name in s3.names(f"{prefix}/_figureground/{folder}")]


def rendered(s3):
    """How many owners rendered each batch; a repeated put of the same object counts once."""
    found = {match[0]: match for line in s3.log if (match := re.search(r"PUT .*/journal/([^/]+)/[^/]+/(\d+)$", line))}
    return Counter(match.groups() for match in found.values())


def test_two_builds_at_once_through_faults_one_of_them_killed(s3, url, build, undisturbed, monkeypatch, tmp_path):
    s3.rules += [
        Rule(r"PUT .*" + DATA, "lose", times=2, every=3), Rule(r"PUT .*/shards/", "cut", times=1, every=2),
        Rule(r" .*", "answer", every=23), Rule(r"GET .*", "slow", seconds=0.3, every=17),
    ]  # fmt: skip
    killed, other = build("one", lease=10), build("two", lease=10)  # a busy machine may hold a heartbeat up
    wait_for(lambda: s3.count(r"PUT .*/journal/.*/000000$"), killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    ended(other)
    assert stored(s3, url) == undisturbed
    assert left(s3, url) == []
    times = rendered(s3)
    assert len(times) == 8
    assert sum(times.values()) - len(times) <= 1  # the batch in flight
    s3.rules.clear()
    s3.log.clear()
    ended(build("three"))  # a finished dataset stays as it is
    assert s3.count(r"PUT .*" + DATA) == s3.count("PUT .*/journal/") == 0
    report = check(url, show_progress=False)
    assert report.findings == []
    progress = StoreWatch(parse(url)).read()
    assert progress.finished
    assert progress.working == progress.failed == []
    name = next(name for name in s3.names(f"{url.removeprefix(f's3://{BUCKET}/')}/data/"))
    s3.put(name, s3.read(name)[:-1] + b"!")
    assert any(os.path.basename(name) in line for line in check(url, show_progress=False).findings)


def test_a_paused_owner_loses_its_shard_and_harms_nothing(s3, url, build, undisturbed):
    paused = build("one", lease=2)
    wait_for(lambda: s3.count(r"PUT .*/journal/.*/000000$"), paused)
    os.kill(paused.pid, signal.SIGSTOP)
    held = [each for each in StoreWatch(parse(url)).read().working if each.pid == paused.pid]
    ended(build("two", lease=2))
    before = stored(s3, url)
    os.kill(paused.pid, signal.SIGCONT)
    errors = ended(paused)
    assert stored(s3, url) == before == undisturbed
    assert left(s3, url) == []
    if held:  # it was not just between two shards
        assert held[0].shard in errors


def test_another_recipe_other_bytes_and_a_bucket_that_is_not_there(s3, url, build, undisturbed):
    prefix = url.removeprefix(f"s3://{BUCKET}/")
    name = "data/train-00000-of-00003.parquet"
    s3.put(f"{prefix}/{name}", b"of somebody else")
    refused = build("one")
    _, err = refused.communicate(timeout=300)
    assert refused.returncode == 1
    assert name in err
    assert err.count('"batch_size"') == 2  # the numerics of both
    assert s3.read(f"{prefix}/{name}") == b"of somebody else"
    other = build("two", seed=7)
    _, err = other.communicate(timeout=300)
    assert other.returncode == 1
    assert "seed" in err


def test_a_store_that_cannot_keep_two_apart_takes_one_build(s3, url, tmp_path):
    s3.rules.append(Rule("PUT ", "strip"))
    with open_scratch(parse(url), tmp_path / "one", seconds=1) as scratch:
        assert url_of(scratch) == parse(url)
        with (
            pytest.raises(FiguregroundError, match="another build"),
            open_scratch(parse(url), tmp_path / "two", seconds=1),
        ):
            pass
    with open_scratch(parse(url), tmp_path / "two", seconds=1):
        pass


def test_a_scratch_directory_forgets_a_dataset_that_was_deleted(s3, url, tmp_path):
    prefix, scratch = url.removeprefix(f"s3://{BUCKET}/"), tmp_path / "scratch"
    spec, shard = Spec("train-0", "train", 0, 0, "bird", "grass", "a bird", 0), Shard("train", 0, 1, 1)
    marker = scratch / shard.path("marker")
    with open_scratch(parse(url), scratch):
        (scratch / "_figureground" / "recipe.json").write_text('{"sha256": "one"}')
        write_shard(scratch, shard, Columns(["bird"], ["grass"]), [Reject(spec, "flat")], lambda sample: {})
    s3.put(f"{prefix}/_figureground/recipe.json", b'{"sha256": "one"}')
    with open_scratch(parse(url), scratch):
        assert marker.exists()  # it was written, but not put yet
    s3.put(f"{prefix}/_figureground/recipe.json", b'{"sha256": "another"}')
    with open_scratch(parse(url), scratch):
        assert not marker.exists()


def test_a_scratch_directory_belongs_to_one_url(s3, url, tmp_path):
    with open_scratch(parse(url), tmp_path / "scratch"):
        pass
    with pytest.raises(FiguregroundError, match=url), open_scratch(parse(f"{url}-b"), tmp_path / "scratch"):
        pass
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(FiguregroundError, match="something else"), open_scratch(parse(url), tmp_path / "mine"):
        pass
