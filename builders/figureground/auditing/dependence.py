"""Dependence of foreground and background labels, by split, as the samples are after rejects and curation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from figureground.auditing.probe import PERMUTATIONS, Shuffle, TooFew
from figureground.core.intervals import LEVEL, Interval
from figureground.recipe.sample import derive_seed
from figureground.recipe.table import cramers_v

MIN_IMAGES = 10
MORE = 4
"""Multiple of the permutations that are made if no permuted statistic is as high as the measured one. Otherwise even
the strongest dependence would be no finding among many tests."""

_ROUNDING = 1e-9
"""Difference of statistics that rounding can make."""


@dataclass(frozen=True)
class Dependence:
    """Dependence of two labels in one split."""

    v: Interval
    """Cramér's V."""
    chance: float
    """Mean V over permutations: with few images, independent labels have a V above 0."""
    p: float
    """P-value of independence."""
    counts: np.ndarray
    """int64 (foregrounds, backgrounds)."""
    expected: np.ndarray
    """float64, same shape: counts with independent labels and the same totals."""
    cell_p: np.ndarray
    """float64, same shape: p-value of each cell, adjusted for the number of cells."""


def measure_dependence(
    foreground: np.ndarray,
    background: np.ndarray,
    objects: np.ndarray,
    shape: tuple[int, int],
    *,
    permutations: int = PERMUTATIONS,
) -> Dependence:
    """Measure the dependence of two labels.

    Two statistics are compared with those of permuted labels: χ², and the largest adjusted residual of a cell (Haberman
    1973), which finds a single cell that others hide. The p-value is twice the smaller one. Objects exchange their
    labels as a whole, because images of one object aren't independent.

    Args:
        foreground, background: int (n,).
        objects: int (n,): images with equal numbers show one object.
        shape: Numbers of foregrounds and backgrounds.
        permutations: Number of permutations; up to `MORE` times as many for a strong dependence.

    Raises:
        TooFew: There are too few images, or only one foreground or background occurs.
    """
    counts = _count_cells(foreground, background, shape)
    if min((counts.sum(1) > 0).sum(), (counts.sum(0) > 0).sum()) < 2:
        label = "foreground" if (counts.sum(1) > 0).sum() < 2 else "background"
        raise TooFew(f"there is only one {label}")
    if len(foreground) < MIN_IMAGES:
        raise TooFew(f"{len(foreground)} images are fewer than the {MIN_IMAGES} needed")
    rng = np.random.default_rng(derive_seed(0, "audit", "dependence"))
    shuffle = Shuffle(np.unique(objects, return_inverse=True)[1])
    expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    chi2, residuals = _chi2(counts, expected), _residuals(counts)
    measured = np.array([chi2, np.abs(residuals).max()]) - _ROUNDING
    tables = (_count_cells(foreground, background[shuffle(rng)], shape) for _ in range(MORE * permutations))
    null, null_v = [], []
    for permuted in tables:
        null.append((
            _chi2(permuted, np.outer(permuted.sum(1), permuted.sum(0)) / permuted.sum()),
            np.abs(_residuals(permuted)).max(),
        ))  # fmt: skip
        if len(null) <= permutations:
            null_v.append(cramers_v(permuted))
        if len(null) == permutations and (np.array(null) >= measured).any(axis=0).all():
            break
    null_chi2, null_highest = np.array(null).T

    def p_values(null: np.ndarray, value: np.ndarray | float) -> np.ndarray:
        above = null[:, None] >= np.atleast_1d(np.asarray(value, np.float64)).ravel() - _ROUNDING
        return np.asarray((1 + above.sum(axis=0)) / (len(null) + 1))

    cell_p = p_values(null_highest, np.abs(residuals)).reshape(shape)
    p = min(1.0, 2 * min(float(p_values(null_chi2, chi2)[0]), float(cell_p.min())))
    return Dependence(_cramers_v_interval(counts), float(np.mean(null_v)), p, counts, expected, cell_p)


