"""Maps of attention and attribution that builds keep for the report only: no image depends on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from figureground.methods.panels.panel import Missing
from figureground.sources.images import read_image

ATTENTION_MAPS = "attention"
"""Folder of SCGS's maps in the stage of the masks; they are named after rows of the training split."""
ATTRIBUTION_MAPS = "attribution"
"""Folder of DDB's maps among the stages; they are named after the keys of the samples."""
EDGE = 64
"""Largest edge of a stored map, pixels. It keeps them small; the eye needs no more."""


def row_name(row: int) -> str:
    """Return the name of the map of a training image."""
    return f"{row:06d}"


def save_map(folder: Path, name: str, values: np.ndarray) -> None:
    """Write a map as a greyscale PNG, 255 at 1.

    Args:
        folder: Folder of the maps; created if missing.
        name: Name of the file without its ending.
        values: (edge, edge), 0 to 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    edge = min(EDGE, *values.shape)
    levels = Image.fromarray(np.rint(values * 255).astype(np.uint8))
    levels.resize((edge, edge), Image.Resampling.BOX).save(folder / f"{name}.png")


def read_map(folder: Path, name: str) -> Image.Image:
    """Return a map, L, 255 at 1.

    Raises:
        Missing: There is no such folder: an earlier release built the dataset.
        UnreadableImage: The file is missing or damaged.
    """
    if not folder.is_dir():
        raise Missing(f"the build recorded no {folder.name} maps")
    return read_image(folder / f"{name}.png").convert("L")


def share_inside(values: Image.Image, mask: Image.Image) -> float:
    """Return the share of a map's values inside a mask, 0 to 1; 0 if all values are 0.

    Args:
        values: L.
        mask: L, 255 inside, any size with the same aspect ratio.
    """
    levels = np.asarray(values, np.float64)
    inside = np.asarray(mask.resize(values.size, Image.Resampling.BOX), np.float64) / 255
    return float((levels * inside).sum() / max(1.0, levels.sum()))
