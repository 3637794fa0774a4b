"""Severity axes of D3S: datasets that differ in one setting, from mild to severe, with the same seeds and labels.

The images of one key have the same cut-out, scene and noise in all of them, so they can be compared image by image, as
in CNS-Bench (Dünkel et al. 2025, arXiv 2507.17651).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, UsageError, suggest_or_list
from figureground.core.files import read_object, replace_text, safe_join
from figureground.core.names import slug
from figureground.core.shapes import MapOf, check_shape
from figureground.core.values import Setting, convert

FILE = "severity.json"
MILDEST = "mildest"
"""Folder of the dataset with the mildest value of every axis: severity 0 of each."""
MADE_BY = "figureground build --severity"
PRESETS: dict[str, tuple[str, tuple[float, ...]]] = {
    "scale": ("cutout_scale", (0.6, 0.45, 0.3, 0.2, 0.15, 0.1)),
    "position": ("position", (0.0, 0.25, 0.5, 0.75, 1.0)),
    "strength": ("strength", (0.3, 0.45, 0.6, 0.75, 0.9)),
}
"""By axis: the setting, and its values from mild to severe."""
_SHAPE = {"made_by": str, "axes": MapOf({"field": str, "values": list, "datasets": list})}


@dataclass(frozen=True)
class Axis:
    """A setting with values from mild to severe."""

    name: str
    field: str
    values: tuple[float, ...]

    @property
    def folders(self) -> tuple[str, ...]:
        """Folder of the dataset of each value."""
        return (MILDEST, *(f"{slug(self.name)}-{k}" for k in range(1, len(self.values))))


def read_axes(texts: Sequence[str]) -> list[Axis]:
    """Read `--severity AXIS[=VALUE,VALUE,…]`.

    Raises:
        UsageError: An axis is unknown or given twice, or has fewer than two values, or one twice.
    """
    axes: list[Axis] = []
    for text in texts:
        name, equals, values = text.partition("=")
        if name not in PRESETS:
            raise UsageError(f"--severity {text}: there is no axis {name!r}{suggest_or_list(name, PRESETS)}")
        if any(axis.name == name for axis in axes):
            raise UsageError(f"--severity {name} is given twice; give its values once: --severity {name}=0.6,0.3")
        field, numbers = PRESETS[name]
        if equals:
            numbers = tuple(
                float(convert(Setting(number), float, f"--severity {name}")) for number in values.split(",")
            )
        if len(set(numbers)) != len(numbers) or len(numbers) < 2:
            raise UsageError(f"--severity {text}: give at least two different values, from mild to severe.")
        axes.append(Axis(name, field, numbers))
    return axes


def list_points(axes: Sequence[Axis]) -> dict[str, dict[str, float]]:
    """Return the settings of each dataset, by its folder: one axis varies, the others have their mildest value."""
    mildest = {axis.field: axis.values[0] for axis in axes}
    settings_by_folder = {MILDEST: mildest}
    for axis in axes:
        for folder, value in zip(axis.folders[1:], axis.values[1:], strict=True):
            settings_by_folder[folder] = {**mildest, axis.field: value}
    return settings_by_folder


def save_axes(directory: Path, axes: Sequence[Axis]) -> None:
    """Write down the axes of a directory, or check that they are the same.

    Raises:
        UsageError: The directory holds other axes, or something else.
    """
    saved: dict[str, Any] = {
        axis.name: {"field": axis.field, "values": list(axis.values), "datasets": list(axis.folders)} for axis in axes
    }
    if (directory / FILE).exists():
        existing = {axis.name: axis for axis in load_axes(directory)}
        if _holds_datasets(directory):
            if existing != {axis.name: axis for axis in axes}:
                raise UsageError(
                    f"--out {directory} holds other severity axes (see {FILE} there). Give another directory."
                )
            return
    if directory.exists() and (not directory.is_dir() or any(path.name != FILE for path in directory.iterdir())):
        raise UsageError(f"--out {directory} holds something else. Give a new directory.")
    replace_text(directory / FILE, json.dumps({"made_by": MADE_BY, "axes": saved}, indent=1) + "\n")


def _holds_datasets(directory: Path) -> bool:
    """Whether a dataset was begun; if not, the run that wrote the axes failed before."""
    return any(path.is_dir() for path in directory.iterdir())


def load_axes(directory: Path) -> list[Axis]:
    """Read the axes of a directory.

    Raises:
        FiguregroundError: The file is damaged.
    """
    path = directory / FILE
    saved = read_object(path, root=directory)
    try:
        check_shape(saved, _SHAPE)
        axes = [Axis(name, axis["field"], tuple(map(float, axis["values"]))) for name, axis in saved["axes"].items()]
        for axis in axes:
            if list(axis.folders) != saved["axes"][axis.name]["datasets"] or len(axis.values) < 2:
                raise ValueError(f"the datasets of {axis.name} don't fit its values")
            for folder in axis.folders:
                safe_join(directory, folder)
        if not axes:
            raise ValueError("it names no axis")
    except (ValueError, TypeError) as error:
        raise FiguregroundError(f"{path} is damaged ({error}). Build again in a new directory.") from None
    return axes
