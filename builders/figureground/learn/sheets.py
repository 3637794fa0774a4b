"""Contact sheets for inspecting clusters: a caption and a row of images each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from figureground.core.files import replace_bytes
from figureground.core.fonts import Font, choose_font, to_ascii
from figureground.sources.images import encode

MARGIN, GAP, LINE, EDGE = 16, 4, 28, 96
"""Sheet margin, gap between images, height of a text line, and edge of an image's cell, in pixels."""
PAPER, INK = "#ffffff", "#1a1a1a"


def save_cluster_sheet(path: Path, title: str, rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> None:
    """Write a PNG with a title and, for each row, a caption above its images.

    Args:
        rows: Captions and images of any sizes; each image is scaled to fill its cell in height or width.
    """
    texts = [_choose_font(title, 18), *(_choose_font(caption, 14) for caption, _ in rows)]
    columns = max((len(images) for _, images in rows), default=0)
    width = max(columns * (EDGE + GAP) - GAP, *(math.ceil(font.getlength(text)) for text, font in texts))
    height = LINE + sum(LINE + (EDGE + GAP) * bool(images) for _, images in rows)
    sheet = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), PAPER)
    draw, y = ImageDraw.Draw(sheet), MARGIN
    for (text, font), images in zip(texts, [(), *(images for _, images in rows)], strict=True):
        draw.text((MARGIN, y + LINE / 2), text, INK, font, anchor="lm")
        y += LINE
        for column, image in enumerate(images):
            fitted = _fit(image)
            x = MARGIN + column * (EDGE + GAP)
            sheet.paste(fitted, (x + (EDGE - fitted.width) // 2, y + (EDGE - fitted.height) // 2))
        y += (EDGE + GAP) * bool(images)
    replace_bytes(path, encode(sheet, "png"))


def _fit(image: Image.Image) -> Image.Image:
    """Return an RGB image whose longer edge is that of the cell."""
    scale, is_whole_scale = EDGE / max(image.size), EDGE % max(image.size) == 0
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if is_whole_scale else Image.Resampling.LANCZOS)


def _choose_font(text: str, size: int) -> tuple[str, Font]:
    """Return a text and a font that has its letters; without such a font, the text in ASCII."""
    font, all_letters = choose_font(text, size)
    return text if all_letters else to_ascii(text), font
