"""Yes and no are read from the probabilities of first tokens."""

import math

import pytest

from figureground.verification.yes_no import probability_of_yes, read_yes_or_no


@pytest.mark.parametrize("token", ["yes", "Yes", " YES", "▁yes", "ĠYes", "yes.", '"Yes'])
def test_all_ways_to_write_yes_count(token):
    assert read_yes_or_no(token) is True


@pytest.mark.parametrize("token", ["", " ", "yesterday", "not", "none", "maybe", "know"])
def test_other_words_are_neither(token):
    assert read_yes_or_no(token) is None


def test_the_share_of_yes_among_yes_and_no():
    tokens = [("Yes", math.log(0.5)), (" yes", math.log(0.1)), ("No", math.log(0.2)), ("The", math.log(0.2))]
    assert probability_of_yes(tokens) == pytest.approx(0.75)


def test_an_answer_of_other_words_has_no_probability():
    assert probability_of_yes([("The", -0.1), ("A", -2.0)]) is None
    assert probability_of_yes([("yes", math.nan)]) is None
    assert probability_of_yes([]) is None
