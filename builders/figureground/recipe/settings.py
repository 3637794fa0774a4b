"""Settings as dataclasses checked by pydantic: each field declares its type, range, text and role once.

A class of settings defines its checks, the output of `figureground settings`, the JSON Schema, the flags of commands,
the relative paths in recipes, and the fields that decide a dataset.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_args, get_origin

import annotated_types
import pydantic
from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import CoreSchema, core_schema
from typing_extensions import is_typeddict

from figureground.core.errors import RecipeError, suggest, suggest_or_list
from figureground.core.registry import Registry
from figureground.core.type_hints import base_of, strip_marks, union_members
from figureground.core.values import FieldsOf, field_types

MAX_INTEGER = 2**63 - 1
"""Largest whole number that a setting may be: the largest signed 64-bit integer."""

CONFIG = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""
Count = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
"""A whole number of at least 1."""
Text = Annotated[str, Field(pattern=r"\S")]
"""Text that isn't blank."""


@dataclass(frozen=True)
class Names:
    """Marks a field whose texts, also inside mappings and lists of mappings, may name files.

    Only marked fields are treated as paths.
    """

    kind: Literal["directory", "file", "path"]
    """`directory`: a directory, or a name such as `pocket` or a Hub id. `file`: a path if it looks like one (a slash or
    a known suffix), else a name. `path`: the path of whatever exists there, else a name."""
    source: bool = False
    """Whether images are made from these files; a dataset can't be written inside such a directory."""
    is_created: bool = False
    """Whether a build creates the directory if it doesn't exist."""


