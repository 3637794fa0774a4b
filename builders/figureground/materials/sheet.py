"""Contact sheets: photographs beside their cut-outs, kept ones and those left out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from figureground.core.errors import plural, printable
from figureground.core.fonts import choose_text_and_font, fit_text
from figureground.materials.decisions import Decision
from figureground.sources.images import fit_size

EDGE = 160
"""Edge of a thumbnail's halves, pixels."""
SMALL = 110
"""Edge of the halves on the sheet, pixels."""
COLUMNS = 6
"""Thumbnails in a row of the sheet; as many of each class are drawn kept, and left out."""
GAP, CAPTION, HEADER = 8, 30, 34
MAX_CLASSES = 60
"""Classes on the sheet; the page shows all."""
SQUARE = 8
"""Edge of the squares behind transparent pixels."""
_LIGHT, _DARK = 0xE8, 0xC4


def thumbnail_path(private: Path, cutout: str) -> Path:
    """Return where the thumbnail of a cut-out, `folder/file`, lies."""
    return private / "thumbnails" / f"{cutout}.jpg"


def draw_thumbnail(photograph: Image.Image, cutout: Image.Image | None) -> Image.Image:
    """Draw a photograph, and beside it its cut-out on squares; RGB, 2 · EDGE × EDGE."""
    thumbnail = Image.new("RGB", (2 * EDGE, EDGE), "white")
    _paste_fitted(thumbnail, photograph.convert("RGBA"), 0)
    thumbnail.paste(_draw_squares(EDGE), (EDGE, 0))
    if cutout is not None:
        _paste_fitted(thumbnail, cutout, EDGE)
    return thumbnail


def encode_thumbnail(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def draw_sheet(private: Path, decisions: Sequence[Decision]) -> Image.Image:
    """Draw the first kept cut-outs of each class, and the first that were left out, with the reasons.

    Args:
        private: The hidden folder with thumbnails.
        decisions: By class.
    """
    classes = [(folder, list(in_class)) for folder, in_class in groupby(decisions, lambda decision: decision.folder)]
    blocks = [_draw_class(private, folder, in_class) for folder, in_class in classes[:MAX_CLASSES]]
    sheet = Image.new("RGB", (blocks[0].width, sum(block.height for block in blocks)), "white")
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def _draw_class(private: Path, folder: str, decisions: Sequence[Decision]) -> Image.Image:
    kept = [decision for decision in decisions if decision.is_kept]
    left_out = [decision for decision in decisions if not decision.is_kept]
    rows = [group[:COLUMNS] for group in (kept, left_out) if group]
    height = SMALL + CAPTION + GAP
    block = Image.new("RGB", (GAP + COLUMNS * (2 * SMALL + GAP), HEADER + len(rows) * height + GAP), "white")
    pen = ImageDraw.Draw(block)
    total = plural(len(decisions), "photograph")
    title = f"{printable(folder)}: {len(kept):,} kept, {len(left_out):,} left out of {total}"
    _write_line(pen, (GAP, 8), title, 18, block.width - 2 * GAP, "black")
    for i, row in enumerate(rows):
        for j, decision in enumerate(row):
            x, y = GAP + j * (2 * SMALL + GAP), HEADER + i * height
            thumbnail = _read_thumbnail(private, decision).resize((2 * SMALL, SMALL), Image.Resampling.LANCZOS)
            block.paste(thumbnail, (x, y))
            colour = "#1d7a3a" if decision.is_kept else "#b3261e"
            pen.rectangle((x - 1, y - 1, x + 2 * SMALL, y + SMALL), outline=colour, width=2)
            _write_line(pen, (x, y + SMALL + 2), decision.row.file.partition("/")[2], 11, 2 * SMALL, "black")
            reason = "; ".join(decision.reasons) or "kept"
            if decision.is_kept and decision.reasons:
                reason = f"kept by hand ({reason})"
            _write_line(pen, (x, y + SMALL + 15), reason, 11, 2 * SMALL, colour)
    return block


def _read_thumbnail(private: Path, decision: Decision) -> Image.Image:
    try:
        with Image.open(thumbnail_path(private, decision.row.cutout), formats=["JPEG"]) as image:
            return image.convert("RGB")
    except OSError:
        return Image.new("RGB", (2 * EDGE, EDGE), "#dddddd")


def _paste_fitted(thumbnail: Image.Image, image: Image.Image, left: int) -> None:
    """Paste an image, RGBA, fitted into a square and centred."""
    fitted = image.resize(fit_size(image.size, EDGE), Image.Resampling.HAMMING)
    corner = left + (EDGE - fitted.width) // 2, (EDGE - fitted.height) // 2
    thumbnail.paste(fitted.convert("RGB"), corner, fitted.getchannel("A"))


def _draw_squares(edge: int) -> Image.Image:
    rows, columns = np.indices((edge, edge)) // SQUARE
    return Image.fromarray(np.where((rows + columns) % 2, _LIGHT, _DARK).astype(np.uint8)).convert("RGB")


def _write_line(
    pen: ImageDraw.ImageDraw, position: tuple[int, int], text: str, size: int, width: float, colour: str
) -> None:
    """Write one line of text, shortened to a width."""
    text, font = choose_text_and_font(printable(text), size)
    pen.text(position, fit_text(text, font, width), colour, font)
