"""The training loop of all methods: epochs over weighted images, one of which is chosen on validation.

By default, added images add no optimiser steps, so that their benefit isn't confounded with that of longer training. An
epoch has as many steps as a pass over the real images. Real and added images are drawn from one stream, in which every
image comes up equally often. Training in stages, such as added images first and then real ones, is a sequence of
trainings with the same total number of steps.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from figureground.core import signals
from figureground.core.errors import FiguregroundError
from figureground.core.progress import Progress
from figureground.core.seeding import seed_default_generators
from figureground.data.groups import accuracy_by_group, worst_group_accuracy
from figureground.learn.augmentation import crop_and_mirror
from figureground.learn.backbones import Backbone
from figureground.learn.settings import AVERAGE, LAST, WORST_CLASS, WORST_GROUP, Training
from figureground.learn.training_data import Part, TrainingData
from figureground.recipe.sample import derive_seed
from figureground.training.state import read_state, save_state, saved_threads

WARMUP = 0.05
"""Share of the steps in which the learning rate rises; then it falls to 0 along a cosine."""
MAX_GRADIENT_NORM = 1.0
"""Gradients are clipped to this norm, so that an image with a large weight doesn't destabilise training."""
JUDGED = 64
"""Batch size for evaluation."""


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


@dataclass(eq=False)
class Fit:
    """One training of one network.

    Args:
        purpose: Name of the training; together with the seed it determines all randomness.
        objective: The method's objective.
        chances: float64 (n,), sampling probability of each image, with replacement; None draws all images equally
            often, in passes.
        stages: Consecutive stages; by default one stage with all images and the settings' epochs.
        epochs: Number of epochs after which training stops; the learning rate falls as if training continued to the
            end of the last stage.
        rules: One or more names of `settings.RULES`, each of which chooses an epoch of the last stage.
        state: File to which the state is saved after each epoch.
        made_with: Versions and inputs that a saved state must match.
    """

    backbone: Backbone
    material: TrainingData
    settings: Training
    seed: int
    purpose: str
    objective: Objective
    epochs: int
    rules: Sequence[str]
    device: torch.device
    workers: int
    state: Path
    made_with: dict[str, Any]
    chances: np.ndarray | None = None
    show_progress: bool = True
    stages: Sequence[Stage] = ()
    curve: list[Epoch] = field(default_factory=list)
    _best: dict[str, Best] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stages = self.stages or (Stage(np.arange(len(self.material.train)), self.settings.epochs),)
        self._begins = np.cumsum([0, *(stage.epochs for stage in self.stages)])[:-1].tolist()
        self.made_with = {**self.made_with, "select": list(self.rules)}

    @property
    def images_per_epoch(self) -> int:
        """Number of images per epoch: the number of real images or, with `add_steps`, of all images."""
        added = 0 if self.settings.add_steps else int(self.material.added.sum())
        return len(self.material.train) - added

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch."""
        return math.ceil(self.images_per_epoch / self.settings.batch_size)

    def run(self) -> int:
        """Train to the end, or resume. Load the epoch chosen by the first rule into the network and return its number,
        from 1.

        Raises:
            FiguregroundError: A loss isn't finite, or the state is damaged.
            Stopped: A signal requested a stop. Finished epochs are kept.
        """
        self.backbone.network.to(self.device)
        self._rate = self.settings.learning_rate or (1e-4 if self.backbone.pretrained else 1e-3)
        self._optimizer = self._new_optimizer()
        self._restore()
        batches = self.steps_per_epoch
        total, done = batches * self.epochs, batches * len(self.curve)
        what = f"{self.settings.method} seed {self.seed}" + (f", {self.purpose}" if self.purpose != "main" else "")
        with Progress(total, initial=done, unit="step", desc=what, show=self.show_progress) as bar:
            while len(self.curve) < self.epochs:
                self._epoch(len(self.curve), batches, bar)
                self._save()
        return self.take(self.rules[0])

    def take(self, rule: str) -> int:
        """Load the weights of the epoch chosen by a rule into the network, after `run`, and return it, from 1."""
        best = self._best[rule]
        self.backbone.network.load_state_dict(best.weights)
        self.backbone.network.eval()
        return best.epoch

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.backbone.network.parameters(), lr=self._rate, weight_decay=self.settings.weight_decay
        )

    def _stage(self, epoch: int) -> int:
        """Return the index of an epoch's stage, from 0."""
        return max(i for i, begin in enumerate(self._begins) if begin <= epoch)

    def _epoch(self, epoch: int, batches: int, bar: Progress) -> None:
        material, train = self.material, self.material.train
        stage = self._stage(epoch)
        begin, total = self._begins[stage], batches * self.stages[stage].epochs
        if epoch == begin:
            self._optimizer = self._new_optimizer()
        seed_default_generators(self._random("dropout", epoch))
        parts = np.array_split(self._rows(epoch), batches)  # nearly equal sizes: batch norm needs more than one image
        prepare = functools.partial(self._augmented, epoch) if self.settings.augment else as_array
        self.backbone.network.train()
        losses = []
        for step, (part, images) in enumerate(
            zip(parts, train.album.batches(parts, prepare, self.workers), strict=True), (epoch - begin) * batches
        ):
            signals.check()
            losses.append(self._step(part, images, step, total))
            if not math.isfinite(losses[-1]):
                raise FiguregroundError(
                    f"The loss is {losses[-1]} in epoch {epoch + 1} of seed {self.seed}. Lower --learning-rate "
                    f"({self._rate:g}), or look for a damaged backbone."
                )
            bar.update()
        told = Epoch(epoch + 1, batches * (epoch + 1), float(np.mean(losses)), None, None)
        if (epoch + 1) % self.settings.validate_every == 0 or epoch + 1 == self.epochs:
            answers = read(self.backbone, material.validation, self.device, self.workers)
            told = dataclasses.replace(told, **self._judge(answers))
            if stage == len(self.stages) - 1:
                self._compare(told)
            bar.set_postfix(loss=f"{told.loss:.3f}", worst=f"{100 * (told.worst or 0):.1f}%", refresh=False)
        self.curve.append(told)

    def _judge(self, answers: np.ndarray) -> dict[str, Any]:
        """Return the fields of `Epoch` computed on validation."""
        validation, predicted = self.material.validation, answers.argmax(axis=1)
        average, worst = judge(predicted, validation, len(self.material.group_names))
        by_class = accuracy_by_group(predicted == validation.y, validation.y, len(self.material.classes))
        return {
            "average": average, "worst": worst, "worst_class": worst_group_accuracy(by_class),
            "validation_loss": mean_cross_entropy(answers, validation.y),
        }  # fmt: skip

    def _compare(self, told: Epoch) -> None:
        """Keep the weights for each rule under which this epoch is the best so far; all rules share one copy."""
        better = [
            rule
            for rule in self.rules
            if rule not in self._best or score_epoch(rule, told) > self._best[rule].score
        ]  # fmt: skip
        if better:
            state = self.backbone.network.state_dict()
            weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
            self._best |= {rule: Best(score_epoch(rule, told), told.epoch, weights) for rule in better}

    def _rows(self, epoch: int) -> np.ndarray:
        """Return an epoch's training images, int64 (images_per_epoch,), in training order."""
        n, size = len(self.material.train), self.images_per_epoch
        if self.chances is not None:
            return np.random.default_rng(self._random("order", epoch)).choice(n, size, p=self.chances)
        stage = self._stage(epoch)
        rows, order = self.stages[stage].rows, f"order {stage}" if stage else "order"
        places = in_passes(
            len(rows), (epoch - self._begins[stage]) * size, size,
            lambda i: np.random.default_rng(self._random(order, i)),
        )  # fmt: skip
        return rows[places]

    def _step(self, rows: np.ndarray, images: Sequence[np.ndarray], step: int, total: int) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * schedule(step, total)
        if self.settings.augment:  # crops already have the network's input size
            prepared = self.backbone.normalise(torch.from_numpy(np.stack(images)), self.device)
        else:
            prepared = _prepared(self.backbone, images, self.device)
        logits = self.backbone.logits(prepared)
        y = torch.from_numpy(self.material.train.y[rows]).to(self.device)
        losses = F.cross_entropy(logits, y, reduction="none")
        loss = self.objective(losses, torch.from_numpy(rows).to(self.device))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.backbone.network.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()
        return float(loss.detach())

    def _augmented(self, epoch: int, image: Image.Image, place: int) -> np.ndarray:
        rng = np.random.default_rng(derive_seed(self.seed, self.purpose, "augment", str(epoch), str(place)))
        return as_array(crop_and_mirror(image, self.backbone.size, rng), place)

    def _random(self, what: str, epoch: int) -> int:
        return derive_seed(self.seed, self.purpose, what, str(epoch))

    # Saving and resuming

    def _save(self) -> None:
        save_state(self.state, {
            "network": self.backbone.network.state_dict(), "optimizer": self._optimizer.state_dict(),
            "best": {rule: [list(best.score), best.epoch, best.weights] for rule, best in self._best.items()},
            "curve": [list(dataclasses.astuple(each)) for each in self.curve],
            "objective": json.dumps(self.objective.state()), "made_with": json.dumps(self.made_with),
            "threads": torch.get_num_threads(),
        })  # fmt: skip

    def _restore(self) -> None:
        threads = saved_threads(self.state) if self.device.type == "cpu" else None
        if threads:
            torch.set_num_threads(threads)  # the rounding of sums depends on how threads split them
        state = read_state(self.state, self.made_with, self.device)
        if state is None:
            return
        self.backbone.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = {
            rule: Best((score[0], score[1]), epoch, {name: tensor.cpu() for name, tensor in weights.items()})
            for rule, (score, epoch, weights) in state["best"].items()
        }
        self.curve[:] = [Epoch(int(row[0]), int(row[1]), *row[2:]) for row in state["curve"]]
        self.objective.restore(json.loads(state["objective"]))


