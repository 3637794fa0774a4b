"""Attention maps that SCGS keeps beside its masks, for the report only: no image depends on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from figureground.methods.panels.panel import Missing
from figureground.sources.images import read_image

ATTENTION_MAPS = "attention"
"""Folder of the maps in the stage of the masks."""
EDGE = 64
"""Largest edge of a stored map, pixels. Maps are interpolated from far fewer cells, so nothing is lost to the eye."""


def save_attention(folder: Path, row: int, attention: np.ndarray) -> None:
    """Write the map of a training image as a greyscale PNG, 255 at attention 1.

    Args:
        folder: Folder of the maps; created if missing.
        row: Row of the image in the training split.
        attention: (edge, edge), 0 to 1.
    """
    folder.mkdir(exist_ok=True)
    edge = min(EDGE, *attention.shape)
    levels = Image.fromarray(np.rint(attention * 255).astype(np.uint8))
    levels.resize((edge, edge), Image.Resampling.BOX).save(folder / f"{row:06d}.png")


def read_attention(folder: Path, row: int) -> Image.Image:
    """Return the map of a training image, L, 255 at attention 1.

    Raises:
        Missing: There is no such folder: an earlier release built the dataset.
        UnreadableImage: The file is missing or damaged.
    """
    if not folder.is_dir():
        raise Missing("the build recorded no attention maps")
    return read_image(folder / f"{row:06d}.png").convert("L")


def share_inside(attention: Image.Image, mask: Image.Image) -> float:
    """Return the share of attention inside a mask, 0 to 1; 0 if there is no attention.

    Args:
        attention: L.
        mask: L, 255 inside, any size with the same aspect ratio.
    """
    levels = np.asarray(attention, np.float64)
    inside = np.asarray(mask.resize(attention.size, Image.Resampling.BOX), np.float64) / 255
    return float((levels * inside).sum() / max(1.0, levels.sum()))
