"""The training of separated features: both labels are learned from their parts, and a penalty keeps them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from figureground.core.seeding import make_generator, seed_default_generators
from figureground.disentangling.parts import Parting
from figureground.disentangling.penalty import Batch, Penalty
from figureground.disentangling.sources import Source
from figureground.learn.schedule import draw_in_passes, schedule
from figureground.recipe.sample import derive_seed

MAX_GRADIENT_NORM = 5.0
"""Gradients of the model are clipped to this norm."""


class Heads(nn.Module):
    """A linear classifier of each label, on its part of the features; initial weights depend on the seed alone.

    Args:
        widths: Dimensions of the foreground part and of the background part.
        classes: Number of foreground labels and of background labels.
    """

    def __init__(self, widths: tuple[int, int], classes: tuple[int, int], seed: int):
        super().__init__()
        with torch.random.fork_rng():
            seed_default_generators(derive_seed(seed, "heads"))
            self.foreground = nn.Linear(widths[0], classes[0])
            self.background = nn.Linear(widths[1], classes[1])


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Training images with their labels; photographs have a foreground label only."""

    images: np.ndarray
    """int64 (n,): positions in the source."""
    foreground: np.ndarray
    """int64 (n,): label of each of these images."""
    background: np.ndarray
    """int64 (n,)."""
    photographs: np.ndarray
    """int64 (m,): positions in the source; may be empty."""
    photograph_labels: np.ndarray
    """int64 (m,): their foreground labels."""


@dataclass(frozen=True)
class TrainingSchedule:
    """How long and how fast a training is."""

    steps: int
    """Steps of the model."""
    label_steps: int
    """First steps, without the penalty."""
    batch_size: int
    photographs_per_step: int
    learning_rate: float
    weight_decay: float
    penalty: float
    """Weight λ of the penalty."""


