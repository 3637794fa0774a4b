"""Mask files next to images, which mark the object in white on black."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from figureground.sources.companions import find_companion
from figureground.sources.images import (
    MASK_SUFFIX,
    UnreadableImage,
    convert_depth,
    read_image,
    read_orientation,
    to_grey,
    turn_upright,
)

SHAPE_TOLERANCE = 0.05
"""Maximum difference between the logarithms of the aspect ratios of a mask and its image."""
MIN_HIGHEST = 32
"""A mask whose highest value is smaller and that has several values besides 0 numbers objects or classes."""
VOID = (255, 65535)
"""Values of unlabelled pixels in maps of classes, such as the borders of objects in PASCAL VOC."""
MAX_COLOURS = 256
"""Maximum number of colours of a map of classes."""
HUE_TOLERANCE = 0.2
"""Maximum difference of a channel, as a share of the brightest one, between shades of one colour."""


def find_mask(image: Path) -> Path | None:
    """Return the mask file of an image, `rex.mask.png` for `rex.jpg`, or None."""
    return find_companion(image, MASK_SUFFIX)


def mask_path(image: Path) -> Path:
    """Return the path of an image's mask, whether or not it exists."""
    return find_mask(image) or image.with_name(image.stem + MASK_SUFFIX)


def read_mask(path: Path, image: Path, size: tuple[int, int]) -> np.ndarray:
    """Read the values of a mask file, uint8 (height, width), at the mask's own resolution; see `mask_values`.

    If the image has an EXIF orientation, the mask is turned with it, because masks refer to the pixels as stored. Two
    kinds of masks were drawn on the upright image and are not turned: those whose shape fits only that way, and those
    with their own EXIF orientation, including 1, which is used instead.

    Args:
        path: The mask file.
        image: The image file.
        size: Width and height of the upright image.

    Raises:
        UnreadableImage: A file can't be read, the shapes of mask and image differ, or the mask numbers objects or
            classes, or shows them in colours, instead of the object in white.
    """
    mask = read_image(path, "RGBA", to_eight_bits=_convert_mask)
    orientation = 1 if read_orientation(path) is not None else read_orientation(image) or 1
    upright = turn_upright(mask, orientation)
    if _fits(upright.size, size):
        return mask_values(upright)
    if _fits(mask.size, size):
        return mask_values(mask)
    raise UnreadableImage(
        path,
        f"the mask has {mask.width} by {mask.height} pixels, but its upright image has "
        f"{size[0]} by {size[1]}: they must have the same shape",
    )


def _convert_mask(image: Image.Image, path: Path) -> Image.Image:
    """Convert a loaded mask to 8 bits per channel. Deep greyscale is scaled by its highest value."""
    remedy = "a mask shows its object in white or grey on black"
    if image.mode in ("P", "RGB", "RGBA"):
        found = _over_black(image).getcolors(MAX_COLOURS) or []  # a photograph, or a JPEG, has more
        colours = np.array([colour for _, colour in found], np.int64).reshape(-1, 3)
        colours = colours[colours.max(axis=1, initial=0) >= MIN_HIGHEST]  # the hue of dark ones is uncertain
        hues = colours / colours.max(axis=1, keepdims=True, initial=1)
        if len(hues) and (np.abs(hues - hues[0]) > HUE_TOLERANCE).any():
            raise UnreadableImage(path, f"it has {len(colours)} colours besides black, like a map of classes; {remedy}")
        is_grey = bool((hues == 1).all())
        if image.mode != "P" or not is_grey or "transparency" in image.info:
            return convert_depth(image, path)
        image = image.convert("L")
    if image.mode not in ("L", "I", "F") and not image.mode.startswith("I;16"):
        return convert_depth(image, path)
    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    levels = np.unique(values[values > 0])
    # A border is thin, unlike an object in white.
    has_void = len(levels) > 1 and levels[-1] in VOID and (values == levels[-1]).sum() < (values > 0).sum() / 2
    numbers = levels[:-1] if has_void else levels
    if image.mode != "F" and len(levels) > 1 and numbers[-1] < MIN_HIGHEST:
        numbers_text = f"{numbers[0]:g}" + (f" to {numbers[-1]:g}" if len(numbers) > 1 else "")
        void = f", and {levels[-1]:g} for borders" if has_void else ""
        raise UnreadableImage(
            path,
            f"its values ({numbers_text}{void}) look like numbers of objects or classes; {remedy}",
        )
    if image.mode == "L":
        return convert_depth(image, path)
    return to_grey(values * (255 / levels[-1]) if len(levels) else values)


def find_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return the bounding box of a mask, bool (height, width); None if it is empty.

    Returns:
        Left, top, right and bottom, pixels; the latter two exclusive.
    """
    return Image.fromarray(mask).getbbox()


def _fits(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two images, width and height each, have about the same aspect ratio."""
    return abs(math.log(first[0] * second[1] / (first[1] * second[0]))) <= SHAPE_TOLERANCE


def mask_values(mask: Image.Image) -> np.ndarray:
    """Return the brightest channel of each pixel, over black, uint8 (height, width).

    Many masks contain only 0 and 1, so a value is meaningful only relative to the highest.
    """
    return np.asarray(_over_black(mask)).max(axis=2)


def _over_black(mask: Image.Image) -> Image.Image:
    """Return an image in mode RGB whose transparent pixels are black."""
    black = Image.new("RGBA", mask.size, "black")
    return Image.alpha_composite(black, mask.convert("RGBA")).convert("RGB")


def to_shares(values: np.ndarray) -> Image.Image:
    """Return a mask's values as an image in mode L, scaled to a maximum of 255; an all-black mask stays black."""
    return Image.fromarray(np.rint(values * (255 / max(1.0, float(values.max())))).astype(np.uint8))


def find_bright(values: np.ndarray) -> np.ndarray:
    """Return where a mask has at least half its maximum, bool (height, width); all False if it is black."""
    return values.astype(np.int64) * 2 >= max(1, int(values.max()))
