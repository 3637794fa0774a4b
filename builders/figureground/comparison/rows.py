"""The rows of a comparison: trainings, and trainings with the images of a generator added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from figureground.core.errors import RecipeError, listed, nearest
from figureground.learn.settings import METHODS, TWO_STAGE
from figureground.methods.registry import methods_from_data

PASTE = "paste"


def generator_names() -> list[str]:
    """What makes images that are added to training: the module `learn.paste`, and the methods that start from data."""
    return [PASTE, *methods_from_data()]


class Row(NamedTuple):
    """A method of the comparison."""

    name: str
    generator: str | None
    """What makes the images that are added; one of `generator_names`."""
    training: str
    """One of `settings.METHODS`."""


def parse_methods(names: Sequence[str]) -> list[Row]:
    """The rows that are asked for: `jtt`, `ddb` (which is ddb and ERM), `ddb+jtt`.

    Raises:
        RecipeError: None, one that there isn't, or one that is named twice.
    """
    generators = generator_names()
    known = [*METHODS, *generators, *(f"{made}+{method}" for made in generators for method in METHODS)]
    rows: list[Row] = []
    for name in names:
        first, plus, second = name.partition("+")
        if name not in known:
            near = nearest(name, known) or (
                f"; there is {listed([*METHODS, *generators])}, and a generator with a training, such as scgs+jtt."
            )
            raise RecipeError("methods", f"there is no {name!r}{near}")
        if name == TWO_STAGE:
            raise RecipeError(
                "methods", f"{name!r} begins with added images: name what makes them, as in ddb+{TWO_STAGE}."
            )
        generator = first if first in generators else None
        training = second if plus else "erm" if generator else first
        row = Row(generator if generator and training == "erm" else name, generator, training)
        if row in rows:
            raise RecipeError("methods", f"{row.name!r} is named twice.")
        rows.append(row)
    if not rows:
        raise RecipeError("methods", f"name some, such as erm,jtt,ddb; there is {listed([*METHODS, *generators])}.")
    return rows
