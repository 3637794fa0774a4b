"""Saves and resumes an unfinished fine-tuning, and reports its saved state when it stops early."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from figureground.core import disk
from figureground.core.accelerator import is_out_of_memory
from figureground.core.errors import FiguregroundError
from figureground.training.curves import Curves, NotFinite
from figureground.training.state import STATE, read_state, save_state


class Learner(Protocol):
    """Everything that changes during training."""

    def state(self) -> dict[str, Any]:
        """Returns everything that the next step depends on."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores the output of `state`."""


@dataclass
class Unfinished:
    """An unfinished run on disk."""

    out: Path
    steps: int
    """Number of steps of the whole run."""
    step: int = 0
    """Last saved step."""
    usable: Path | None = None
    """Path of a usable result written so far, in the form of a finished one."""

    def said(self) -> str:
        """Describes the saved state in a sentence or two; empty if nothing is saved."""
        if not self.step:
            return ""
        said = f"Step {self.step:,} of {self.steps:,} is saved in {self.out}; the same command resumes from there."
        return f"{said} {self.usable} contains the result so far." if self.usable else said

    def save(self, learner: Learner, curves: Curves, made_with: Mapping[str, Any], step: int, seconds: float) -> None:
        """Replaces the state and the curves on disk; raises like `save_state` and `Curves.settle`."""
        state = {
            **learner.state(), "step": step, "seconds": seconds, "made_with": json.dumps(made_with),
            "threads": torch.get_num_threads(),
            "curves": curves.state(),  # settles them, so non-finite values are never saved
        }  # fmt: skip
        save_state(self.out / STATE, state)
        self.step = step
        curves.write(self.out)

    def restore(
        self, learner: Learner, curves: Curves, made_with: dict[str, Any], device: torch.device
    ) -> tuple[int, float]:
        """Restores the state on disk, if any; returns its step and seconds. Raises like `read_state`."""
        state = read_state(self.out / STATE, made_with, device)
        if state is None:
            return 0, 0.0
        learner.restore(state)
        curves.restore(state["curves"])
        self.step = state["step"]
        return state["step"], state["seconds"]

    @contextlib.contextmanager
    def told(self, not_finite: str, memory: str) -> Iterator[None]:
        """Adds the saved state to any error that ends the run early.

        Args:
            not_finite: Advice for losses that are NaN or infinite.
            memory: Message for full memory.

        Raises:
            FiguregroundError: Losses are NaN or infinite, memory is full, or the disk is full or fails.
        """
        try:
            yield
        except KeyboardInterrupt as error:
            if self.said():
                error.add_note(self.said())
            raise
        except NotFinite as error:
            raise FiguregroundError(" ".join(filter(None, [str(error), self.said(), not_finite]))) from error
        except (OSError, SafetensorError) as error:
            if trouble := disk.explain(_as_os_error(error), self.out):
                raise FiguregroundError(f"{trouble} {self.said()}".strip()) from error
            raise
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise FiguregroundError(f"{memory} {self.said()}".strip()) from error
            raise


def _as_os_error(error: OSError | SafetensorError) -> OSError:
    """Converts an error of safetensors, which names disk errors only in its text, to one with a number."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]) if number else 0, str(error))
