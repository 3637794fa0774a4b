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


def choose_text_and_font(text: str, size: int) -> tuple[str, Font]:
    """Return a text and a font that has its letters; without such a font, the text in ASCII."""
    font, all_letters = choose_font(text, size)
    return text if all_letters else to_ascii(text), font


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
