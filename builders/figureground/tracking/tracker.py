"""Trackers: where the numbers of running work are shown, and the registry that other packages extend. Needs no torch.

Nothing is reported anywhere unless a tracker is asked for by name.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from figureground.core.errors import FiguregroundError, RecipeError, suggest_or_list
from figureground.core.registry import Registry, check_subclass

PROJECT = "figureground"
"""Name of the project that holds all runs, where a tracker has projects."""


@dataclass(frozen=True)
class Run:
    """A run as a tracker shows it."""

    id: str
    """Unique, of letters and digits."""
    name: str
    """Name of letters, digits, `-`, `.` and `_`, like `group`; several runs may have the same."""
    group: str
    """Name shared by the runs of one command."""
    config: Mapping[str, Any]
    """Settings, JSON-able, without directories."""
    resumed: bool
    """Whether a stopped run with this id goes on."""
    step: int
    """Last step before the first that will be reported; 0 for a new run."""


class Tracker(ABC):
    """Shows one run. `begin` comes first and `end` last; between them, methods are called in any order.

    Any exception of a method ends the reports, not the work that is reported.
    """

    NAME: ClassVar[str]
    """Its name for `--track`."""
    PACKAGE: ClassVar[str | None] = None
    """Module that must be importable; None for none."""
    INSTALL: ClassVar[str] = ""
    """Shell command that installs it."""

    @classmethod
    def check(cls) -> None:
        """Raise FiguregroundError if no run could begin, such as for a missing login; called before any work."""

    @abstractmethod
    def begin(self, run: Run) -> None:
        """Begin a run, or continue one that was stopped."""

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Report finite values by name, such as `train/total`, after a step, counted from 1."""

    def image(self, name: str, path: Path, step: int) -> None:
        """Report a PNG file after a step."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        """Report a table."""

    @abstractmethod
    def end(self, finished: bool) -> None:
        """Write what is left.

        Args:
            finished: Whether the work was done; False after an error or a stop.
        """


TRACKERS: Registry[type[Tracker]] = Registry(
    "figureground.trackers", "tracker",
    {
        "trackio": "figureground.tracking.trackers.trackio:Trackio",
        "tensorboard": "figureground.tracking.trackers.tensorboard:TensorBoard",
        "wandb": "figureground.tracking.trackers.wandb:WeightsAndBiases",
    },
    check_subclass(Tracker, "NAME"),
)  # fmt: skip
"""Trackers. Another package adds a `Tracker` with an entry point in `figureground.trackers`."""


def check_tracker(name: str | None) -> None:
    """Check, before any work, that a tracker can be used; None asks for none.

    Raises:
        RecipeError: The tracker doesn't exist.
        FiguregroundError: Its package isn't installed, or a login is missing.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise RecipeError("track", f"there is no tracker {name!r}{suggest_or_list(name, TRACKERS.names())}")
    tracker = TRACKERS[name]
    if tracker.PACKAGE is not None and not _is_installed(tracker.PACKAGE):
        raise FiguregroundError(f"track: {name!r}: the package {tracker.PACKAGE} isn't installed: {tracker.INSTALL}")
    tracker.check()


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None  # without an origin, it is a folder such as wandb's ./wandb
