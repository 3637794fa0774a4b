"""The table of counts that `plan` prints."""

import numpy as np

from figureground.methods.count_tables import format_counts


def test_counts_of_a_million_images_stand_apart_and_below_their_background():
    counts = np.array([[1_000_000, 20], [3, 4_000_000]])
    assert format_counts(counts, ["bird", "bear"], ["sea", "land"]) == [
        "             sea      land",
        "  bird 1,000,000        20",
        "  bear         3 4,000,000",
    ]
