"""The runner `ray`: what fits into a cluster, and what nodes and workers leave that die, differ or are stopped."""

import hashlib
import importlib.util
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from commands import ENVIRONMENT, LONG, hashes, litter, markers, recipe, run, start, wait_for
from example_ray_actor import Dying

from figureground.core.accelerator import is_device_error
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.event_log import EventLog
from figureground.running.ray.actor import ActorInfo, check_actor
from figureground.running.ray.cluster import Resources, choose_resources
from figureground.running.ray.dispatcher import ActorHandle, Dispatcher
from figureground.running.runners.ray import Ray
from figureground.shards.claims import claim
from figureground.shards.progress import Watch, record_plan
from figureground.shards.shard import Shard

HAS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray isn't installed")
"""32 images in 8 shards."""
PATIENCE = 400
"""Seconds until workers must have begun: each imports everything, on what may be a busy machine."""
CHOOSE = {"device": "auto", "gpus": None, "workers": None, "threads": None}


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([{"CPU": 8.0}], {}, Resources(1, 0, 8)),
        ([{"CPU": 8.0}, {"CPU": 4.0}], {}, Resources(3, 0, 4)),
        ([{"CPU": 8.0}], {"workers": 3}, Resources(3, 0, 2)),
        ([{"CPU": 2.0}], {"workers": 5}, Resources(5, 0, 1)),
        ([{"CPU": 8.0}], {"threads": 2}, Resources(4, 0, 2)),
        ([{"CPU": 8.0}], {"threads": 16}, Resources(1, 0, 8)),
        ([{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0}], {}, Resources(4, 1, 1)),
        ([{"CPU": 8.0, "GPU": 4.0}], {"device": "cpu"}, Resources(1, 0, 8)),
        ([{"CPU": 8.0, "GPU": 4.0}], {"gpus": 0}, Resources(1, 0, 8)),
        ([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}], {"gpus": 0.25}, Resources(8, 0.25, 1)),
        ([{"CPU": 8.0, "GPU": 8.0}], {"gpus": 2, "workers": 3}, Resources(3, 2, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}], {"device": "cuda"}, Resources(2, 1, 1)),
    ],
)
def test_workers_fit_into_the_machines(nodes, settings, expected):
    assert choose_resources(nodes, **{**CHOOSE, **settings}) == expected


@pytest.mark.parametrize(
    ("gpus", "settings", "named"),
    [(0, {"gpus": 1}, "--gpus-per-worker"), (0, {"device": "cuda"}, "device=cuda"), (2, {"gpus": 4}, "worker 4")],
)
def test_gpus_that_are_asked_for_and_missing_are_an_error(gpus, settings, named):
    with pytest.raises(FiguregroundError, match=named):
        choose_resources([{"CPU": 8.0, "GPU": gpus}] * 3, **{**CHOOSE, **settings})


@pytest.mark.parametrize(
    "options", [{"gpus_per_worker": -1}, {"gpus_per_worker": 1.5}, {"workers": 0}, {"address": "ray://head:10001"}]
)
def test_an_option_that_makes_no_sense_is_refused(options):
    with pytest.raises(RecipeError, match="--"):
        Ray(**options)


def test_other_versions_and_another_disk_are_refused_with_the_machines_name():
    mine = {"Ray": "2.60.0", "Python": "3.11.1"}
    check_actor(ActorInfo("node7", 1, mine, True), mine, Path("out"))
    for versions in ({**mine, "Ray": "2.59.0"}, {**mine, "Python": "3.12.0"}):
        with pytest.raises(FiguregroundError, match=r"node7 has (Ray 2.59.0|Python 3.12.0) instead of"):
            check_actor(ActorInfo("node7", 1, versions, True), mine, Path("out"))
    with pytest.raises(FiguregroundError, match="node7 doesn't see out"):
        check_actor(ActorInfo("node7", 1, mine, False), mine, Path("out"))


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (FiguregroundError("CUDA error in a recipe's name"), False),
    ],
)
def test_an_error_of_the_device_is_distinguished_from_others(error, broken):
    assert is_device_error(error) is broken
    wrapped = FiguregroundError("a shard can't be rendered")
    wrapped.__cause__ = error
    assert is_device_error(wrapped) is broken


@HAS_RAY
def test_an_address_that_does_not_answer_is_an_error_within_seconds(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(FiguregroundError, match=address):
        _build_nothing(address, tmp_path)
    with pytest.raises(RecipeError, match="--ray-address"):
        _build_nothing("head", tmp_path)
    assert time.monotonic() - started < 60
    assert not (tmp_path / "d3s").exists()


def _build_nothing(address, tmp_path):
    from figureground import D3S

    D3S("pocket", limit=4).build(tmp_path / "d3s", show_progress=False, runner=Ray(address))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An object store, and the environment in which a machine finds it."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    from object_store import BUCKET, ENVIRONMENT, ObjectStore

    server = ObjectStore()
    cache = str(tmp_path_factory.mktemp("cache"))
    server.environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.endpoint, "XDG_CACHE_HOME": cache}
    server.url = f"s3://{BUCKET}"
    yield server
    server.close()


