"""Puts the repainted region of an image back into it, so that all else stays as it was.

Denoisers that weren't made for inpainting repaint by blending latents at every step (Avrahami, Fried, Lischinski 2023,
arXiv 2206.02779, Blended Latent Diffusion). The autoencoder changes what lies outside the mask as well; there the
source's own pixels are taken.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter


def whole_latents(mask: np.ndarray, factor: int, margin: int = 0) -> np.ndarray:
    """Widens a mask to whole latent pixels: what a denoiser can repaint.

    Pipelines take one pixel of each block for all of it, so that a block that the mask only touches would keep what
    it shows. Here every block that is touched is repainted, and `margin` blocks around: a latent pixel tells of its
    neighbours too, and beside an object it tells of the object's rim, which the denoiser would complete.

    Args:
        mask: (height, width), bool; multiples of `factor`.
        factor: Pixels along an edge that a latent pixel stands for.
        margin: Latent pixels, from 0.

    Returns:
        (height, width), bool; contains `mask`, and is the same all over each block.
    """
    height, width = (edge // factor for edge in mask.shape)
    blocks = mask.reshape(height, factor, width, factor).max(axis=(1, 3))
    for _ in range(margin):
        blocks = _grown(blocks)
    return blocks.repeat(factor, axis=0).repeat(factor, axis=1)


def composite(source: np.ndarray, drawn: np.ndarray, mask: np.ndarray, feather: float) -> np.ndarray:
    """What was drawn where the mask is, and the source elsewhere.

    The mask is widened softly: all of it shows `drawn`, so that nothing of the source comes back at its rim, and the
    share of `drawn` falls evenly with the distance, by rows and columns, in the `feather` pixels around.

    Args:
        source: (height, width, 3), float, 0..1.
        drawn: Likewise, finite.
        mask: (height, width), bool: what was repainted.
        feather: Pixels outside the mask that hold something of both, from 0, which gives a hard edge.

    Returns:
        (height, width, 3), float, 0..1: exactly `drawn` in the mask, exactly `source` further than `feather` from it.
    """
    weights, grown = mask.astype(source.dtype), mask
    for distance in range(1, int(np.ceil(feather)) + 1):
        ring = ~grown
        grown = _grown(grown)
        weights[ring & grown] = 1 - distance / (feather + 1)
    weights = weights[..., None]
    return (1 - weights) * source + weights * drawn


def _grown(mask: np.ndarray) -> np.ndarray:
    """A mask (height, width), bool, and the eight neighbours of each of its pixels."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(3))).astype(bool)