@dataclass(frozen=True)
class OneOf:
    """Marks text that must be a name in a registry, which may grow when packages are installed."""

    registry: Registry[Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": self.registry.names()}

    def _check(self, name: str) -> str:
        if name not in self.registry:
            raise ValueError  # `_to_recipe_error` lists the known names
        return name


RENAMED: dict[str, tuple[str, ...]] = {
    "accumulate": ("gradient_accumulation_steps",), "warmup": ("lr_warmup_steps",),
    "max_gradient_norm": ("max_grad_norm",), "prior_images": ("num_class_images",),
    "steps": ("max_train_steps", "num_inference_steps"), "sampling_steps": ("num_inference_steps",),
    "templates": ("scenes",), "scenes": ("backgrounds",), "least_found": ("mask_threshold",),
    "grow": ("mask_dilation",), "least_probability": ("min_probability",),
    "least_attribution_ratio": ("min_attribution_ratio",),
}  # fmt: skip
"""Earlier names of settings, each with its new name; where it had several meanings, the first that is known holds."""


def current_name(name: str, names: Collection[str]) -> str:
    """Return the present name of a setting: its own if it is known, or else the known one that it had earlier."""
    return name if name in names else next((new for new in RENAMED.get(name, ()) if new in names), name)


def with_current_names(fields: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Return fields that an earlier version may have written, with their present names, also inside mappings."""
    names, marks = field_names(kind), find_marks(kind, FieldsOf)
    renamed = {current_name(name, names): value for name, value in fields.items()}
    return {
        name: with_current_names(value, marks[name].kind) if name in marks and isinstance(value, Mapping) else value
        for name, value in renamed.items()
    }


def suggest_setting(name: str, names: Collection[str]) -> str:
    """Return the end of an error about an unknown setting: its new name, or the nearest known one."""
    if (new := current_name(name, names)) != name:
        return f": it is called {new} now."
    return suggest_or_list(name, names)


class _Execution:
    """Marks a field that affects no image, such as the device or the number of workers."""


EXECUTION = _Execution()

C = TypeVar("C")


@dataclass_transform(field_specifiers=(dataclasses.field,))
def settings(*, frozen: bool = False) -> typing.Callable[[type[C]], type[C]]:
    """Make a class a dataclass of settings that are checked on creation.

    Numbers, booleans and text are never converted into each other; a list is accepted as a tuple. A field declares its
    range in its type, `Annotated[int, Field(ge=1)]`, and its text in the docstring below it. `__post_init__` may raise
    RecipeError for fields that don't fit together.

    The class raises RecipeError for the first invalid value and for unknown names.
    """

    def make(cls: type[C]) -> type[C]:
        decorated: Any = pydantic_dataclass(config=CONFIG, frozen=frozen)(cls)
        checked_init = decorated.__init__

        @functools.wraps(checked_init)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                checked_init(self, *args, **kwargs)
            except ValidationError as error:
                raise _to_recipe_error(error, type(self)) from None

        decorated.__init__ = __init__
        return decorated

    return make


def field_names(kind: type) -> list[str]:
    """Return the names of the fields, in order."""
    return [field.name for field in dataclasses.fields(kind)]


def describe_fields(kind: type) -> dict[str, str]:
    """Return the text below each field, in one line, by the field's name."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for name, field in getattr(base, "__pydantic_fields__", {}).items():
            if field.description:
                texts[name] = " ".join(field.description.split())
    return {name: texts.get(name, "") for name in field_names(kind)}


def find_marks(kind: type, mark: type[C]) -> dict[str, C]:
    """Return the marks of one type in the annotations of fields, by name; fields without one are left out."""
    marks = {}
    for name, hint in field_types(kind).items():
        for annotation in getattr(hint, "__metadata__", ()):
            if isinstance(annotation, mark):
                marks[name] = annotation
    return marks


def execution_names(kind: type) -> list[str]:
    """Return the names of the fields that affect no image."""
    return list(find_marks(kind, _Execution))


def describe_accepted(kind: type, name: str) -> str:
    """Return what a field accepts, for people: `one of jpg, webp, png`, or `a number from 0 to 1, or none`."""
    members = union_members(field_types(kind)[name])
    texts: dict[str, None] = {}
    for member in members:
        item_choices = _find_choices(_inner_type(member, 0)) if base_of(member) is list else ()
        if choices := _find_choices(member):
            texts[f"one of {', '.join(map(str, choices))}"] = None
        elif item_choices:
            texts[f"a list of {', '.join(map(str, item_choices))}"] = None
        elif base_of(member) is not type(None):
            texts[_describe_type(member)] = None
    if any(base_of(member) is type(None) for member in members):
        texts["none"] = None
    *first, last = texts
    return f"{', '.join(first)}, or {last}" if first else last


def json_schema(kind: type) -> dict[str, Any]:
    """Return the JSON Schema of recipes with a class's fields, all optional, with texts, defaults and ranges."""
    schema = pydantic.TypeAdapter(kind).json_schema()
    for name, text in describe_fields(kind).items():
        schema["properties"][name]["description"] = text
    for name, mark in find_marks(kind, FieldsOf).items():
        inside = json_schema(mark.kind)
        schema.setdefault("$defs", {}).update(inside.pop("$defs", {}))
        inside.pop("required", None)
        for omitted in mark.without:
            inside["properties"].pop(omitted, None)
        for prop in inside["properties"].values():
            prop.pop("default", None)  # they depend on the checkpoint
        schema["properties"][name] |= {"properties": inside["properties"], "additionalProperties": False}
    return schema


# Errors


def _to_recipe_error(error: ValidationError, kind: type) -> Exception:
    """Return the error for the first invalid field."""
    errors: list[dict[str, Any]] = [{**item, "loc": _name_field(item["loc"], kind)} for item in error.errors()]
    if not errors[0]["loc"]:  # from `__post_init__`
        cause: Exception = errors[0]["ctx"]["error"]
        return cause
    name = str(errors[0]["loc"][0])
    for item in errors:
        if item["loc"][-1] == "[key]":
            return RecipeError(name, f"{item['input']!r} is not a text; put it in quotes.")
    if errors[0]["type"] == "unexpected_keyword_argument":
        return RecipeError(name, f"there is no such setting{suggest_setting(name, field_names(kind))}")
    if errors[0]["type"] == "missing_argument":
        return RecipeError(name, "it is required.")
    # Each member of a union has its own errors. The deepest error belongs to the member that the user meant.
    hint = field_types(kind)[name]
    locations = [(_drop_members(item["loc"][1:], hint), item["input"]) for item in errors if item["loc"][0] == name]
    path, value = max(locations, key=lambda location: len(location[0]))
    for part in path:
        name, hint = f"{name}.{part}" if isinstance(part, str) else name, _inner_type(hint, part)
    return _make_error(value, hint, name)


def _name_field(location: tuple[Any, ...], kind: type) -> tuple[Any, ...]:
    """Return an error's location with the name of its field, which is a number if the field was given by position."""
    return (field_names(kind)[location[0]], *location[1:]) if location and isinstance(location[0], int) else location


_WRAPPERS = ("function-", "nullable[", "union[")
"""Names that pydantic gives to checks and inner unions begin with these."""


def _drop_members(location: Sequence[Any], hint: Any) -> list[Any]:
    """Return the keys and indices of an error's location, without the names that pydantic gives to unions' members.

    Args:
        location: Where the error is in a value.
        hint: Type of the value.
    """
    keys = []
    for part in location:
        members = [member for member in union_members(hint) if base_of(member) is not type(None)]
        member = next((member for member in members if len(members) > 1 and _is_named(member, part)), None)
        if member is not None:
            hint = member
        elif len(members) == 1 or not str(part).startswith(_WRAPPERS):
            keys.append(part)
            hint = _inner_type(hint, part)
    return keys


def _is_named(member: Any, part: Any) -> bool:
    """Return whether a part of an error's location is pydantic's name of a union's member."""
    bare = strip_marks(member)
    name = "literal" if get_origin(bare) is Literal else getattr(get_origin(bare) or bare, "__name__", "")
    if not isinstance(part, str):
        return False
    named = part.rpartition(", ")[2] if part.startswith("function-") else part
    return named.partition("[")[0].rstrip("]").removeprefix("constrained-") == name


def _make_error(value: Any, hint: Any, name: str) -> RecipeError:
    members = [member for member in union_members(hint) if base_of(member) is not type(None)]
    bases = {base_of(member) for member in members}
    choices = [str(choice) for member in members for choice in _find_choices(member)]
    if choices:
        descriptions = [_describe_type(member) for member in members if not _find_choices(member)]
        message = f"{', '.join(choices)}{''.join(f' or {description}' for description in descriptions)}"
        return RecipeError(name, f"{value!r} is not one of {message}{suggest(str(value), choices)}")
    message = f"{value!r} is not {' or '.join(dict.fromkeys(map(_describe_type, members)))}"
    if bases == {str} and value is not None and not isinstance(value, str | list | tuple | Mapping):
        return RecipeError(name, f"{message}; put it in quotes.")
    if bases == {list}:
        item_choices = [str(choice) for member in members for choice in _find_choices(_inner_type(member, 0))]
        return RecipeError(name, f"{message}; write it as [{', '.join(item_choices) or '…'}].")
    return RecipeError(name, f"{message}.")


def _find_choices(hint: Any) -> Sequence[Any]:
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, OneOf):
            return mark.registry.names()
    return get_args(strip_marks(hint)) if get_origin(strip_marks(hint)) is Literal else ()


def _inner_type(hint: Any, part: Any) -> Any:
    """Return the type of the value at a key or index."""
    for member in union_members(hint):
        bare, base = strip_marks(member), base_of(member)
        if isinstance(part, int) and base is list:
            return get_args(bare)[0]
        if isinstance(part, str) and base is dict and not is_typeddict(bare):
            return (*get_args(bare), Any, Any)[1]
        if isinstance(part, str) and base is dict and part in field_types(bare):
            return field_types(bare)[part]
    return Any


def _describe_type(hint: Any) -> str:
    base = base_of(hint)
    low, high = _find_range(hint)
    if base in (int, float):
        noun = "a whole number" if base is int else "a number"
        if high is None or high == MAX_INTEGER:
            return f"{noun} of at least {low:g}" if low is not None else noun
        return f"{noun} from {low} to {high}" if base is int else f"{noun} from {low:g} to {high:g}"
    if base is list and base_of(_inner_type(hint, 0)) in (int, float):
        return f"a list of {_describe_type(_inner_type(hint, 0)).removeprefix('a ').replace('number', 'numbers', 1)}"
    nouns = {bool: "true or false", str: "a text", list: "a list", dict: "a mapping", type(None): "none"}
    return nouns.get(base, str(base))


def _find_range(hint: Any) -> tuple[Any, Any]:
    low = high = None
    for mark in getattr(hint, "__metadata__", ()):
        for constraint in getattr(mark, "metadata", None) or [mark]:
            if isinstance(constraint, annotated_types.Ge):
                low = constraint.ge
            if isinstance(constraint, annotated_types.Le):
                high = constraint.le
    return low, high
