"""Accuracy by severity, and where classifiers fail: for datasets that differ in one setting (`recipe.severity`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.evaluation import accuracy
from figureground.recipe.severity import MILDEST, Axis

if TYPE_CHECKING:
    from figureground.data.images import DatasetImages
    from figureground.evaluation.predict import Predictions

Told = dict[str, Any]


def failure_point(shares: Sequence[float], half: float) -> float | None:
    """Return the severity at which accuracy falls below a share, interpolated linearly; None if it doesn't.

    Args:
        shares: Accuracy by severity, 0, 1, 2, …
        half: The share.
    """
    for k, share in enumerate(shares):
        if share < half:
            if k == 0:
                return 0.0
            before = shares[k - 1]
            return k - 1 + (before - half) / (before - share)
    return None


def first_wrong(right: np.ndarray) -> Told | None:
    """Return at which severity images are first misclassified: the failure points of CNS-Bench (arXiv 2507.17651).

    Args:
        right: bool (severities, images): whether an image is classified correctly.

    Returns:
        `images`: those that are right at severity 0. `share`: of these, the share that is first wrong at severity 1, 2,
        …; `never`, the share that stays right. None if no image is right at severity 0.
    """
    followed = right[:, right[0]]
    images = followed.shape[1]
    if not images:
        return None
    wrong = ~followed
    first = np.where(wrong.any(axis=0), wrong.argmax(axis=0), len(right))
    return {
        "images": images,
        "share": [float((first == k).mean()) for k in range(1, len(right))],
        "never": float((first == len(right)).mean()),
    }


def measure(
    axes: Sequence[Axis],
    images: Mapping[str, DatasetImages],
    answers: Mapping[str, Predictions],
    references: Predictions | None,
) -> Told:
    """Return a classifier's accuracy along each axis, and its failure points.

    Args:
        axes: The axes.
        images: The images of each dataset, by its folder.
        answers: The classifier's predictions for them.
        references: Its predictions for the references; None takes the mildest dataset for them.

    Returns:
        `reference`: class-averaged accuracy on the references, or the mildest dataset's. `half`: half of it.
        `axes`, by name: `accuracy` (class-averaged, by severity, with interval), `failure` (`severity`, counted from 0
        and interpolated, and `value` of the setting; None if accuracy stays above) and `first_wrong`.
    """
    compared = accuracy.compare(answers[MILDEST], references)
    reference = compared["accuracy" if references is None else "references"]
    half = reference["value"] / 2
    told: Told = {"reference": reference, "half": half, "axes": {}}
    for axis in axes:
        levels = [_accuracy(answers[folder], references) for folder in axis.folders]
        at = failure_point([level["value"] for level in levels], half)
        told["axes"][axis.name] = {
            "accuracy": levels,
            "half": half,
            "failure": None if at is None else {"severity": at, "value": _value(axis.values, at)},
            "first_wrong": first_wrong(_paired(axis, images, answers)),
        }
    return told


def _accuracy(answers: Predictions, references: Predictions | None) -> Told:
    level: Told = accuracy.compare(answers, references)["accuracy"]
    return level


def _value(values: Sequence[float], at: float) -> float:
    """Return the value of an axis at a severity between two of its levels."""
    return float(np.interp(at, np.arange(len(values)), values))


def _paired(axis: Axis, images: Mapping[str, DatasetImages], answers: Mapping[str, Predictions]) -> np.ndarray:
    """Return bool (severities, images): whether images are right, for those that every dataset of the axis has."""
    rows = [
        {
            key: bool(right)
            for key, right, judged in zip(
                images[folder].keys, answers[folder].correct, answers[folder].judged, strict=True
            )
            if judged
        }
        for folder in axis.folders
    ]
    shared = [key for key in rows[0] if all(key in each for each in rows)]
    return np.array([[each[key] for key in shared] for each in rows], bool).reshape(len(rows), len(shared))
