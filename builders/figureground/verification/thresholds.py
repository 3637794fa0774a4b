"""Thresholds of scorers that keep no more than a given share of wrong labels, chosen on one half of a labelled sample.

The path of thresholds has one parameter, q: each score's threshold is the q-quantile of that score over the whole
dataset, so that scores of different scales get thresholds of like severity. A scorer votes for an image if all its
scores reach their thresholds, and an image with enough votes is kept. The smallest q is chosen for which the share of
wrong labels among what is kept of the first half is at most the target. What the second half says is then untouched by
the choice, and its interval is exact (Clopper and Pearson 1934).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from figureground.annotation.binomial import clopper_pearson
from figureground.core.errors import FiguregroundError
from figureground.core.intervals import Interval

NUM_QUANTILES = 200
"""Number of values of q that are tried, evenly from 0 to 1."""
MIN_LABELLED = 20
"""Smallest number of labelled images in a half, and of those that thresholds keep of the first half, because a few are
right by luck."""

Thresholds = Mapping[str, Mapping[str, float]]
"""By scorer, by score, the smallest value of a vote."""


@dataclass(frozen=True)
class HalfCounts:
    """Counts of one labelled half under a choice."""

    labelled: int
    kept: int
    wrong: int
    """Wrong ones of the kept images."""

    @property
    def interval(self) -> Interval:
        """Share of wrong ones among the kept images with its exact interval."""
        return clopper_pearson(self.wrong, self.kept)


@dataclass(frozen=True)
class Choice:
    """Thresholds chosen for a target."""

    target: float
    votes: int
    thresholds: Thresholds
    chosen_on: HalfCounts
    """Counts of the half on which they were chosen; too good by construction."""
    reported: HalfCounts
    """Counts of the other half."""
    gaps: frozenset[str] = frozenset()
    """Scores that some images lack; a missing score is no vote."""

    def format_rule(self, prefix: str = "scores.verify.") -> str:
        """Return the choice as a rule of `curate`."""
        tests = [
            " and ".join(
                (f"{prefix}{score} is not None and " if score in self.gaps else "") + f"{prefix}{score} >= {value!r}"
                for score, value in scores.items()
            )
            for scores in self.thresholds.values()
        ]
        return tests[0] if len(tests) == 1 else f"votes({', '.join(tests)}) >= {self.votes}"

    def summarise_evidence(self) -> dict[str, object]:
        """Return what the other half says, for the lineage and the card."""
        share = self.reported.interval
        return {
            "target_wrong": self.target,
            "wrong_among_kept": round(share.value, 4),
            "interval_95": [round(share.low, 4), round(share.high, 4)],
            "wrong": self.reported.wrong,
            "judged": self.reported.kept,
        }


def choose_thresholds(
    scores: Mapping[str, Mapping[str, np.ndarray]],
    verdicts: np.ndarray,
    objects: np.ndarray,
    target: float,
    votes: int | None = None,
) -> Choice:
    """Choose thresholds that keep at most a share `target` of wrong labels, and as many images as possible.

    Args:
        scores: By scorer, by score, float64 (n,) for all images of the dataset; NaN is no vote.
        verdicts: int8 (n,): 1 for an image whose labels are right, 0 for a wrong one, -1 for one that wasn't looked at.
        objects: int64 (n,): images with equal numbers show one object and go into one half.
        target: Share of wrong labels, 0 to 1.
        votes: Number of scorers that must vote for an image; default: all.

    Raises:
        FiguregroundError: A half has too few labelled images, no thresholds reach the target, or the other half has
            none of what they keep.
    """
    votes = len(scores) if votes is None else votes
    if not 0 <= target < 1:
        raise FiguregroundError(f"--target: {target} is not a share from 0 to 1, such as 0.02.")
    if not 1 <= votes <= len(scores):
        raise FiguregroundError(f"--votes: {votes} of {len(scores)} scorers is impossible. Give 1 to {len(scores)}.")
    in_first_half = find_first_half(objects)
    halves = [(verdicts >= 0) & in_first_half, (verdicts >= 0) & ~in_first_half]
    if min(int(half.sum()) for half in halves) < MIN_LABELLED:
        raise FiguregroundError(
            f"--target: {halves[0].sum()} and {halves[1].sum()} images in the two halves have answers; each needs at "
            f"least {MIN_LABELLED}. Review more images."
        )
    best: tuple[float, int] | None = None
    for q in np.linspace(0, 1, NUM_QUANTILES, endpoint=False).tolist():
        thresholds = {
            name: {score: _quantile(values, q) for score, values in of_scorer.items()}
            for name, of_scorer in scores.items()
        }
        kept = _find_voted(scores, thresholds, votes)
        counts = [_count_half(kept, verdicts, half) for half in halves]
        if counts[0].kept < MIN_LABELLED:
            break
        share = counts[0].wrong / counts[0].kept
        if best is None or share < best[0]:
            best = share, counts[0].kept
        if share <= target:
            if not counts[1].kept:
                break
            gaps = {
                score for of_scorer in scores.values() for score, values in of_scorer.items() if np.isnan(values).any()
            }
            return Choice(target, votes, thresholds, counts[0], counts[1], frozenset(gaps))
    hint = "" if best is None else f" The least is {100 * best[0]:.1f} % of {best[1]} kept images with answers."
    raise FiguregroundError(
        f"--target: no thresholds keep at most {100 * target:g} % wrong labels.{hint} Give a larger target, other "
        "scorers, or more answers."
    )


def find_first_half(objects: np.ndarray) -> np.ndarray:
    """Return bool (n,): whether an image belongs to the first half, by a hash of its object, the same everywhere."""
    unique, inverse = np.unique(objects, return_inverse=True)
    hashes = [hashlib.sha256(str(number).encode()).digest() for number in unique.tolist()]
    rank = np.empty(len(unique), np.int64)
    rank[sorted(range(len(unique)), key=hashes.__getitem__)] = np.arange(len(unique))
    return (rank % 2 == 0)[inverse]


def _quantile(values: np.ndarray, q: float) -> float:
    """Return a quantile, rounded down to six decimals, so that a rule with it reads well."""
    present = values[~np.isnan(values)]
    return math.floor(float(np.quantile(present, q)) * 1e6) / 1e6 if len(present) else math.inf


def _find_voted(scores: Mapping[str, Mapping[str, np.ndarray]], thresholds: Thresholds, votes: int) -> np.ndarray:
    """Return which images have enough votes, bool (n,)."""
    votes_by_scorer: Sequence[np.ndarray] = [
        np.logical_and.reduce([values >= thresholds[name][score] for score, values in of_scorer.items()])
        for name, of_scorer in scores.items()
    ]
    return np.sum(votes_by_scorer, axis=0) >= votes


def _count_half(kept: np.ndarray, verdicts: np.ndarray, half: np.ndarray) -> HalfCounts:
    return HalfCounts(int(half.sum()), int((kept & half).sum()), int((kept & half & (verdicts == 0)).sum()))
