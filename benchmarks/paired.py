"""Paired differences between two methods over the same seeds: Student's t, Holm's and Bonferroni's corrections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, with its interval and p-value."""

    n: int
    """Number of pairs."""
    mean: float
    low: float | None
    """Lower end of the interval; None for a single pair."""
    high: float | None
    p: float | None
    """Two-sided p-value of a mean of 0; None for a single pair."""


def subtract(
    first: Mapping[int, float], second: Mapping[int, float], *, level: float = 0.95, comparisons: int = 1
) -> Difference:
    """Return the mean of first − second over the common seeds, with Student's t interval.

    Args:
        first, second: One number per seed; seeds in only one of the two are left out.
        level: Nominal coverage, between 0 and 1.
        comparisons: Number of intervals that jointly cover at this level (Bonferroni).

    Raises:
        ValueError: There is no common seed.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise ValueError("There is no common seed.")
    differences = np.array([first[seed] - second[seed] for seed in seeds], np.float64)
    n, mean = len(differences), float(differences.mean())
    if n == 1:
        return Difference(1, mean, None, None, None)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        return Difference(n, mean, mean, mean, 1.0 if mean == 0 else 0.0)
    half = error * float(scipy.stats.t.isf((1 - level) / comparisons / 2, n - 1))
    return Difference(n, mean, mean - half, mean + half, float(2 * scipy.stats.t.sf(abs(mean) / error, n - 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's (1979) adjusted p-values, in the given order: each at most 1, and monotone in p.

    Rejecting those at or below α keeps the family-wise error rate at or below α.
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted
