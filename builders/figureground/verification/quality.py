"""Blur and brightness of images."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from PIL import Image

from figureground.verification.scorer import Batch, Kind, Scorer, Values

EDGE = 256
"""Larger images are reduced to this edge, pixels, so that blur doesn't depend on the size of a file."""


def measure_blur(grey: np.ndarray) -> float:
    """Return how blurred an image is: 0 for noise, near 1 for a smooth one.

    This is 1 / (1 + 100 v), v the variance of the Laplacian (Pech-Pacheco et al. 2000) of the brightness, 0 to 1.

    Args:
        grey: float (height, width), 0 to 1.
    """
    if min(grey.shape) < 3:
        return 1.0
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(1 / (1 + 100 * laplacian.var()))


def measure_brightness(image: Image.Image) -> float:
    """Return the mean luma (ITU-R 601) of an RGB image, 0 (black) to 1 (white)."""
    return float(np.asarray(image.convert("L"), np.float64).mean() / 255)


class QualityScorer(Scorer):
    """Measures each image; needs no model."""

    KIND: ClassVar[str] = "quality"

    def identify(self) -> dict[str, Any]:
        return {"edge": EDGE}

    def open(self) -> None:
        pass

    def columns(self) -> dict[str, Kind]:
        return {"blur": "float", "brightness": "float"}

    def score(self, batch: Batch) -> Values:
        return {
            "blur": [measure_blur(_to_grey(image)) for image in batch.images],
            "brightness": [measure_brightness(image) for image in batch.images],
        }


def _to_grey(image: Image.Image) -> np.ndarray:
    grey = image.convert("L")
    if max(grey.size) > EDGE:
        grey.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
    return np.asarray(grey, np.float64) / 255
