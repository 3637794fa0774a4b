"""Builds the datasets of severity axes, one after the other; see `recipe.severity`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from figureground.core.errors import UsageError
from figureground.methods.base import Method
from figureground.methods.d3s import D3S
from figureground.recipe.severity import Axis, list_points, save_axes


def plan_severity(make: Callable[[Sequence[str]], Method], axes: Sequence[Axis]) -> dict[str, Method]:
    """Return the method of each dataset, by its folder; raise every error of a recipe before any work.

    Args:
        make: Returns the method with some more `KEY=VALUE` settings.
        axes: The axes.

    Raises:
        UsageError: The method isn't D3S, or pastes no cut-outs.
    """
    methods = {
        folder: make([f"{field}={value}" for field, value in changed.items()])
        for folder, changed in list_points(axes).items()
    }
    for method in methods.values():
        if not isinstance(method, D3S):
            raise UsageError(f"--severity applies to d3s, which pastes cut-outs, not to {method.METHOD}.")
        required_guide = "paste" if any(axis.name != "strength" for axis in axes) else None
        if method.config.guide == "none" or (required_guide and method.config.guide != required_guide):
            raise UsageError(
                f"--severity: images of the config {method.config.name} start from "
                f"{'no guide' if method.config.guide == 'none' else 'whole photographs'}, so these axes don't apply."
            )
    return methods


def build_severity(
    methods: dict[str, Method], axes: Sequence[Axis], out: Path, build: Callable[[Method, Path], Path]
) -> Iterator[Path]:
    """Build the datasets in folders of `out`, or go on with them; yields each that is finished.

    Args:
        methods: From `plan_severity`.
        axes: The axes.
        out: Directory, created if missing.
        build: Builds one dataset.

    Raises:
        UsageError: The directory holds other axes, or something else.
    """
    save_axes(out, axes)
    for folder, method in methods.items():
        yield build(method, out / folder)
