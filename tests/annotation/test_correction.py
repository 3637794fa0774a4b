"""The true share of right labels, corrected for annotators' errors."""

import numpy as np
import pytest

from figureground.annotation.correction import MISSING, Gold, correct_share, explain_unidentified


def answer(rng, truth, sensitivity, specificity, overlap=1.0):
    """Answers of annotators with these rates; a share of the images gets one answer only."""
    n, people = len(truth), len(sensitivity)
    positive = np.where(truth[:, None], rng.random((n, people)) < sensitivity, rng.random((n, people)) >= specificity)
    answers = positive.astype(np.int8)
    alone = rng.random(n) >= overlap
    kept = rng.integers(0, people, n)
    answers[alone[:, None] & (np.arange(people) != kept[:, None])] = MISSING
    return answers


def test_with_gold_items_alone_the_estimate_is_rogan_and_gladens():
    answers = np.array([[1]] * 880 + [[0]] * 120, np.int8)
    gold = Gold(right=np.array([[5, 95]]), wrong=np.array([[80, 20]]))
    found = correct_share(answers, gold)
    assert found.interval.value == pytest.approx((0.88 + 0.8 - 1) / (0.95 + 0.8 - 1), abs=2e-3)
    assert found.sensitivity == pytest.approx([0.95], abs=1e-3)
    assert found.specificity == pytest.approx(0.8, abs=1e-3)


def test_overlap_of_three_annotators_tells_their_errors_without_gold_items():
    rng = np.random.default_rng(0)
    truth = rng.random(3000) < 0.85
    rates = np.array([0.99, 0.95, 0.9]), np.array([0.9, 0.9, 0.9])
    answers = answer(rng, truth, *rates)
    found = correct_share(answers, Gold.empty(3))
    assert found.interval.value == pytest.approx(truth.mean(), abs=0.02)
    assert found.sensitivity == pytest.approx(rates[0], abs=0.02)
    assert found.interval.low < truth.mean() < found.interval.high
    assert ((found.posterior > 0.5) == truth).mean() > 0.95


def test_unknown_error_rates_widen_the_interval():
    rng = np.random.default_rng(1)
    truth = rng.random(500) < 0.9
    answers = answer(rng, truth, [0.95], [0.9])
    few = Gold(np.array([[2, 38]]), np.array([[9, 1]]))
    many = Gold(np.array([[200, 3800]]), np.array([[900, 100]]))
    widths = [each.high - each.low for each in (correct_share(answers, gold).interval for gold in (few, many))]
    assert widths[0] > 1.3 * widths[1]


def test_the_corrected_interval_covers_the_truth_and_the_uncorrected_one_does_not():
    """A smaller version of `benchmarks/trust.py`: 2 to 8 % errors, estimated from a fifth of overlap and gold items."""
    rng = np.random.default_rng(2)
    hits, plain = [], []
    for _ in range(150):
        truth = rng.random(400) < 0.95
        sensitivity, specificity = 1 - rng.uniform(0.02, 0.08, 3), 1 - rng.uniform(0.02, 0.08, 3)
        answers = answer(rng, truth, sensitivity, specificity, overlap=0.2)
        right, wrong = rng.binomial(40, sensitivity), rng.binomial(20, specificity)
        gold = Gold(np.stack([40 - right, right], 1), np.stack([wrong, 20 - wrong], 1))
        found = correct_share(answers, gold).interval
        hits.append(found.low <= 0.95 <= found.high)
        there = answers != MISSING
        share = ((answers == 1).sum(1) / there.sum(1)).mean()
        plain.append(abs(share - 0.95) < 1.96 * np.sqrt(share * (1 - share) / 400))
    assert np.mean(hits) > 0.9
    assert np.mean(plain) < 0.6


def test_labelled_images_have_no_sampling_error():
    answers = np.array([[1, 1, 1]] * 180 + [[0, 0, 0]] * 20, np.int8)
    sampled, whole = correct_share(answers, Gold.empty(3)), correct_share(answers, Gold.empty(3), unlabelled=0.0)
    assert whole.interval.value == sampled.interval.value
    assert whole.interval.high - whole.interval.low < 0.3 * (sampled.interval.high - sampled.interval.low)


def test_weights_move_the_estimate_and_widen_the_interval():
    answers = np.array([[1, 1, 1]] * 150 + [[0, 0, 0]] * 50, np.int8)
    weights = np.repeat([3.0, 1.0], [150, 50])
    even, weighted = (
        correct_share(answers, Gold.empty(3)).interval,
        correct_share(answers, Gold.empty(3), weights).interval,
    )
    assert even.value == pytest.approx(0.75, abs=0.01)
    assert weighted.value == pytest.approx(0.9, abs=0.01)


def test_without_overlap_and_gold_items_there_is_no_correction():
    alone = np.array([[1, MISSING], [MISSING, 0]] * 50, np.int8)
    assert "overlap" not in (explain_unidentified(np.ones((20, 2), np.int8), Gold.empty(2)) or "")
    assert "0 images with two answers" in explain_unidentified(alone, Gold.empty(2))
    assert explain_unidentified(alone, Gold(np.array([[0, 10], [0, 0]]), np.zeros((2, 2), int))) is None
