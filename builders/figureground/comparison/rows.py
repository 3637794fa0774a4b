"""The rows of a comparison: trainings, and trainings with the images of a generator added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from figureground.core.errors import RecipeError, join_names, suggest
from figureground.learn.settings import TWO_STAGE
from figureground.learn.way import WAYS
from figureground.methods.registry import methods_from_data

PASTE = "paste"


def list_generators() -> list[str]:
    """Return the generators of added training images: `learn.paste`, and the methods that start from data."""
    return [PASTE, *methods_from_data()]


class Row(NamedTuple):
    """A method of the comparison."""

    name: str
    generator: str | None
    """Generator of the added images, one of `list_generators`; None if none are added."""
    training: str
    """A way of training, one of `way.WAYS`."""


def parse_methods(names: Sequence[str]) -> list[Row]:
    """Parse names of rows, such as `jtt`, `ddb` (ddb with ERM) and `ddb+jtt`.

    Raises:
        RecipeError: No name is given, a name is unknown, or one occurs twice.
    """
    generators = list_generators()
    known = [*WAYS.names(), *generators, *(f"{generator}+{way}" for generator in generators for way in WAYS.names())]
    rows: list[Row] = []
    for name in names:
        first, plus, second = name.partition("+")
        if name not in known:
            hint = suggest(name, known) or (
                f"; known are {join_names([*WAYS.names(), *generators])}, and a generator with a training: scgs+jtt."
            )
            raise RecipeError("methods", f"unknown method {name!r}{hint}")
        if name == TWO_STAGE:
            raise RecipeError("methods", f"{name!r} needs a generator for the added images: write ddb+{TWO_STAGE}.")
        generator = first if first in generators else None
        training = second if plus else "erm" if generator else first
        row = Row(generator if generator and training == "erm" else name, generator, training)
        if row in rows:
            raise RecipeError("methods", f"{row.name!r} is named twice.")
        rows.append(row)
    if not rows:
        raise RecipeError(
            "methods", f"none given; choose from {join_names([*WAYS.names(), *generators])}, as in erm,jtt,ddb."
        )
    return rows
