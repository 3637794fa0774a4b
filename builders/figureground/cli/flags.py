"""Command-line flags made from a class of settings: one for each field, with its text, type and choices."""

from __future__ import annotations

import argparse
import dataclasses
import types
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from figureground.core.values import field_types
from figureground.recipe.settings import describe_fields

_METAVARS = {int: "N", float: "X", str: "TEXT"}


def add_flags(
    parser: argparse.ArgumentParser, kind: type, defaults: Mapping[str, str], omit: Collection[str] = ()
) -> None:
    """Add one flag to a parser for each field of a class of settings. Flags not given are absent from the result.

    Args:
        kind: The class of settings.
        defaults: Text of the default in a flag's help, by field; others show none.
        omit: Fields without a flag.
    """
    texts, hints = describe_fields(kind), field_types(kind)
    for field in dataclasses.fields(kind):
        if field.name in omit:
            continue
        members, flag = _members(hints[field.name]), "--" + field.name.replace("_", "-")
        text = texts[field.name].replace("`", "")
        if field.name in defaults:
            text = f"{text.removesuffix('.')} ({defaults[field.name]})"
        options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        optional = type(None) in members
        first = next(each for each in members if each is not type(None))
        if first is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif get_origin(first) is tuple:
            parser.add_argument(flag.removesuffix("s"), action="append", metavar="TEXT", **options)
        elif get_origin(first) is Literal:
            parser.add_argument(flag, choices=[*get_args(first), *(["none"] if optional else [])], **options)
        else:
            metavar = "NAME" if first is str and optional else _METAVARS[first]
            parser.add_argument(flag, type=_optional(first) if optional else first, metavar=metavar, **options)


def read_flags(options: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Return the fields of a class of settings that the command line gave; `none` becomes None if a field allows it."""
    hints = field_types(kind)
    given = {name: value for name, value in options.items() if name in hints}
    return {name: None if v == "none" and type(None) in _members(hints[name]) else v for name, v in given.items()}


def add_settings(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add one flag to a parser for each field of a class of settings whose fields all have defaults, which it shows."""
    add_flags(parser, kind, {name: show_default(value) for name, value in vars(kind()).items()})


def show_default(value: Any) -> str:
    """Format a default for help texts."""
    return "off" if value is False else "on" if value is True else str(value).lower() if value is None else str(value)


def _members(hint: Any) -> list[Any]:
    """Return the types of a union, without their marks."""
    if get_origin(hint) is Annotated:
        return _members(hint.__origin__)
    if get_origin(hint) in (Union, types.UnionType):
        return [member for each in get_args(hint) for member in _members(each)]
    return [hint]


def _optional(kind: type) -> Any:
    def read(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    read.__name__ = kind.__name__  # argparse names it in "invalid int value"
    return read
