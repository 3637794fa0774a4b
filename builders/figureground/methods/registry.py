"""Registry of methods by name, of this package and of others.

A package adds a method with an entry point in the group `figureground.methods`, such as `mine = "mypackage.mine:Mine"`;
a program adds one with `METHODS.add`.
"""

from __future__ import annotations

from pathlib import Path

from figureground.core.errors import FiguregroundError, RecipeError, suggest_or_list
from figureground.core.hashing import digest
from figureground.core.registry import Registry, check_subclass
from figureground.methods.base import Method
from figureground.recipe import document as recipes
from figureground.shards.directory import refuse_unsafe_entries
from figureground.shards.shard import RECIPE, STAGES

METHODS: Registry[type[Method]] = Registry(
    "figureground.methods", "method",
    {
        "d3s": "figureground.methods.d3s:D3S",
        "spurious": "figureground.methods.spurious:Spurious",
        "scgs": "figureground.methods.scgs:SCGS",
        "ddb": "figureground.methods.ddb:DDB",
    },
    check_subclass(Method, "METHOD"),
)  # fmt: skip


def method_class(name: str) -> type[Method]:
    """Return the class of a method.

    Raises:
        RecipeError: The method doesn't exist.
        FiguregroundError: Another package's method can't be imported.
    """
    if name not in METHODS:
        raise RecipeError("METHOD", f"there is no builder {name!r}{suggest_or_list(name, METHODS.names())}")
    return METHODS[name]


def methods_from_data() -> list[str]:
    """Return the names of the methods that make images from a labelled training set.

    Methods of other packages that can't be imported are left out; `method_class` reports the reason.
    """
    return [name for name, kind in METHODS.items() if kind.FROM_DATA]


def open_dataset(directory: Path) -> Method | None:
    """Return the method that made a dataset, or None if its sources are missing or have changed."""
    refuse_unsafe_entries(directory)
    saved = directory / RECIPE
    try:
        fields = recipes.read_recipe(saved)
        method = method_class(fields["builder"]).from_recipe(fields)
        unchanged = digest(method.identity()) == recipes.read_saved_recipe(saved)["sha256"]
    except (FiguregroundError, KeyError):
        return None
    method.read_stages(directory / STAGES)
    return method if unchanged else None
