"""Fonts for contact sheets: Pillow's own has only ASCII, so other letters need a system font."""

from __future__ import annotations

import contextlib
import unicodedata

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf")
"""Fonts tried in turn for text that is not ASCII."""


def choose_font(text: str, size: int) -> tuple[Font, bool]:
    """Return a font for a text, and whether it has more letters than ASCII."""
    for name in () if text.isascii() else _SYSTEM_FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size), True
    return ImageFont.load_default(size=size), False


def to_ascii(text: str) -> str:
    """Return a text without accents; other non-ASCII letters become question marks."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() else "?" for letter in letters)
