"""How much each training image counts: alike, by group, or as an added one."""

from __future__ import annotations

import numpy as np


def weigh_added(added: np.ndarray, weight: float) -> np.ndarray:
    """1 for real images and `weight` for added ones, float64 (n,).

    So the losses of real and generated images are weighed apart (Parast et al. 2025, arXiv 2503.17226).

    Args:
        added: bool (n,).
    """
    return np.where(added, float(weight), 1.0)


def balance(weights: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Weights, float64 (n,), whose sum is the same in every group; within a group they keep their proportions.

    Args:
        weights: float (n,), 0 or more.
        group: int (n,): the group of each image, or its class.
    """
    total = np.bincount(group, weights=weights)
    return np.divide(weights, total[group], out=np.zeros(len(weights)), where=total[group] > 0)


def normalise(weights: np.ndarray) -> np.ndarray:
    """Weights of mean 1, so that a learning rate means the same whatever counts how much.

    Raises:
        ValueError: All are 0.
    """
    if not weights.sum() > 0:
        raise ValueError("No image counts.")
    return weights / weights.mean()
