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
        "p": _or_none(own, known),
        "margin": _or_none(own - best, known & compared),
        "rank": _or_none(rank, known & compared),
        "top": [names[k] if k >= 0 and there else None for k, there in zip(top.tolist(), compared, strict=True)],
    }


def _or_none(values: np.ndarray, where: np.ndarray) -> list[Any]:
    return [value if there else None for value, there in zip(values.tolist(), where.tolist(), strict=True)]
