"""Charts as PNG, where matplotlib is installed: it is optional, and what it draws can be read in a table too."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figureground.core.files import replace_bytes

DOTS_PER_INCH = 110


def draw_charts(
    path: Path, size: tuple[float, float], plot: Callable[[Any, Any], None], *, down: int = 1, across: int = 1
) -> None:
    """Writes a PNG of charts in rows and columns, whole; without matplotlib it writes nothing.

    Args:
        path: Of the PNG; one that is there is replaced.
        size: Width and height of all charts together, inches.
        plot: Draws, given matplotlib's Figure and its Axes, an array (down, across). Axes that it has no use for it
            removes.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=size, layout="constrained")  # its own, so that the user's backend and figures stay
    axes = figure.subplots(down, across, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    plot(figure, axes)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DOTS_PER_INCH, format="png")
    replace_bytes(path, drawn.getvalue())
