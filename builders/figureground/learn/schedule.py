"""The order of the training images, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

WARMUP = 0.05
"""Share of the steps in which the learning rate rises; then it falls to 0 along a cosine."""


def draw_in_passes(n: int, start: int, count: int, rng: Callable[[int], np.random.Generator]) -> np.ndarray:
    """Return a part of an endless stream of rows, int64 (count,). The stream is a sequence of permutations of
    0 to n − 1, so after any number of draws the counts of two rows differ by at most one.

    Args:
        n: Number of rows, 1 or more.
        start: Position in the stream where the part begins, from 0.
        count: Length of the part, 1 or more.
        rng: Returns the generator of the i-th pass, from 0.
    """
    first_pass, last_pass = start // n, (start + count - 1) // n
    rows = np.concatenate([rng(i).permutation(n) for i in range(first_pass, last_pass + 1)])
    return rows[start - first_pass * n :][:count]


def schedule(step: int, total: int) -> float:
    """Return the learning rate relative to its maximum: rising for `WARMUP` of the steps, then falling along a cosine.

    Args:
        step: From 0 to total − 1.
    """
    warmup = max(1, round(WARMUP * total))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
