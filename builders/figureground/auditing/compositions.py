"""Compositions of a set's own objects and backgrounds, which differ in one respect at a time."""

from __future__ import annotations

import numpy as np
from PIL import Image

from figureground.auditing.regions import Box


def fill_smoothly(image: Image.Image, missing: np.ndarray) -> Image.Image:
    """Fill a part of an image smoothly from around it, by a pyramid of averages (push-pull, Gortler et al. 1996).

    Args:
        image: RGB.
        missing: bool (h, w); not everything.
    """
    pixels = _fill_level(np.asarray(image, np.float64), (~missing).astype(np.float64))
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))


def _fill_level(pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return pixels, float (h, w, 3), in which those of weight 0 are those of the next coarser level."""
    if weight.all() or max(weight.shape) == 1:
        return pixels
    height, width = weight.shape
    padded = np.pad(weight, ((0, height % 2), (0, width % 2)))
    colours = np.pad(pixels * weight[..., None], ((0, height % 2), (0, width % 2), (0, 0)))
    shape = padded.shape[0] // 2, 2, padded.shape[1] // 2, 2
    total = padded.reshape(shape).sum(axis=(1, 3))
    coarse = colours.reshape(*shape, 3).sum(axis=(1, 3)) / np.maximum(total, 1e-9)[..., None]
    coarse = _fill_level(coarse, np.minimum(total, 1.0))
    channels = [
        np.asarray(
            Image.fromarray(coarse[..., c].astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        )
        for c in range(3)
    ]
    return pixels * weight[..., None] + np.stack(channels, axis=-1) * (1 - weight[..., None])


def compose(
    image: Image.Image, mask: np.ndarray, box: Box, background: Image.Image, centre: tuple[float, float], side: float
) -> Image.Image:
    """Put an object on a background.

    Args:
        image: RGB image of the object.
        mask: bool (h, w).
        box: The mask's bounding box.
        background: RGB, of any size; resized to that of the image.
        centre: Where the object's centre goes, x and y in shares of the edges; it is moved as far as is needed for the
            whole object to be seen.
        side: Longer side of the object's box, relative to the shorter edge of the image, at most 1.
    """
    width, height = image.size
    canvas = background.resize(image.size, Image.Resampling.BICUBIC)
    scale = side * min(width, height) / box.side
    size = [max(1, round((b - a) * scale)) for a, b in ((box.left, box.right), (box.top, box.bottom))]
    size = [min(size[0], width), min(size[1], height)]
    object_image = image.crop(box).resize(size, Image.Resampling.BICUBIC)
    object_mask = Image.fromarray(mask.astype(np.uint8) * 255).crop(box).resize(size, Image.Resampling.BILINEAR)
    corner = [
        round(min(max(0, share * edge - length / 2), edge - length))
        for share, edge, length in zip(centre, image.size, size, strict=True)
    ]
    canvas.paste(object_image, (corner[0], corner[1]), object_mask)
    return canvas