@pytest.fixture(scope="module")
def cluster(store):
    """A Ray with one node of one CPU, which finds the store; `more` adds others."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    shared = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **store.environment}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=_node(shared))
    made.more = lambda **environment: made.add_node(**_node({**shared, **environment}))
    yield made
    made.shutdown()


def _node(environment):
    return {
        "num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False,
        "env_vars": {"OMP_NUM_THREADS": "1", **environment},
    }  # fmt: skip


def working(out):
    return {each.pid: each.shard for each in Watch(out).read().working}


@HAS_RAY
@pytest.mark.slow
def test_a_stop_and_a_lost_node_change_no_byte_and_nothing_is_rendered_twice(
    cluster, checkpoint, undisturbed, tmp_path
):
    import psutil

    out, log = tmp_path / "d3s", tmp_path / "log.jsonl"
    arguments = ["build", *recipe(checkpoint, **LONG), "--out", str(out), "--log-json", str(log), "--runner", "ray",
                 "--ray-address", cluster.address]  # fmt: skip
    process = start(*arguments)
    wait_for(lambda: len(markers(out)) >= 1, process, PATIENCE)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "figureground: stopped." in err
    assert "Traceback" not in err
    assert not [name for name in litter(out) if name.endswith(".tmp")]

    lost = cluster.more()
    raylet = psutil.Process(lost.all_processes["raylet"][0].process.pid)
    process = start(*arguments, "--workers", "2")
    wait_for(lambda: {each.pid for each in raylet.children(True)} & set(working(out)), process, PATIENCE)
    cluster.remove_node(lost, allow_graceful=False)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert hashes(out) == hashes(undisturbed)
    assert litter(out) == []
    events = [json.loads(line) for line in log.read_text().splitlines()]
    shards = [each["shard"] for each in events if each["event"] == "shard"]
    assert len(shards) == len(set(shards))
    assert set(shards) == {name.removesuffix(".json") for name in markers(out)}


@HAS_RAY
@pytest.mark.slow
def test_a_store_gets_the_same_bytes_and_a_node_with_another_cpu_is_refused_with_its_name(
    cluster, store, checkpoint, undisturbed
):
    arguments = ["build", *recipe(checkpoint, **LONG), "--runner", "ray", "--ray-address", cluster.address]
    environment = {**ENVIRONMENT, **store.environment}
    node = cluster.more(ATEN_CPU_CAPABILITY="default")
    code, _, err = run(*arguments, "--out", f"{store.url}/mixed", "--workers", "2", env=environment)
    cluster.remove_node(node)
    assert code == 1
    assert f"{socket.gethostname()}: " in err
    assert "processor: " in err
    code, _, err = run(*arguments, "--out", f"{store.url}/ray", env=environment)
    assert code == 0, err
    kept = {name: hashlib.sha256(store.read(f"ray/{name}")).hexdigest() for name in hashes(undisturbed)}
    assert kept == hashes(undisturbed)
    assert store.names("ray/_figureground/leases") == store.names("ray/_figureground/journal") == []


class Starter:
    resources, job, lacks_locks = Resources(2, 0, 1), None, False

    def __init__(self, out):
        self.out = out

    def start(self, rank):
        import ray

        actor = ray.remote(Dying).options(num_cpus=0, max_restarts=0).remote(str(self.out))
        return ActorHandle(rank, actor, actor.describe.remote())


@HAS_RAY
@pytest.mark.slow
def test_a_shard_that_workers_die_of_fails_and_the_others_are_rendered(cluster, tmp_path, capsys):
    import ray

    ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
    try:
        out, shards = tmp_path / "d3s", [Shard("train", i, 5, 4) for i in range(5)]
        (out / "_figureground" / "shards").mkdir(parents=True)
        (out / "_figureground" / "recipe.json").write_text("{}")
        record_plan(out, shards)
        dispatcher = Dispatcher(Starter(out), shards, range(5), EventLog(str(tmp_path / "log.jsonl")))
        for _ in dispatcher.steps():
            pass
        dispatcher.stop()
    finally:
        ray.shutdown()
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sorted(each["shard"] for each in events if "event" not in each) == [0, 2, 3, 4]
    assert [each["shard"] for each in events if "event" in each].count(shards[1].name) == 3
    assert "CUDA error" in capsys.readouterr().err
    with pytest.raises(FiguregroundError, match=rf"1 shard of 5 .*\n  {shards[1].name}: 3 workers died"):
        dispatcher.raise_failed(out)
    (failed,) = Watch(out).read().failed
    assert failed.shard == shards[1].name
    with claim(out, shards[1]) as mine:
        assert mine


def test_starts_that_fail_for_a_while_end_nothing_and_without_end_the_build(monkeypatch, tmp_path, capsys):
    class Unstarted(Starter):
        def start(self, rank):
            return ActorHandle(rank, None, None)

    dispatcher = Dispatcher(Unstarted(tmp_path), [], [], EventLog())
    dispatcher.handles = [ActorHandle(rank, None, None) for rank in range(2)]
    for _ in range(20):  # a machine has vanished, and Ray hasn't noticed it
        dispatcher._replace_actor(dispatcher.handles[1], "the node died")
    assert capsys.readouterr().err.count("the node died") == 1
    monkeypatch.setattr("figureground.running.ray.dispatcher.SECONDS_OF_FAILED_STARTS", -1.0)
    with pytest.raises(FiguregroundError, match=r"21 workers died as they started.*the node died"):
        dispatcher._replace_actor(dispatcher.handles[1], "the node died")
