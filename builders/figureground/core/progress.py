"""How far long work has come: a bar on a terminal; in the log of a batch system, a line every minute."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from figureground.core.terminal import complain
from figureground.core.text import printable

SECONDS_BETWEEN_LINES = 60.0


class Progress(tqdm):
    """A bar as tqdm has it. Where stderr is no terminal, what it would show is written as a line now and then.

    Work that ends within `SECONDS_BETWEEN_LINES` writes none, nor does any where `TQDM_DISABLE=1` is set.

    Args:
        total: How much there is to do.
        show: Whether anything is shown.
        more: As tqdm takes it.
    """

    def __init__(self, total: int, *, show: bool = True, **more: Any):
        if "desc" in more:  # often a directory's name
            more["desc"] = printable(more["desc"])
        self._lines = not sys.stderr.isatty()
        if self._lines:
            more |= {"mininterval": SECONDS_BETWEEN_LINES, "delay": SECONDS_BETWEEN_LINES, "leave": False, "ncols": 100}
        if not show:
            more["disable"] = True  # left to tqdm otherwise, which heeds TQDM_DISABLE
        super().__init__(total=total, file=sys.stderr, **more)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if not self._lines:
            super().display(msg, pos)
        elif msg is None:  # an empty one would wipe the bar
            complain(self)
