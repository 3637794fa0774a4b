"""Metrics of classifiers and their spread: ranking metrics, and bootstrap intervals of means of groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 2000
"""How often samples are drawn again for an interval."""
LEVEL = 0.95
"""Share of the draws that lie within an interval."""

_MOST_NUMBERS = 4_000_000
"""Random numbers that are held at once."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Maps means, float (…, groups), to a number each, float (…)."""


class Interval(NamedTuple):
    """A number, and between which numbers it lies when the samples are drawn again."""

    value: float
    low: float
    high: float


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


def bootstrap(
    groups: Sequence[np.ndarray],
    statistic: Statistic | None = None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """A statistic of the means of groups, with its percentile bootstrap interval (Efron 1979).

    The samples of each group are drawn again with replacement, as many as there are. A group of one sample never
    changes, so its interval has no width.

    Args:
        groups: Values of the samples of each group, 1-D, bool or float; none empty.
        statistic: Of the means of all groups; their plain mean unless said otherwise.
        draws: How often.
        level: Share of the draws within the interval, 0 to 1.
        seed: Decides the draws.

    Raises:
        ValueError: There is no group, or an empty one.
    """
    if not groups or not all(len(group) for group in groups):
        raise ValueError("An interval needs at least one group, and a sample in each.")
    statistic = statistic or _mean
    observed = np.array([np.mean(group, dtype=np.float64) for group in groups])
    drawn = statistic(resampled_means(groups, draws, seed))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(observed)), float(low), float(high))


def _mean(means: np.ndarray) -> np.ndarray:
    return means.mean(axis=-1)


def shares(
    hits: np.ndarray, counts: np.ndarray, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> list[Interval]:
    """The share of hits in each of many groups, with the interval that `bootstrap` gives for each alone.

    Args:
        hits: int (groups,).
        counts: Samples of each group, int (groups,), from 1.

    Raises:
        ValueError: A group is empty.
    """
    hits, counts = np.asarray(hits), np.asarray(counts)
    if (counts < 1).any():
        raise ValueError("An interval needs a sample in each group.")
    observed, rng = hits / counts, np.random.default_rng(seed)
    ends = [(1 - level) / 2, (1 + level) / 2]
    step = max(1, _MOST_NUMBERS // draws)
    found: list[Interval] = []
    for start in range(0, len(counts), step):
        part = slice(start, start + step)
        drawn = rng.binomial(counts[part], observed[part], (draws, len(counts[part]))) / counts[part]
        low, high = np.quantile(drawn, ends, axis=0)
        found += map(Interval, observed[part].tolist(), low.tolist(), high.tolist())
    return found


def resampled_means(groups: Sequence[np.ndarray], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """The means of groups whose samples are drawn again with replacement, each group for itself.

    Of truth values the number that are true is drawn instead, which is binomial: the same distribution at once.

    Returns:
        float64 (draws, groups).
    """
    rng = np.random.default_rng(seed)
    means = np.empty((draws, len(groups)))
    for at, group in enumerate(groups):
        values = np.asarray(group)
        if values.dtype == bool:
            means[:, at] = rng.binomial(values.size, values.mean(), draws) / values.size
            continue
        step = max(1, _MOST_NUMBERS // values.size)
        for start in range(0, draws, step):
            chosen = rng.integers(values.size, size=(min(step, draws - start), values.size))
            means[start : start + step, at] = values[chosen].mean(axis=1, dtype=np.float64)
    return means
