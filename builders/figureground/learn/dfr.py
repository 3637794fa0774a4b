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

from figureground.data.groups import accuracy_by_group, worst_group_accuracy
from figureground.recipe.sample import derive_seed

STRENGTHS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
"""Candidate inverse strengths C, as in the paper."""
MOST_STEPS = 5000
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
    step = 2 * n / max(float(torch.linalg.matrix_norm(design, 2)) ** 2, 1e-12)
    now = design.new_zeros(classes, d + 1)
    ahead, t = now, 1.0
    taken = 0
    while taken < MOST_STEPS:
        taken += 1
        gradient = (torch.softmax(design @ ahead.T, dim=1) - target).T @ design / n
        new = ahead - step * gradient
        new[:, :d] = F.softshrink(new[:, :d], step * penalty)
        if ((ahead - new) * (new - now)).sum() > 0:
            t, ahead_of = 1.0, 0.0
        else:
            following = (1 + (1 + 4 * t * t) ** 0.5) / 2
            ahead_of, t = (t - 1) / following, following
        moved = float((new - now).abs().max())
        ahead, now = new + ahead_of * (new - now), new
        if moved <= TOLERANCE * max(1.0, float(now.abs().max())):
            break
    return Layer(now[:, :d], now[:, d], taken)


def standardise(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each feature, (d,) each; the deviation of a constant feature is 1."""
    std = features.std(0, correction=0)
    return features.mean(0), torch.where(std > 1e-8, std, 1.0)


def unstandardised(layer: Layer, mean: Tensor, std: Tensor) -> Layer:
    """Return the equivalent layer for features that are not standardised."""
    weight = layer.weight / std
    return Layer(weight, layer.bias - weight @ mean, layer.steps)


def draw_balanced(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw as many rows of each group as the smallest group has, int64, without replacement."""
    there, counts = np.unique(group, return_counts=True)
    rows = [rng.permutation(np.flatnonzero(group == each))[: counts.min()] for each in there]
    return np.sort(np.concatenate(rows))


def halves(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a random half of each group, bool (n,); the larger half if the number is odd."""
    first = np.zeros(len(group), bool)
    for each in np.unique(group):
        rows = rng.permutation(np.flatnonzero(group == each))
        first[rows[: -(-len(rows) // 2)]] = True
    return first


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
        drawn = (features[rows] - mean) / std
        layers.append(fit_logistic(drawn, torch.from_numpy(y[rows]), classes, inverse_strength))
    weight = torch.stack([layer.weight for layer in layers]).mean(0)
    bias = torch.stack([layer.bias for layer in layers]).mean(0)
    return unstandardised(Layer(weight, bias, sum(layer.steps for layer in layers)), mean, std)


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
    given, spent = torch.from_numpy(np.asarray(features, np.float64)), 0
    told: dict[str, Any] = {"draws": draws, "images_a_group": int(np.unique(group, return_counts=True)[1].min())}
    if inverse_strength is None:
        first = halves(group, np.random.default_rng(derive_seed(seed, "dfr", "halves")))
        other = ~first if not first.all() else first
        tried = {}
        for strength in STRENGTHS:
            layer = average_draws(given[first], y[first], group[first], classes, strength, 1, seed)
            spent += layer.steps
            said = (given[other] @ layer.weight.T + layer.bias).argmax(1).numpy()
            by_group = accuracy_by_group(said == y[other], group[other], int(group.max()) + 1)
            tried[strength] = worst_group_accuracy(by_group)
        inverse_strength = max(reversed(STRENGTHS), key=tried.__getitem__)
        told["tried"] = [{"inverse_strength": strength, "worst_group": worst} for strength, worst in tried.items()]
    told["inverse_strength"] = inverse_strength
    scaler = standardise(torch.from_numpy(np.asarray(training, np.float64)))
    layer = average_draws(given, y, group, classes, inverse_strength, draws, seed, scaler)
    told["steps"] = spent + layer.steps
    told["features"] = {"used": int((layer.weight.abs().sum(0) > 0).sum()), "of": given.shape[1]}
    return layer, told
