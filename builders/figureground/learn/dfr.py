"""DFR, deep feature reweighting: the last layer is refitted to group-balanced data (Kirichenko et al. 2023).

ERM learns the necessary features but weights them wrongly (arXiv 2204.02937). So only the last layer is refitted, by
ℓ1-regularised logistic regression on standardised features of validation images, balanced by group; several draws are
averaged. As in the authors' code, the final fit standardises by mean and deviation of the *training* features, and the
choice of the penalty by those of the fitted images.

Two details differ from that code: the bias has no penalty (liblinear penalises it), and the halves used to choose the
penalty are drawn within each group.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from figureground.learn.accuracy import accuracy_by_group, worst_group_accuracy
from figureground.recipe.sample import derive_seed

STRENGTHS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
"""Candidate inverse strengths C, as in the paper."""
MAX_STEPS = 5000
TOLERANCE = 1e-7
"""Convergence tolerance: largest change of a weight in a step, relative to the largest weight."""


class Layer(NamedTuple):
    """A linear layer: logits = features @ weight.T + bias."""

    weight: Tensor
    """float64 (classes, d)."""
    bias: Tensor
    """float64 (classes,)."""
    steps: int = 0
    """Number of proximal gradient steps of the fit, over all draws."""
    unconverged: int = 0
    """Number of draws whose fit took `MAX_STEPS` without reaching `TOLERANCE`."""


def fit_logistic(features: Tensor, y: Tensor, classes: int, inverse_strength: float) -> Layer:
    """Fit ℓ1-regularised logistic regression: minimise ‖w‖₁ + C · Σ cross-entropy, without a penalty on the bias.

    The optimiser is proximal gradient descent with momentum (FISTA, Beck & Teboulle 2009), restarted when momentum
    leads uphill (O'Donoghue & Candès 2015). For two classes the result equals that of a single weight vector under
    the same penalty.

    Args:
        features: float64 (n, d).
        y: int64 (n,).
        classes: Number of classes.
        inverse_strength: C, above 0.
    """
    n, d = features.shape
    design = torch.cat([features, features.new_ones(n, 1)], dim=1)
    target = F.one_hot(y, classes).to(features)
    penalty = 1 / (inverse_strength * n)
    # The softmax's curvature is at most 1/2, so this step never overshoots.
    step_size = 2 * n / max(float(torch.linalg.matrix_norm(design, 2)) ** 2, 1e-12)
    weights = design.new_zeros(classes, d + 1)
    extrapolated, t = weights, 1.0
    steps = 0
    while steps < MAX_STEPS:
        steps += 1
        gradient = (torch.softmax(design @ extrapolated.T, dim=1) - target).T @ design / n
        new = extrapolated - step_size * gradient
        new[:, :d] = F.softshrink(new[:, :d], step_size * penalty)
        if ((extrapolated - new) * (new - weights)).sum() > 0:
            t, momentum = 1.0, 0.0
        else:
            next_t = (1 + (1 + 4 * t * t) ** 0.5) / 2
            momentum, t = (t - 1) / next_t, next_t
        change = float((new - weights).abs().max())
        extrapolated, weights = new + momentum * (new - weights), new
        if change <= TOLERANCE * max(1.0, float(weights.abs().max())):
            return Layer(weights[:, :d], weights[:, d], steps)
    return Layer(weights[:, :d], weights[:, d], steps, unconverged=1)


def standardise(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each feature, (d,) each; the deviation of a constant feature is 1."""
    std = features.std(0, correction=0)
    return features.mean(0), torch.where(std > 1e-8, std, 1.0)


def unstandardise(layer: Layer, mean: Tensor, std: Tensor) -> Layer:
    """Return the equivalent layer for features that are not standardised."""
    weight = layer.weight / std
    return Layer(weight, layer.bias - weight @ mean, layer.steps, layer.unconverged)


def draw_balanced(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw as many rows of each group as the smallest group has, int64, without replacement."""
    present, counts = np.unique(group, return_counts=True)
    rows = [rng.permutation(np.flatnonzero(group == number))[: counts.min()] for number in present]
    return np.sort(np.concatenate(rows))


def draw_half(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a random half of each group, bool (n,); the larger half if the number is odd."""
    half = np.zeros(len(group), bool)
    for number in np.unique(group):
        rows = rng.permutation(np.flatnonzero(group == number))
        half[rows[: -(-len(rows) // 2)]] = True
    return half


def average_draws(
    features: Tensor, y: np.ndarray, group: np.ndarray, classes: int, inverse_strength: float, draws: int, seed: int,
    scaler: tuple[Tensor, Tensor] | None = None,
) -> Layer:  # fmt: skip
    """Return the mean of the layers fitted to several group-balanced draws.

    Args:
        features: float64 (n, d), not standardised.
        y, group: int64 (n,).
        scaler: Mean and standard deviation, (d,) each, for standardising features; None uses those of the first draw.
    """
    layers = []
    for i in range(draws):
        rows = draw_balanced(group, np.random.default_rng(derive_seed(seed, "dfr", "draw", str(i))))
        mean, std = scaler = scaler or standardise(features[rows])
        scaled = (features[rows] - mean) / std
        layers.append(fit_logistic(scaled, torch.from_numpy(y[rows]), classes, inverse_strength))
    weight = torch.stack([layer.weight for layer in layers]).mean(0)
    bias = torch.stack([layer.bias for layer in layers]).mean(0)
    steps, unconverged = sum(layer.steps for layer in layers), sum(layer.unconverged for layer in layers)
    return unstandardise(Layer(weight, bias, steps, unconverged), mean, std)


def refit(
    features: np.ndarray, y: np.ndarray, group: np.ndarray, classes: int, *, training: np.ndarray, draws: int,
    inverse_strength: float | None, seed: int,
) -> tuple[Layer, dict[str, Any]]:  # fmt: skip
    """Refit the last layer.

    Args:
        features: float (n, d), of validation images.
        y, group: int64 (n,).
        training: float (m, d), features of the training images, whose mean and deviation standardise the final fit.
        draws: Number of draws to average.
        inverse_strength: C. None fits each of `STRENGTHS` to one half of the images and chooses the best on the worst
            group of the other half (ties: the strongest penalty).

    Returns:
        The layer, and facts for the report.
    """
    x, steps = torch.from_numpy(np.asarray(features, np.float64)), 0
    facts: dict[str, Any] = {"draws": draws, "images_a_group": int(np.unique(group, return_counts=True)[1].min())}
    if inverse_strength is None:
        fitting = draw_half(group, np.random.default_rng(derive_seed(seed, "dfr", "halves")))
        held_out = ~fitting if not fitting.all() else fitting
        worst_by_strength = {}
        for strength in STRENGTHS:
            layer = average_draws(x[fitting], y[fitting], group[fitting], classes, strength, 1, seed)
            steps += layer.steps
            predicted = (x[held_out] @ layer.weight.T + layer.bias).argmax(1).numpy()
            by_group = accuracy_by_group(predicted == y[held_out], group[held_out], int(group.max()) + 1)
            worst_by_strength[strength] = worst_group_accuracy(by_group)
        inverse_strength = max(reversed(STRENGTHS), key=worst_by_strength.__getitem__)
        facts["tried"] = [
            {"inverse_strength": strength, "worst_group": worst} for strength, worst in worst_by_strength.items()
        ]
    facts["inverse_strength"] = inverse_strength
    scaler = standardise(torch.from_numpy(np.asarray(training, np.float64)))
    layer = average_draws(x, y, group, classes, inverse_strength, draws, seed, scaler)
    facts["steps"], facts["unconverged_draws"] = steps + layer.steps, layer.unconverged
    facts["features"] = {"used": int((layer.weight.abs().sum(0) > 0).sum()), "of": x.shape[1]}
    return layer, facts
