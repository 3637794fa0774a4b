"""Contact sheets for inspecting clusters: a caption and a row of images each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from figureground.core.files import replace_bytes
from figureground.core.fonts import choose_text_and_font
from figureground.sources.images import encode, fit_size

MARGIN, GAP, LINE, EDGE = 16, 4, 28, 96
"""Sheet margin, gap between images, height of a text line, and edge of an image's cell, in pixels."""
PAPER, INK = "#ffffff", "#1a1a1a"


def save_cluster_sheet(path: Path, title: str, rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> None:
    """Write a PNG with a title and, for each row, a caption above its images.

    Args:
        rows: Captions and images of any sizes; each image is scaled to fill its cell in height or width.
    """
    texts = [choose_text_and_font(title, 18), *(choose_text_and_font(caption, 14) for caption, _ in rows)]
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
    is_whole_scale = EDGE % max(image.size) == 0
    resample = Image.Resampling.NEAREST if is_whole_scale else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(fit_size(image.size, EDGE), resample)
