"""Settings by which `speed=fast` replaces a recipe's: measured, with labels as right as with the usual ones.

The table, `fast_settings.json`, is written from results of `benchmarks/generate.py --ladder`. A row holds for one
checkpoint, by its content, for one method, and for the sampling settings that it was measured with. Needs no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.core.errors import RecipeError, join_names
from figureground.core.files import read_json

TABLE = Path(__file__).parent / "fast_settings.json"
VERSION = 1
"""Version of the table's layout."""
LADDER = "benchmarks/generate.py --ladder"


@dataclass(frozen=True)
class FastRow:
    """Fast settings of a checkpoint, with their measurement."""

    checkpoint: str
    """Its name."""
    fingerprint: str
    """SHA-256 of its content; see `weights.fingerprint`."""
    method: str
    """The method whose images were judged, such as `d3s`."""
    usual: dict[str, Any]
    """The settings that it was measured with, by name."""
    fast: dict[str, Any]
    """The settings that replace them; `dtype` only where a recipe leaves it to the device."""
    measured: dict[str, Any]
    """Images judged, shares of right labels (0 to 1), their difference fast − usual with its 95 % interval, and where
    the results are."""

    @property
    def note(self) -> str:
        """A line for `plan`."""
        measured = self.measured
        low, high = (f"{100 * measured[name]:+.1f}" for name in ("low", "high"))
        return (
            f"speed=fast: {_format_settings(self.fast)}. Right labels: {100 * measured['right']:.1f} % of "
            f"{measured['images']:,} images, "
            f"{100 * measured['right_usual']:.1f} % with the usual settings (difference {low} to {high} points)."
        )


@functools.cache
def read_table() -> tuple[FastRow, ...]:
    """Return the table's rows."""
    table = read_json(TABLE)
    assert table["version"] == VERSION
    return tuple(FastRow(**row) for row in table["rows"])


def find_fast_row(method: str, checkpoint: str, content: str, values: Mapping[str, Any]) -> FastRow:
    """Return the row that holds for a recipe.

    Args:
        method: Name of the method.
        checkpoint: Name of the checkpoint, for errors.
        content: SHA-256 of its content; see `weights.fingerprint`.
        values: The recipe's settings by name.

    Raises:
        RecipeError: No row is about the checkpoint and the method, or it was measured with other settings.
    """
    rows = [row for row in read_table() if row.fingerprint == content and row.method == method]
    if not rows:
        covered = join_names(f"{row.checkpoint} ({row.method})" for row in read_table()) or "none"
        raise RecipeError(
            "speed",
            f"fast settings that give equally many right labels were measured only for {covered}, not for "
            f"{checkpoint!r} ({method}). Measure them with {LADDER} --checkpoint DIR, and set the fields that it "
            "reports: scheduler, num_inference_steps, guidance_interval, dtype. Or leave speed out.",
        )
    for row in rows:
        if not _find_differences(row, values):
            return row
    differences = _find_differences(rows[0], values)
    name = next(iter(differences))
    raise RecipeError(
        "speed",
        f"fast was measured with {_format_settings(differences)}, but the recipe has "
        f"{_format_settings({name: values[name] for name in differences})}. "
        f"Leave {name} out, or leave speed out and set the fields: {_format_settings(rows[0].fast)}.",
    )


def _find_differences(row: FastRow, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usual settings from which a recipe differs; none if it has the fast ones already."""
    fast = {name: value for name, value in row.fast.items() if name != "dtype"}
    expected = {**row.usual, **fast} if all(values[name] == value for name, value in fast.items()) else row.usual
    return {name: value for name, value in expected.items() if values[name] != value}


def _format_settings(settings: Mapping[str, Any]) -> str:
    return join_names((f"{name}={value}" for name, value in settings.items()), 8)
