"""Errors about values inside a setting name the path that a recipe has, whatever types the setting takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from typing_extensions import TypedDict

from figureground.core.errors import RecipeError
from figureground.core.registry import Registry
from figureground.recipe.settings import Count, OneOf, Share, settings

LETTERS: Registry[object] = Registry(
    "letters", "letter", {"a": "builtins:a", "b": "builtins:b"}, lambda name, value: None
)


class Entry(TypedDict, total=False):
    """A type that only this module knows."""

    size: Count
    sizes: list[Count]
    float: dict[str, Count]


@settings()
class Example:
    entry: str | Entry | dict[str, str | Entry] = "x"
    entries: list[str | Entry] | None = None
    share: Annotated[Share | dict[str, Share], Field()] = 0.5
    named: Annotated[str, OneOf(LETTERS)] | dict[str, Annotated[str, OneOf(LETTERS)] | Literal[False]] = "a"
    inner: Annotated[Entry | None, Field()] | list[str] = None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"entry": {"size": 0}}, "entry.size: 0 is not a whole number"),
        ({"entry": {"sizes": [1, 0]}}, "entry.sizes: 0 is not"),
        ({"entry": {"bird": {"size": "x"}}}, "entry.bird.size: 'x' is not"),
        ({"entry": {"bird": 3}}, "entry.bird: 3 is not a text or a mapping"),
        ({"entry": 3}, "entry: 3 is not a text or a mapping"),
        ({"entries": ["x", {"size": 0}]}, "entries.size: 0 is not"),
        ({"entries": [{"float": {"str": 0}}]}, "entries.float.str: 0 is not"),
        ({"share": {"bird": 2.0}}, "share.bird: 2.0 is not a number from 0 to 1"),
        ({"share": 2.0}, "share: 2.0 is not a number from 0 to 1 or a mapping"),
        ({"named": "c"}, "named: 'c' is not one of a, b or a mapping"),
        ({"named": {"bird": "c"}}, "named.bird: 'c' is not one of a, b, False"),
        ({"inner": {"size": 0}}, "inner.size: 0 is not"),
    ],
)
def test_an_error_names_the_keys_and_no_type(value: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Example(**value)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    "name", ["Entry", "str", "float", "constrained-int", "dict[str]", "literal", "function-x", "a, b"]
)
def test_a_class_that_is_called_like_a_type_stays_in_the_path(name: str) -> None:
    for value, path in (
        ({"entry": {name: {"size": 0}}}, f"entry.{name}.size"),
        ({"entry": {name: {"float": {name: 0}}}}, f"entry.{name}.float.{name}"),
        ({"share": {name: 2.0}}, f"share.{name}"),
        ({"named": {name: "c"}}, f"named.{name}"),
    ):
        with pytest.raises(RecipeError) as refused:
            Example(**value)
        assert refused.value.field == path
