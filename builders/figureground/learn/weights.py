"""Weights of training images: uniform, balanced by group, or separate for added images."""

from __future__ import annotations

import numpy as np


def weigh_added(added: np.ndarray, weight: float) -> np.ndarray:
    """Return weights, float64 (n,): 1 for real images and `weight` for added ones.

    This weights the losses of real and generated images separately (Parast et al. 2025, arXiv 2503.17226).

    Args:
        added: bool (n,).
    """
    return np.where(added, float(weight), 1.0)


def balance(weights: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return weights, float64 (n,), with the same sum in every group and unchanged proportions within a group.

    Args:
        weights: float (n,), 0 or more.
        group: int (n,): the group or class of each image.
    """
    total = np.bincount(group, weights=weights)
    return np.divide(weights, total[group], out=np.zeros(len(weights)), where=total[group] > 0)


def normalise(weights: np.ndarray) -> np.ndarray:
    """Scale weights to mean 1, so that the learning rate's effect doesn't depend on them.

    Raises:
        ValueError: All weights are 0.
    """
    if not weights.sum() > 0:
        raise ValueError("All weights are 0.")
    return weights / weights.mean()
