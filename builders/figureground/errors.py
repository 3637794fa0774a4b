"""The errors that a user can mend, and how a near miss is named."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FiguregroundError(Exception):
    """What went wrong, where, and what to do; shown without a traceback."""


class RecipeError(FiguregroundError, ValueError):
    """A field of a recipe that can't be used."""

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint such as `, did you mean 'forest'?`, or nothing when none is near."""
    found = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f", did you mean {found[0]!r}?" if found else ""


def nearest_or_all(word: str, known: Iterable[str]) -> str:
    """A hint as `nearest` gives it, or else what there is."""
    known = list(known)
    return nearest(word, known) or f"; there is {listed(known)}."


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names for an error message, the first few of many."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + (f", … ({len(texts)} in all)" if len(texts) > most else "")
