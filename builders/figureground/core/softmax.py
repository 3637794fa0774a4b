"""The softmax of NumPy arrays."""

from __future__ import annotations

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, in float64, so that probabilities near 1 stay distinct.

    NaN and infinity stay visible as NaN.

    Args:
        logits: float64 (..., classes).
    """
    with np.errstate(invalid="ignore"):
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return p / p.sum(axis=-1, keepdims=True)
