"""The cluster: how many workers of which size fit into it, and joining it."""

from __future__ import annotations

import math
import os
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from figureground.core import libraries, signals
from figureground.core.errors import FiguregroundError, RecipeError

SECONDS_TO_ANSWER = 5.0
"""Time that a Ray address gets to answer, seconds."""
OBJECT_STORE = 100 * 2**20
"""Size of the object store of a Ray that is started here, bytes; hardly anything is put there."""


@dataclass(frozen=True)
class Resources:
    """Resources that the workers need of a cluster."""

    workers: int
    gpus: float
    """GPUs of each worker."""
    cpus: int
    """CPUs of each worker; on a CPU that is the number of torch's threads."""


def choose_resources(
    nodes: Sequence[Mapping[str, float]], device: str, gpus: float | None, workers: int | None, threads: int | None
) -> Resources:
    """Return number and size of workers that fit into a cluster.

    Args:
        nodes: Resources of each machine, by Ray's names: `CPU`, `GPU`.
        device: The setting `device`.
        gpus: GPUs of each worker; None chooses.
        workers: Number of workers; None chooses.
        threads: The setting `threads`.

    Raises:
        FiguregroundError: GPUs are asked for, and no machine has enough.
    """
    most_gpus = max((node.get("GPU", 0) for node in nodes), default=0)
    requested = gpus if gpus is not None else (1 if device.startswith("cuda") else None)
    if requested and most_gpus < requested:
        option = f"--gpus-per-worker {requested:g}" if gpus is not None else f"device={device}"
        raise FiguregroundError(
            f"{option} asks for {requested:g} GPU for each worker, and no machine of this Ray has more than "
            f"{most_gpus:g}. Give --gpus-per-worker 0 to render on CPUs, or join another Ray with --ray-address."
        )
    gpus_per_worker = requested if requested is not None else (1.0 if most_gpus and device == "auto" else 0.0)
    if gpus_per_worker:
        capacity = sum(math.floor(node.get("GPU", 0) / gpus_per_worker + 1e-6) for node in nodes)
        return Resources(workers or capacity, gpus_per_worker, 1)
    sizes = sorted(int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1) or [1]
    cpus = min(threads, sizes[-1]) if threads else sizes[0]
    while workers and not threads and cpus > 1 and sum(size // cpus for size in sizes) < workers:
        cpus -= 1
    return Resources(workers or max(1, sum(size // cpus for size in sizes)), 0.0, cpus)


@contextmanager
def join_cluster(address: str | None) -> Iterator[list[dict[str, float]]]:
    """Start or join Ray for the duration of the context; yields the resources of each machine that is alive.

    Raises:
        FiguregroundError: The address doesn't answer, or its Ray or Python is of another version.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise Ray reports its use to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise it warns that this will change
    with libraries.pause_garbage_collector():
        import ray
    if ray.is_initialized():  # by the program that builds
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return
    options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False, "include_dashboard": False}
    if address is None:
        options |= {"address": "local", "object_store_memory": OBJECT_STORE}  # else Ray joins one that runs here
    else:
        _check_address(address)
        options = {"address": address, "logging_level": "error", "log_to_driver": False}
    try:
        with signals.hold_back_interrupts():
            ray.init(**options)
    except (RuntimeError, ConnectionError, ValueError) as error:
        message = " ".join(str(error).split())
        if "ersion mismatch" in message:
            raise FiguregroundError(
                f"{_describe_address(address)} is of another version than this process's Ray {ray.__version__} or "
                f"Python {platform.python_version()}: {message} Install the cluster's versions here, or these there."
            ) from error
        raise FiguregroundError(f"{_describe_address(address)} can't be used: {message}") from error
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _describe_address(address: str | None) -> str:
    return "Ray on this machine" if address is None else f"--ray-address {address}: that Ray"


def _check_address(address: str) -> None:
    """Refuse an address at which nothing answers: Ray itself would try for minutes.

    Raises:
        FiguregroundError: It is no address, or nothing answers within `SECONDS_TO_ANSWER`.
    """
    resolved: str | None = address
    if address in ("auto", "local"):
        with suppress(ImportError, AttributeError, ConnectionError):
            from ray._private import services

            resolved = services.canonicalize_bootstrap_address_or_die(address)
        if resolved in (None, "auto", "local"):
            raise FiguregroundError(
                f"--ray-address {address}: no Ray runs on this machine. Start one with ray start --head, or leave "
                "--ray-address out."
            )
    host, _, port = str(resolved).rpartition(":")
    if not host or not port.isdigit():
        raise RecipeError("--ray-address", f"{address}: give auto or HOST:PORT, such as 10.0.0.1:6379.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise FiguregroundError(
            f"--ray-address {address}: {resolved} doesn't answer ({error}). Check that ray start --head runs there, "
            "and that this machine reaches its port."
        ) from None
