"""An actor: a process of the cluster that keeps a model and renders shards."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.core import libraries
from figureground.core.errors import FiguregroundError, join_names
from figureground.core.numerics import library_versions
from figureground.running.failure import Failure, make_failure
from figureground.running.runner import Job, Place
from figureground.shards.progress import is_unfinished
from figureground.stores.scratch import open_scratch
from figureground.stores.urls import StoreUrl


@dataclass(frozen=True)
class ActorInfo:
    """Facts that an actor returns before it renders."""

    host: str
    pid: int
    versions: Mapping[str, str]
    sees_dataset: bool
    """Whether it sees the dataset's directory."""


@dataclass(frozen=True)
class RenderResult:
    """Result of an actor's work on a shard."""

    events: list[str]
    """Lines of the log."""
    failure: Failure | None = None
    lost_device: bool = False
    """Whether its device can't be used by this process any more."""


def read_versions() -> dict[str, str]:
    """Return what must be the same on all machines. Other libraries are compared with the numerics."""
    import ray

    return {
        "Ray": ray.__version__, "Python": platform.python_version(),
        "figureground": library_versions()["figureground"],
    }  # fmt: skip


class Actor:
    """A process that keeps a model and renders one shard after another.

    Args:
        job: The method.
        out: The dataset's directory, or its URL; then the actor works in the scratch of its machine.
        lease: For a URL, seconds without a sign of life after which a shard is taken over.
        place: Its place among the actors.
    """

    def __init__(self, job: Job, out: Path | StoreUrl, lease: float, place: Place):
        libraries.silence_warnings()
        self._attached = contextlib.ExitStack()  # for as long as the actor lives
        self._sees_dataset = isinstance(out, StoreUrl)
        if isinstance(out, StoreUrl):
            out = self._attached.enter_context(open_scratch(out, seconds=lease, coordinated=True))
        self._sees_dataset = self._sees_dataset or is_unfinished(out)
        self._job, self._out, self._place = job, out, place
        self._worker: Any = None

    def describe(self) -> ActorInfo:
        """Return where it runs, with which versions."""
        return ActorInfo(socket.gethostname(), os.getpid(), read_versions(), self._sees_dataset)

    def render(self, number: int) -> RenderResult:
        """Render a shard, unless another process has.

        Args:
            number: Its position in the plan.
        """
        events: list[str] = []
        try:
            if self._worker is None:
                with libraries.pause_garbage_collector():
                    from figureground.running import worker

                self._worker = worker.Worker(self._job.open(), self._out, self._place)
            self._worker.log = dataclasses.replace(self._job.log, rank=self._place.rank, buffer=events)
            self._worker.work([number], show_progress=False)
        except Exception as error:
            from figureground.core.accelerator import is_device_error

            return RenderResult(events, make_failure(error), is_device_error(error))
        return RenderResult(events)


def check_actor(info: ActorInfo, expected: Mapping[str, str], out: Path) -> None:
    """Refuse an actor whose versions differ from this process's, or that doesn't see the dataset.

    Raises:
        FiguregroundError: See above; names the machine.
    """
    differences = [
        f"{name} {version} instead of {expected[name]}"
        for name, version in info.versions.items()
        if version != expected[name]
    ]
    if differences:
        raise FiguregroundError(
            f"{info.host} has {join_names(differences)}. Install the same versions on all machines."
        )
    if not info.sees_dataset:
        raise FiguregroundError(f"{info.host} doesn't see {out}. Give a directory that all machines share.")
