"""Agreement of annotators: raw, Krippendorff's alpha for nominal data, and Gwet's AC1, all with missing answers.

Each takes the counts of answers by image, int (images, categories): how many annotators gave each answer. Who gave it
doesn't matter to any of the three, and an image that an annotator skipped has one count less.

If nearly all labels are right, alpha is low by construction: it divides the observed disagreement by that expected from
the answers' shares, which is small when nearly all answers are *yes*. Two annotators who each err on 3 % of images that
are all right agree on 94 %, with an alpha near zero. AC1 estimates agreement by chance otherwise, and stays high.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """Agreement of annotators about one question."""

    images: int
    """Images with at least two answers."""
    raw: float | None
    """Share of agreeing pairs of answers, averaged over images; None if no image has two answers."""
    alpha: float | None
    """Krippendorff's alpha; None if no image has two answers, or if all these answers are equal."""
    ac1: float | None
    """Gwet's AC1; None if no image has two answers."""


def count_answers(answers: Iterable[Sequence[str]], categories: Sequence[str]) -> np.ndarray:
    """Return the counts of answers, int64 (images, categories).

    Args:
        answers: The answers that each image got, in any order.
        categories: All possible answers.

    Raises:
        KeyError: An answer is none of the categories.
    """
    position: Mapping[str, int] = {name: i for i, name in enumerate(categories)}
    rows = [
        np.bincount([position[answer] for answer in image_answers], minlength=len(categories))
        for image_answers in answers
    ]
    return np.array(rows, np.int64).reshape(len(rows), len(categories))


def measure(counts: np.ndarray) -> Agreement:
    """Return all measures of agreement; `counts` is int (images, categories)."""
    num_images = int((np.asarray(counts).sum(1) >= 2).sum())
    return Agreement(num_images, raw_agreement(counts), krippendorff_alpha(counts), gwet_ac1(counts))


def raw_agreement(counts: np.ndarray) -> float | None:
    """Return the share of agreeing pairs of answers to an image, averaged over images with at least two answers."""
    counts = _select_paired(counts)
    if not len(counts):
        return None
    n = counts.sum(1)
    return float(((counts * (counts - 1)).sum(1) / (n * (n - 1))).mean())


def krippendorff_alpha(counts: np.ndarray) -> float | None:
    """Return Krippendorff's alpha for nominal data (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

    Images with a single answer can't be paired and are left out, as in section D there.

    Returns:
        1 for perfect agreement, 0 for agreement by chance, negative for less; None if no image has two answers, or if
        all answers are equal, since expected and observed disagreement are then both 0.
    """
    counts = _select_paired(counts)
    n = counts.sum(1)
    # Off-diagonal sum of the coincidence matrix: each image's unequal ordered pairs, divided by its answers less one.
    observed = float(((n * n - (counts * counts).sum(1)) / np.maximum(n - 1, 1)).sum())
    totals = counts.sum(0)
    total = int(totals.sum())
    expected = total * total - int((totals * totals).sum())
    return 1 - (total - 1) * observed / expected if expected else None


def gwet_ac1(counts: np.ndarray) -> float | None:
    """Return Gwet's AC1 (Gwet 2008, "Computing inter-rater reliability and its variance in the presence of high
    agreement", with missing answers as in his Handbook of Inter-Rater Reliability, 4th edition, chapter 5).

    Agreement by chance is Σ π(1 − π) / (q − 1), with π the share of an answer, averaged over all images with an answer,
    and q the number of different answers that occur, at least 2.
    """
    counts = np.asarray(counts)
    counts = counts[counts.sum(1) >= 1]
    observed = raw_agreement(counts)
    if observed is None:
        return None
    shares = (counts / counts.sum(1, keepdims=True)).mean(0)
    chance = float((shares * (1 - shares)).sum()) / (max(2, int((shares > 0).sum())) - 1)
    return (observed - chance) / (1 - chance)


def _select_paired(counts: np.ndarray) -> np.ndarray:
    """Return the rows of the images with at least two answers."""
    counts = np.asarray(counts, np.int64)
    return counts[counts.sum(1) >= 2]
