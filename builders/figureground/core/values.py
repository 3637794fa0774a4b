"""Converts typed text into values of a field's type: one rule for YAML, JSON and `--set`."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

import yaml
from typing_extensions import is_typeddict

from figureground.core.documents import Plain, parse_yaml
from figureground.core.errors import RecipeError
from figureground.core.type_hints import base_of, strip_marks, union_members

NULLS = ("", "~", "null", "Null", "NULL")
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_SWITCHES = ("yes", "no", "on", "off", "1", "0")
"""Texts that other YAML readers read as true or false."""
_WHOLE = re.compile(r"[-+]?\d+(_\d+)*")
_NUMBER = re.compile(r"[-+]?(\d+(_\d+)*\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|nan)", re.IGNORECASE)
_TYPE_NAMES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a mapping",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FieldsOf:
    """Marks a mapping, `Annotated[dict[str, Any], FieldsOf(C)]`, whose entries are fields of the dataclass `C`."""

    kind: type
    without: tuple[str, ...] = ()
    """Fields that aren't entries of the mapping."""


class Setting(str):
    """The text after `=` on a command line, not parsed yet. Text fields take it unchanged."""

    __slots__ = ()


def field_types(cls: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass or TypedDict, by name."""
    return _field_types(cls)


@cache
def _field_types(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else hints


def type_at(kind: Any, keys: typing.Sequence[str]) -> Any:
    """Return the type at `keys` inside a value of type `kind`, or `Any` if it is unspecified."""
    for key in keys:
        mappings = [mapping for mapping in _members(kind) if base_of(mapping) is dict]
        kind = next((entry for mapping in mappings if (entry := _entry_type(mapping, key)) is not Any), Any)
    return kind


def convert(value: Any, kind: Any, field: str) -> Any:
    """Convert a value to the type of its field.

    Text fields, names in lists and keys keep the typed text: `no`, `007` and `2024-01-01` are names. Numbers, `true`,
    `false` and `null` are converted only if the field's type accepts them. Values that aren't text are returned
    unchanged.

    Args:
        value: Nested dicts and lists of `Plain` and `str`, as read by `core.documents`; or a `Setting`.
        kind: A type hint: `str`, `int`, `float`, `bool`, `None`, `Literal`, `Any`, lists, dicts, TypedDicts and their
            unions, also `Annotated`; see `FieldsOf`.
        field: Name of the field, for errors.

    Raises:
        RecipeError: The value doesn't fit the type.
    """
    kinds = _members(kind)
    if isinstance(value, Setting):
        value = _parse_setting(value, kinds, field)
    if isinstance(value, Mapping):
        mappings = [member for member in kinds if base_of(member) is dict]
        if not mappings and Any not in kinds:
            raise _make_error("a mapping", kinds, field)
        default = mappings[-1] if mappings else Any
        mapping = next((kind for kind in mappings if any(name in _fixed_keys(kind) for name in value)), default)
        return {
            _to_utf8_text(name, field): convert(v, _entry_type(mapping, name), f"{field}.{name}")
            for name, v in value.items()
        }
    if isinstance(value, list):
        lists = [member for member in kinds if base_of(member) is list]
        if not lists and Any not in kinds:
            raise _make_error("a list", kinds, field)
        item_kind = get_args(lists[0])[0] if lists else Any
        is_list_of_names = str in _members(item_kind)
        return [
            _to_utf8_text(item, field)
            if is_list_of_names and isinstance(item, str)
            else convert(item, item_kind, f"{field}[{i}]")
            for i, item in enumerate(value)
        ]
    return _convert_scalar(value, kinds, field) if isinstance(value, str) else value


def _convert_scalar(value: str, kinds: list[Any], field: str) -> Any:
    bases = {base_of(kind) for kind in kinds}
    takes_text = str in bases or Any in bases
    if isinstance(value, Plain):
        if value in NULLS and type(None) in bases:
            return None
        if bool in bases and value in _BOOLS:
            return _BOOLS[value]
        if (number := _parse_number(value, bases)) is not None:
            return number
        if takes_text and value in NULLS[1:]:
            raise RecipeError(
                field,
                f"{value} means no value, but this needs {_name_types(kinds)}. For the word itself, put it in quotes.",
            )
    elif not takes_text:
        raise RecipeError(field, f"{_quote(value)} is in quotes, which makes it text; this needs {_name_types(kinds)}.")
    if takes_text:
        return _to_utf8_text(value, field)
    raise _make_error(_quote(value), kinds, field)


def _parse_number(text: str, bases: set[Any]) -> int | float | None:
    if not bases & {int, float} or not _NUMBER.fullmatch(text):
        return None
    try:
        if _WHOLE.fullmatch(text):
            return int(text)
        number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:  # more digits than Python converts
        return None
    is_whole = "e" in text.lower() and number.is_integer()
    return int(number) if int in bases and is_whole else number


def _parse_setting(text: Setting, kinds: list[Any], field: str) -> Any:
    """Parse a setting as YAML if it is in quotes, or if it looks like a list or mapping and the field accepts one."""
    typed = _to_utf8_text(text, field).strip()
    bases = {base_of(each) for each in kinds}
    is_quoted = typed[:1] in ("'", '"') and len(typed) > 1 and typed[0] == typed[-1]
    looks_nested = (
        typed[:1] in ("[", "{") or typed.startswith("- ") or ": " in typed or typed.endswith(":") or "\n" in typed
    )
    is_nested = bool(bases & {list, dict} or Any in bases) and looks_nested
    if not is_quoted and not is_nested:
        return Plain(typed)
    try:
        parsed = parse_yaml(typed)
    except (yaml.YAMLError, RecursionError) as error:
        if Any in bases or not bases & {list, dict}:
            return Plain(typed)
        problem = getattr(error, "problem", None) or "not YAML"
        raise RecipeError(field, f"{_quote(typed)} doesn't parse as YAML: {problem}.") from None
    return parsed if is_nested or isinstance(parsed, str) else Plain(typed)


def _to_utf8_text(value: str, field: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RecipeError(field, f"{str(value)!a} is not UTF-8 text. Rename the file, or type it again.") from None
    return str(value)


def _members(kind: Any) -> list[Any]:
    """Return the types of a union, or the single type; without marks but for `FieldsOf`."""
    return [member if _find_mark(member) else strip_marks(member) for member in union_members(kind)]


def _fixed_keys(kind: Any) -> typing.Collection[str]:
    """Return the keys of a mapping with fixed keys, else nothing."""
    if is_typeddict(kind):
        return field_types(kind)
    return field_types(mark.kind) if (mark := _find_mark(kind)) else ()


def _find_mark(kind: Any) -> FieldsOf | None:
    return next(
        (annotation for annotation in getattr(kind, "__metadata__", ()) if isinstance(annotation, FieldsOf)), None
    )


def _entry_type(kind: Any, key: str) -> Any:
    """Return the type of a mapping's entry."""
    if is_typeddict(kind):
        return field_types(kind).get(key, Any)
    if mark := _find_mark(kind):
        return field_types(mark.kind).get(key, Any)
    return (*get_args(kind), Any, Any)[1] if kind is not Any else Any


def _name_types(kinds: list[Any]) -> str:
    names = dict.fromkeys(_TYPE_NAMES[base] for base in map(base_of, kinds) if base in _TYPE_NAMES)
    return " or ".join(names)


def _quote(text: str) -> str:
    return repr(str(text)) if len(text) <= 80 else repr(text[:80] + "…")


def _make_error(shown: str, kinds: list[Any], field: str) -> RecipeError:
    bases = [base_of(kind) for kind in kinds if kind is not type(None)]
    if bases == [list]:
        return RecipeError(field, f"{shown} is not a list; write it in brackets, as in [a, b].")
    if bases == [dict]:
        keys = list(_fixed_keys(kinds[0]))[:1] or ["name"]
        return RecipeError(
            field,
            f"{shown} is not a mapping; write it in braces, as in {{{keys[0]}: …}}, or set one entry with a dot: "
            f"{field}.{keys[0]}=….",
        )
    word = shown.strip("'").lower()
    hint = f" Write {'true' if word in ('yes', 'on', '1') else 'false'}." if bool in kinds and word in _SWITCHES else ""
    return RecipeError(field, f"{shown} is not {_name_types(kinds)}.{hint}")
