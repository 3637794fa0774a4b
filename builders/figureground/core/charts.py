"""Draws charts as PNG if matplotlib is installed; it is optional, since the data are available as tables too."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figureground.core.files import replace_bytes

DOTS_PER_INCH = 110


def draw_charts(
    path: Path, size: tuple[float, float], plot: Callable[[Any, Any], None], *, rows: int = 1, columns: int = 1
) -> None:
    """Write a PNG of charts in rows and columns, atomically; without matplotlib, write nothing.

    Args:
        path: Path of the PNG; an existing file is replaced.
        size: Width and height of all charts together, inches.
        plot: Draws on matplotlib's Figure and its Axes, an array (down, across), and removes unused Axes.
        rows, columns: Number of rows and columns.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=size, layout="constrained")  # independent of the user's backend and figures
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    plot(figure, axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DOTS_PER_INCH, format="png")
    replace_bytes(path, buffer.getvalue())