def in_passes(n: int, start: int, count: int, rng: Callable[[int], np.random.Generator]) -> np.ndarray:
    """Return a part of an endless stream of rows, int64 (count,). The stream is a sequence of permutations of
    0 to n − 1, so after any number of draws the counts of two rows differ by at most one.

    Args:
        n: Number of rows, 1 or more.
        start: Position in the stream where the part begins, from 0.
        count: Length of the part, 1 or more.
        rng: Returns the generator of the i-th pass, from 0.
    """
    first, last = start // n, (start + count - 1) // n
    rows = np.concatenate([rng(i).permutation(n) for i in range(first, last + 1)])
    return rows[start - first * n :][:count]


def schedule(step: int, total: int) -> float:
    """Return the learning rate relative to its maximum: rising for `WARMUP` of the steps, then falling along a cosine.

    Args:
        step: From 0 to total − 1.
    """
    warmup = max(1, round(WARMUP * total))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def as_array(image: Image.Image, place: int) -> np.ndarray:
    """Return an image as uint8 (3, h, w)."""
    return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def _prepared(backbone: Backbone, images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Return the network's input for images that may differ in size."""
    if len({image.shape for image in images}) == 1:
        return backbone.prepare(torch.from_numpy(np.stack(images)), device)
    return torch.cat([backbone.prepare(torch.from_numpy(image)[None], device) for image in images])


Reader = Callable[[Tensor], Tensor]
"""Maps the network's input, (n, 3, h, w), to (n, d)."""


@torch.inference_mode()
def read(
    backbone: Backbone, part: Part, device: torch.device, workers: int, reader: Reader | None = None
) -> np.ndarray:
    """Run a network on images without augmentation, in evaluation mode; the network stays in that mode.

    Args:
        reader: Function to evaluate; by default the logits.

    Returns:
        float32 (n, classes), or the output of `reader`.

    Raises:
        FiguregroundError: An output isn't finite, or an image can't be decoded.
    """
    backbone.network.to(device).eval()
    chosen = [np.arange(i, min(i + JUDGED, len(part))) for i in range(0, len(part), JUDGED)]
    found = []
    for images in part.album.batches(chosen, as_array, workers):
        signals.check()
        prepared = _prepared(backbone, images, device)
        found.append((reader or backbone.logits)(prepared).float().cpu().numpy())
    answers = np.concatenate(found)
    if not np.isfinite(answers).all():
        raise FiguregroundError("The network's outputs are no longer finite. Lower --learning-rate.")
    return answers


def predict(backbone: Backbone, part: Part, device: torch.device, workers: int) -> np.ndarray:
    """Return the most likely class of each image, int64 (n,)."""
    return read(backbone, part, device, workers).argmax(axis=1)


def mean_cross_entropy(logits: np.ndarray, y: np.ndarray) -> float:
    """Return the mean cross-entropy, in nats.

    Args:
        logits: float32 (n, classes).
        y: int64 (n,), the true classes.
    """
    return float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(y)))


def judge(predicted: np.ndarray, part: Part, groups: int) -> tuple[float, float]:
    """Return the average accuracy, and that of the worst group (or class, if there are no groups)."""
    correct = predicted == part.y
    by = part.y if part.group is None else part.group
    return float(correct.mean()), worst_group_accuracy(accuracy_by_group(correct, by, groups))
