"""Regions of an image: the object without its surroundings, the surroundings without the object.

What is cut away must not give the object away by its outline: its surroundings are shown outside a square of the same
size for all images, rather than outside its mask. The object is shown inside its mask without the outermost pixels, in
which it mixes with what is behind.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from figureground.sources.mask import find_box

GREY = (128, 128, 128)
"""Colour of what is cut away."""
EDGE = 0.03
"""Width of the rim that is cut off the object, relative to the image's edge."""
MAX_HOLE = 0.75
"""Largest side of the square over the object, relative to the image's edge; images with larger objects are left out."""
MIN_PIXELS = 16
"""Minimum size of a region."""


class Box(NamedTuple):
    """Bounding box of an object, pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def side(self) -> int:
        """Longer side."""
        return max(self.right - self.left, self.bottom - self.top)

    @classmethod
    def around(cls, mask: np.ndarray) -> Box | None:
        """Return the bounding box of a mask, bool (h, w); None if it is empty."""
        box = find_box(mask)
        return None if box is None else cls(*box)


def rim_width(size: tuple[int, int]) -> int:
    """Return the width of the rim of an image's object, pixels, at least 1."""
    return max(1, round(EDGE * max(size)))


def shrink_mask(mask: np.ndarray) -> np.ndarray:
    """Return a mask without its rim, bool (h, w); pixels at the image's edge count as rim."""
    width = rim_width((mask.shape[1], mask.shape[0]))
    padded = Image.fromarray(np.pad(mask, width).astype(np.uint8) * 255)
    return np.asarray(padded.filter(ImageFilter.MinFilter(2 * width + 1)))[width:-width, width:-width] > 0


def place_square(box: Box, side: int, size: tuple[int, int]) -> Box:
    """Return a square of a side around an object, moved into the image if it sticks out.

    Args:
        box: The object's bounding box.
        side: Side in pixels, no longer than an edge of the image.
        size: Width and height of the image.
    """
    left = min(max(0, (box.left + box.right - side) // 2), size[0] - side)
    top = min(max(0, (box.top + box.bottom - side) // 2), size[1] - side)
    return Box(left, top, left + side, top + side)


def cut_object(image: Image.Image, inside: np.ndarray, box: Box) -> Image.Image:
    """Return the object on grey, cropped to a square, at the image's size, so that its place isn't seen.

    Args:
        image: RGB.
        inside: bool (h, w): the pixels of the object.
        box: The object's bounding box.
    """
    pixels = np.where(inside[..., None], np.asarray(image), np.array(GREY, np.uint8))
    x, y, half = (box.left + box.right) / 2, (box.top + box.bottom) / 2, box.side / 2
    canvas = Image.new("RGB", (box.side, box.side), GREY)
    canvas.paste(Image.fromarray(pixels), (-round(x - half), -round(y - half)))
    return canvas.resize(image.size, Image.Resampling.BICUBIC)


def cover_object(image: Image.Image, square: Box) -> Image.Image:
    """Return an image with a grey square."""
    result = image.copy()
    result.paste(GREY, square)
    return result


def mask_outside(square: Box, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels outside a square, bool (h, w), without those that touch it."""
    mask = np.ones((size[1], size[0]), bool)
    mask[max(0, square.top - 1) : square.bottom + 1, max(0, square.left - 1) : square.right + 1] = False
    return mask


def square_side(share: float, size: tuple[int, int]) -> int:
    """Return the side of the square that covers an object, pixels.

    Args:
        share: Longest side of any object's bounding box in the dataset, relative to the shorter edge of its image.
        size: Width and height of the image.
    """
    return min(round(share * min(size)) + 2 * rim_width(size), int(MAX_HOLE * min(size)))
