"""Progress of long work: a bar on a terminal, or a line per minute in a log."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from figureground.core import signals
from figureground.core.terminal import print_error
from figureground.core.text import printable

SECONDS_BETWEEN_LINES = 60.0

T = TypeVar("T")


def should_report(seconds: float) -> bool:
    """Whether to print notes on work of this length, besides its results: on a terminal, or if it is long.

    `TQDM_DISABLE=1` turns them off, like progress.
    """
    disabled = os.environ.get("TQDM_DISABLE", "").lower() in ("1", "true", "yes")
    return not disabled and (sys.stderr.isatty() or seconds > SECONDS_BETWEEN_LINES)


def is_main_process() -> bool:
    """Whether this process was started by the user: several workers' bars would overwrite each other."""
    return multiprocessing.parent_process() is None


class Progress(tqdm):
    """A tqdm progress bar. If stderr is not a terminal, it is written as separate lines instead.

    Work that ends within `SECONDS_BETWEEN_LINES` writes no line, and `TQDM_DISABLE=1` turns all output off.

    Args:
        total: Total amount of work.
        show: Whether anything is shown.
        options: Further arguments of tqdm.
    """

    def __init__(self, total: int, *, show: bool = True, **options: Any):
        if "desc" in options:  # often a directory's name
            options["desc"] = printable(options["desc"])
        self._lines = not sys.stderr.isatty()
        if self._lines:
            options |= {
                "mininterval": SECONDS_BETWEEN_LINES,
                "delay": SECONDS_BETWEEN_LINES,
                "leave": False,
                "ncols": 100,
            }
        if not show:
            options["disable"] = True  # otherwise left to tqdm, which respects TQDM_DISABLE
        super().__init__(total=total, file=sys.stderr, **options)

    @classmethod
    @contextlib.contextmanager
    def stoppable(cls, total: int, *, show: bool = True, **options: Any) -> Iterator[Progress]:
        """Show a bar. Until it is closed, signals wait for the next check, such as those of `track`."""
        with signals.delay_to_checks(), cls(total, show=show, **options) as bar:
            yield bar

    def track(self, items: Iterable[T], amount: Callable[[T], int] = lambda item: 1) -> Iterator[T]:
        """Yield items, and count each as done once the next one is asked for.

        Args:
            amount: Returns how much of the total an item is, such as `len` for batches.

        Raises:
            Stopped: A signal asked to stop before this item.
        """
        for item in items:
            signals.check()
            yield item
            self.update(amount(item))

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if not self._lines:
            super().display(msg, pos)
        elif msg is None:  # an empty message would erase the bar
            print_error(self)
