"""Exact intervals of shares, and tails of Student's t, from the incomplete beta function."""

from __future__ import annotations

import math

from figureground.core.intervals import LEVEL, Interval

_TINY = 1e-300
_STEPS = 200
"""Maximum number of halvings, and of terms; both converge to double precision long before."""


def clopper_pearson(right: float, n: float) -> Interval:
    """Return the exact interval of a share (Clopper and Pearson 1934), which covers at least at `LEVEL`.

    Args:
        right: Number of right answers, 0 to `n`; need not be an integer (Korn and Graubard 1998).
        n: Number of answers, above 0; infinity if the share is known.

    Raises:
        ValueError: The numbers are impossible.
    """
    if not 0 <= right <= n or not n > 0:
        raise ValueError(f"{right} right answers of {n} are impossible.")
    tail = (1 - LEVEL) / 2
    low = beta_quantile(tail, right, n - right + 1) if right > 0 else 0.0
    high = beta_quantile(1 - tail, right + 1, n - right) if right < n else 1.0
    return Interval(right / n, low, high)


def student_tail(t: float, freedom: float) -> float:
    """Return the probability that Student's t is at least `t`.

    Args:
        freedom: Degrees of freedom, above 0.
    """
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    half = beta_cdf(freedom / (freedom + t * t), freedom / 2, 0.5) / 2
    return half if t >= 0 else 1 - half


def beta_quantile(q: float, a: float, b: float) -> float:
    """Return the value below which a Beta(a, b) variable lies with probability `q`."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if beta_cdf(middle, a, b) < q else (low, middle)
    return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the probability that a Beta(a, b) variable is at most `x`: the regularised incomplete beta function.

    It is evaluated by its continued fraction (Abramowitz and Stegun 26.5.8) with Lentz's method, on the side of the
    mean where that converges fast.
    """
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    above, below = 1.0, 1 / _avoid_zero(1 - (a + b) * x / (a + 1))
    value = below
    for m in range(1, 50 * _STEPS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            below = 1 / _avoid_zero(1 + term * below)
            above = _avoid_zero(1 + term / above)
            value *= above * below
        if abs(above * below - 1) < 1e-15:
            break
    return front * value / a


def _avoid_zero(value: float) -> float:
    """Return a value that can be divided by."""
    return value if abs(value) > _TINY else _TINY
