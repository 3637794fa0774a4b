"""Compositing of a repainted region into its source image, so that everything else stays unchanged.

Denoisers that weren't made for inpainting repaint by blending latents at every step (Avrahami, Fried, Lischinski 2023,
arXiv 2206.02779, Blended Latent Diffusion). The autoencoder also changes pixels outside the mask; these are replaced by
the source's.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter


def widen_to_latents(mask: np.ndarray, factor: int, margin: int = 0) -> np.ndarray:
    """Widen a mask to whole latent pixels, the unit of repainting.

    Pipelines sample one pixel per block, so a block that the mask only touches might not be repainted. Here every
    touched block is repainted, and `margin` blocks around it. A latent pixel also encodes its neighbours; beside an
    object it encodes the object's rim, which the denoiser would complete.

    Args:
        mask: (height, width), bool; multiples of `factor`.
        factor: Image pixels per latent pixel along an edge.
        margin: Latent pixels, from 0.

    Returns:
        (height, width), bool; contains `mask`, and is constant within each block.
    """
    height, width = (edge // factor for edge in mask.shape)
    blocks = mask.reshape(height, factor, width, factor).max(axis=(1, 3))
    for _ in range(margin):
        blocks = _dilate(blocks)
    return blocks.repeat(factor, axis=0).repeat(factor, axis=1)


def composite(source: np.ndarray, drawn: np.ndarray, mask: np.ndarray, feather: float) -> np.ndarray:
    """Combine the drawn image inside the mask with the source outside.

    The mask is feathered outwards: all of it shows `drawn`, so the source doesn't reappear at its rim. Within
    `feather` pixels around it, the share of `drawn` falls linearly with the distance along rows and columns.

    Args:
        source: (height, width, 3), float, 0..1.
        drawn: Same shape and range, finite.
        mask: (height, width), bool: the repainted region.
        feather: Width of the blended border outside the mask in pixels, from 0 (a hard edge).

    Returns:
        (height, width, 3), float, 0..1: exactly `drawn` in the mask, exactly `source` further than `feather` from it.
    """
    weights, dilated = mask.astype(source.dtype), mask
    for distance in range(1, int(np.ceil(feather)) + 1):
        ring = ~dilated
        dilated = _dilate(dilated)
        weights[ring & dilated] = 1 - distance / (feather + 1)
    weights = weights[..., None]
    return (1 - weights) * source + weights * drawn


def _dilate(mask: np.ndarray) -> np.ndarray:
    """Return a mask (height, width), bool, grown by the eight neighbours of each pixel."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(3))).astype(bool)
