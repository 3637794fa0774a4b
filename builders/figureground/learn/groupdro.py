"""GroupDRO: groups with a large loss get a larger weight (Sagawa et al. 2020, arXiv 1911.08731)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

MIN_WEIGHT = 1e-300
"""Smallest weight of a group with images. Rounded to 0, it could never rise again, whatever the group's loss."""


def raise_weights(q: Tensor, losses: Tensor, step_size: float) -> Tensor:
    """Take one step of exponentiated gradient ascent: q_g ∝ q_g · exp(η · loss_g), Algorithm 1.

    Args:
        q: float64 (groups,), 0 for groups without images; the entries add up to 1.
        losses: float64 (groups,), adjusted. A group without images in the batch has the loss 0 plus its adjustment,
            as in the authors' code, because the adjustment depends on the training set, not on the batch.
        step_size: η.
    """
    scaled = q * torch.exp(step_size * (losses - losses[q > 0].max()))
    raised = torch.where(q > 0, scaled / scaled[q > 0].sum(), 0)
    return torch.where(q > 0, raised.clamp_min(MIN_WEIGHT), 0)


def average_by_group(losses: Tensor, group: Tensor, weights: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return the weighted mean loss of each group, (groups,), 0 if absent; and whether it is present, bool (groups,).

    Args:
        losses: (n,).
        group: int64 (n,).
        weights: (n,), 0 or more.
    """
    totals = weights.new_zeros(groups).index_add(0, group, weights)
    sums = losses.new_zeros(groups).index_add(0, group, losses * weights)
    present = totals > 0
    return torch.where(present, sums / torch.where(present, totals, 1), 0), present


class GroupDRO:
    """The loss of GroupDRO, with the groups' weights q as its state.

    Args:
        group: int64 (n,): group of each training image.
        weights: float64 (n,): weight of each image within its group.
        counts: int64 (groups,): training images per group; empty groups are ignored.
        step_size: η.
        adjustment: C: C/√n is added to a group's loss for the update of q (Section 3.3).
    """

    def __init__(
        self, group: np.ndarray, weights: np.ndarray, counts: np.ndarray, step_size: float, adjustment: float,
        device: torch.device | None = None,
    ):  # fmt: skip
        self._group = torch.from_numpy(group).to(device)
        self._weights = torch.from_numpy(weights).to(device, torch.float32)
        present = torch.from_numpy(counts > 0)
        self.q = present.double() / present.sum()
        """float64 (groups,), on the CPU: weight of each group."""
        bonus = adjustment / np.sqrt(np.maximum(counts, 1))
        self._bonus = torch.from_numpy(np.where(counts > 0, bonus, 0.0))
        self._step_size = step_size

    def __call__(self, losses: Tensor, rows: Tensor) -> Tensor:
        """Update q and return the batch's loss, Σ q_g · loss_g over its groups.

        Args:
            losses: (b,), of the images at `rows` of the training split.
        """
        means, present = average_by_group(losses, self._group[rows], self._weights[rows], len(self.q))
        if not present.any():  # all images in the batch have the weight 0
            return losses.sum() * 0
        with torch.no_grad():
            adjusted = means.cpu().double() + self._bonus
            self.q = raise_weights(self.q, adjusted, self._step_size)
        return (self.q.to(means) * means).sum()

    def state(self) -> Any:
        return self.q.tolist()

    def restore(self, state: Any) -> None:
        self.q = torch.tensor(state, dtype=torch.float64)
