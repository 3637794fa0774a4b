"""Epochs of a training: their results, the stages that they form, and which of them is chosen on validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from figureground.learn.settings import AVERAGE, LAST, WORST_CLASS, WORST_GROUP


@dataclass(frozen=True)
class Epoch:
    """Results of an epoch."""

    epoch: int
    """From 1."""
    steps: int
    """Optimiser steps since training began."""
    loss: float
    """Mean of the method's objective over the training steps."""
    average: float | None
    """Average validation accuracy, 0 to 1. This and all fields below are None if validation was not evaluated."""
    worst: float | None
    """Validation accuracy of the worst group, or of the worst class if there are no groups."""
    validation_loss: float | None = None
    """Unweighted mean cross-entropy on validation; None in trainings that predate this field."""
    worst_class: float | None = None
    """Validation accuracy of the worst class; None in trainings that predate this field."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of a training, with its own optimiser and schedule."""

    rows: np.ndarray
    """int64 (n,): the training images used."""
    epochs: int
    """Number of epochs; the learning rate reaches 0 at the end."""


@dataclass(frozen=True, eq=False)
class Best:
    """The best epoch so far according to one rule."""

    score: tuple[float, float]
    """An accuracy, and a second one that breaks ties."""
    epoch: int
    """From 1."""
    weights: dict[str, Tensor]
    """Weights of the network, on the CPU."""


def score_epoch(rule: str, epoch: Epoch) -> tuple[float, float]:
    """Return the score of an evaluated epoch under a rule. The largest score is chosen; ties go to the first epoch.

    Rules that don't use groups don't use them to break ties either.

    Args:
        rule: One of `settings.RULES`.
    """
    if epoch.average is None or epoch.worst is None:
        raise ValueError(f"Epoch {epoch.epoch} was not evaluated.")
    if rule == LAST:
        return float(epoch.epoch), 0.0
    worst_class = epoch.worst_class or 0.0
    return {
        WORST_GROUP: (epoch.worst, epoch.average), WORST_CLASS: (worst_class, epoch.average),
        AVERAGE: (epoch.average, worst_class),
    }[rule]  # fmt: skip
