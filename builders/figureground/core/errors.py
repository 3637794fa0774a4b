"""Errors that a user can fix, and helpers for their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from figureground.core.text import printable as printable


class FiguregroundError(Exception):
    """An error that a user can fix; its message states problem, place and fix, and is shown without a traceback."""


class UsageError(FiguregroundError):
    """An invalid command or recipe; exit code 2."""


class RecipeError(UsageError, ValueError):
    """An invalid field of a recipe.

    Args:
        field: Its name, such as `inversion.vectors`.
        message: What is wrong with it, and what would be accepted.
    """

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message

    def within(self, field: str) -> RecipeError:
        """Return the error of a field that holds this one's: that of `vectors` within `inversion`."""
        return RecipeError(f"{field}.{self.field}", self.message)


class OutOfMemory(FiguregroundError):
    """Raised for a batch that doesn't fit into the device's memory."""


class Stopped(KeyboardInterrupt):
    """Raised after a signal to stop: SIGINT, which Ctrl-C sends, or SIGTERM."""

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


def suggest(word: str, names: Iterable[str]) -> str:
    """Return a hint such as `, did you mean 'forest'?`; empty if no name is similar."""
    matches = difflib.get_close_matches(str(word), list(names), n=1, cutoff=0.6)
    return f", did you mean {matches[0]!r}?" if matches else ""


def suggest_or_list(word: str, names: Iterable[str]) -> str:
    """Return the hint of `suggest`, or else the list of known names."""
    names = list(names)
    return suggest(word, names) or f"; available: {join_names(names)}."


def plural(n: int, noun: str) -> str:
    """Format a count with its noun: `1 shard`, `1,200 shards`, `2 classes`."""
    ending = "es" if noun.endswith(("s", "x", "sh")) else "s"
    return f"{n:,} {noun}{'' if n == 1 else ending}"


def join_names(names: Iterable[object], limit: int = 12) -> str:
    """Join names for an error message, truncated to the first `limit`."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:limit]) + (f", … ({len(texts)} in all)" if len(texts) > limit else "")


def describe_error(error: BaseException) -> str:
    """Return an error's text; one that isn't for users gets its type's name."""
    return str(error) if isinstance(error, FiguregroundError) else f"{type(error).__name__}: {error}"
