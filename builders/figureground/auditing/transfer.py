"""Areas under ROC curves with intervals, and probes trained on some images and tested on others."""

from __future__ import annotations

import numpy as np

from figureground.auditing.probe import ridge
from figureground.core.intervals import Interval, wilson
from figureground.evaluation.metrics import roc_auc


def auc_interval(
    positive: np.ndarray, negative: np.ndarray, positive_objects: np.ndarray, negative_objects: np.ndarray
) -> Interval:
    """Return an area under the ROC curve with a 95 % interval.

    The variance is that of DeLong et al. (1988), between objects instead of images (Obuchowski 1997); no object is on
    both sides. From it follows the number of independent answers of Wilson's interval, at most the number of objects.

    Args:
        positive, negative: Scores, float (n,) and (m,).
        positive_objects, negative_objects: int: images with equal numbers aren't independent.
    """
    auc = roc_auc(positive, negative)
    variance, object_counts = 0.0, []
    for own, others, objects, sign in (
        (positive, negative, positive_objects, 1), (negative, positive, negative_objects, -1),
    ):  # fmt: skip
        ordered = np.sort(sign * others)
        low = np.searchsorted(ordered, sign * own, "left")
        high = np.searchsorted(ordered, sign * own, "right")
        placement = (low + high) / 2 / len(others)
        _, object_index = np.unique(objects, return_inverse=True)
        sums = np.bincount(object_index, placement - placement.mean())
        num_objects = len(sums)
        variance += float(np.square(sums).sum()) / len(own) ** 2 * num_objects / max(1, num_objects - 1)
        object_counts.append(num_objects)
    max_n = float(sum(object_counts))
    n = auc * (1 - auc) / variance if variance > 0 else float(min(object_counts))
    return wilson(auc, max(1.0, min(n, max_n)))


def fit_and_predict(train: np.ndarray, label: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Fit a ridge regression on one-hot labels, and return the most likely class of each test image, int (n,).

    Features are standardised by the training images; classes have equal weight.
    """
    mean, sd = train.mean(axis=0), train.std(axis=0)
    varies = sd > 1e-9
    train, test = ((x[:, varies] - mean[varies]) / sd[varies] for x in (train, test))
    one_hot = np.zeros((len(label), classes))
    one_hot[np.arange(len(label)), label] = 1
    share = np.maximum(one_hot.mean(axis=0), 1e-12)
    targets = (one_hot - one_hot.mean(axis=0)) / np.sqrt(share)
    return np.asarray((test @ (ridge(train) @ targets)).argmax(axis=1))


def sign_test(first: np.ndarray, second: np.ndarray, objects: np.ndarray) -> float:
    """Return the p-value of the hypothesis that the first of two sets of answers isn't right more often, by object.

    It is that of the two-sided sign test (Dixon and Mood 1946) if more objects favour the first, and 1 otherwise: the
    finding that it supports has a direction.

    Args:
        first, second: float or bool (n,): how right each answer is, for the same images.
        objects: int (n,).
    """
    _, object_index = np.unique(objects, return_inverse=True)
    difference = np.round(np.bincount(object_index, np.asarray(first, np.float64) - np.asarray(second, np.float64)), 9)
    from scipy.special import bdtrc  # the probability of more than k wins

    n, wins = int((difference != 0).sum()), int((difference > 0).sum())
    return min(1.0, 2 * float(bdtrc(wins - 1, n, 0.5))) if wins else 1.0
