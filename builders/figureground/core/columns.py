"""Texts in columns: how wide a text is on a terminal, and texts filled up to a width."""

from __future__ import annotations

import unicodedata


def text_width(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for each wide letter, none for a combining mark."""
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return a text with blanks behind it, up to a width in columns; before it if it is to end at the right."""
    blanks = " " * (width - text_width(text))
    return blanks + text if right else text + blanks
