"""Masks in files beside images: where an image's object is, white on black."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from figureground.sources.images import MASK_SUFFIX, UnreadableImage, read_image, read_orientation, turn_upright

SHAPE = 0.05
"""How far the logarithm of a mask's aspect ratio may lie from that of its image's."""


def mask_path(image: Path) -> Path:
    """Where the mask of an image lies, if it has one: `rex.mask.png` beside `rex.jpg`."""
    return image.with_name(image.stem + MASK_SUFFIX)


def mask_beside(image: Path) -> Path | None:
    """The mask file of an image, where there is one."""
    mask = mask_path(image)
    return mask if mask.is_file() else None


def read_mask(path: Path, image: Path, size: tuple[int, int]) -> np.ndarray:
    """The values of a mask file, uint8 (height, width), in the mask's own pixels; see `mask_values`.

    Where the image is turned by its EXIF orientation, the mask is turned with it, for masks lie on the pixels as they
    are stored. Two kinds of masks were drawn on the upright image and are not turned: those whose shape fits only
    so, and those with an EXIF orientation of their own, 1 too, which counts instead.

    Args:
        image: The file of its image.
        size: Width and height of the image, upright.

    Raises:
        UnreadableImage: A file can't be read, or the mask has another shape than its image.
    """
    mask = read_image(path, "RGBA")
    turned = 1 if read_orientation(path) is not None else read_orientation(image) or 1
    upright = turn_upright(mask, turned)
    if _fits(upright.size, size):
        return mask_values(upright)
    if _fits(mask.size, size):
        return mask_values(mask)
    raise UnreadableImage(
        path,
        f"the mask is {mask.width} by {mask.height} pixels and its image, upright, "
        f"{size[0]} by {size[1]}: they must have the same shape",
    )


def _fits(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two images, width and height each, have about the same aspect ratio."""
    return abs(math.log(one[0] * other[1] / (one[1] * other[0]))) <= SHAPE


def mask_values(mask: Image.Image) -> np.ndarray:
    """The brightest channel of each pixel, over black, uint8 (height, width).

    Many masks hold 0 and 1, so a value says something only beside the highest.
    """
    black = Image.new("RGBA", mask.size, "black")
    return np.asarray(Image.alpha_composite(black, mask.convert("RGBA")).convert("RGB")).max(axis=2)


def to_shares(values: np.ndarray) -> Image.Image:
    """A mask's values as L, the highest made 255; one that is black stays so."""
    return Image.fromarray(np.rint(values * (255 / max(1.0, float(values.max())))).astype(np.uint8))


def where_bright(values: np.ndarray) -> np.ndarray:
    """Where a mask is at least half as bright as at its brightest, bool (height, width); nowhere if it is black."""
    return values.astype(np.int64) * 2 >= max(1, int(values.max()))
