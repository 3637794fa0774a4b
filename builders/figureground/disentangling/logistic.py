"""Multinomial logistic regression with an ℓ2 penalty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_STEPS = 200
"""Maximum number of iterations of L-BFGS."""


class Linear(NamedTuple):
    """A linear classifier: logits = features @ weight.T + bias."""

    weight: Tensor
    """float64 (classes, d)."""
    bias: Tensor
    """float64 (classes,)."""

    def __call__(self, features: Tensor) -> Tensor:
        """Return logits, float64 (n, classes)."""
        return features.to(self.weight) @ self.weight.T + self.bias


def fit_logistic(features: Tensor, label: Tensor, classes: int, inverse_strength: float = 1.0) -> Linear:
    """Fit by L-BFGS: minimise ‖w‖² / 2 + C · Σ cross-entropy on standardised features, without a penalty on the bias.

    The returned classifier is for the features as given. Constant features get the weight 0.

    Args:
        features: float (n, d).
        label: int64 (n,).
        classes: Number of classes.
        inverse_strength: C, above 0.
    """
    x = features.double()
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 1e-9 * x.abs().amax(0).clamp_min(1e-30), std, torch.inf)
    x = (x - mean) / std
    n, d = x.shape
    weight, bias = x.new_zeros(classes, d, requires_grad=True), x.new_zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_STEPS, tolerance_grad=1e-7, tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), label) + weight.square().sum() / (2 * inverse_strength * n)
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    scaled = weight.detach() / std
    return Linear(scaled, bias.detach() - scaled @ mean)
