"""Cuts one object out of one photograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from figureground.materials.gates import Measures, measure
from figureground.materials.matting import foreground_colours, refine, to_alpha
from figureground.materials.settings import Cutting
from figureground.recipe.sample import Box
from figureground.sources.guide import FAINT
from figureground.sources.images import fit_size, read_image
from figureground.sources.mask import find_mask, read_mask, to_shares

OutlineSource = Literal["segmenter", "mask", "transparency"]
"""Where an object's outline comes from."""


@dataclass(frozen=True)
class Photograph:
    """A photograph as it is cut: upright, in sRGB, reduced."""

    image: Image.Image
    """RGB."""
    alpha: np.ndarray | None
    """float32 (height, width), in 0..1, from the photograph's own mask or transparency; None without one."""
    outline_source: OutlineSource


@dataclass(frozen=True)
class Cutout:
    """An object without what was behind it."""

    image: Image.Image
    """RGBA, cropped to the object."""
    box: Box
    """Its place in the reduced photograph, pixels."""
    measures: Measures


def read_photograph(path: Path, max_edge: int) -> Photograph:
    """Read a photograph with its mask, `NAME.mask.png` beside it, or its transparency, if it has one.

    Args:
        max_edge: Longer edge in pixels to which it is reduced. Large JPEGs are decoded at a reduced size.

    Raises:
        UnreadableImage: A file can't be read, or the mask's shape differs.
    """
    mask_file = find_mask(path)
    # Twice the edge: after a JPEG's own reduction, a good filter still does the final one.
    image = read_image(path, "RGBA", max_edge=2 * max_edge)
    size = fit_size(image.size, min(max_edge, max(image.size)))
    outline_source: OutlineSource = "segmenter"
    if image.getchannel("A").getextrema() != (255, 255):
        outline_source = "transparency"
    elif mask_file is not None:
        outline_source = "mask"
        image.putalpha(to_shares(read_mask(mask_file, path, image.size)).resize(image.size, Image.Resampling.HAMMING))
    if image.size != size:
        if outline_source == "mask":  # colours beside the object are needed, so they aren't weighted by the mask
            shares = image.getchannel("A").resize(size, Image.Resampling.HAMMING)
            image = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            image.putalpha(shares)
        else:
            image = image.resize(size, Image.Resampling.HAMMING)
    alpha = None if outline_source == "segmenter" else np.asarray(image.getchannel("A"), np.float32) / 255
    return Photograph(image.convert("RGB"), alpha, outline_source)


def cut(photograph: Photograph, probability: np.ndarray | None, settings: Cutting) -> Cutout | None:
    """Cut the largest object out of a photograph.

    Args:
        photograph: The photograph.
        probability: float32 (height, width), in 0..1, from a segmenter; None for a photograph with an outline of its
            own.

    Returns:
        The cut-out, whatever its quality; None if nothing is found.
    """
    pixels = np.asarray(photograph.image, np.float32) / 255
    if photograph.alpha is not None:
        rough = alpha = photograph.alpha
    else:
        assert probability is not None, "a photograph without an outline needs a segmenter's map"
        rough = to_alpha(probability, settings.threshold, settings.softness)
        alpha = to_alpha(refine(probability, pixels), settings.threshold, settings.softness)
    measurement = measure(rough)
    if measurement is None:
        return None
    measures, region = measurement
    alpha = np.where(region, alpha, 0)
    shares = np.rint(alpha * 255).astype(np.uint8)
    shares[shares < FAINT] = 0
    rows, columns = np.flatnonzero(shares.any(1)), np.flatnonzero(shares.any(0))
    if not len(rows):
        return None
    box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    colours = pixels if photograph.outline_source == "transparency" else foreground_colours(pixels, alpha)
    colours = np.where(shares[..., None] > 0, np.rint(colours * 255), 0).astype(np.uint8)
    full_image = Image.fromarray(np.dstack([colours, shares]))
    return Cutout(full_image.crop(box), box, measures)
