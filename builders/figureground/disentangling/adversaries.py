"""Adversaries that predict the other label from a part of the features (Ganin et al. 2016, arXiv 1505.07818)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from figureground.disentangling.penalty import Batch, Penalty, make_network
from figureground.disentangling.separator import Shape

SMOOTHING = 0.1
"""Label smoothing of the adversaries' own loss. An adversary that is certain gives the model no gradient to follow."""


class Adversaries(Penalty):
    """Two classifiers of the other label. The model receives the reversed gradient of their cross-entropies.

    Unlike in the original, the adversaries take several steps to one of the model: an adversary that lags behind fails
    on features from which another classifier could still predict the label.

    Args:
        shape: Sizes of the parts and numbers of labels.
        hidden: Units of each hidden layer of an adversary.
        seed: Of initial weights.
    """

    curve_names: ClassVar[tuple[str, str]] = ("reversed_foreground", "reversed_background")

    def __init__(self, shape: Shape, *, hidden: int, critic_steps: int, critic_learning_rate: float, seed: int):
        super().__init__()
        self.critic_steps, self.critic_learning_rate = critic_steps, critic_learning_rate
        self.critics = nn.ModuleList(
            make_network(width, hidden, count, seed, part)
            for width, count, part in zip(
                shape.widths, reversed(shape.classes), ("foreground", "background"), strict=True
            )
        )

    def _losses(self, batch: Batch, smoothing: float) -> Tensor:
        sides = zip(self.critics, batch.sides(), strict=True)
        return torch.stack([
            F.cross_entropy(critic(features), label, label_smoothing=smoothing)
            for critic, (features, label) in sides
        ])  # fmt: skip

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        return -self._losses(batch, 0.0)

    def critic_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        return self._losses(batch, SMOOTHING).sum()
