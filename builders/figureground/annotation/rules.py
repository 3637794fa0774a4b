"""Rules that keep images by several people's answers: what each keeps, and what it costs in good images."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np


@dataclass(frozen=True)
class RuleOutcome:
    """Outcome of a rule."""

    kept: float
    """Share of images that it keeps."""
    wrong: float | None
    """Share of wrong labels among the kept images; None without annotators' error rates."""
    good_lost: float | None
    """Share of images with right labels that it drops; None without annotators' error rates."""


def measure_outcomes(right: np.ndarray, answers: np.ndarray, posterior: np.ndarray | None) -> dict[str, RuleOutcome]:
    """Return what the rules *unanimous* and *majority* keep of images that got answers.

    Args:
        right: int (images,): answers that call the label right.
        answers: int (images,): all answers, *can't tell* included, at least 1 each. It counts against the label.
        posterior: float (images,): probability that each label is right, given its answers; see `correction`.
    """
    return {
        "unanimous": _measure_outcome(right == answers, posterior),
        "majority": _measure_outcome(2 * right > answers, posterior),
    }


def predict_outcomes(people: int, share: float, sensitivity: float, specificity: float) -> dict[str, RuleOutcome]:
    """Return what the rules would keep if `people` annotators with these error rates answered about every image.

    Args:
        people: Number of annotators of each image, such as 5 (D3S keeps what 5 of 5 call right).
        share: True share of right labels.
        sensitivity: Share of right labels that an annotator calls right.
        specificity: Share of wrong labels that an annotator calls wrong.
    """
    outcomes = {}
    for name, least in (("unanimous", people), ("majority", people // 2 + 1)):
        good = share * _binomial_tail(least, people, sensitivity)
        outcomes[name] = _outcome_from_shares(good, (1 - share) * _binomial_tail(least, people, 1 - specificity), share)
    return outcomes


def _measure_outcome(keep: np.ndarray, posterior: np.ndarray | None) -> RuleOutcome:
    if posterior is None:
        return RuleOutcome(float(keep.mean()), None, None)
    good = float((posterior * keep).mean())
    return _outcome_from_shares(good, float(keep.mean()) - good, float(posterior.mean()))


def _outcome_from_shares(good: float, wrong: float, all_good: float) -> RuleOutcome:
    kept = good + wrong
    return RuleOutcome(kept, wrong / kept if kept > 0 else None, 1 - good / all_good if all_good > 0 else None)


def _binomial_tail(least: int, n: int, p: float) -> float:
    """Return the probability of at least `least` hits among `n`."""
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(least, n + 1))
