"""Looks into type hints: the members of unions, marks, and what kind of value a type is for."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from typing_extensions import is_typeddict


def strip_marks(hint: Any) -> Any:
    """Return a type without its marks: `X` for `Annotated[X, …]`."""
    return hint.__origin__ if get_origin(hint) is Annotated else hint


def union_members(hint: Any) -> list[Any]:
    """Return the types of a union, each with the union's marks; any other type alone."""
    bare, marks = strip_marks(hint), getattr(hint, "__metadata__", ())
    if get_origin(bare) in (Union, types.UnionType):
        return [
            Annotated[(each, *marks)] if marks else each for member in get_args(bare) for each in union_members(member)
        ]
    return [hint]


def base_of(hint: Any) -> Any:
    """Return `dict` for all mappings, `list` for lists and tuples, `str` for literals, else the type itself."""
    bare = strip_marks(hint)
    if is_typeddict(bare):
        return dict
    origin = get_origin(bare)
    return str if origin is Literal else list if origin is tuple else origin or bare
