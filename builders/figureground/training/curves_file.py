"""The file of a training's loss curves, read without torch."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from figureground.core.files import MAX_JSON_BYTES, FileError, read_text

CSV = "curves.csv"
"""Name of the file: one line per step."""


def read_curves(path: Path) -> dict[str, list[float]]:
    """Read the values of each step by the curve's name, from the output of `Curves.write`.

    Raises:
        FileError: The file is damaged; or see `core.files.read_text`.
        OSError: It doesn't exist or can't be read.
    """
    lines = csv.reader(io.StringIO(read_text(path, max_bytes=MAX_JSON_BYTES)))
    try:
        names = next(lines)[1:]
        rows = [[float(value) for value in line[1:]] for line in lines]
    except (StopIteration, ValueError, csv.Error) as error:
        raise FileError(path, f"it holds no curves ({error})") from None
    if not all(len(row) == len(names) and all(map(math.isfinite, row)) for row in rows):
        raise FileError(path, "a line is incomplete, or a value is not finite")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}
