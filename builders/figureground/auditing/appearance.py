"""A few numbers that describe how a region of an image looks: brightness, contrast, colour, sharpness."""

from __future__ import annotations

import numpy as np
from PIL import Image

from figureground.auditing.regions import MIN_PIXELS

NUMBERS = {
    "brightness": ("brighter", "darker"), "contrast": ("richer in contrast", "poorer in contrast"),
    "red against green": ("redder", "greener"), "yellow against blue": ("yellower", "bluer"),
    "saturation": ("more saturated", "less saturated"), "sharpness": ("sharper", "more blurred"),
}  # fmt: skip
"""Names of the numbers, each with the words for a region whose value is higher or lower than that of others."""

_LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


def measure_appearance(image: Image.Image, inside: np.ndarray) -> np.ndarray:
    """Describe a region by the numbers of `NUMBERS`.

    Brightness is the mean luma, contrast its standard deviation; the two opponent colours are the means of R − G and of
    (R + G) / 2 − B; saturation is the mean of max − min of the channels, all of them with channels from 0 to 1.
    Sharpness is the logarithm of the mean absolute Laplacian of the luma, over pixels whose four neighbours are in the
    region too.

    Args:
        image: RGB.
        inside: bool (h, w).

    Returns:
        float64 (6,); NaN if the region has fewer than 16 pixels.
    """
    inner = inside.copy()
    inner[0] = inner[-1] = inner[:, 0] = inner[:, -1] = False
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        inner &= np.roll(inside, shift, axis)
    if inside.sum() < MIN_PIXELS or inner.sum() < MIN_PIXELS // 4:
        return np.full(len(NUMBERS), np.nan)
    rgb = np.asarray(image, np.float64) / 255
    luma = rgb @ _LUMA
    laplacian = sum(np.roll(luma, shift, axis) for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1))) - 4 * luma
    r, g, b = rgb[inside].T
    spread = np.maximum(np.maximum(r, g), b) - np.minimum(np.minimum(r, g), b)
    return np.array([
        luma[inside].mean(), luma[inside].std(), (r - g).mean(), ((r + g) / 2 - b).mean(), spread.mean(),
        np.log(np.abs(laplacian[inner]).mean() + 1e-4),
    ])  # fmt: skip


def find_most_different(
    numbers: np.ndarray, own: np.ndarray, groups: np.ndarray | None = None
) -> tuple[str, str, float]:
    """Return the number in which images differ most from all others, what they are in words, and by how much.

    Args:
        numbers: float (n, 6), finite.
        own: bool (n,): the images, at least one, and not all.
        groups: int (n,): another label, whose means are subtracted first.

    Returns:
        Name, comparison such as `redder`, and the difference of the means in standard deviations of the others.
    """
    if groups is not None:
        _, group_index, counts = np.unique(groups, return_inverse=True, return_counts=True)
        sums = np.zeros((len(counts), numbers.shape[1]))
        np.add.at(sums, group_index, numbers)
        numbers = numbers - (sums / counts[:, None])[group_index]
    difference = numbers[own].mean(axis=0) - numbers[~own].mean(axis=0)
    scaled = difference / np.maximum(numbers[~own].std(axis=0), 1e-9)
    column = int(np.abs(scaled).argmax())
    name, (high, low) = list(NUMBERS.items())[column]
    return name, high if scaled[column] > 0 else low, float(scaled[column])
