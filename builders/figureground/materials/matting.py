"""From a coarse map of probabilities to a cut-out: edges that follow the image, and colours without the old background.

Colours at soft edges are mixtures of the object and what was behind it. The object's own colours are estimated by blur
fusion (Forte 2021, "Approximate Fast Foreground Colour Estimation", ICIP, equations 4 to 7), applied twice.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from figureground.sources.images import fit_size

RADII = (90, 6)
"""Radii of the two passes of blur fusion in pixels, as in the paper; larger for images of more than `EDGE` pixels."""
EDGE = 1024
GUIDED_EDGE = 640
"""Longer edge at which the guided filter is fitted: above the size of maps, below that of photographs."""
GUIDED_RADIUS = 8
"""Radius of the guided filter in pixels of `GUIDED_EDGE`: about the width of an edge in a map of 320 pixels."""
GUIDED_EPSILON = 1e-4
"""Variance of colours in 0..1 below which the guided filter averages."""
_TINY = 1e-5


def refine(probability: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Move the edges of a map to edges of the image with a guided filter (He, Sun and Tang 2013, TPAMI 35(6)).

    The filter's linear models are fitted at a reduced size and then enlarged (He and Sun 2015, arXiv 1505.00996), so
    that memory hardly depends on the image's size.

    Args:
        probability: float32 (height, width), in 0..1.
        image: float32 (height, width, 3), in 0..1.

    Returns:
        float32 (height, width), in 0..1.
    """
    height, width = probability.shape
    size = fit_size((width, height), min(GUIDED_EDGE, max(height, width)))
    a, b = _linear_models(_resize(probability, size), np.stack([_resize(each, size) for each in _channels(image)], 2))
    filtered = _resize(b, (width, height))
    for slope, channel in zip(_channels(a), _channels(image), strict=True):
        filtered += _resize(slope, (width, height)) * channel
    return np.clip(filtered, 0, 1)


def _linear_models(probability: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit the map as a linear function of colours around each pixel; return slopes (h, w, 3) and offsets (h, w)."""
    mean, mean_p = box_mean(image, GUIDED_RADIUS), box_mean(probability, GUIDED_RADIUS)
    covariance_p = box_mean(image * probability[..., None], GUIDED_RADIUS) - mean * mean_p[..., None]
    covariance = np.empty((*probability.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(i, 3):
            value = box_mean(image[..., i] * image[..., j], GUIDED_RADIUS) - mean[..., i] * mean[..., j]
            covariance[..., i, j] = covariance[..., j, i] = value
    covariance += GUIDED_EPSILON * np.eye(3, dtype=np.float32)
    a = np.linalg.solve(covariance, covariance_p[..., None])[..., 0]
    b = mean_p - (a * mean).sum(-1)
    return box_mean(a, GUIDED_RADIUS), box_mean(b, GUIDED_RADIUS)


def _channels(image: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(image[..., channel]) for channel in range(image.shape[2])]


def _resize(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return float32 values resized to a width and height."""
    return np.array(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


def to_alpha(probability: np.ndarray, threshold: float, softness: float) -> np.ndarray:
    """Return the share of the object in each pixel: 0 and 1 away from the threshold, a ramp around it.

    Args:
        probability: float32 (height, width), in 0..1.
        threshold: The probability of half-covered pixels.
        softness: Width of the ramp, as a difference of probabilities.
    """
    if softness == 0:
        return (probability > threshold).astype(np.float32)
    return np.clip((probability - threshold) / softness + 0.5, 0, 1).astype(np.float32)


def foreground_colours(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Estimate the object's own colours by blur fusion, two passes.

    Args:
        image: float32 (height, width, 3), in 0..1.
        alpha: float32 (height, width), in 0..1.

    Returns:
        float32 (height, width, 3), in 0..1; equal to the image where alpha is 1.
    """
    foreground, background = image, image
    for radius in RADII:
        scaled_radius = round(radius * max(1.0, max(alpha.shape) / EDGE))
        foreground, background = _blur_fusion(image, foreground, background, alpha[..., None], scaled_radius)
    return np.where(alpha[..., None] >= 1, image, foreground)


def _blur_fusion(
    image: np.ndarray, foreground: np.ndarray, background: np.ndarray, alpha: np.ndarray, radius: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return estimates of the colours of foreground and background from earlier ones."""
    share = box_mean(alpha, radius)
    smooth = box_mean(foreground * alpha, radius) / (share + _TINY)
    behind = box_mean(background * (1 - alpha), radius) / (1 - share + _TINY)
    fused = smooth + alpha * (image - alpha * smooth - (1 - alpha) * behind)
    return np.clip(fused, 0, 1).astype(np.float32), np.clip(behind, 0, 1).astype(np.float32)


def box_mean(values: np.ndarray, radius: int) -> np.ndarray:
    """Return means over squares of `2 * radius + 1` pixels, cut at the borders, float32 like `values`.

    Args:
        values: (height, width) or (height, width, channels).
    """
    for axis in (0, 1):
        size = values.shape[axis]
        sums = np.zeros((size + 1, *np.moveaxis(values, axis, 0).shape[1:]))
        np.cumsum(np.moveaxis(values, axis, 0), axis=0, out=sums[1:], dtype=np.float64)
        last = np.minimum(np.arange(size) + radius + 1, size)
        first = np.maximum(np.arange(size) - radius, 0)
        counts = (last - first).reshape(-1, *[1] * (sums.ndim - 1))
        values = np.moveaxis(((sums[last] - sums[first]) / counts).astype(np.float32), 0, axis)
    return values
