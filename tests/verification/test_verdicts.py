"""An image's own label is compared with all others."""

import numpy as np

from figureground.verification.verdicts import judge

NAMES = ("bird", "cat", "fish")
NAN = np.nan


def test_p_margin_rank_and_top_are_those_of_the_own_label():
    p = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    found = judge(p, np.array([0, 1, 2]), NAMES)
    assert found["p"] == [0.7, 0.2, 0.1]
    assert np.allclose(found["margin"], [0.5, -0.5, -0.6])
    assert found["rank"] == [1, 2, 3]
    assert found["top"] == ["bird"] * 3


def test_an_unknown_own_label_has_no_p_but_the_most_probable_label_is_reported():
    found = judge(np.array([[NAN, 0.4, 0.6]]), np.array([0]), NAMES)
    assert (found["p"], found["margin"], found["rank"], found["top"]) == ([None], [None], [None], ["fish"])


def test_where_only_the_own_label_was_asked_about_there_is_only_p():
    found = judge(np.array([[NAN, 0.4, NAN]]), np.array([1]), NAMES)
    assert (found["p"], found["margin"], found["rank"], found["top"]) == ([0.4], [None], [None], [None])


def test_an_image_without_any_answer_has_nothing():
    found = judge(np.full((1, 3), NAN), np.array([1]), NAMES)
    assert [found[name] for name in ("p", "margin", "rank", "top")] == [[None]] * 4


def test_equal_probabilities_share_the_better_rank():
    assert judge(np.array([[0.4, 0.4, 0.2]]), np.array([1]), NAMES)["rank"] == [1]
