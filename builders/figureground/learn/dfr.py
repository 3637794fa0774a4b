"""DFR, deep feature reweighting: the last layer is fitted again to group-balanced data (Kirichenko et al. 2023).

ERM learns the features that it takes, and weighs them wrongly (arXiv 2204.02937). So the last layer alone is fitted
again, by ℓ1-regularised logistic regression on standardised features of validation images, as many of each group;
several draws are averaged. As in the authors' code, the final fit standardises by mean and deviation of the *training*
features, and the choice of the penalty by those of the images that are fitted.

Two things differ from that code: the bias has no penalty (liblinear penalises it), and the halves between which the
penalty is chosen are drawn within each group.
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
"""Inverse strengths C among which one is chosen, as in the paper."""
MOST_STEPS = 5000
TOLERANCE = 1e-7
"""Of the change of a weight in a step, relative to the largest weight."""


class Layer(NamedTuple):
    """A linear layer: logits = features @ weight.T + bias."""

    weight: Tensor
    """float64 (classes, d)."""
    bias: Tensor
    """float64 (classes,)."""
    steps: int = 0
    """Proximal gradient steps that fitting it took, of all draws together."""


def fit_logistic(features: Tensor, y: Tensor, classes: int, inverse_strength: float) -> Layer:
    """ℓ1-regularised logistic regression: minimises ‖w‖₁ + C · Σ cross-entropy, the bias without penalty.

    Proximal gradient steps with momentum (FISTA, Beck & Teboulle 2009), which begins anew where it leads uphill
    (O'Donoghue & Candès 2015). Of two classes it is what a single weight vector gives under the same penalty.

    Args:
        features: float64 (n, d).
        y: int64 (n,).
        classes: How many there are.
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
    """Mean and standard deviation of each feature, (d,); a feature that is constant has 1."""
    std = features.std(0, correction=0)
    return features.mean(0), torch.where(std > 1e-8, std, 1.0)


def unstandardised(layer: Layer, mean: Tensor, std: Tensor) -> Layer:
    """The same layer for features as they were before mean and deviation were taken off."""
    weight = layer.weight / std
    return Layer(weight, layer.bias - weight @ mean, layer.steps)


def draw_balanced(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of as many images of each group as the smallest has, int64, without repetition."""
    there, counts = np.unique(group, return_counts=True)
    rows = [rng.permutation(np.flatnonzero(group == each))[: counts.min()] for each in there]
    return np.sort(np.concatenate(rows))


def halves(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool (n,): a random half of each group, the larger one where the number is odd."""
    first = np.zeros(len(group), bool)
    for each in np.unique(group):
        rows = rng.permutation(np.flatnonzero(group == each))
        first[rows[: -(-len(rows) // 2)]] = True
    return first


def average_draws(
    features: Tensor, y: np.ndarray, group: np.ndarray, classes: int, inverse_strength: float, draws: int, seed: int,
    scaler: tuple[Tensor, Tensor] | None = None,
) -> Layer:  # fmt: skip
    """Return the mean of the layers that are fitted to several group-balanced draws.

    Args:
        features: float64 (n, d), as the network gives them.
        y, group: int64 (n,).
        scaler: Mean and standard deviation, (d,) each, by which features are standardised; None takes those of the
            first draw.
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
    """Fits the last layer again.

    Args:
        features: float (n, d), of validation images.
        y, group: int64 (n,).
        training: float (m, d), features of the training images, whose mean and deviation standardise the final fit.
        draws: How many are averaged.
        inverse_strength: C; None chooses the one of `STRENGTHS` that does best on the worst group of one half of the
            images when it is fitted to the other; of equal ones the strongest penalty.

    Returns:
        The layer, and what is to be told of it.
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
