"""Reports of running work. A command opens them with `tracked`; whatever it trains or builds begins runs there.

Reports never end the work: if a tracker fails, that is said once, and the work goes on without reports. They take part
in no hash and draw no random numbers of the work.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from figureground.core.terminal import print_note
from figureground.tracking.config import sanitise
from figureground.tracking.tracker import TRACKERS, Run, Tracker

ID_BYTES = 4


@dataclass(eq=False)
class _Connection:
    """The connection to one tracker, shared by all runs of a command."""

    tracker: type[Tracker]
    broken: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def attempt(self, call: Callable[[], None]) -> None:
        """Call a tracker, unless it failed before; say so if it fails."""
        with self.lock:
            if self.broken:
                return
            try:
                call()
            except Exception as error:  # whatever a tracker raises: a full disk, a lost server, a bug
                self.broken = True
                print_note(
                    f"{self.tracker.NAME} failed ({type(error).__name__}: {error}). The work continues, and nothing "
                    "more is reported."
                )


class RunReport:
    """A run that is reported. Without a tracker, nothing is."""

    mark: Mapping[str, str] | None = None
    """The argument of `begin` that continues this run in another process; JSON-able. None without a tracker."""

    def __init__(self, link: _Connection | None = None, run: Run | None = None):
        self._connection = link
        self._ended = False
        if link is not None and run is not None:
            self.mark = {"tracker": link.tracker.NAME, "id": run.id, "name": run.name, "group": run.group}
            link.attempt(lambda: self._open(run))

    def _open(self, run: Run) -> None:
        assert self._connection is not None
        self._tracker = self._connection.tracker()
        self._tracker.begin(run)

    @property
    def active(self) -> bool:
        """Whether anything is reported."""
        return self._connection is not None and not self._connection.broken and not self._ended

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Report values after a step, counted from 1; those that are None or not finite are left out."""
        finite = {name: float(v) for name, v in values.items() if v is not None and math.isfinite(v)}
        if finite:
            self._attempt(lambda: self._tracker.log(finite, step))

    def image(self, name: str, path: Path, step: int) -> None:
        """Report a PNG file after a step, if it exists."""
        if path.is_file():
            self._attempt(lambda: self._tracker.image(name, path, step))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        """Report a table."""
        self._attempt(lambda: self._tracker.table(name, columns, rows))

    def end(self, finished: bool = True) -> None:
        """End the run; it reports nothing from then on."""
        self._attempt(lambda: self._tracker.end(finished))
        self._ended = True

    def _attempt(self, call: Callable[[], None]) -> None:
        if self._connection is not None and not self._ended:
            self._connection.attempt(call)


@dataclass(eq=False)
class _Tracking:
    """The reports of one command, or of a part of it."""

    link: _Connection
    names: Sequence[str]
    """Names of the directories of the command and of its parts, the outermost first."""
    config: Mapping[str, Any]
    reports: list[RunReport] = field(default_factory=list)
    training: RunReport | None = None
    """The training that is reported."""

    def begin(self, name: str, config: Mapping[str, Any], mark: Mapping[str, str] | None, step: int) -> RunReport:
        if mark is not None and mark["tracker"] == self.link.tracker.NAME:  # others may have written its file
            run_id, name, group = (_slug(str(mark[field])) for field in ("id", "name", "group"))
        else:
            mark, step, run_id, group = None, 0, secrets.token_hex(ID_BYTES), _slug(self.names[0])
            name = "-".join(dict.fromkeys([*map(_slug, self.names[1:]), _slug(name)]))
        run_config = sanitise({**self.config, **config})
        report = RunReport(self.link, Run(run_id, name, group, run_config, mark is not None, step))
        self.reports.append(report)
        return report

    def end(self, finished: bool) -> None:
        for report in reversed(self.reports):
            report.end(finished)


_CURRENT: ContextVar[_Tracking | None] = ContextVar("figureground_tracking", default=None)


@contextmanager
def tracked(track: str | None, out: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Report to a tracker what is trained and built within the context; with None, as the enclosing context does.

    Args:
        track: A name in `TRACKERS` that `check_tracker` accepted, before any work.
        out: The directory of the results; its name is that of the group, or in an enclosing context part of a run's.
        config: Settings, shown with each run that begins in this context itself.
    """
    enclosing, name = _CURRENT.get(), Path(os.path.realpath(out)).name  # `resolve` raises on circular links
    if track is not None:
        tracking = _Tracking(_Connection(TRACKERS[track]), [name], config)
    elif enclosing is not None:
        tracking = _Tracking(enclosing.link, [*enclosing.names, name], config)
    else:
        yield
        return
    token = _CURRENT.set(tracking)
    finished = False
    try:
        yield
        finished = True
    finally:
        _CURRENT.reset(token)
        tracking.end(finished)


def begin(
    name: str, config: Mapping[str, Any] | None = None, mark: Mapping[str, str] | None = None, step: int = 0
) -> RunReport:
    """Begin a run, or continue one; outside of `tracked`, nothing is reported.

    Args:
        name: Its name, such as `erm seed 0`.
        config: More settings.
        mark: `Report.mark` of the run to continue, if the work goes on after a stop; of another tracker, it has no
            effect.
        step: Number of finished steps.
    """
    tracking = _CURRENT.get()
    return RunReport() if tracking is None else tracking.begin(name, config or {}, mark, step)


def begin_training(
    name: str, config: Mapping[str, Any] | None = None, mark: Mapping[str, str] | None = None, step: int = 0
) -> RunReport:
    """Begin a run like `begin`, and end the training before it. A process trains one model at a time.

    The run stays open after the training, for results that are measured then.
    """
    tracking = _CURRENT.get()
    if tracking is None:
        return RunReport()
    if tracking.training is not None:
        tracking.training.end()
    tracking.training = tracking.begin(name, config or {}, mark, step)
    return tracking.training


def _slug(name: str) -> str:
    """Return a name as one part of a path."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "run"
