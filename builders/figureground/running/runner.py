"""Runners: who renders the shards of a build, and the registry that other packages extend. Needs no torch.

A runner decides in which processes, on which machines and in which order shards are rendered. In each process that it
uses, it calls `running.worker.work` with the numbers of shards. None of this affects an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core.errors import RecipeError, suggest_or_list
from figureground.core.event_log import EventLog
from figureground.core.registry import Registry, check_subclass

if TYPE_CHECKING:
    from figureground.methods.base import Method


@dataclass(frozen=True)
class Job:
    """A method as it is sent to another process: unlike the method itself, it can be pickled."""

    kind: type[Method]
    config: str
    fields: Mapping[str, Any]
    shared: Mapping[str, Any]
    """Results that the first process has computed already."""
    log: EventLog
    show_progress: bool = True

    @classmethod
    def from_method(cls, method: Method) -> Job:
        """Return the job of a method."""
        return cls(
            type(method),
            method.config.name,
            method.init_fields(),
            method.shared_values(),
            method.log,
            method.show_progress,
        )

    def open(self) -> Method:
        """Create the method again."""
        method = self.kind(self.config, **self.fields)
        method.adopt(self.shared)
        method.log, method.show_progress = self.log, self.show_progress
        return method


@dataclass(frozen=True)
class Place:
    """Place of a process among those that build together, and on its machine."""

    rank: int = 0
    """Position among all processes."""
    local_rank: int = 0
    """Position on its machine, by which several processes use different devices."""
    local_world_size: int | None = None
    """Number of processes that share the machine's cores and devices; None takes the setting `workers`."""
    lacks_locks: bool = False
    """Whether the file system has no locks, so that it can't see what others do. Then rank 0 settles the numerics."""


class Runner(ABC):
    """Has the shards of a build rendered."""

    NAME: ClassVar[str]
    """Its name in the setting `runner`."""
    rank: int = 0
    """Position among processes that run the same command for one dataset."""

    @contextmanager
    def build_context(self) -> Iterator[None]:
        """Context around a whole build, from `begin` to scores."""
        yield

    def begin(self, method: Method, out: Path) -> None:
        """Called before anything else is done for a build, such as stages.

        Raises:
            FiguregroundError: The runner can't be used here, or not for this build.
        """

    def places(self, method: Method) -> list[Place]:
        """Return the places of the processes that make `method.planning_parts` on this machine, one each at a time."""
        return [Place()]

    @abstractmethod
    def run(self, method: Method, out: Path, show_progress: bool) -> None:
        """Have all shards of `method.plan()` rendered, and return when all are finished.

        It calls `worker.work(method, out, shards)` in each process that it uses, with the numbers of any shards in any
        order. A call returns when these are finished. It skips finished shards and those that another process holds,
        so several processes may be given the same ones. Another process makes the method from a `Job`.

        Args:
            out: The dataset's directory. All processes must reach it, also those on other machines.

        Raises:
            FiguregroundError: Shards can't be rendered.
        """

    def explain_unfinished(self, out: Path) -> str | None:
        """Say why shards may rightly be unfinished after `run`, because others render them; None if they may not."""
        return None


_PACKAGE = "figureground.running.runners"
RUNNERS: Registry[type[Runner]] = Registry(
    "figureground.runners", "runner",
    {"local": f"{_PACKAGE}.local:Local", "rank": f"{_PACKAGE}.rank:Rank", "ray": f"{_PACKAGE}.ray:Ray"},
    check_subclass(Runner, "NAME"),
)  # fmt: skip
"""Runners. Another package adds a `Runner` with an entry point in `figureground.runners`."""


def open_runner(name: str) -> Runner:
    """Return a runner by its name.

    Raises:
        RecipeError: The runner doesn't exist.
        FiguregroundError: Another package's runner can't be imported.
    """
    if name not in RUNNERS:
        raise RecipeError("runner", f"there is no runner {name!r}{suggest_or_list(name, RUNNERS.names())}")
    return RUNNERS[name]()
