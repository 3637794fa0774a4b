"""Accuracy by severity, and where classifiers fail: for datasets that differ in one setting (`recipe.severity`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.core.errors import FiguregroundError
from figureground.evaluation import accuracy
from figureground.recipe.severity import MILDEST, Axis

if TYPE_CHECKING:
    from figureground.data.images import DatasetImages
    from figureground.evaluation.predict import Predictions

JsonDict = dict[str, Any]


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
            previous = shares[k - 1]
            return k - 1 + (previous - half) / (previous - share)
    return None


def first_wrong(right: np.ndarray) -> JsonDict | None:
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
    predictions: Mapping[str, Predictions],
    references: Predictions | None,
) -> JsonDict:
    """Return a classifier's accuracy along each axis, and its failure points.

    Args:
        axes: The axes.
        images: The images of each dataset, by its folder.
        predictions: The classifier's predictions for them.
        references: Its predictions for the references; None takes the mildest dataset for them.

    Returns:
        `reference`: class-averaged accuracy on the references, or the mildest dataset's. `half`: half of it.
        `axes`, by name: `accuracy` (class-averaged, by severity, with interval), `failure` (`severity`, counted from 0
        and interpolated, and `value` of the setting; None if accuracy stays above) and `first_wrong`.

    Raises:
        FiguregroundError: The references share no class with the images that the classifier can judge.
    """
    comparison = accuracy.compare_accuracy(predictions[MILDEST], references)
    if not comparison["classes"]:
        raise FiguregroundError(
            "The references have no class in common with the images that a classifier can judge. Give references of "
            "the dataset's classes, or map classes with --labels."
        )
    reference = comparison["accuracy" if references is None else "references"]
    half = reference["value"] / 2
    summary: JsonDict = {"reference": reference, "half": half, "axes": {}}
    for axis in axes:
        levels = [_measure_accuracy(predictions[folder], references) for folder in axis.folders]
        severity = failure_point([level["value"] for level in levels], half)
        summary["axes"][axis.name] = {
            "accuracy": levels,
            "half": half,
            "failure": None
            if severity is None
            else {"severity": severity, "value": _interpolate_value(axis.values, severity)},
            "first_wrong": first_wrong(_pair_images(axis, images, predictions)),
        }
    return summary


def _measure_accuracy(predictions: Predictions, references: Predictions | None) -> JsonDict:
    level: JsonDict = accuracy.compare_accuracy(predictions, references)["accuracy"]
    return level


def _interpolate_value(values: Sequence[float], severity: float) -> float:
    """Return the value of an axis at a severity between two of its levels."""
    return float(np.interp(severity, np.arange(len(values)), values))


def _pair_images(axis: Axis, images: Mapping[str, DatasetImages], predictions: Mapping[str, Predictions]) -> np.ndarray:
    """Return bool (severities, images): whether images are right, for those that every dataset of the axis has."""
    rows = [
        {
            key: bool(right)
            for key, right, judged in zip(
                images[folder].keys, predictions[folder].correct, predictions[folder].judged, strict=True
            )
            if judged
        }
        for folder in axis.folders
    ]
    shared = [key for key in rows[0] if all(key in row for row in rows)]
    return np.array([[row[key] for key in shared] for row in rows], bool).reshape(len(rows), len(shared))
