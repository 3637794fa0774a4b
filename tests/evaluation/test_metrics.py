"""Metrics agree with values worked out by hand, and with scipy's rank statistics where it is installed."""

import numpy as np
import pytest

from figureground.evaluation.metrics import average_precision, roc_auc


def test_a_perfect_order_is_one_and_its_reverse_no_area_under_roc():
    high, low = np.array([0.9, 0.8]), np.array([0.1, 0.2, 0.3])
    assert average_precision(high, low) == 1
    assert roc_auc(high, low) == 1
    assert roc_auc(low, high) == 0
    # Reversed, the three positives come third, fourth and fifth: (1/3 + 2/4 + 3/5) / 3.
    assert average_precision(low, high) == pytest.approx((1 / 3 + 2 / 4 + 3 / 5) / 3)


def test_values_that_were_worked_out_by_hand():
    # From high to low: + - + - -
    positive, negative = np.array([0.9, 0.5]), np.array([0.7, 0.3, 0.1])
    assert average_precision(positive, negative) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert roc_auc(positive, negative) == pytest.approx((3 + 2) / 6)


def test_equal_scores_are_one_threshold_and_half_a_win():
    positive, negative = np.array([0.9, 0.5, 0.5]), np.array([0.5, 0.1])
    # At 0.9 one of one, at 0.5 three of four: 1/3 × 1 + 2/3 × 3/4.
    assert average_precision(positive, negative) == pytest.approx(1 / 3 + 2 / 3 * 3 / 4)
    assert roc_auc(positive, negative) == pytest.approx((2 + 1.5 + 1.5) / 6)


def test_scores_that_say_nothing_give_the_share_of_positives_and_chance():
    positive, negative = np.full(3, 0.5), np.full(7, 0.5)
    assert average_precision(positive, negative) == pytest.approx(0.3)
    assert roc_auc(positive, negative) == pytest.approx(0.5)


def test_the_order_of_samples_does_not_matter():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 5, 40) / 5, rng.integers(0, 4, 60) / 5
    for metric in (average_precision, roc_auc):
        assert metric(positive, negative) == metric(rng.permutation(positive), rng.permutation(negative))


@pytest.mark.parametrize("seed", range(4))
def test_roc_auc_is_the_mann_whitney_statistic_of_scipy(seed):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    positive, negative = rng.normal(0.3, 1, 50).round(1), rng.normal(0, 1, 70).round(1)
    u = stats.mannwhitneyu(positive, negative).statistic
    assert roc_auc(positive, negative) == pytest.approx(u / (50 * 70))
    ranks = stats.rankdata(np.concatenate([positive, negative]))[:50]
    assert roc_auc(positive, negative) == pytest.approx((ranks.sum() - 50 * 51 / 2) / (50 * 70))


@pytest.mark.parametrize("metric", [average_precision, roc_auc])
def test_no_scores_and_scores_that_are_no_number_are_errors(metric):
    with pytest.raises(ValueError, match="no positive scores"):
        metric(np.array([]), np.array([1.0]))
    with pytest.raises(ValueError, match="no negative scores"):
        metric(np.array([1.0]), np.array([]))
    with pytest.raises(ValueError, match="1 of 2 negative scores"):
        metric(np.array([1.0]), np.array([np.nan, 0.0]))
