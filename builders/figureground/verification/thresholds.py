"""Thresholds of scorers that keep no more than a given share of wrong labels, chosen on one half of a labelled sample.

The path of thresholds has one parameter, q: each score's threshold is the q-quantile of that score over the whole
dataset, so that scores of different scales get thresholds of like severity. A scorer votes for an image if all its
scores reach their thresholds, and an image with enough votes is kept. The smallest q is chosen for which the share of
wrong labels among what is kept of the first half is at most the target. What the second half says is then untouched by
the choice.

If some parts of the dataset, such as rare cells, were reviewed at a higher rate than others, an image counts for as
many as it stands for. The interval is that of Clopper and Pearson (1934) for an effective number of images, because
images of one object aren't independent (Korn and Graubard 1998). It is exact if each image has an object and a weight
of its own and no part was reviewed more than others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from figureground.annotation.inference import divide
from figureground.core.errors import FiguregroundError
from figureground.core.intervals import LEVEL, Interval, clopper_pearson, student_quantile

NUM_QUANTILES = 200
"""Number of values of q that are tried, evenly from 0 to 1."""
MIN_LABELLED = 20
"""Smallest number of labelled images in a half, and of those that thresholds keep of the first half, because a few are
right by luck."""
_ROUNDING = 1e-12
"""Variance of a share that is taken for 0."""
_SCORES = "scores.verify."
"""Prefix of scores in rules of `curate`."""

Thresholds = Mapping[str, Mapping[str, float]]
"""By scorer, by score, the smallest value of a vote."""


@dataclass(frozen=True)
class HalfCounts:
    """Counts of one labelled half under a choice."""

    labelled: int
    kept: int
    wrong: int
    """Wrong ones of the kept images."""
    share: float
    """Estimated share of wrong ones among all images of the dataset that the choice keeps, 0 to 1."""
    effective: float
    """Number of independent kept images with equal weights that would be as informative."""

    @property
    def interval(self) -> Interval:
        """Share of wrong ones among the kept images with its exact interval for the effective number of images."""
        return clopper_pearson(self.share * self.effective, self.effective)


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

    def format_rule(self) -> str:
        """Return the choice as a rule of `curate`."""
        tests = [
            " and ".join(
                (f"{_SCORES}{score} is not None and " if score in self.gaps else "") + f"{_SCORES}{score} >= {value!r}"
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
    parts: np.ndarray | None = None,
) -> Choice:
    """Choose thresholds that keep at most a share `target` of wrong labels, and as many images as possible.

    Args:
        scores: By scorer, by score, float64 (n,) for all images of the dataset; NaN is no vote.
        verdicts: int8 (n,): 1 for an image whose labels are right, 0 for a wrong one, -1 for one that wasn't looked at.
        objects: int64 (n,): images with equal numbers show one object and go into one half.
        target: Share of wrong labels, 0 to 1.
        votes: Number of scorers that must vote for an image; default: all.
        parts: int64 (levels, n): parts of the dataset, such as splits and cells, within which images were drawn at
            random; from coarse to fine. None if they were drawn from the whole dataset.

    Raises:
        FiguregroundError: A half has too few labelled images, no thresholds reach the target, or the other half has
            none of what they keep.
    """
    votes = len(scores) if votes is None else votes
    if not 0 <= target < 1:
        raise FiguregroundError(f"--target: {target} is not a share from 0 to 1, such as 0.02.")
    if not 1 <= votes <= len(scores):
        raise FiguregroundError(f"--votes: {votes} of {len(scores)} scorers is impossible. Give 1 to {len(scores)}.")
    for name, of_scorer in scores.items():
        for score, values in of_scorer.items():
            if np.isnan(values).all():
                raise FiguregroundError(f"--scorer {name}: no image has the score {score}. Leave the scorer out.")
    in_first_half = find_first_half(objects)
    halves = [(verdicts >= 0) & in_first_half, (verdicts >= 0) & ~in_first_half]
    if min(int(half.sum()) for half in halves) < MIN_LABELLED:
        raise FiguregroundError(
            f"--target: {halves[0].sum()} and {halves[1].sum()} images in the two halves have answers; each needs at "
            f"least {MIN_LABELLED}. Review more images."
        )
    weights = [weigh(half, parts) for half in halves]
    best: tuple[float, int] | None = None
    for q in np.linspace(0, 1, NUM_QUANTILES, endpoint=False).tolist():
        thresholds = {
            name: {score: _quantile(values, q) for score, values in of_scorer.items()}
            for name, of_scorer in scores.items()
        }
        kept = _find_voted(scores, thresholds, votes)
        counts = [_count_half(kept, verdicts, half, own, objects) for half, own in zip(halves, weights, strict=True)]
        if counts[0].kept < MIN_LABELLED:
            break
        if best is None or counts[0].share < best[0]:
            best = counts[0].share, counts[0].kept
        if counts[0].share <= target:
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


def weigh(labelled: np.ndarray, parts: np.ndarray | None) -> np.ndarray:
    """Return how many images each labelled one stands for, float64 (n,); 0 for the others.

    Parts of the coarsest level without a labelled image, such as splits that nobody reviewed, aren't stood for.

    Args:
        labelled: bool (n,).
        parts: See `choose_thresholds`.
    """
    weights = np.zeros(len(labelled))
    if parts is None or not labelled.any():
        weights[labelled] = 1.0
        return weights
    inside = np.isin(parts[0], parts[0][labelled])
    own = labelled[inside]
    strata = divide(parts[:, inside], np.flatnonzero(own))
    sizes, counts = np.bincount(strata), np.bincount(strata[own], minlength=strata.max() + 1)
    weights[labelled] = (sizes / np.maximum(counts, 1))[strata[own]]
    return weights


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


def _count_half(
    kept: np.ndarray, verdicts: np.ndarray, half: np.ndarray, weights: np.ndarray, objects: np.ndarray
) -> HalfCounts:
    own = weights[kept & half]
    wrong = verdicts[kept & half] == 0
    if not len(own):
        return HalfCounts(int(half.sum()), 0, 0, 0.0, 0.0)
    share = float(own[wrong].sum() / own.sum()) if wrong.any() else 0.0
    effective = _count_effective(wrong, own, objects[kept & half])
    return HalfCounts(int(half.sum()), len(own), int(wrong.sum()), share, effective)


def _count_effective(wrong: np.ndarray, weights: np.ndarray, objects: np.ndarray) -> float:
    """Return how many independent images with equal weights would be as informative (Korn and Graubard 1998).

    Images of one object aren't independent, so the variance is that between objects, and objects bound the number.
    """
    object_index = np.unique(objects, return_inverse=True)[1]
    weight_of_object = np.bincount(object_index, weights)
    total, k = float(weights.sum()), len(weight_of_object)
    by_weight = total**2 / float((weights**2).sum())
    share = float(weights[wrong].sum()) / total
    deviations = np.bincount(object_index, weights * (wrong - share))
    variance = float((deviations**2).sum()) / total**2 * k / max(1, k - 1)
    if k == 1 or variance <= _ROUNDING:  # no object differs from another, as where all images are right
        return total**2 / float((weight_of_object**2).sum())
    correction = (student_quantile(LEVEL, math.inf) / student_quantile(LEVEL, k - 1)) ** 2
    return min(by_weight, share * (1 - share) / variance * correction)
