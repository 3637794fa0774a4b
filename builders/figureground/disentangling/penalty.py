"""Penalties on a part's information about the other label, with the critics that estimate it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from figureground.core.seeding import seed_default_generators
from figureground.recipe.sample import derive_seed


class Batch(NamedTuple):
    """Features of some images, with their labels."""

    foreground: Tensor
    """float32 (n, f): the foreground part of the features."""
    background: Tensor
    """float32 (n, b): the background part."""
    foreground_label: Tensor
    """int64 (n,)."""
    background_label: Tensor
    """int64 (n,)."""

    def sides(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return each part with the *other* label: foreground features with background labels, and the reverse."""
        return (self.foreground, self.background_label), (self.background, self.foreground_label)


class Penalty(nn.Module, ABC):
    """Penalty of the model. Its parameters, if it has some, are critics, which a second optimiser trains."""

    curve_names: ClassVar[tuple[str, str]]
    """Names of the curves of its two values."""
    critic_steps: int = 0
    """Steps of the critics per step of the model; 0 without critics."""
    critic_learning_rate: float = 1e-4
    """Learning rate of Adam for the critics."""

    @abstractmethod
    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the two values that the model minimises, float32 (2,): of foreground and of background features.

        Args:
            batch: Features with gradients, and labels.
            generator: On the CPU; source of all randomness.
        """

    def critic_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return what the critics minimise, a scalar; `batch` has no gradients. Only for penalties with critics."""
        raise NotImplementedError(f"{type(self).__name__} has critics but doesn't implement critic_loss")


def make_network(inputs: int, hidden: int, outputs: int, seed: int, *names: str) -> nn.Sequential:
    """Return a network of two hidden layers, whose random weights depend on the seed and `names` alone."""
    with torch.random.fork_rng():
        seed_default_generators(derive_seed(seed, "critic", *names))
        return nn.Sequential(
            nn.Linear(inputs, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2),
            nn.Linear(hidden, outputs),
        )  # fmt: skip
