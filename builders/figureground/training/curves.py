"""Loss curves of a training, one value per step, saved as CSV and drawn as PNG."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from figureground.core.charts import draw_charts
from figureground.core.errors import FiguregroundError
from figureground.core.files import replace_text
from figureground.training.curves_file import CSV

GRADIENT = "gradient"
"""Name of the curve of the gradient norm."""
PNG = "curves.png"
MAX_ACROSS = 4
"""Maximum number of curves per row of the drawing."""
FETCH_EVERY = 10
"""Number of steps whose losses stay on the device, so that training doesn't wait after each step."""


class Curves:
    """Curves with one value per step.

    Args:
        names: Names of the curves, in the order of the values.
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._fetched: list[list[float]] = []
        self._pending: list[Tensor] = []
        self._skipped = 0

    def __len__(self) -> int:
        return self._skipped + len(self._fetched) + len(self._pending)

    def add(self, values: Tensor) -> None:
        """Add the values of the next step, shape (names,), on any device; they are checked every few steps.

        Raises:
            FiguregroundError: A value is NaN or infinite; names the step and the loss.
        """
        self._pending.append(values.detach())
        if len(self._pending) >= FETCH_EVERY:
            self.fetch()

    def fetch(self) -> None:
        """Fetch and check the values that are still on the device; raise like `add`."""
        if not self._pending:
            return
        rows = torch.stack(self._pending).cpu().double().tolist()
        self._pending = []
        for row in rows:
            if not all(map(math.isfinite, row)):
                raise NotFinite(dict(zip(self.names, row, strict=True)), self._skipped + len(self._fetched) + 1)
            self._fetched.append(row)

    def average_last(self, steps: int) -> dict[str, float]:
        """Return the means over the last `steps` fetched steps."""
        rows = self._fetched[-steps:]
        return {n: sum(r[i] for r in rows) / len(rows) for i, n in enumerate(self.names)} if rows else {}

    def values_after(self, step: int) -> list[dict[str, float]]:
        """Return the values of each fetched step after that many steps."""
        return [dict(zip(self.names, row, strict=True)) for row in self._fetched[max(0, step - self._skipped) :]]

    def summarise_end(self, steps: int) -> dict[str, float]:
        """Return the final means for provenance: over the last tenth of `steps`, at most 100 steps."""
        last = max(1, min(100, steps // 10))
        return {"steps": last, **{name: round(value, 6) for name, value in self.average_last(last).items()}}

    def state(self) -> Tensor:
        """Return all values, float64 (steps, names), for `restore`."""
        self.fetch()
        return torch.tensor(self._fetched, dtype=torch.float64).reshape(-1, len(self.names))

    def restore(self, state: Tensor) -> None:
        self._fetched, self._pending, self._skipped = state.tolist(), [], 0

    def start_at(self, step: int) -> None:
        """Start again after that many steps, whose values are unknown."""
        self._fetched, self._pending, self._skipped = [], [], step

    def write(self, folder: Path) -> None:
        """Write `curves.csv`, one line per step."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["step", *self.names])
        lines.writerows([i, *(f"{value:.6g}" for value in row)] for i, row in enumerate(self._fetched, 1))
        replace_text(folder / CSV, text.getvalue())

    def draw(self, folder: Path) -> None:
        """Draw `curves.png`, each curve with its moving average, if matplotlib is installed."""
        rows = self.state()
        window = max(1, len(rows) // 25)
        columns = min(MAX_ACROSS, len(self.names))
        rows_down = -(-len(self.names) // columns)

        def plot(figure: Any, axes: Any) -> None:
            for axis in axes.flat[len(self.names) :]:
                axis.remove()
            for axis, name, values in zip(axes.flat, self.names, rows.T, strict=False):
                axis.plot(range(1, len(rows) + 1), values, linewidth=0.5, alpha=0.4)
                if len(rows) > window:
                    smooth = values.unfold(0, window, 1).mean(1)
                    middle = (window + 1) / 2
                    axis.plot([i + middle for i in range(len(smooth))], smooth, linewidth=1.4)
                axis.set_title(name.replace("_", " "), fontsize=9)
            figure.supxlabel("step", fontsize=9)

        draw_charts(folder / PNG, (3.2 * columns, 2.6 * rows_down), plot, rows=rows_down, columns=columns)


class NotFinite(FiguregroundError):
    """Raised for losses or gradients that are NaN or infinite.

    Args:
        values: The step's values by name.
        step: The step, counted from 1.
    """

    def __init__(self, values: Mapping[str, float], step: int):
        self.step = step
        non_finite = [name for name, value in values.items() if not math.isfinite(value)]
        losses = [name for name in non_finite if name not in ("total", GRADIENT) and not name.endswith("_weighted")]
        self.value = value = values[(losses or non_finite)[0]]
        subject = f"the {' and '.join(losses)} {'losses are' if len(losses) > 1 else 'loss is'}"
        if not losses:  # the losses were still finite
            subject = "the gradient is" if non_finite == [GRADIENT] else "the total loss is"
        super().__init__(f"{subject} {value} at step {step}.")
