"""Ranking metrics of classifiers."""

from __future__ import annotations

import numpy as np


def average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the steps of the precision-recall curve: Σ (Rᵢ − Rᵢ₋₁) Pᵢ over thresholds from high to low.

    Equal scores are one threshold, so the order of samples doesn't matter. What Spurious ImageNet (Neuhaus et al. 2023,
    arXiv 2212.04871) computes, though its README calls it AUC.

    Args:
        positive: Scores of the samples to be found, any shape; at least one.
        negative: Scores of the others, any shape; at least one.

    Returns:
        From above 0 to 1, where 1 is a perfect order. Scores that say nothing give the share of positives.

    Raises:
        ValueError: No scores on either side, or one that is not a number.
    """
    hits, misses = _by_threshold(positive, negative)
    found, wrong = np.cumsum(hits[::-1]), np.cumsum(misses[::-1])
    return float(np.sum(hits[::-1] * found / (found + wrong)) / found[-1])


def roc_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, a tie counting one half.

    Computed from midranks as the Mann-Whitney statistic (Hanley and McNeil 1982).

    Args:
        positive: Scores of the samples to be found, any shape; at least one.
        negative: Scores of the others, any shape; at least one.

    Returns:
        From 0 to 1, where 1 is a perfect order and 0.5 is chance.

    Raises:
        ValueError: No scores on either side, or one that is not a number.
    """
    hits, misses = _by_threshold(positive, negative)
    below = np.cumsum(misses) - misses
    return float(np.sum(hits * (below + misses / 2)) / (hits.sum() * misses.sum()))


def _by_threshold(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives at each distinct score, from the lowest on, as floats."""
    sides = [np.asarray(side, np.float64).ravel() for side in (positive, negative)]
    for name, side in zip(("positive", "negative"), sides, strict=True):
        if side.size == 0:
            raise ValueError(f"There are no {name} scores.")
        if np.isnan(side).any():
            raise ValueError(f"{np.isnan(side).sum()} of {side.size} {name} scores are not a number.")
    thresholds, at = np.unique(np.concatenate(sides), return_inverse=True)
    counts = [np.bincount(part, minlength=thresholds.size) for part in np.split(at, [sides[0].size])]
    return counts[0].astype(np.float64), counts[1].astype(np.float64)
