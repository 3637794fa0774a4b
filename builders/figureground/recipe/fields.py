"""Fields of dataclasses that hold settings: the texts that stand below them in the source, and checks of numbers."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
import textwrap
from typing import Any

from figureground.core.errors import RecipeError

MOST = 2**63 - 1
"""The largest whole number that a setting may be: what signed 64-bit integers hold."""


def texts_below(kind: type) -> dict[str, str]:
    """The text below each field of a dataclass, in one line, by the field's name; not those of fields it inherits."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    known, texts = {field.name for field in dataclasses.fields(kind)}, {}
    for field, text in itertools.pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            texts[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return {name: text for name, text in texts.items() if name in known}


def check_number(name: str, value: Any, least: float, most: float | None, whole: bool, optional: bool) -> None:
    """Raises RecipeError unless `value` is a number in that range, or none at all where it is optional."""
    if value is None and optional:
        return
    kinds = int if whole else int | float
    most = MOST if whole and most is None else most
    good = isinstance(value, kinds) and not isinstance(value, bool) and value >= least
    good = good and (isinstance(value, int) or math.isfinite(value))
    if not good or (most is not None and value > most):
        span = f"from {least:g} to {most:g}" if most is not None else f"of at least {least:g}"
        raise RecipeError(name, f"{value!r} is not a {'whole ' if whole else ''}number {span}.")
