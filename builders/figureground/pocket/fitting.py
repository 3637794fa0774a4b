"""Training of the pocket's models: AdamW, averaged weights, and curves on disk.

A resumed run draws other batches and other noise than an uninterrupted one, because pools of drawings and the random
state aren't saved: its weights are as good, but not the same.
"""

from __future__ import annotations

import copy
import csv
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from figureground.core import signals
from figureground.core.errors import FiguregroundError
from figureground.core.progress import Progress
from figureground.core.terminal import print_error
from figureground.training.loop import Hooks, Loop, Saving
from figureground.training.processes import single_process
from figureground.training.saved_run import SavedRun


@dataclass(frozen=True)
class FitSettings:
    """Training settings: AdamW with a warm-up and a cosine decay to 0."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int
    ema: float
    weight_decay: float = 1e-4
    clip: float = 1.0
    save_seconds: float = 180.0


def compute_learning_rate(settings: FitSettings, step: int) -> float:
    """Return the learning rate at a step."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def fit(
    name: str,
    model: nn.Module,
    objective: Callable[[Any, Any], dict[str, Tensor]],
    batches: Callable[[int], Iterator[Any]],
    settings: FitSettings,
    work: Path,
    device: str,
    evaluate: Callable[[Any], dict[str, float]],
    inputs: str = "",
    bfloat16: bool = True,
) -> Any:
    """Train `model` and return its exponential moving average. An existing checkpoint is resumed.

    Args:
        name: Name of the checkpoint `{name}.pt` and the curves `{name}.csv` in `work`.
        objective: Takes the model and a batch; returns losses by name, of which `loss` is minimised.
        batches: Takes the first step; returns an endless iterator of batches.
        evaluate: Evaluates the averaged model at intervals and at the end.
        inputs: Hash of the inputs of the batches.
        bfloat16: Whether matrix products are in bfloat16.

    Raises:
        FiguregroundError: The checkpoint is damaged or belongs to a run on other inputs, a loss isn't finite, or memory
            or disk is full.
    """
    work.mkdir(parents=True, exist_ok=True)
    learner = _Learner(
        name, model.to(device), objective, batches, settings, work, torch.device(device), inputs, bfloat16
    )
    saved_run = SavedRun(work, settings.steps, name=f"{name}.pt", keeps_curves=False)
    loop = Loop(
        learner, _EvaluationHooks(learner, evaluate), saved_run, {}, Saving(seconds=settings.save_seconds),
        single_process(learner.device), name,
    )  # fmt: skip
    memory = f"The memory of {device} is full. Train with smaller batches."
    with saved_run.explain_errors("Lower the learning rate.", memory):
        loop.resume()
        if loop.step < settings.steps:
            loop.run()
    return learner.average.eval()


@dataclass(eq=False)
class _Learner:
    """A model, its exponential moving average and its optimiser."""

    name: str
    model: nn.Module
    objective: Callable[[Any, Any], dict[str, Tensor]]
    batches: Callable[[int], Iterator[Any]]
    settings: FitSettings
    work: Path
    device: torch.device
    inputs: str
    bfloat16: bool
    loss_sums: dict[str, float] = field(default_factory=dict)
    """Sums of the losses since the last row of the curves."""
    num_summed: int = 0
    """Number of steps in these sums."""
    curve_names: ClassVar[Sequence[str]] = ("total",)

    def __post_init__(self) -> None:
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self._weights: list[Tensor] = list(self.model.parameters())
        self._averages: list[Tensor] = list(self.average.parameters())
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay, betas=(0.9, 0.99),
            fused=True,
        )  # fmt: skip
        self._source: Iterator[Any] | None = None

    def step(self, number: int) -> Tensor:
        """Run the step with that number, from 0; return its loss, shape (1,)."""
        if self._source is None:
            self.model.train()
            self._source = self.batches(number)
        for group in self._optimizer.param_groups:
            group["lr"] = compute_learning_rate(self.settings, number)
        batch = next(self._source)
        batch = batch.to(self.device) if isinstance(batch, Tensor) else tuple(b.to(self.device) for b in batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            losses = self.objective(self.model, batch)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self._weights, self.settings.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            decay = min(self.settings.ema, (1 + number) / (10 + number))
            torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        self.num_summed += 1
        for key, value in losses.items():
            self.loss_sums[key] = self.loss_sums.get(key, 0.0) + float(value.detach())
        return losses["loss"].detach().reshape(1)

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of the last step, for reports."""
        return {"learning_rate": self._optimizer.param_groups[0]["lr"]}

    def state(self) -> dict[str, Any]:
        """Return the weights, their averages and the optimiser's state, with the hash of the inputs."""
        return {
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(), "inputs": self.inputs,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a saved state, and seed torch with its step.

        Raises:
            FiguregroundError: The state belongs to a run on other inputs.
        """
        if state["inputs"] != self.inputs:
            raise FiguregroundError(
                f"{self.work / self.name}.pt belongs to a run with other inputs. Remove it, or give another --work "
                "directory."
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.manual_seed(state["step"])


@dataclass(eq=False)
class _EvaluationHooks(Hooks):
    """Evaluates the averaged model before a state is saved, and adds a row to the curves."""

    learner: _Learner
    evaluate: Callable[[Any], dict[str, float]]

    def before_save(self, step: int) -> None:
        learner = self.learner
        learner.average.eval()
        means = {name: total / learner.num_summed for name, total in learner.loss_sums.items()}
        row = {"step": step, **means, **self.evaluate(learner.average)}
        path = learner.work / f"{learner.name}.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow({name: f"{value:.6g}" for name, value in row.items()})
        Progress.write(f"{learner.name}: " + "  ".join(f"{name} {value:.5g}" for name, value in row.items()))
        learner.loss_sums, learner.num_summed = {}, 0


def run_command(main: Callable[[], None]) -> int:
    """Run a command that trains; return its exit code. A signal to stop takes effect after a step, which is saved."""
    try:
        with signals.handle_signals():
            main()
    except KeyboardInterrupt as stop:
        print_error(" ".join(["stopped.", *getattr(stop, "__notes__", [])]))
        return 128 + (signals.received_signal() or signal.SIGINT)
    return 0
