"""Exact intervals and Student's t have the values of published tables."""

import math

import pytest

from figureground.core.intervals import clopper_pearson, student_quantile, student_tail


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (0, 10, 0, 0.3085),
        (10, 10, 0.6915, 1),
        (3, 29, 0.0219, 0.2735),
        (81, 263, 0.2527, 0.3676),  # Newcombe 1998, table I
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_the_exact_interval(right, n, low, high):
    found = clopper_pearson(right, n)
    assert found.value == right / n
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_the_exact_interval_covers_by_the_binomial_tails():
    """At each end, the tail of the binomial distribution is 2.5 %."""
    right, n = 97, 100
    _, low, high = clopper_pearson(right, n)

    def at_least(k, p):
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))

    assert at_least(right, low) == pytest.approx(0.025, rel=1e-9)
    assert 1 - at_least(right + 1, high) == pytest.approx(0.025, rel=1e-9)


@pytest.mark.parametrize(("right", "n"), [(-1, 10), (11, 10), (0, 0), (1, math.inf), (math.nan, 10)])
def test_impossible_numbers_are_refused(right, n):
    with pytest.raises(ValueError, match="impossible"):
        clopper_pearson(right, n)


@pytest.mark.parametrize(
    ("t", "freedom", "p"), [(12.706, 1, 0.025), (2.228, 10, 0.025), (1.96, 1e6, 0.025), (0, 5, 0.5)]
)
def test_the_tail_of_students_t(t, freedom, p):
    assert student_tail(t, freedom) == pytest.approx(p, abs=2e-5)
    assert student_tail(-t, freedom) == pytest.approx(1 - p, abs=2e-5)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (10, 2.228), (math.inf, 1.960), (0.2, 12.706)]
)
def test_the_quantile_of_students_t(freedom, quantile):
    assert student_quantile(0.95, freedom) == pytest.approx(quantile, abs=5e-4)
