"""The training of one classifier, for all ways: epochs over weighted images, one of which is chosen on validation.

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
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from figureground.core.errors import FiguregroundError
from figureground.core.seeding import seed_default_generators
from figureground.learn.accuracy import worst_class_accuracy
from figureground.learn.augmentation import crop_and_mirror
from figureground.learn.backbones import Backbone
from figureground.learn.epochs import Best, Epoch, Stage, score_epoch
from figureground.learn.inference import as_array, mean_cross_entropy, prepare_images, run_network, score_predictions
from figureground.learn.objective import Objective
from figureground.learn.schedule import draw_in_passes, schedule
from figureground.learn.settings import Training
from figureground.learn.training_data import TrainingData
from figureground.recipe.sample import derive_seed
from figureground.tracking.reporting import RunReport
from figureground.training.curves import NotFinite
from figureground.training.loop import Hooks, Loop, Saving
from figureground.training.processes import single_process
from figureground.training.saved_run import SavedRun

MAX_GRADIENT_NORM = 1.0
"""Gradients are clipped to this norm, so that an image with a large weight doesn't destabilise training."""


@dataclass(eq=False, kw_only=True)
class Fit(Hooks):
    """One training of one network: a learner of `training.loop`, whose state is saved after each epoch.

    Args:
        purpose: Name of the training; together with the seed it determines all randomness.
        objective: The method's objective.
        chances: float64 (n,), sampling probability of each image, with replacement; None draws all images equally
            often, in passes.
        stages: Consecutive stages; by default one stage with all images and the settings' epochs.
        epochs: Number of epochs after which training stops; the learning rate falls as if training continued to the
            end of the last stage.
        rules: One or more names of `settings.RULES`, each of which chooses an epoch of the last stage.
        file: File to which the state is saved after each epoch.
        made_with: Versions and inputs that a saved state must match.
    """

    backbone: Backbone
    training_data: TrainingData
    settings: Training
    seed: int
    purpose: str
    objective: Objective
    epochs: int
    rules: Sequence[str]
    device: torch.device
    workers: int
    file: Path
    made_with: dict[str, Any]
    chances: np.ndarray | None = None
    show_progress: bool = True
    stages: Sequence[Stage] = ()
    curve: list[Epoch] = field(default_factory=list)
    _best: dict[str, Best] = field(default_factory=dict)
    _batches: Generator[tuple[np.ndarray, list[np.ndarray]]] = field(init=False)
    curve_names: ClassVar[Sequence[str]] = ("total",)

    def __post_init__(self) -> None:
        self.stages = self.stages or (Stage(np.arange(len(self.training_data.train)), self.settings.epochs),)
        self._stage_starts = np.cumsum([0, *(stage.epochs for stage in self.stages)])[:-1].tolist()
        self.made_with = {**self.made_with, "select": list(self.rules)}
        self._batches = self._read_batches(0)

    @property
    def report(self) -> RunReport:
        """The run that reports this training, after `run` has begun."""
        return self._loop.report

    @property
    def images_per_epoch(self) -> int:
        """Number of images per epoch: the number of real images or, with `add_steps`, of all images."""
        added = 0 if self.settings.add_steps else int(self.training_data.added.sum())
        return len(self.training_data.train) - added

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
        self._peak_rate = self.settings.learning_rate or (1e-4 if self.backbone.pretrained else 1e-3)
        self._optimizer = self._new_optimizer()
        steps = self.steps_per_epoch
        title = f"{self.settings.method} seed {self.seed}" + (f", {self.purpose}" if self.purpose != "main" else "")
        self._loop = Loop(
            self, self, _SavedEpochs(self.file.parent, steps * self.epochs, name=self.file.name, keeps_curves=False),
            self.made_with, Saving(every=steps, on_stop=False), single_process(self.device), title, self.show_progress,
        )  # fmt: skip
        self._loop.resume()
        try:
            self._loop.run()
        except NotFinite as error:
            raise FiguregroundError(
                f"The loss is {error.value} in epoch {1 + (error.step - 1) // steps} of seed {self.seed}. Lower "
                f"--learning-rate ({self._peak_rate:g}), or look for a damaged backbone."
            ) from error
        finally:
            self._batches.close()
        return self.load_best(self.rules[0])

    def load_best(self, rule: str) -> int:
        """Load the weights of the epoch chosen by a rule into the network, after `run`, and return it, from 1."""
        best = self._best[rule]
        self.backbone.network.load_state_dict(best.weights)
        self.backbone.network.eval()
        return best.epoch

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.backbone.network.parameters(), lr=self._peak_rate, weight_decay=self.settings.weight_decay
        )

    def _find_stage(self, epoch: int) -> int:
        """Return the index of an epoch's stage, from 0."""
        return max(i for i, start in enumerate(self._stage_starts) if start <= epoch)

    # Steps and epochs

    def step(self, number: int) -> Tensor:
        """Take the step with that number, from 0; return its loss, shape (1,)."""
        steps = self.steps_per_epoch
        epoch, position = divmod(number, steps)
        if position == 0:
            self._begin_epoch(epoch)
        stage = self._find_stage(epoch)
        rows, images = next(self._batches)
        loss = self._take_step(
            rows, images, number - self._stage_starts[stage] * steps, self.stages[stage].epochs * steps
        )
        return loss.detach().reshape(1)

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of the last step, for reports."""
        return {"learning_rate": self._optimizer.param_groups[0]["lr"]}

    def after_step(self, step: int) -> None:
        epoch, position = divmod(step, self.steps_per_epoch)
        if position == 0:
            self._end_epoch(epoch - 1)

    def note(self) -> dict[str, str]:
        evaluated = [epoch for epoch in self.curve if epoch.worst is not None]
        if not evaluated:
            return {}
        return {"loss": f"{evaluated[-1].loss:.3f}", "worst": f"{100 * (evaluated[-1].worst or 0):.1f}%"}

    def _begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch, from 0: its optimiser, random state and batches."""
        if epoch in self._stage_starts:
            self._optimizer = self._new_optimizer()
        seed_default_generators(self._derive_seed("dropout", epoch))
        self.backbone.network.train()
        self._batches = self._read_batches(epoch)

    def _read_batches(self, epoch: int) -> Generator[tuple[np.ndarray, list[np.ndarray]]]:
        """Yield rows and images of an epoch's batches, decoded ahead."""
        # Nearly equal sizes: batch norm needs more than one image.
        rows = np.array_split(self._draw_rows(epoch), self.steps_per_epoch)
        prepare = functools.partial(self._augment, epoch) if self.settings.augment else as_array
        yield from zip(rows, self.training_data.train.album.batches(rows, prepare, self.workers), strict=True)

    def _end_epoch(self, epoch: int) -> None:
        """Evaluate an epoch, from 0, if it is due, and add it to the curve."""
        self._batches.close()
        losses = self._loop.curves.state()[-self.steps_per_epoch :, 0]
        steps = self.steps_per_epoch * (epoch + 1)
        result = Epoch(epoch + 1, steps, float(np.mean(losses.numpy())), None, None)
        if (epoch + 1) % self.settings.validate_every == 0 or epoch + 1 == self.epochs:
            logits = run_network(self.backbone, self.training_data.validation, self.device, self.workers)
            validation_loss = mean_cross_entropy(logits, self.training_data.validation.y)
            measured: dict[str, Any] = self.score_validation(logits.argmax(axis=1))
            result = dataclasses.replace(result, **measured, validation_loss=validation_loss)
            if self._find_stage(epoch) == len(self.stages) - 1:
                self._keep_best(result)
        self.curve.append(result)
        accuracies = {name: getattr(result, name) for name in ("average", "worst", "worst_class")}
        self.report.log(
            {
                **{f"validation/{name}": value for name, value in accuracies.items()},
                "validation/loss": result.validation_loss, "train/epoch": result.epoch, "train/epoch_loss": result.loss,
            },
            result.steps,
        )  # fmt: skip

    def score_validation(self, predicted: np.ndarray) -> dict[str, float]:
        """Return accuracies on validation, 0 to 1: `average`, `worst` (by class if there are no groups), `worst_class`.

        Args:
            predicted: int64 (validation images,): numbers of classes.
        """
        data = self.training_data
        validation = data.validation
        average, worst = score_predictions(predicted, validation, len(data.group_names))
        worst_class = worst_class_accuracy(predicted == validation.y, validation.y, len(data.classes))
        return {"average": average, "worst": worst, "worst_class": worst_class}

    def _keep_best(self, result: Epoch) -> None:
        """Keep the weights for each rule under which this epoch is the best so far; all rules share one copy."""
        improved = [
            rule
            for rule in self.rules
            if rule not in self._best or score_epoch(rule, result) > self._best[rule].score
        ]  # fmt: skip
        if improved:
            state = self.backbone.network.state_dict()
            weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
            self._best |= {rule: Best(score_epoch(rule, result), result.epoch, weights) for rule in improved}

    def _draw_rows(self, epoch: int) -> np.ndarray:
        """Return an epoch's training images, int64 (images_per_epoch,), in training order."""
        n, size = len(self.training_data.train), self.images_per_epoch
        if self.chances is not None:
            return np.random.default_rng(self._derive_seed("order", epoch)).choice(n, size, p=self.chances)
        stage = self._find_stage(epoch)
        rows, order = self.stages[stage].rows, f"order {stage}" if stage else "order"
        positions = draw_in_passes(
            len(rows), (epoch - self._stage_starts[stage]) * size, size,
            lambda i: np.random.default_rng(self._derive_seed(order, i)),
        )  # fmt: skip
        return rows[positions]

    def _take_step(self, rows: np.ndarray, images: Sequence[np.ndarray], step: int, total: int) -> Tensor:
        for group in self._optimizer.param_groups:
            group["lr"] = self._peak_rate * schedule(step, total)
        if self.settings.augment:  # crops already have the network's input size
            pixels = self.backbone.normalise(torch.from_numpy(np.stack(images)), self.device)
        else:
            pixels = prepare_images(self.backbone, images, self.device)
        logits = self.backbone.logits(pixels)
        y = torch.from_numpy(self.training_data.train.y[rows]).to(self.device)
        losses = F.cross_entropy(logits, y, reduction="none")
        loss = self.objective(losses, torch.from_numpy(rows).to(self.device))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.backbone.network.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()
        return loss

    def _augment(self, epoch: int, image: Image.Image, position: int) -> np.ndarray:
        rng = np.random.default_rng(derive_seed(self.seed, self.purpose, "augment", str(epoch), str(position)))
        return as_array(crop_and_mirror(image, self.backbone.size, rng), position)

    def _derive_seed(self, name: str, epoch: int) -> int:
        return derive_seed(self.seed, self.purpose, name, str(epoch))

    # State

    def state(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on."""
        return {
            "network": self.backbone.network.state_dict(), "optimizer": self._optimizer.state_dict(),
            "best": {rule: [list(best.score), best.epoch, best.weights] for rule, best in self._best.items()},
            "curve": [list(dataclasses.astuple(epoch)) for epoch in self.curve],
            "objective": json.dumps(self.objective.state()),
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state`."""
        self.backbone.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = {
            rule: Best((score[0], score[1]), epoch, {name: tensor.cpu() for name, tensor in weights.items()})
            for rule, (score, epoch, weights) in state["best"].items()
        }
        self.curve[:] = [Epoch(int(row[0]), int(row[1]), *row[2:]) for row in state["curve"]]
        self.objective.restore(json.loads(state["objective"]))


class _SavedEpochs(SavedRun):
    """A training whose states are those of finished epochs."""

    def read_step(self, state: Mapping[str, Any]) -> int:
        return int(state["curve"][-1][1])  # states of earlier versions have no step of their own
