"""Verdicts on an image's own label from probabilities of all labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def judge(p: np.ndarray, label: np.ndarray, names: Sequence[str]) -> dict[str, list[Any]]:
    """Compare each image's own label with all others.

    Args:
        p: float64 (n, labels): probabilities; NaN for labels that were not asked about.
        label: int64 (n,): the images' own labels.
        names: Names of the labels.

    Returns:
        `p`: probability of the own label. `margin`: p minus the largest other probability. `rank`: 1 if no label is
        more probable. `top`: name of the most probable label. None where the own label, or any other, has none.
    """
    rows = np.arange(len(p))
    own = p[rows, label]
    others = np.where(np.isnan(p), -np.inf, p)
    top = np.where(np.isfinite(others).any(axis=1), others.argmax(axis=1) if p.shape[1] else 0, -1)
    others[rows, label] = -np.inf
    best = others.max(axis=1)
    known, compared = ~np.isnan(own), np.isfinite(best)
    rank = 1 + (others > own[:, None]).sum(axis=1)
    return {
        "p": _replace_absent(own, known),
        "margin": _replace_absent(own - best, known & compared),
        "rank": _replace_absent(rank, known & compared),
        "top": [
            names[k] if k >= 0 and is_compared else None for k, is_compared in zip(top.tolist(), compared, strict=True)
        ],
    }


def _replace_absent(values: np.ndarray, is_present: np.ndarray) -> list[Any]:
    return [value if present else None for value, present in zip(values.tolist(), is_present.tolist(), strict=True)]
