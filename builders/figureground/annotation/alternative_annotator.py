"""Whether a scorer may stand in for a person: the alternative annotator test (Calderon, Reichart and Dror 2025, arXiv
2501.10970).

Each annotator is left out in turn: on the images that this annotator and others answered, who agrees more with the
others, the scorer or the annotator? A paired t-test rejects that the annotator is better by `EPSILON` or more, with
Benjamini and Yekutieli's control of false discoveries over annotators. The scorer passes if it wins against at least
half of them.

If nearly all labels are right, a scorer that always says *yes* passes too, since it agrees with people on nearly every
image. The result therefore comes with the share of wrong labels, by people's majority, that the scorer finds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from figureground.annotation.correction import MISSING
from figureground.core.errors import plural
from figureground.core.intervals import Interval, clopper_pearson, student_tail

EPSILON = 0.15
"""How much worse a scorer may be, because it is cheaper; the paper's value for trained annotators (0.2 for experts, 0.1
for crowds)."""
FALSE_DISCOVERIES = 0.05
WINS = 0.5
"""Share of annotators that the scorer has to win against."""
MIN_ANNOTATORS = 3
MIN_IMAGES = 30
"""Images that an annotator has to share with another one; the t-test needs as many."""


@dataclass(frozen=True)
class StandIn:
    """Result of the test."""

    reason: str | None
    """Why the test can't be computed; None if it can."""
    annotators: int
    """Annotators that took part."""
    images: int
    """Images with at least two answers and one of the scorer."""
    winning_rate: float | None = None
    """Share of annotators that the scorer wins against, ω."""
    advantage: float | None = None
    """Probability that the scorer agrees with the others at least as much as a random annotator does, ρ."""
    passes: bool | None = None
    wrong_found: Interval | None = None
    """Share of the images that most people call wrong that the scorer calls wrong too; None without such images."""


def alternative_annotator(answers: np.ndarray, scorer_answers: np.ndarray, epsilon: float = EPSILON) -> StandIn:
    """Test whether a scorer may stand in for a person.

    Args:
        answers: int (images, annotators): 1 for *yes*, 0 for *no*, or `MISSING`.
        scorer_answers: int (images,): the scorer's answers, likewise.
        epsilon: How much worse the scorer may be.
    """
    answered = answers != MISSING
    usable = (answered.sum(1) >= 2) & (scorer_answers != MISSING)
    answers, answered, scorer_answers = answers[usable], answered[usable], scorer_answers[usable]
    annotators = [j for j in range(answers.shape[1]) if answered[:, j].sum() >= MIN_IMAGES]
    images, wrong_found = len(scorer_answers), _measure_wrong_found(answers, answered, scorer_answers)
    if len(annotators) < MIN_ANNOTATORS:
        reason = (
            f"{plural(len(annotators), 'annotator')} with {MIN_IMAGES} images that another one answered too; needs "
            f"{MIN_ANNOTATORS}"
        )
        return StandIn(reason, len(annotators), images, wrong_found=wrong_found)
    p, advantages = [], []
    for j in annotators:
        own_rows = answered[:, j]
        others = answered[own_rows].copy()
        others[:, j] = False
        agreement = (
            _agreement(answers[own_rows], others, scorer_answers[own_rows]),
            _agreement(answers[own_rows], others, answers[own_rows, j]),
        )
        scorer, person = (agreement[0] >= agreement[1]).astype(float), (agreement[1] >= agreement[0]).astype(float)
        p.append(_test_smaller(person - scorer, epsilon))
        advantages.append(float(scorer.mean()))
    rate = float(np.mean(benjamini_yekutieli(p, FALSE_DISCOVERIES)))
    return StandIn(None, len(annotators), images, rate, float(np.mean(advantages)), rate >= WINS, wrong_found)


def benjamini_yekutieli(p: Sequence[float], level: float) -> list[bool]:
    """Return which hypotheses are rejected with false discoveries at most `level` (Benjamini and Yekutieli 2001).

    The tests may depend on each other in any way.
    """
    m = len(p)
    factor = sum(1 / i for i in range(1, m + 1))
    order = sorted(range(m), key=lambda i: p[i])
    most = max((rank for rank, i in enumerate(order, 1) if p[i] <= rank * level / (m * factor)), default=0)
    rejected = set(order[:most])
    return [i in rejected for i in range(m)]


def _agreement(answers: np.ndarray, others: np.ndarray, own_answers: np.ndarray) -> np.ndarray:
    """Return the share of the other annotators who gave the same answer, for each image."""
    return ((answers == own_answers[:, None]) & others).sum(1) / others.sum(1)


def _test_smaller(differences: np.ndarray, epsilon: float) -> float:
    """Return the p-value of a paired t-test that the mean difference is at least `epsilon`."""
    n, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        return 0.0 if mean < epsilon else 1.0
    return student_tail((epsilon - mean) / error, n - 1)


def _measure_wrong_found(answers: np.ndarray, answered: np.ndarray, scorer_answers: np.ndarray) -> Interval | None:
    wrong = ((answers == 1) & answered).sum(1) * 2 < answered.sum(1)
    total = int(wrong.sum())
    return clopper_pearson(int((scorer_answers[wrong] == 0).sum()), total) if total else None
