"""Width of text on a terminal, and padding to a width."""

from __future__ import annotations

import unicodedata


def text_width(text: str) -> int:
    """Return the width of a text in terminal columns: two per wide letter, none per combining mark."""
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return a text padded with blanks to a width in columns; `right` aligns it to the right."""
    blanks = " " * (width - text_width(text))
    return blanks + text if right else text + blanks
