"""Objectives of training: how the losses of a batch become one."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Objective(Protocol):
    """Combines the losses of a batch into one."""

    def __call__(self, losses: Tensor, rows: Tensor) -> Tensor:
        """Return a scalar from the losses (b,) of the images at `rows` of the training split."""

    def state(self) -> Any:
        """Return the learned state, JSON-serialisable."""

    def restore(self, state: Any) -> None:
        """Load a state returned by `state`."""


class WeightedMean:
    """Empirical risk: the weighted mean of the losses.

    Args:
        weights: float64 (n,), one weight per image of the training split.
    """

    def __init__(self, weights: np.ndarray, device: torch.device):
        self._weights = torch.from_numpy(weights).to(device, torch.float32)

    def __call__(self, losses: Tensor, rows: Tensor) -> Tensor:
        return (losses * self._weights[rows]).mean()

    def state(self) -> Any:
        return None

    def restore(self, state: Any) -> None:
        """Do nothing; there is no state."""