@dataclass(eq=False)
class SeparationLearner:
    """A learner of `training.loop`: the loss is CE(foreground) + CE(background) + λ · penalty.

    Photographs enter the first term only. In the first `label_steps` there is no penalty, and critics aren't trained.
    From then on, the critics take `critic_steps` steps on images of their own before each step of the model. A step
    depends on its number and the state alone, so a resumed run is that of an uninterrupted one.

    Args:
        purpose: Name of the training; with the seed it determines all randomness.
    """

    source: Source
    parting: Parting
    heads: Heads
    penalty: Penalty | None
    rows: TrainingRows
    schedule: TrainingSchedule
    seed: int
    purpose: str
    device: torch.device
    _solver: torch.optim.Optimizer = field(init=False)
    _critics: torch.optim.Optimizer | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        modules = (self.source.trained_network, self.parting, self.heads)
        self._modules = [module for module in modules if module is not None]
        for module in (*self._modules, *([] if self.penalty is None else [self.penalty])):
            module.to(self.device)
        self._parameters = list(chain.from_iterable(module.parameters() for module in self._modules))
        self._solver = torch.optim.AdamW(
            self._parameters, lr=self.schedule.learning_rate, weight_decay=self.schedule.weight_decay
        )
        if self.penalty is not None and self.penalty.critic_steps:
            self._critics = torch.optim.Adam(
                self.penalty.parameters(), lr=self.penalty.critic_learning_rate, betas=(0.5, 0.9)
            )

    @property
    def curve_names(self) -> Sequence[str]:
        """Names of the values that a step returns; of a step without penalty, those of the penalty are 0."""
        penalty = () if self.penalty is None else self.penalty.curve_names
        critics = ("critics",) if self._critics else ()
        return ("foreground", "background", *penalty, *critics)

    def step(self, number: int) -> Tensor:
        """Take the step with that number, from 0; return its values."""
        for module in self._modules:
            module.train()
        seed_default_generators(self._derive_seed("dropout", number))
        is_penalised = self.penalty is not None and self.schedule.penalty > 0 and number >= self.schedule.label_steps
        critics = self._train_critics(number) if is_penalised and self._critics else None
        for group in self._solver.param_groups:
            group["lr"] = self.schedule.learning_rate * schedule(number, self.schedule.steps)
        size = self.schedule.batch_size
        rows = self._draw_rows("order", len(self.rows.images), number * size, size)
        photograph_rows = self._draw_photographs(number)
        batch, photograph_features, photograph_labels = self._read_batch(rows, photograph_rows, f"step {number}")
        logits = self.heads.foreground(torch.cat([batch.foreground, photograph_features]))
        foreground_loss = F.cross_entropy(logits, torch.cat([batch.foreground_label, photograph_labels]))
        background_loss = F.cross_entropy(self.heads.background(batch.background), batch.background_label)
        loss, values = foreground_loss + background_loss, [foreground_loss, background_loss]
        if self.penalty is not None:
            penalties = foreground_loss.new_zeros(2)
            if is_penalised:
                penalties = self.penalty(batch, make_generator(self._derive_seed("penalty", number)))
                loss = loss + self.schedule.penalty * penalties.sum()
            values += [
                *penalties,
                *([foreground_loss.new_zeros(()) if critics is None else critics] if self._critics else []),
            ]
        self._solver.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        self._solver.step()
        return torch.stack([value.detach() for value in values])

    def _train_critics(self, number: int) -> Tensor:
        """Take the critics' steps before a step of the model; return the mean of their losses."""
        assert self.penalty is not None
        assert self._critics is not None
        size, count = self.schedule.batch_size, self.penalty.critic_steps
        losses = []
        for i in range(count):
            position = number * count + i
            rows = self._draw_rows("critics", len(self.rows.images), position * size, size)
            with torch.no_grad():
                batch, _, _ = self._read_batch(rows, np.zeros(0, np.int64), f"critics {position}")
            loss = self.penalty.critic_loss(batch, make_generator(self._derive_seed("critics' noise", position)))
            self._critics.zero_grad(set_to_none=True)
            loss.backward()
            self._critics.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def _read_batch(
        self, image_rows: np.ndarray, photograph_rows: np.ndarray, draw: str
    ) -> tuple[Batch, Tensor, Tensor]:
        """Return a batch, and the foreground part and labels of the photographs beside it."""
        images = np.concatenate([self.rows.images[image_rows], self.rows.photographs[photograph_rows]])
        foreground, background = self.parting(self.source.features(images, draw))
        n = len(image_rows)
        batch = Batch(
            foreground[:n], background[:n], self._to_device(self.rows.foreground[image_rows]),
            self._to_device(self.rows.background[image_rows]),
        )  # fmt: skip
        return batch, foreground[n:], self._to_device(self.rows.photograph_labels[photograph_rows])

    def _to_device(self, labels: np.ndarray) -> Tensor:
        return torch.from_numpy(labels).to(self.device)

    def _draw_photographs(self, number: int) -> np.ndarray:
        count = self.schedule.photographs_per_step if len(self.rows.photographs) else 0
        if not count:
            return np.zeros(0, np.int64)
        return self._draw_rows("photographs", len(self.rows.photographs), number * count, count)

    def _draw_rows(self, name: str, n: int, start: int, count: int) -> np.ndarray:
        return draw_in_passes(n, start, count, lambda i: np.random.default_rng(self._derive_seed(name, i)))

    def _derive_seed(self, name: str, number: int) -> int:
        return derive_seed(self.seed, "disentangle", self.purpose, name, str(number))

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of the last step, for reports."""
        return {"learning_rate": self._solver.param_groups[0]["lr"]}

    # State

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        state: dict[str, Any] = {f"module{i}": module.state_dict() for i, module in enumerate(self._modules)}
        state["solver"] = self._solver.state_dict()
        if self.penalty is not None:
            state["penalty"] = self.penalty.state_dict()
        if self._critics is not None:
            state["critics"] = self._critics.state_dict()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state`."""
        for i, module in enumerate(self._modules):
            module.load_state_dict(state[f"module{i}"])
        self._solver.load_state_dict(state["solver"])
        if self.penalty is not None:
            self.penalty.load_state_dict(state["penalty"])
        if self._critics is not None:
            self._critics.load_state_dict(state["critics"])
