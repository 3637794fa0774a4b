"""Reads "yes" and "no" from the most probable first tokens of an answer."""

from __future__ import annotations

import math
from collections.abc import Iterable

_MARKS = " \t\r\n\"'*`.,!:;▁Ġ<>"


def read_yes_or_no(token: str) -> bool | None:
    """Return whether a token writes "yes" (True) or "no" (False), in any case, with blanks or punctuation around it."""
    word = token.strip(_MARKS).lower()
    return True if word == "yes" else False if word == "no" else None


def probability_of_yes(tokens: Iterable[tuple[str, float]]) -> float | None:
    """Return the share of "yes" in the probability of all tokens that write "yes" or "no".

    Args:
        tokens: Tokens with the natural logarithms of their probabilities.

    Returns:
        0 to 1; None if no token writes either.
    """
    sums = {True: 0.0, False: 0.0}
    for token, logarithm in tokens:
        is_yes = read_yes_or_no(token)
        if is_yes is not None and not math.isnan(logarithm):
            sums[is_yes] += math.exp(min(logarithm, 0.0))
    total = sums[True] + sums[False]
    return sums[True] / total if total > 0 else None
