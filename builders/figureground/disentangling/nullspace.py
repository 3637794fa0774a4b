"""Iterative null-space projection (Ravfogel et al. 2020, arXiv 2004.07667)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from figureground.disentangling.logistic import fit_logistic
from figureground.recipe.sample import derive_seed

HELD_OUT_SHARE = 0.1
"""Share of the images that are held out to test whether a classifier still finds the label."""


def project(
    features: Tensor, label: Tensor, classes: int, rounds: int, tolerance: float, seed: int
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return the projection on the common null space of linear classifiers that were fitted one after the other.

    Each is fitted to what the earlier ones left, and its directions are removed. It ends when one does no better on
    held-out images than the majority, or nothing is left.

    Args:
        features: float64 (n, d).
        label: int64 (n,).
        classes: Number of labels.
        rounds: Maximum number of classifiers.
        tolerance: Accuracy above the majority rate that counts as no better.
        seed: Chooses the held-out images.

    Returns:
        Matrix, float64 (d, d), and bias, float64 (d,), of x ↦ x @ matrix.T + bias, which keeps the mean; and facts.
    """
    n, d = features.shape
    mean = features.mean(0)
    x = features - mean
    is_held_out = np.zeros(n, bool)
    rng = np.random.default_rng(derive_seed(seed, "inlp", "held out"))
    is_held_out[rng.permutation(n)[: max(1, round(HELD_OUT_SHARE * n))]] = True
    held_out = torch.from_numpy(is_held_out).to(features.device)
    majority = float((label[held_out] == label[~held_out].mode().values).double().mean())
    removed = features.new_zeros(d, 0)
    accuracies: list[float] = []
    for _ in range(rounds):
        residual = x - (x @ removed) @ removed.T
        classifier = fit_logistic(residual[~held_out], label[~held_out], classes)
        accuracies.append(float((classifier(residual[held_out]).argmax(1) == label[held_out]).double().mean()))
        if accuracies[-1] <= majority + tolerance or removed.shape[1] == d:
            break
        directions, sizes, _ = torch.linalg.svd((classifier.weight - classifier.weight.mean(0)).T, full_matrices=False)
        new_directions = directions[:, sizes > 1e-9 * sizes.max().clamp_min(1e-30)]
        basis, upper = torch.linalg.qr(torch.cat([removed, new_directions], 1))
        removed = basis[:, upper.diagonal().abs() > 1e-9]
    matrix = torch.eye(d).to(features) - removed @ removed.T
    facts = {"removed_dimensions": removed.shape[1], "accuracy_by_round": accuracies, "majority": majority}
    return matrix, mean - mean @ matrix.T, facts
