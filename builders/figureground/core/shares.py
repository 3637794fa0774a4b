"""Integer parts of shares, in decimal arithmetic: 0.58 of 50 steps is 29, not 28.99…96 as in floating point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def as_fraction(share: float) -> Fraction:
    """Return a share as the decimal fraction that was written: 0.58 is 58/100, not the nearest binary fraction."""
    return Fraction(repr(float(share)))


def whole_part(n: int, share: float) -> int:
    """Return the integer part of `n × share`, exact for any share with a finite decimal form.

    Args:
        n: Total, such as the number of denoising steps.
        share: From 0 to 1, as given in a recipe.
    """
    return math.floor(n * as_fraction(share))


def round_to_total(parts: Sequence[int], remainders: Sequence[float | Fraction], total: int) -> list[int]:
    """Return whole numbers that sum to `total`, by largest remainder: of equal remainders, the first is rounded up.

    Args:
        parts: Whole parts of the exact numbers.
        remainders: What is left of each exact number. A caller that computes in floating point rounds them, so that
            equal ones are equal.
        total: From the sum of `parts` to one more for each; with a smaller one the parts stay as they are.
    """
    order = sorted(range(len(parts)), key=lambda i: -remainders[i])
    raised = set(order[: max(0, total - sum(parts))])
    return [part + (i in raised) for i, part in enumerate(parts)]


def steps_between(steps: int, shares: Sequence[float] | None) -> range:
    """Return the positions of the steps that lie between two shares of them: 0.2 to 0.5 of 10 are steps 2, 3 and 4.

    Args:
        steps: All steps.
        shares: The first share, and the share at which the steps end, from 0 to 1; None for all steps.
    """
    low, high = shares or (0.0, 1.0)
    return range(whole_part(steps, low), whole_part(steps, high))


def strength_of(steps: int, all_steps: int) -> float:
    """Return a strength for which `int(all_steps * strength)`, as diffusers computes it, is exactly `steps`.

    It is half a step above, so that no rounding error reaches the next integer. For all steps it is 1, which diffusers
    treats as pure noise.

    Args:
        steps: From 1 to `all_steps`.
    """
    return 1.0 if steps >= all_steps else (steps + 0.5) / all_steps
