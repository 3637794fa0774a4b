"""Checks the structure of JSON, so that damaged or foreign files are reported before use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from figureground.core.text import printable

MAX_COUNT = 2**63 - 1
"""Largest count: the maximum of signed 64-bit integers."""


class Count:
    """Shape of an integer from 0 to `MAX_COUNT`, not a boolean."""


class Number:
    """Shape of a number, with or without fraction."""


@dataclass(frozen=True)
class Optional:
    """Shape of a field that may be missing."""

    shape: Any


@dataclass(frozen=True)
class MapOf:
    """Shape of an object with arbitrary names, whose values all have one shape."""

    shape: Any


@dataclass(frozen=True)
class TupleOf:
    """Shape of a list with a fixed length, such as (foreground, background, count)."""

    shapes: tuple[Any, ...]


_NOUNS = {
    str: "text", dict: "object", list: "list", bool: "true or false", Number: "number",
    Count: f"number from 0 to {MAX_COUNT}",
}  # fmt: skip


def is_count(value: Any) -> bool:
    """Whether a value is a non-negative integer that fits into signed 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def check_shape(value: Any, shape: Any, name: str = "") -> None:
    """Check a JSON value against a shape.

    Args:
        value: Output of `json.loads`.
        shape: `str`, `bool`, `dict` (any object), `list` (any list), `Number` or `Count`; a list `[shape]` of values
            with one shape; a dict of shapes by field, in which further fields are allowed; `(shape, None)` for a
            nullable value; `MapOf`, `TupleOf` or `Optional`.
        name: Name of the value in errors; empty for a whole document.

    Raises:
        ValueError: A field is missing or has the wrong type; names the first one, such as `shards[3].files`.
    """
    if isinstance(shape, dict):
        _check_fields(_require(value, dict, name), shape, name)
    elif isinstance(shape, list):
        for index, item in enumerate(_require(value, list, name)):
            check_shape(item, shape[0], f"{name}[{index}]")
    elif isinstance(shape, tuple):
        if value is not None:
            check_shape(value, shape[0], name)
    elif isinstance(shape, MapOf):
        for key, item in _require(value, dict, name).items():
            check_shape(item, shape.shape, _join_path(name, key))
    elif isinstance(shape, TupleOf):
        if len(_require(value, list, name)) != len(shape.shapes):
            raise ValueError(f"{name} has {len(value)} entries instead of {len(shape.shapes)}")
        for index, item_shape in enumerate(shape.shapes):
            check_shape(value[index], item_shape, f"{name}[{index}]")
    elif not _matches(value, shape):
        raise ValueError(f"{name or 'it'} isn't a {_NOUNS[shape]}")


def _matches(value: Any, shape: type) -> bool:
    if shape is Number:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return is_count(value) if shape is Count else isinstance(value, shape)


def _check_fields(value: Mapping[str, Any], shape: Mapping[str, Any], name: str) -> None:
    for field, field_shape in shape.items():
        path = _join_path(name, field)
        if field in value:
            check_shape(value[field], field_shape.shape if isinstance(field_shape, Optional) else field_shape, path)
        elif not isinstance(field_shape, Optional):
            raise ValueError(f"{path} is missing")


def _require(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name or 'it'} isn't a {_NOUNS[kind]}")
    return value


def _join_path(name: str, field: str) -> str:
    return printable(f"{name}.{field}" if name else field)
