"""The methods that there are, by name: those of this package, and those that other packages bring.

A package adds one with an entry point in the group `figureground.methods`, such as `mine = "mypackage.mine:Mine"`; a
program adds one with `register`.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from figureground.core.errors import FiguregroundError, RecipeError, nearest_or_all
from figureground.core.hashing import digest
from figureground.methods.base import Method
from figureground.recipe import document as recipes
from figureground.shards.directory import refuse_strange
from figureground.shards.writer import PRIVATE

GROUP = "figureground.methods"
"""The group of entry points."""

_METHODS = {
    "d3s": "figureground.methods.d3s:D3S",
    "spurious": "figureground.methods.spurious:Spurious",
    "scgs": "figureground.methods.scgs:SCGS",
    "ddb": "figureground.methods.ddb:DDB",
}
"""By name, where the class lies: `module:class`."""


def register(name: str, where: str) -> None:
    """Adds a method for as long as this process lives.

    Args:
        name: The class's `METHOD`.
        where: `module:class`.

    Raises:
        FiguregroundError: The name is taken by another one.
    """
    if (there := _METHODS.setdefault(name, where)) != where:
        raise FiguregroundError(f"the method {name!r} is {there} already, and can't be {where}.")


@cache
def _brought() -> dict[str, str]:
    """By name, the methods of other packages; a name of this package's stays this package's."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


def method_names() -> list[str]:
    """Names of all methods, those of this package first."""
    return list({**_METHODS, **_brought()})


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        RecipeError: There is no such method.
        FiguregroundError: Another package's method can't be imported.
    """
    known = {**_brought(), **_METHODS}
    if name not in known:
        raise RecipeError("METHOD", f"there is no builder {name!r}{nearest_or_all(name, method_names())}")
    module, _, kind = known[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError) as error:
        if name in _METHODS and module.startswith("figureground."):
            raise
        raise FiguregroundError(f"the method {name!r}, {known[name]}, can't be imported: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, Method)) or getattr(found, "METHOD", None) != name:
        raise FiguregroundError(f"the method {name!r}: {known[name]} is no Method whose METHOD is {name!r}.")
    return found


def methods_from_data() -> list[str]:
    """Names of the methods that make images from a labelled training set.

    One of another package that can't be imported is left out; `method_class` says why, once it is named.
    """
    found = []
    for name in method_names():
        with suppress(FiguregroundError):
            if method_class(name).FROM_DATA:
                found.append(name)
    return found


def open_dataset(directory: Path) -> Method | None:
    """The method that made a dataset, or None when its sources are gone or are no longer what they were."""
    refuse_strange(directory)
    saved = directory / PRIVATE / "recipe.json"
    try:
        fields = recipes.read_recipe(saved)
        method = method_class(fields["builder"]).from_recipe(fields)
        unchanged = digest(method.identity()) == recipes.read_saved(saved)["sha256"]
    except (FiguregroundError, KeyError):
        return None
    method.read_stages(directory / PRIVATE / "stages")
    return method if unchanged else None
