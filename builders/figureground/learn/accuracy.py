"""Accuracy of a classifier by group or class, and its worst and average."""

from __future__ import annotations

import numpy as np


def accuracy_by_group(correct: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Return the accuracy in each group, float64 (groups,), 0 to 1; NaN for a group without images.

    Args:
        correct: bool (n,).
        group: int (n,): `GroupedImages.group`, or y for accuracy by class.
        groups: Number of groups.
    """
    samples = np.bincount(group, minlength=groups)
    hits = np.bincount(group, weights=np.asarray(correct, np.float64), minlength=groups)
    return np.where(samples > 0, hits / np.maximum(samples, 1), np.nan)


def worst_group_accuracy(accuracy: np.ndarray) -> float:
    """Return the lowest accuracy of the groups that have images (Sagawa et al. 2020, arXiv 1911.08731).

    For accuracies by class it is the worst-class accuracy, which needs no attribute.

    Args:
        accuracy: float (groups,), from `accuracy_by_group`.

    Raises:
        ValueError: No group has an image.
    """
    present = accuracy[~np.isnan(accuracy)]
    if not len(present):
        raise ValueError("No group has an image.")
    return float(present.min())


def worst_class_accuracy(correct: np.ndarray, y: np.ndarray, classes: int) -> float:
    """Return the lowest accuracy of the classes that have images.

    Args:
        correct: bool (n,).
        y: int (n,).
        classes: Number of classes.

    Raises:
        ValueError: No class has an image.
    """
    return worst_group_accuracy(accuracy_by_group(correct, y, classes))


def reweighted_accuracy(accuracy: np.ndarray, train_counts: np.ndarray) -> float:
    """Return the average accuracy weighted by training group counts: Σ n_g accuracy_g / Σ n_g.

    This is the convention for Waterbirds, whose validation and test splits are balanced, unlike its training split
    (Sagawa et al. 2020, arXiv 1911.08731). Groups without evaluated images are left out of both sums.

    Args:
        accuracy: float (groups,), from `accuracy_by_group`.
        train_counts: int, one number per group: its training images, such as `counts(0)`.

    Raises:
        ValueError: The number of counts is wrong, or no group has both training and evaluated images.
    """
    counts = np.asarray(train_counts, np.float64).ravel()
    if counts.shape != np.shape(accuracy):
        raise ValueError(f"There are {np.size(accuracy)} accuracies and {counts.size} counts.")
    evaluated = ~np.isnan(accuracy)
    if not counts[evaluated].sum():
        raise ValueError("No group has both training images and evaluated images.")
    return float((counts[evaluated] * accuracy[evaluated]).sum() / counts[evaluated].sum())
