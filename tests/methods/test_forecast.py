"""What `plan` prints: the table of counts, and the size."""

import numpy as np

from figureground.methods.count_tables import format_counts
from figureground.methods.d3s import D3S
from figureground.methods.forecast import plan


def test_counts_of_a_million_images_stand_apart_and_below_their_background():
    counts = np.array([[1_000_000, 20], [3, 4_000_000]])
    assert format_counts(counts, ["bird", "bear"], ["sea", "land"]) == [
        "             sea      land",
        "  bird 1,000,000        20",
        "  bear         3 4,000,000",
    ]


def test_the_size_counts_the_guides_that_are_kept():
    plain, kept = (plan(D3S("pocket", keep=keep))["bytes"] for keep in ([], ["guide"]))
    assert kept > 2 * plain
