"""Ranking metrics of classifiers."""

from __future__ import annotations

import numpy as np


def average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the area under the steps of the precision-recall curve: Σ (Rᵢ − Rᵢ₋₁) Pᵢ over descending thresholds.

    Equal scores form one threshold, so the order of samples doesn't matter. Spurious ImageNet (Neuhaus et al. 2023,
    arXiv 2212.04871) computes this metric, though its README calls it AUC.

    Args:
        positive: Scores of the positive samples, any shape; at least one.
        negative: Scores of the negative samples, any shape; at least one.

    Returns:
        Above 0, up to 1 for a perfect ranking. Uninformative scores give the share of positives.

    Raises:
        ValueError: A side has no scores, or contains NaN.
    """
    hits, misses = _count_by_threshold(positive, negative)
    true_positives, false_positives = np.cumsum(hits[::-1]), np.cumsum(misses[::-1])
    return float(np.sum(hits[::-1] * true_positives / (true_positives + false_positives)) / true_positives[-1])


def roc_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the area under the ROC curve: the share of pairs in which the positive scores higher; ties count half.

    Computed from midranks as the Mann-Whitney statistic (Hanley and McNeil 1982).

    Args:
        positive: Scores of the positive samples, any shape; at least one.
        negative: Scores of the negative samples, any shape; at least one.

    Returns:
        0 to 1, where 1 is a perfect ranking and 0.5 is chance.

    Raises:
        ValueError: A side has no scores, or contains NaN.
    """
    hits, misses = _count_by_threshold(positive, negative)
    below = np.cumsum(misses) - misses
    return float(np.sum(hits * (below + misses / 2)) / (hits.sum() * misses.sum()))


def _count_by_threshold(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of positives and negatives at each distinct score, ascending, as floats."""
    sides = [np.asarray(side, np.float64).ravel() for side in (positive, negative)]
    for name, side in zip(("positive", "negative"), sides, strict=True):
        if side.size == 0:
            raise ValueError(f"There are no {name} scores.")
        if np.isnan(side).any():
            raise ValueError(f"{np.isnan(side).sum()} of {side.size} {name} scores are not a number.")
    thresholds, threshold_index = np.unique(np.concatenate(sides), return_inverse=True)
    counts = [np.bincount(part, minlength=thresholds.size) for part in np.split(threshold_index, [sides[0].size])]
    return counts[0].astype(np.float64), counts[1].astype(np.float64)
