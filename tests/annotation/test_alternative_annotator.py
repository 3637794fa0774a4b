"""The alternative annotator test, and the rules that keep images."""

import numpy as np
import pytest

from figureground.annotation.alternative_annotator import alternative_annotator, benjamini_yekutieli
from figureground.annotation.correction import MISSING
from figureground.annotation.rules import measure_outcomes, predict_outcomes


def annotate(rng, errors, images=200, share=0.7):
    truth = rng.random(images) < share
    return truth, np.stack([np.where(rng.random(images) < error, ~truth, truth) for error in errors], 1).astype(np.int8)


def test_a_scorer_as_good_as_people_passes_and_one_that_guesses_fails():
    rng = np.random.default_rng(0)
    truth, answers = annotate(rng, (0.05, 0.05, 0.05))
    good = alternative_annotator(answers, np.where(rng.random(200) < 0.03, ~truth, truth).astype(np.int8))
    assert (good.reason, good.passes, good.winning_rate) == (None, True, 1)
    assert good.advantage > 0.9
    bad = alternative_annotator(answers, (rng.random(200) < 0.5).astype(np.int8))
    assert (bad.passes, bad.winning_rate) == (False, 0)


def test_a_scorer_that_always_says_yes_passes_on_nearly_right_labels_but_finds_no_wrong_one():
    rng = np.random.default_rng(1)
    _, answers = annotate(rng, (0.02, 0.02, 0.02), share=0.97)
    found = alternative_annotator(answers, np.ones(200, np.int8))
    assert found.passes
    assert found.wrong_found.value == 0


def test_with_fewer_than_three_overlapping_annotators_the_test_is_not_computable():
    rng = np.random.default_rng(2)
    _, answers = annotate(rng, (0.05, 0.05, 0.05))
    answers[29:, 2] = MISSING  # one image too few
    found = alternative_annotator(answers, np.ones(200, np.int8))
    assert found.passes is None
    assert "2 annotators" in found.reason


def test_the_advantage_counts_ties_for_both():
    """Three annotators who agree on everything, and a scorer that agrees on 80 of 100 images."""
    answers = np.ones(100, np.int8)
    answers[:20] = 0
    found = alternative_annotator(np.ones((100, 3), np.int8), answers)
    assert found.advantage == pytest.approx(0.8)
    assert not found.passes  # the difference of 0.2 isn't below 0.15
    assert alternative_annotator(np.ones((100, 3), np.int8), answers, epsilon=0.4).passes


def test_false_discoveries_are_controlled():
    """With m = 4 and Σ 1/i = 25/12, the thresholds are 0.006, 0.012, 0.018 and 0.024."""
    assert benjamini_yekutieli([0.001, 0.5, 0.0119, 0.03], 0.05) == [True, False, True, False]
    assert benjamini_yekutieli([0.0121, 0.5, 0.0179, 0.0175], 0.05) == [True, False, True, True]
    assert benjamini_yekutieli([], 0.05) == []


def test_rules_keep_what_all_or_most_call_right():
    right, answers = np.array([3, 2, 1, 0, 2, 1]), np.array([3, 3, 3, 3, 2, 2])
    posterior = np.array([1.0, 0.8, 0.2, 0.0, 1.0, 0.5])
    found = measure_outcomes(right, answers, posterior)
    assert found["unanimous"].kept == pytest.approx(2 / 6)
    assert found["majority"].kept == pytest.approx(3 / 6)
    assert found["unanimous"].wrong == pytest.approx(0)
    assert found["majority"].wrong == pytest.approx(0.2 / 3)
    assert found["unanimous"].good_lost == pytest.approx(1.5 / 3.5)
    assert measure_outcomes(right, answers, None)["majority"].good_lost is None


def test_unanimous_of_five_costs_good_images():
    found = predict_outcomes(5, 0.9, sensitivity=0.95, specificity=0.9)
    assert found["unanimous"].good_lost == pytest.approx(1 - 0.95**5)
    assert found["unanimous"].kept == pytest.approx(0.9 * 0.95**5 + 0.1 * 0.1**5)
    assert found["majority"].good_lost == pytest.approx(0.00116, abs=1e-5)
    assert found["unanimous"].wrong < found["majority"].wrong < 0.1
