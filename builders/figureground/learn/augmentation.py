"""Random crops and horizontal flips of training images."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

AREA = (0.7, 1.0)
"""Range of the share of the image's area that a crop keeps; mild, so that objects stay in view."""
ASPECT = (0.8, 1.25)
"""Range of the factor by which a crop's aspect ratio may differ from the image's."""


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return a box of random size, shape and position inside an image: left, upper, right, lower, in pixels."""
    area = rng.uniform(*AREA)
    aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
    across, down = min(1.0, math.sqrt(area * aspect)), min(1.0, math.sqrt(area / aspect))
    left, upper = rng.uniform(0, 1 - across), rng.uniform(0, 1 - down)
    return left * width, upper * height, (left + across) * width, (upper + down) * height


def crop_and_mirror(image: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return a random crop of an image, resized, and flipped horizontally with probability 1/2.

    Args:
        image: RGB.
        size: Height and width of the result.
        rng: Source of all randomness.
    """
    box = random_box(*image.size, rng)
    mirrored = rng.random() < 0.5
    cropped = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    return cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cropped
