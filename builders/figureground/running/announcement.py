"""Says how a build is rendered and how long it will take, as its first lines on stderr.

On a terminal, device, dtype and batch size are said at once, and the expected time after the first batch. In a log,
both are said together after the first batch, and only for a build that takes longer than a minute, like its progress.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from figureground.core.errors import plural
from figureground.core.progress import should_report
from figureground.core.terminal import break_line, print_note
from figureground.core.text import human_time

LARGE_ON_CPU = 512
"""Edge in pixels from which a CPU takes minutes for an image of a usual checkpoint."""

T = TypeVar("T")


class Announcer:
    """Says each line once.

    Args:
        show: Whether this process says anything; one of those that build together does.
    """

    def __init__(self, show: bool):
        self.is_pending = show
        """Whether the expected time hasn't been printed yet."""
        self._show = show
        self._setup, self._printed_setup = "", False

    def report_setup(self, numerics: Mapping[str, Any], size: int) -> None:
        """Say device, dtype and batch size, and warn of large images on a CPU.

        Args:
            numerics: The settled numerics.
            size: Edge of the images in pixels.
        """
        if not self._show or self._setup:
            return
        threads = f" ({plural(numerics['threads'], 'thread')})" if numerics.get("threads") else ""
        batch = numerics["batch_size"]
        self._setup = f"{numerics['device']}{threads}, {numerics['dtype']}, batches of {plural(batch, 'image')}"
        if should_report(0):
            _print_line(self._setup)
            self._printed_setup = True
        if numerics["device"] == "cpu" and size >= LARGE_ON_CPU:
            _print_line(
                f"images of {size} px on a CPU: usual checkpoints take minutes for each. Choose a GPU with --set "
                "device=cuda, or a smaller --set size=…."
            )

    def report_first_batch(self, seconds: float, batch: int, remaining: int, workers: int) -> None:
        """Say how long the build will take.

        Args:
            seconds: Time that the first batch took.
            batch: Number of images in it.
            remaining: Images to render, with these.
            workers: Processes that render, as fast as this one.
        """
        self.is_pending = False
        if not self._show:
            return
        expected = seconds / batch * remaining / workers
        if should_report(expected):
            setup = "" if self._printed_setup else f"{self._setup}: "
            by = f" by {workers} workers" if workers > 1 else ""
            images = plural(remaining, "image")
            _print_line(f"{setup}about {human_time(expected)} for {images}{by}, by the first batch's speed")


def time_first(results: Iterator[T], clock: Callable[[], float], report: Callable[[float], None]) -> Iterator[T]:
    """Yield results, and tell the seconds until the first one, which comes when its whole batch is drawn."""
    start = clock()
    for i, result in enumerate(results):
        if not i:
            report(clock() - start)
        yield result


def _print_line(text: str) -> None:
    # A worker's line would continue the progress bar of the process that started it.
    if multiprocessing.parent_process() is not None:
        break_line()
    print_note(text)
