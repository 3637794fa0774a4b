"""Fonts for contact sheets: Pillow's own has only ASCII, so other letters need a system font."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Collection

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf")
"""Fonts for text that is not ASCII; of equally good ones, the first is used."""
_NO_LETTER = "\uffff"
"""A code point that is no letter in any font."""


def choose_font(text: str, size: int) -> tuple[Font, bool]:
    """Return the font that lacks the fewest letters of a text, and whether it has any that are not ASCII."""
    letters = {letter for letter in text if not letter.isascii()}
    fewest, best = len(letters), None
    for name in _SYSTEM_FONTS if letters else ():
        with contextlib.suppress(OSError):
            font = ImageFont.truetype(name, size)
            if (lacking := count_missing(font, letters)) < fewest:
                fewest, best = lacking, font
    return (ImageFont.load_default(size=size), False) if best is None else (best, True)


def count_missing(font: ImageFont.FreeTypeFont, letters: Collection[str]) -> int:
    """Return how many letters a font draws as the box of a missing one."""
    box = bytes(font.getmask(_NO_LETTER))
    return sum(bytes(font.getmask(letter)) == box for letter in letters)


def choose_text_and_font(text: str, size: int) -> tuple[str, Font]:
    """Return a text and a font for it; if no font has a letter that is not ASCII, the text in ASCII."""
    font, has_letters = choose_font(text, size)
    return text if has_letters else to_ascii(text), font


def to_ascii(text: str) -> str:
    """Return a text without accents; other non-ASCII letters become question marks."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() else "?" for letter in letters)


def fit_text(text: str, font: Font, width: float, *, keep_end: bool = False) -> str:
    """Shorten a text to fit in one line; an ellipsis stands for what is left out.

    Args:
        width: Pixels.
        keep_end: Whether the beginning is left out rather than the end, as for file names, which differ there.
    """
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"…{text}" if keep_end else f"{text}…") > width:
        text = text[1:] if keep_end else text[:-1]
    return f"…{text.lstrip()}" if keep_end else f"{text.rstrip()}…"
