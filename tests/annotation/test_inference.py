"""Shares of right labels from a stratified sample, with and without scorers."""

import numpy as np
import pytest

from figureground.annotation.inference import StratifiedLabels, share_of_people, share_with_scorers, tune


def draw(rng, sizes, shares, counts, quality=0.0):
    """A population of strata, a sample of it, and predictions; returns the sample and the population's share."""
    strata = np.repeat(np.arange(len(sizes)), sizes)
    right = rng.random(len(strata)) < np.repeat(shares, sizes)
    predictions = np.clip(quality * right + (1 - quality) * rng.random(len(strata)), 0, 1)
    labelled = np.concatenate(
        [rng.choice(np.flatnonzero(strata == h), count, replace=False) for h, count in enumerate(counts)]
    )
    return StratifiedLabels.from_population(right[labelled].astype(float), labelled, strata, predictions), right.mean()


def test_strata_are_weighted_by_their_size():
    strata = np.repeat([0, 1], [900, 100])
    labelled = np.concatenate([np.arange(30), np.arange(900, 930)])
    values = np.concatenate([np.ones(30), np.zeros(30)])
    assert share_of_people(StratifiedLabels.from_population(values, labelled, strata)).interval.value == pytest.approx(
        0.9
    )


def test_a_stratum_is_divided_only_if_each_of_its_parts_has_labels():
    levels = np.array([np.repeat([0, 1], [100, 60]), np.repeat([0, 1, 2, 3], [50, 50, 30, 30])])
    labelled = np.array([0, 60, 100, 101, 102])  # none in the last part
    sample = StratifiedLabels.from_population(np.array([1.0, 1, 1, 0, 0]), labelled, levels)
    assert sample.sizes.tolist() == [60, 50, 50]
    assert share_of_people(sample).interval.value == pytest.approx((100 + 60 / 3) / 160)


def test_the_answers_of_a_review_that_has_just_begun_count_alike():
    cells = np.repeat(np.arange(100), 5)
    few = StratifiedLabels.from_population(
        np.array([1.0, 1, 1, 0]), np.array([2, 10, 30, 31]), np.stack([cells // 10, cells])
    )
    assert share_of_people(few).interval.value == pytest.approx(0.75)


def test_few_labels_or_none_wrong_get_an_exact_interval():
    strata = np.zeros(10_000, int)
    few = share_of_people(StratifiedLabels.from_population(np.array([1.0] * 28 + [0.0]), np.arange(29), strata))
    assert few.method == "exact"
    assert few.interval.low == pytest.approx(0.8224, abs=1e-4)  # 1 − 0.1776, see test_binomial
    none_wrong = share_of_people(StratifiedLabels.from_population(np.ones(300), np.arange(300), strata))
    assert (none_wrong.method, none_wrong.interval.high) == ("exact", 1)
    assert none_wrong.interval.low == pytest.approx(0.025 ** (1 / 300))
    assert (
        share_of_people(StratifiedLabels.from_population(np.array([0.0] + [1.0] * 29), np.arange(30), strata)).method
        == "wilson"
    )


def test_if_all_images_are_labelled_the_share_is_known():
    values = np.array([1.0] * 90 + [0.0] * 10)
    found = share_of_people(StratifiedLabels.from_population(values, np.arange(100), np.zeros(100, int)))
    assert found.interval == pytest.approx((0.9, 0.9, 0.9))
    assert found.method == "known"


def test_intervals_cover_the_population_share():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(400):
        sample, truth = draw(rng, [800, 400, 200, 100], [0.99, 0.95, 0.9, 0.7], [80, 40, 20, 10], quality=0.5)
        found = share_of_people(sample).interval, share_with_scorers(sample).interval
        hits.append([each.low <= truth <= each.high for each in found])
    assert np.all(np.abs(np.mean(hits, axis=0) - 0.95) < 0.035)


def test_scorers_that_know_narrow_the_interval_and_those_that_guess_get_little_weight():
    rng = np.random.default_rng(1)
    good, _ = draw(rng, [4000], [0.9], [400], quality=0.8)
    alone, joined = share_of_people(good).interval, share_with_scorers(good)
    assert joined.interval.high - joined.interval.low < 0.7 * (alone.high - alone.low)
    assert joined.weight > 0.9
    guess, _ = draw(rng, [4000], [0.9], [400], quality=0.0)
    assert tune(guess) < 0.15


def test_the_weight_is_the_regression_coefficient_of_values_on_predictions():
    """PPI++, where the predictions' mean is known: λ = Cov(y, f) / Var(f), between 0 and 1."""
    rng = np.random.default_rng(2)
    predictions = rng.random(1000)
    values = (rng.random(1000) < predictions).astype(float)
    sample = StratifiedLabels.from_population(values[:200], np.arange(200), np.zeros(1000, int), predictions)
    slope = np.polyfit(predictions[:200], values[:200], 1)[0]
    assert tune(sample) == pytest.approx(min(1, slope))
    inverted = StratifiedLabels.from_population(1 - values[:200], np.arange(200), np.zeros(1000, int), predictions)
    assert tune(inverted) == 0
    assert share_with_scorers(inverted).interval == share_of_people(inverted).interval


def test_without_labels_or_predictions_there_is_an_error():
    with pytest.raises(ValueError, match="labelled"):
        StratifiedLabels.from_population(np.array([]), np.array([], int), np.zeros(5, int))
    with pytest.raises(ValueError, match="predictions"):
        share_with_scorers(StratifiedLabels.from_population(np.ones(2), np.arange(2), np.zeros(5, int)))
