"""Command-line flags made from a class of settings: one for each field, with its text, type and choices."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args, get_origin

from figureground.core.type_hints import strip_marks, union_members
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
            text = f"{text.removesuffix('.')} (default: {defaults[field.name]})"
        options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        optional = type(None) in members
        member = next(candidate for candidate in members if candidate is not type(None))
        if member is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif get_origin(member) is tuple:
            parser.add_argument(flag.removesuffix("s"), action="append", metavar="TEXT", **options)
        elif get_origin(member) is Literal:
            parser.add_argument(flag, choices=[*get_args(member), *(["none"] if optional else [])], **options)
        else:
            metavar = "NAME" if member is str and optional else _METAVARS[member]
            parser.add_argument(flag, type=_parse_optional(member) if optional else member, metavar=metavar, **options)


def read_flags(options: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Return the fields of a class of settings that the command line gave; `none` becomes None if a field allows it."""
    hints = field_types(kind)
    values = {name: value for name, value in options.items() if name in hints}
    return {name: None if v == "none" and type(None) in _members(hints[name]) else v for name, v in values.items()}


def add_settings(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add one flag to a parser for each field of a class of settings whose fields all have defaults, which it shows."""
    add_flags(parser, kind, {name: show_default(value) for name, value in vars(kind()).items()})


def show_default(value: Any) -> str:
    """Format a default for help texts."""
    return "off" if value is False else "on" if value is True else str(value).lower() if value is None else str(value)


def _members(hint: Any) -> list[Any]:
    """Return the types of a union, without their marks."""
    return [strip_marks(member) for member in union_members(hint)]


def _parse_optional(kind: type) -> Any:
    def read(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    read.__name__ = kind.__name__  # argparse names it in "invalid int value"
    return read
