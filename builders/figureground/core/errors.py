"""The errors that a user can mend, and how a near miss is named."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from figureground.core.text import printable as printable


class FiguregroundError(Exception):
    """What went wrong, where, and what to do; shown without a traceback."""


class UsageError(FiguregroundError):
    """A command or a recipe that can't be understood: wrong use, exit code 2."""


class RecipeError(UsageError, ValueError):
    """A field of a recipe that can't be used."""

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field


class OutOfMemory(FiguregroundError):
    """A batch that doesn't fit into the memory of its device."""


class Stopped(KeyboardInterrupt):
    """A signal asked to stop: SIGINT, which Ctrl-C sends, or SIGTERM."""

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint such as `, did you mean 'forest'?`, or nothing when none is near."""
    found = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f", did you mean {found[0]!r}?" if found else ""


def nearest_or_all(word: str, known: Iterable[str]) -> str:
    """A hint as `nearest` gives it, or else what there is."""
    known = list(known)
    return nearest(word, known) or f"; there is {listed(known)}."


def counted(n: int, noun: str) -> str:
    """A number of things: `1 shard`, `1,200 shards`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names for an error message, the first few of many."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + (f", … ({len(texts)} in all)" if len(texts) > most else "")
