"""The methods that there are, by name: those of this package, and those of other packages.

A package adds one with an entry point in the group `figureground.methods`, such as `mine = "mypackage.mine:Mine"`; a
program adds one with `METHODS.add`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, RecipeError, nearest_or_all
from figureground.core.hashing import digest
from figureground.core.registry import Registry
from figureground.methods.base import Method
from figureground.recipe import document as recipes
from figureground.shards.directory import refuse_strange
from figureground.shards.writer import PRIVATE


def _check(name: str, found: Any) -> str | None:
    if not (isinstance(found, type) and issubclass(found, Method)) or getattr(found, "METHOD", None) != name:
        return f"is no Method whose METHOD is {name!r}"
    return None


METHODS: Registry[type[Method]] = Registry(
    "figureground.methods", "method",
    {
        "d3s": "figureground.methods.d3s:D3S",
        "spurious": "figureground.methods.spurious:Spurious",
        "scgs": "figureground.methods.scgs:SCGS",
        "ddb": "figureground.methods.ddb:DDB",
    },
    _check,
)  # fmt: skip


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        RecipeError: There is no such method.
        FiguregroundError: Another package's method can't be imported.
    """
    if name not in METHODS:
        raise RecipeError("METHOD", f"there is no builder {name!r}{nearest_or_all(name, METHODS.names())}")
    return METHODS[name]


def methods_from_data() -> list[str]:
    """Names of the methods that make images from a labelled training set.

    One of another package that can't be imported is left out; `method_class` says why, once it is named.
    """
    return [name for name, kind in METHODS.items() if kind.FROM_DATA]


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
