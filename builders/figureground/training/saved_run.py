"""Saves and resumes an unfinished training, and reports its saved state when it stops early."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from figureground.core import disk
from figureground.core.accelerator import is_out_of_memory
from figureground.core.errors import FiguregroundError, OutOfMemory
from figureground.training.curves import Curves, NotFinite
from figureground.training.state import STATE, read_state, save_state


class Stateful(Protocol):
    """Everything that changes during training."""

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on: tensors and plain values by name.

        The names `step`, `seconds`, `made_with`, `threads`, `curves` and `tracked` are taken.
        """

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the output of `state`; the taken names are there, too."""


@dataclass
class SavedRun:
    """An unfinished run on disk."""

    out: Path
    """Directory of the run."""
    steps: int
    """Number of steps of the whole run."""
    step: int = 0
    """Last saved step."""
    usable: Path | None = None
    """Path of a usable result written so far, in the form of a finished one."""
    name: str = STATE
    """Name of the state's file."""
    keeps_curves: bool = True
    """Whether the values of all steps are kept, in the state and in `curves.csv`."""
    tracker_run: Mapping[str, str] | None = None
    """The tracker's run that a resumed training continues: `reporting.RunReport.mark`."""

    @property
    def file(self) -> Path:
        """Path of the state."""
        return self.out / self.name

    def describe(self) -> str:
        """Describe the saved state in a sentence or two; empty if nothing is saved."""
        if not self.step:
            return ""
        text = f"Step {self.step:,} of {self.steps:,} is saved in {self.out}; the same command resumes from there."
        return f"{text} {self.usable} contains the result so far." if self.usable else text

    def save(self, learner: Stateful, curves: Curves, made_with: Mapping[str, Any], step: int, seconds: float) -> None:
        """Replace the state and the curves on disk; raise like `save_state` and `Curves.fetch`."""
        state = {
            **learner.state(), "step": step, "seconds": seconds, "made_with": json.dumps(made_with),
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        values = curves.state()  # raises for non-finite values, which are never saved
        if self.keeps_curves:
            state["curves"] = values
        if self.tracker_run is not None:
            state["tracked"] = json.dumps(dict(self.tracker_run))
        save_state(self.file, state)
        self.step = step
        self.write_curves(curves)

    def restore(
        self, learner: Stateful, curves: Curves, made_with: dict[str, Any], device: torch.device
    ) -> tuple[int, float]:
        """Restore the state on disk, if any; return its step and seconds. Raise like `read_state`."""
        state = read_state(self.file, made_with, device)
        if state is None:
            return 0, 0.0
        learner.restore(state)
        self.step = self.read_step(state)
        self.tracker_run = json.loads(state["tracked"]) if "tracked" in state else None
        if self.keeps_curves:
            curves.restore(state["curves"])
        else:
            curves.start_at(self.step)
        return self.step, state.get("seconds", 0.0)

    def read_step(self, state: Mapping[str, Any]) -> int:
        """Return the number of finished steps of a state."""
        return int(state["step"])

    def write_curves(self, curves: Curves) -> None:
        """Write the curves, if they are kept."""
        if self.keeps_curves:
            curves.write(self.out)

    def explain_errors(self, not_finite: str, memory: str) -> contextlib.AbstractContextManager[None]:
        """Add the saved state to any error that ends the run early; see `explain_errors`."""
        return explain_errors(self.out, self.describe, not_finite, memory)


@contextlib.contextmanager
def explain_errors(out: Path, describe_saved: Callable[[], str], not_finite: str, memory: str) -> Iterator[None]:
    """Add what is saved to any error that ends a training early.

    Args:
        out: The directory that the training writes to.
        describe_saved: Describes what is saved, in a sentence or two; empty if nothing is.
        not_finite: Advice for losses that are NaN or infinite.
        memory: Message for full memory.

    Raises:
        FiguregroundError: Losses are NaN or infinite, or the disk is full or fails.
        OutOfMemory: Memory is full.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if saved := describe_saved():
            error.add_note(saved)
        raise
    except NotFinite as error:
        raise FiguregroundError(" ".join(filter(None, [str(error), describe_saved(), not_finite]))) from error
    except (OSError, SafetensorError) as error:
        if problem := disk.explain_disk_error(_as_os_error(error), out):
            raise FiguregroundError(f"{problem} {describe_saved()}".strip()) from error
        raise
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{memory} {describe_saved()}".strip()) from error
        raise


def _as_os_error(error: OSError | SafetensorError) -> OSError:
    """Convert an error of safetensors, which names disk errors only in its text, to one with a number."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]) if number else 0, str(error))
