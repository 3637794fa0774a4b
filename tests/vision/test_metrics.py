"""Metrics agree with values worked out by hand, and with scipy's rank statistics where it is installed."""

import numpy as np
import pytest

from figureground.vision.metrics import average_precision, bootstrap, resampled_means, roc_auc, shares


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


def test_an_interval_of_a_share_is_that_of_the_binomial_distribution():
    stats = pytest.importorskip("scipy.stats")
    values = np.arange(200) < 60
    found = bootstrap([values], draws=20_000)
    assert found.value == pytest.approx(0.3)
    assert [found.low, found.high] == pytest.approx(stats.binom.ppf([0.025, 0.975], 200, 0.3) / 200, abs=0.006)


def test_intervals_of_many_shares_are_those_of_each_alone():
    hits, counts = np.array([3, 0, 40, 7]), np.array([10, 5, 50, 7])
    found = shares(hits, counts, draws=20_000)
    assert [some.value for some in found] == pytest.approx([0.3, 0, 0.8, 1])
    assert found[1] == (0, 0, 0)
    assert found[3] == (1, 1, 1)
    alone = bootstrap([np.arange(50) < 40], draws=20_000)
    assert found[2] == pytest.approx(alone, abs=0.021)
    with pytest.raises(ValueError, match="a sample in each group"):
        shares(np.array([0]), np.array([0]))


def test_truth_values_and_numbers_are_drawn_from_the_same_distribution():
    values = np.arange(50) < 10
    drawn = [resampled_means([some], 20_000)[:, 0] for some in (values, values.astype(float))]
    assert drawn[0].mean() == pytest.approx(drawn[1].mean(), abs=0.003)
    assert drawn[0].std() == pytest.approx(drawn[1].std(), rel=0.03)


def test_an_interval_of_a_mean_of_numbers_is_about_two_standard_errors_wide():
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = bootstrap([values])
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_a_statistic_of_several_groups_is_drawn_group_by_group():
    here, there = np.arange(100) < 50, np.arange(400) < 360
    found = bootstrap([there, here], lambda means: means[..., 0] - means[..., 1])
    assert found.value == pytest.approx(0.4)
    assert found.low < 0.35 < 0.45 < found.high
    assert bootstrap([here, there]).value == pytest.approx(0.7)


def test_an_interval_depends_on_its_seed_alone():
    values = np.linspace(0, 1, 30)
    assert bootstrap([values], seed=3) == bootstrap([values], seed=3)
    assert bootstrap([values], seed=3) != bootstrap([values], seed=4)


def test_groups_of_one_sample_do_not_change_and_empty_ones_are_refused():
    assert tuple(bootstrap([np.array([True])])) == (1, 1, 1)
    with pytest.raises(ValueError, match="a sample in each"):
        bootstrap([np.array([True]), np.array([], bool)])
    with pytest.raises(ValueError, match="at least one group"):
        bootstrap([])
