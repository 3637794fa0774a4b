"""Drawn photographs of red discs, which the salient-object network of `tiny_onnx` finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

RED = (220, 40, 60)


def disc(
    size: tuple[int, int] = (120, 90), center: tuple[float, float] = (0.5, 0.5), radius: float = 0.3, number: int = 0
) -> Image.Image:
    """Draw a red disc on a green ground with some texture.

    Args:
        size: Width and height.
        center: Share of width and of height.
        radius: Share of the height.
        number: Changes the texture, so that no two photographs are equal.
    """
    width, height = size
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(x - center[0] * width, y - center[1] * height) < radius * height
    ground = np.stack([30 + 0 * x, 150 + 20 * np.sin(x / 3 + number), 90 + 10 * np.cos(y / 4)], 2)
    return Image.fromarray(np.where(inside[..., None], RED, ground).astype(np.uint8))


def save_class(folder: Path, count: int, start: int = 0) -> None:
    """Save photographs of one class, all of which make good cut-outs."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        disc(radius=0.25 + 0.02 * (i % 5), center=(0.45 + 0.02 * (i % 4), 0.5), number=start + i).save(
            folder / f"{i}.png"
        )
