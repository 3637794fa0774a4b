"""Masks in files beside pictures: where a picture's object is, white on black."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from figureground.errors import printable
from figureground.images import MASK_SUFFIX, UnreadableImage, read_image, read_orientation, turn_upright

SHAPE = 0.05
"""How far the logarithm of a mask's aspect ratio may lie from that of its picture's."""


def mask_path(picture: Path) -> Path:
    """Where the mask of a picture lies, if it has one: `rex.mask.png` beside `rex.jpg`."""
    return picture.with_name(picture.stem + MASK_SUFFIX)


def mask_beside(picture: Path) -> Path | None:
    """The mask file of a picture, where there is one."""
    mask = mask_path(picture)
    return mask if mask.is_file() else None


def read_mask(path: Path, picture: Path, size: tuple[int, int]) -> np.ndarray:
    """The values of a mask file, uint8 (height, width), in the mask's own pixels; see `mask_values`.

    Where the picture is turned by its EXIF orientation, the mask is turned with it, for masks are drawn on the pixels
    as they are stored. A mask with an EXIF orientation of its own, 1 too, is turned by that instead.

    Args:
        picture: The file of its picture.
        size: Width and height of the picture, upright.

    Raises:
        UnreadableImage: A file can't be read, or the mask has another shape than its picture.
    """
    mask = read_image(path, "RGBA")
    turned = 1 if read_orientation(path) is not None else read_orientation(picture) or 1
    mask = turn_upright(mask, turned)
    hint = ""
    if turned != 1:
        hint = (
            f". {printable(picture.name)} is turned by EXIF orientation {turned}, and so is its mask; give a mask that "
            "was drawn upright the EXIF orientation 1"
        )
    if abs(math.log(mask.width * size[1] / (mask.height * size[0]))) > SHAPE:
        raise UnreadableImage(
            path,
            f"the mask is {mask.width} by {mask.height} pixels and its picture, upright, {size[0]} by {size[1]}: "
            f"they must have the same shape{hint}",
        )
    return mask_values(mask)


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
