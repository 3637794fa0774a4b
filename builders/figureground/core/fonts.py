"""Fonts for sheets that people look at: Pillow's own has ASCII alone, so other letters need one of the system's."""

from __future__ import annotations

import contextlib
import unicodedata

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf")
"""Tried in turn for texts that Pillow's own font lacks letters of."""


def font_for(text: str, size: int) -> tuple[Font, bool]:
    """A font, and whether it has more letters than ASCII."""
    for name in () if text.isascii() else _SYSTEM_FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size), True
    return ImageFont.load_default(size=size), False


def to_ascii(text: str) -> str:
    """A text without its accents; other letters become question marks."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() else "?" for letter in letters)