def _count_cells(foreground: np.ndarray, background: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.bincount(foreground * shape[1] + background, minlength=shape[0] * shape[1]).reshape(shape)


def _chi2(counts: np.ndarray, expected: np.ndarray) -> float:
    possible = expected > 0
    return float((np.square(counts - expected)[possible] / expected[possible]).sum())


def _residuals(counts: np.ndarray) -> np.ndarray:
    """Return adjusted residuals: deviations from independence in standard deviations; 0 in empty rows and columns."""
    n = counts.sum()
    rows, columns = counts.sum(1, keepdims=True) / n, counts.sum(0, keepdims=True) / n
    variance = n * rows * columns * (1 - rows) * (1 - columns)
    return np.where(variance > 0, (counts - n * rows * columns) / np.sqrt(np.where(variance > 0, variance, 1)), 0.0)


def _cramers_v_interval(counts: np.ndarray) -> Interval:
    """Return Cramér's V with its interval, from the noncentral χ² distribution (Smithson 2003, chapter 4).

    The ends are the noncentralities λ for which the measured χ² is the 97.5th or the 2.5th percentile, as V = √(λ / (n
    (min(rows, columns) − 1))). Images are treated as independent. Counts that are more even than by chance, as most
    recipes plan them, aren't evidence of less than independence: for the upper end, χ² is at least its degrees of
    freedom, its expectation with independent labels.
    """
    table = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    freedom, n = (table.shape[0] - 1) * (table.shape[1] - 1), int(table.sum())
    scale = n * (min(table.shape) - 1)
    v = cramers_v(counts)
    chi2 = v * v * scale
    tail = (1 - LEVEL) / 2
    low = _noncentrality(chi2, freedom, 1 - tail)
    high = _noncentrality(max(chi2, float(freedom)), freedom, tail)
    return Interval(v, min(v, math.sqrt(low / scale)), min(1.0, max(v, math.sqrt(high / scale))))


def _noncentrality(chi2: float, freedom: int, share: float) -> float:
    """Return the noncentrality for which P(χ² ≤ `chi2`) is `share`, by bisection; 0 if it is lower for any."""
    if noncentral_cdf(chi2, freedom, 0.0) <= share:
        return 0.0
    low, high = 0.0, max(1.0, chi2)
    while noncentral_cdf(chi2, freedom, high) > share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if noncentral_cdf(chi2, freedom, middle) > share else (low, middle)
    return (low + high) / 2


def noncentral_cdf(x: float, freedom: float, noncentrality: float) -> float:
    """Return the distribution function of the noncentral χ² (a Poisson mixture; approximated far from zero).

    Above 10,000, Sankaran's approximation (1959) is used, whose error is then far below that of an interval.
    """
    if x <= 0:
        return 0.0
    total = freedom + noncentrality
    if max(x, total) > 10_000:
        h = 1 - 2 * total * (freedom + 3 * noncentrality) / (3 * (freedom + 2 * noncentrality) ** 2)
        p = (freedom + 2 * noncentrality) / total**2
        m = (h - 1) * (1 - 3 * h)
        z = ((x / total) ** h - (1 + h * p * (h - 1 - 0.5 * (2 - h) * m * p))) / (
            h * math.sqrt(2 * p) * (1 + 0.5 * m * p)
        )
        return 0.5 * math.erfc(-z / math.sqrt(2))
    half = noncentrality / 2
    spread = 10 * math.sqrt(half) + 30
    probability = 0.0
    for j in range(max(0, int(half - spread)), int(half + spread) + 1):
        weight = math.exp(
            -half + (j * math.log(half) if half > 0 else (0.0 if j == 0 else -math.inf)) - math.lgamma(j + 1)
        )
        if weight > 0:
            probability += weight * _gamma_cdf(freedom / 2 + j, x / 2)
    return min(1.0, probability)


def _gamma_cdf(a: float, x: float) -> float:
    """Return the regularised lower incomplete gamma function: a series below a + 1, else Lentz's continued fraction."""
    front = math.exp(-x + a * math.log(x) - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        n = a
        while term > total * 1e-14:
            n += 1
            term *= x / n
            total += term
        return min(1.0, total * front)
    b = x + 1 - a
    c, d = 1e300, 1 / b
    h = d
    for i in range(1, 10_000):
        an = -i * (i - a)
        b += 2
        d = 1 / (an * d + b or 1e-300)
        c = b + an / c or 1e-300
        h *= d * c
        if abs(d * c - 1) < 1e-14:
            break
    return max(0.0, 1 - front * h)
