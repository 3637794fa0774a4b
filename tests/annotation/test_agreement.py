"""Agreement has the values of published worked examples."""

import numpy as np
import pytest

from figureground.annotation.agreement import count_answers, gwet_ac1, krippendorff_alpha, measure, raw_agreement

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units.
FOUR_OBSERVERS = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]


def counts(observers, categories):
    rows = [row.split() for row in observers]
    return count_answers([[each for each in unit if each != "."] for unit in zip(*rows, strict=True)], categories)


def test_alpha_of_four_observers_with_missing_answers():
    """Section C: 0.743; Gwet's irrCAC gives 0.74342 for the same ratings."""
    assert krippendorff_alpha(counts(FOUR_OBSERVERS, "12345")) == pytest.approx(0.74342, abs=5e-6)


def test_alpha_of_two_observers_and_two_answers():
    """Section A: 0.095."""
    units = counts(["0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"], "01")
    assert krippendorff_alpha(units) == pytest.approx(0.095, abs=5e-4)


def test_alpha_of_two_observers_and_five_answers():
    """Section B: 0.692."""
    units = counts(["a a b b d c c c e d d a", "b a b b b c c c e d d d"], "abcde")
    assert krippendorff_alpha(units) == pytest.approx(0.692, abs=5e-4)


def test_ac1_of_four_raters_with_missing_answers():
    """Gwet's Handbook, 4th edition: AC1 0.77544, with agreement 0.81818, of the same four raters."""
    units = counts(FOUR_OBSERVERS, "12345")
    assert raw_agreement(units) == pytest.approx(0.8181818, abs=5e-7)
    assert gwet_ac1(units) == pytest.approx(0.77544, abs=5e-6)


def test_ac1_where_nearly_all_answers_are_equal():
    """Gwet 2008, table 1: 118 of 125 subjects are positive to both raters, 7 to one; AC1 0.94, kappa about 0."""
    units = np.array([[2, 0]] * 118 + [[1, 1]] * 7)
    assert gwet_ac1(units) == pytest.approx(0.94, abs=2e-3)
    assert krippendorff_alpha(units) == pytest.approx(-0.02, abs=5e-3)


def test_alpha_is_low_by_construction_at_97_percent_right_answers():
    rng = np.random.default_rng(0)
    right = rng.random((20_000, 2)) < 0.97  # all labels are right, and each annotator errs on 3 % of them
    units = np.stack([right.sum(1), 2 - right.sum(1)], axis=1)
    found = measure(units)
    assert found.raw == pytest.approx(0.94, abs=0.01)
    assert abs(found.alpha) < 0.05
    assert found.ac1 > 0.93


def test_an_image_with_a_single_answer_changes_only_ac1s_chance():
    units = counts(FOUR_OBSERVERS, "12345")
    more = np.concatenate([units, [[1, 0, 0, 0, 0]]])
    assert krippendorff_alpha(more) == krippendorff_alpha(units)
    assert raw_agreement(more) == raw_agreement(units)
    assert gwet_ac1(more) != gwet_ac1(units)


def test_without_a_pair_nothing_is_measured():
    found = measure(np.array([[1, 0], [0, 1], [0, 0]]))
    assert (found.images, found.raw, found.alpha, found.ac1) == (0, None, None, None)
    assert measure(np.zeros((0, 3), int)).images == 0


def test_alpha_of_answers_that_are_all_equal_is_undefined():
    found = measure(np.array([[2, 0], [3, 0]]))
    assert (found.raw, found.alpha, found.ac1) == (1, None, 1)


def test_an_unknown_answer_is_refused():
    with pytest.raises(KeyError, match="maybe"):
        count_answers([["yes", "maybe"]], ("yes", "no"))
