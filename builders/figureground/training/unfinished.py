"""A fine-tuning that isn't finished: what is saved of it, how it goes on, and what is told when something ends it."""

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
    """What changes while something is learned."""

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` gave."""


@dataclass
class Unfinished:
    """What is on disk of an unfinished run."""

    out: Path
    steps: int
    """Of the whole run."""
    step: int = 0
    """Up to which it is saved."""
    usable: Path | None = None
    """What was written by then in the form of a finished one."""

    def said(self) -> str:
        """A sentence or two, or nothing."""
        if not self.step:
            return ""
        said = f"Step {self.step:,} of {self.steps:,} is saved in {self.out}, and the same command goes on from there."
        return f"{said} {self.usable} holds what was learned by then." if self.usable else said

    def save(self, learner: Learner, curves: Curves, made_with: Mapping[str, Any], step: int, seconds: float) -> None:
        """Replaces the state on disk, and the curves; raises as `save_state` and `Curves.settle` do."""
        state = {
            **learner.state(), "step": step, "seconds": seconds, "made_with": json.dumps(made_with),
            "threads": torch.get_num_threads(),
            "curves": curves.state(),  # settles them: what isn't finite is never saved
        }  # fmt: skip
        save_state(self.out / STATE, state)
        self.step = step
        curves.write(self.out)

    def restore(
        self, learner: Learner, curves: Curves, made_with: dict[str, Any], device: torch.device
    ) -> tuple[int, float]:
        """Takes up the state on disk, where there is one; returns its step and seconds. Raises as `read_state` does."""
        state = read_state(self.out / STATE, made_with, device)
        if state is None:
            return 0, 0.0
        learner.restore(state)
        curves.restore(state["curves"])
        self.step = state["step"]
        return state["step"], state["seconds"]

    @contextlib.contextmanager
    def told(self, not_finite: str, memory: str) -> Iterator[None]:
        """Within, whatever ends the run early says also what is kept of it.

        Args:
            not_finite: What to do where losses are no numbers.
            memory: What to do where memory is full.

        Raises:
            FiguregroundError: Losses are no numbers; memory is full; or the disk is full, or fails.
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
    """What safetensors says of a disk in words alone, with its number."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]) if number else 0, str(error))
