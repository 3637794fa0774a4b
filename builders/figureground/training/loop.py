"""The training loop of every model: it counts steps, saves states, resumes, stops on signals and shows progress.

What is trained is a `Learner`; what else happens between its steps are `Hooks`. A state is saved at intervals, when a
signal asks to stop, and at the end. A resumed run continues with the step after the saved one. If the learner's next
step depends on nothing but the learner's state and the number of the step, its final weights are bit-identical to those
of an uninterrupted run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from torch import Tensor

from figureground.core import signals
from figureground.core.progress import Progress
from figureground.tracking.reporting import RunReport, begin_training
from figureground.training.curves import Curves, NotFinite
from figureground.training.processes import Processes
from figureground.training.saved_run import SavedRun, Stateful
from figureground.training.state import resume_threads

SECONDS_BETWEEN_UPDATES = 5.0
"""Interval at which the curves on disk and the progress bar's note are updated."""


class Learner(Stateful, Protocol):
    """A learner, trained step by step."""

    @property
    def curve_names(self) -> Sequence[str]:
        """Names of the values that a step returns."""

    def step(self, number: int) -> Tensor:
        """Run the step with that number, from 0; return the values of `curve_names`, on any device."""

    def learning_rates(self) -> Mapping[str, float]:
        """Return the learning rates of the last step by name, for reports."""


class Hooks:
    """Actions of a training besides its steps. By default, every hook does nothing.

    With several processes, each of them calls every hook except `write_usable` and `note`, which only the main one
    calls.
    """

    def is_done(self, step: int) -> bool:
        """Return whether to end early; called before each step, with the number of finished steps."""
        return False

    def after_step(self, step: int) -> None:
        """Act after each step, with the number of finished steps."""

    def before_save(self, step: int) -> None:
        """Act before a state is saved at an interval or at the end. A signal to stop skips this, to be in time."""

    def at_end(self, step: int) -> None:
        """Act after the last step, before the final state is saved."""

    def write_usable(self) -> Path | None:
        """Write the result so far in its final form, when the run ends early; return its path, or None."""
        return None

    def note(self) -> Mapping[str, str]:
        """Return names and values for the progress bar."""
        return {}


@dataclass(frozen=True)
class Saving:
    """When a state is saved. The final state always is."""

    every: int = 0
    """Steps between saved states; 0 turns this interval off."""
    seconds: float = math.inf
    """Seconds between saved states."""
    on_stop: bool = True
    """Whether a signal to stop saves a state; False loses the steps since the last one."""


@dataclass(eq=False)
class Loop:
    """A run of a learner to its last step. Call `resume`, then `run`.

    Args:
        saved_run: Where states are saved, and the number of steps.
        made_with: What a saved state must have been made with, JSON-serialisable.
        title: Name of the progress bar.
    """

    learner: Learner
    hooks: Hooks
    saved_run: SavedRun
    made_with: dict[str, Any]
    saving: Saving
    processes: Processes
    title: str
    show_progress: bool = True
    step: int = field(default=0, init=False)
    """Number of finished steps."""
    curves: Curves = field(init=False)
    """The values of the steps."""
    report: RunReport = field(default_factory=RunReport, init=False)
    """The run that reports the training once it runs, if a tracker is asked for; hooks report to it what they measure.
    It stays open for results that are measured after the training."""
    _rates: list[Mapping[str, float]] = field(default_factory=list, init=False)
    """Learning rates of the steps that aren't reported yet."""
    _earlier_seconds: float = field(default=0.0, init=False)
    _start_time: float = field(init=False)

    def __post_init__(self) -> None:
        self.curves = Curves(self.learner.curve_names)
        self._start_time = time.monotonic()

    @property
    def seconds(self) -> float:
        """Duration so far, including that of earlier runs."""
        return self._earlier_seconds + time.monotonic() - self._start_time

    def resume(self) -> None:
        """Load the saved state, if there is one; on a CPU, use its number of threads.

        Raises:
            FiguregroundError: The state is damaged, or was made with other settings.
        """
        device = self.processes.device
        resume_threads(self.saved_run.file, device)
        self.step, self._earlier_seconds = self.saved_run.restore(self.learner, self.curves, self.made_with, device)
        self._start_time = time.monotonic()

    def run(self) -> None:
        """Run the remaining steps. Signals take effect between steps.

        Raises:
            NotFinite: A loss is NaN or infinite. The learner then has its last saved state again.
            Stopped: A signal asked to stop.
            KeyboardInterrupt: A signal asked another process to stop.
            OSError: The disk is full or fails; the previous state is kept.
        """
        if self.processes.is_main:
            config = {name: value for name, value in self.made_with.items() if isinstance(value, str | int | float)}
            self.report = begin_training(Path(self.title).name, config, self.saved_run.tracker_run, self.step)
            self.saved_run.tracker_run = self.report.mark or self.saved_run.tracker_run
        with signals.delay_to_checks():
            try:
                try:
                    self._run()
                finally:
                    self._report_steps()
            except NotFinite:
                if self.saved_run.step and self.processes.is_main:
                    self.resume()
                    self._write_usable()
                raise
            self.hooks.before_save(self.step)
            self.save()  # a full disk must not lose progress since the last save

    def save(self) -> None:
        """Replace the state on disk.

        Raises:
            NotFinite: A loss is NaN or infinite; the previous state is kept.
            OSError: The disk is full or fails; the previous state is kept.
        """
        self.curves.fetch()
        if self.processes.is_main:
            self.saved_run.save(self.learner, self.curves, self.made_with, self.step, self.seconds)

    def _run(self) -> None:
        saving, steps, is_main = self.saving, self.saved_run.steps, self.processes.is_main
        last_save = last_update = time.monotonic()
        show_bar = self.show_progress and is_main
        with Progress(steps, initial=self.step, unit="step", desc=self.title, show=show_bar) as bar:
            while self.step < steps and not self.hooks.is_done(self.step):
                if self.processes.any(signals.received_signal() is not None):
                    self._stop()
                self.curves.add(self.learner.step(self.step))
                self.step += 1
                bar.update()
                if self.report.active:
                    self._rates.append(self.learner.learning_rates())
                    self._report_steps()
                self.hooks.after_step(self.step)
                is_due = saving.every > 0 and self.step % saving.every == 0
                is_overdue = self.processes.any(time.monotonic() - last_save >= saving.seconds)
                if (is_due or is_overdue) and self.step < steps:
                    self.hooks.before_save(self.step)
                    self.save()
                    last_save = time.monotonic()
                if is_main and (is_due or time.monotonic() - last_update > SECONDS_BETWEEN_UPDATES):
                    self.saved_run.write_curves(self.curves)
                    bar.set_postfix(self.hooks.note(), refresh=False)
                    last_update = time.monotonic()
            self.curves.fetch()
            self.hooks.at_end(self.step)

    def _report_steps(self) -> None:
        """Report the steps whose values have left the device since the last call."""
        first = self.step - len(self._rates)
        values = self.curves.values_after(first) if self._rates else []
        for number, (losses, rates) in enumerate(zip(values, self._rates, strict=False), first + 1):
            self.report.log({f"train/{name}": value for name, value in {**losses, **rates}.items()}, number)
        del self._rates[: len(values)]

    def _stop(self) -> NoReturn:
        if self.saving.on_stop:
            self.save()
            self._write_usable()
        signals.check()
        raise KeyboardInterrupt  # another process received the signal

    def _write_usable(self) -> None:
        if self.processes.is_main:
            self.saved_run.usable = self.hooks.write_usable()
