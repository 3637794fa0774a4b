"""Normalised HSIC of features and labels (Gretton et al. 2005), also called CKA (Kornblith et al. 2019).

The estimator is that of Song et al. (2012), which is unbiased on a batch; the usual one would be positive for
independent variables, the more so the smaller the batch.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from figureground.disentangling.penalty import Batch, Penalty

MIN_IMAGES = 4
"""Least number of images for which the estimator is defined."""


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """Return the unbiased estimate of HSIC from two kernel matrices, a scalar (Song et al. 2012, equation 5).

    Args:
        first, second: Kernel matrices, (n, n), n at least `MIN_IMAGES`; their diagonals are not used.
    """
    n = len(first)
    if n < MIN_IMAGES:
        raise ValueError(f"HSIC needs at least {MIN_IMAGES} images.")
    off_diagonal = 1 - torch.eye(n, dtype=first.dtype, device=first.device)
    k, m = first * off_diagonal, second * off_diagonal
    products = (k * m).sum()
    rows = (k.sum(0) * m.sum(0)).sum()
    return (products + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3))


def gaussian_kernel(features: Tensor) -> Tensor:
    """Return exp(−‖x − y‖² / 2σ²), (n, n), where σ is the median distance of the images; it has no gradient."""
    squares = features.square().sum(1)
    distance = (squares[:, None] + squares[None] - 2 * features @ features.T).clamp_min(0)
    n = len(features)
    upper = torch.triu_indices(n, n, 1, device=features.device)
    width = distance.detach()[upper[0], upper[1]].median().clamp_min(1e-12)
    return torch.exp(-distance / (2 * width))


def cka(first: Tensor, second: Tensor) -> Tensor:
    """Return HSIC normalised by that of each variable with itself, a scalar: about 0 if independent, at most about 1.

    Args:
        first, second: Kernel matrices, (n, n).
    """
    norm = (hsic(first, first) * hsic(second, second)).clamp_min(1e-12)
    return hsic(first, second) / norm.sqrt()


class Independence(Penalty):
    """Normalised HSIC of each part of the features, with a Gaussian kernel, and the other label, one-hot.

    Args:
        classes: Number of foreground labels and of background labels.
    """

    curve_names: ClassVar[tuple[str, str]] = ("hsic_foreground", "hsic_background")

    def __init__(self, classes: tuple[int, int]):
        super().__init__()
        self._classes = (classes[1], classes[0])

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        values = []
        for (features, label), count in zip(batch.sides(), self._classes, strict=True):
            one_hot = F.one_hot(label, count).to(features)
            values.append(cka(gaussian_kernel(features), one_hot @ one_hot.T))
        return torch.stack(values)
