"""Width of text on a terminal, padding to a width, and tables of aligned columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


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


def align_columns(rows: Sequence[Sequence[str]], labels: int = 1, *, min_width: int = 0, gap: int = 2) -> list[str]:
    """Align cells in columns, the first ones flush left, the others flush right.

    Args:
        rows: The cells of each row; all rows have the same number.
        labels: Number of columns that are flush left.
        min_width: Minimum width of the columns that are flush right.
        gap: Blanks between two columns.

    Returns:
        A line for each row.
    """
    widths = [max(map(text_width, column)) for column in zip(*rows, strict=True)]
    widths[labels:] = [max(min_width, width) for width in widths[labels:]]
    return [
        (" " * gap).join(
            pad(cell, width, right=i >= labels) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
