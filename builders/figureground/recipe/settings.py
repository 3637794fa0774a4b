"""Settings as dataclasses checked by pydantic: each field declares its type, range, text and role once.

A class of settings defines its checks, the output of `figureground settings`, the JSON Schema, the flags of commands,
the relative paths in recipes, and the fields that decide a dataset.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin

import annotated_types
import pydantic
from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import CoreSchema, core_schema
from typing_extensions import is_typeddict

from figureground.core.errors import RecipeError, nearest, nearest_or_all
from figureground.core.registry import Registry
from figureground.core.values import FieldsOf, field_types

MOST = 2**63 - 1
"""Largest whole number that a setting may be: the largest signed 64-bit integer."""

CONFIG = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""
Count = Annotated[int, Field(ge=1, le=MOST)]
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
    made: bool = False
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
            raise ValueError  # `_refusal` lists the known names
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


def new_name(name: str, known: Collection[str]) -> str:
    """Return the present name of a setting: its own if it is known, or else the known one that it had earlier."""
    return name if name in known else next((new for new in RENAMED.get(name, ()) if new in known), name)


def with_new_names(fields: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Return fields that an earlier version may have written, with their present names, also inside mappings."""
    known, inside = field_names(kind), marked(kind, FieldsOf)
    renamed = {new_name(name, known): value for name, value in fields.items()}
    return {
        name: with_new_names(value, inside[name].kind) if name in inside and isinstance(value, Mapping) else value
        for name, value in renamed.items()
    }


def name_nearest(name: str, known: Collection[str]) -> str:
    """Return the end of an error about an unknown setting: its new name, or the nearest known one."""
    if (new := new_name(name, known)) != name:
        return f": it is called {new} now."
    return nearest_or_all(name, known)


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
        made: Any = pydantic_dataclass(config=CONFIG, frozen=frozen)(cls)
        checked = made.__init__

        @functools.wraps(checked)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                checked(self, *args, **kwargs)
            except ValidationError as error:
                raise _refusal(error, type(self)) from None

        made.__init__ = __init__
        return made

    return make


def field_names(kind: type) -> list[str]:
    """Return the names of the fields, in order."""
    return [each.name for each in dataclasses.fields(kind)]


def describe_fields(kind: type) -> dict[str, str]:
    """Return the text below each field, in one line, by the field's name."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for name, found in getattr(base, "__pydantic_fields__", {}).items():
            if found.description:
                texts[name] = " ".join(found.description.split())
    return {name: texts.get(name, "") for name in field_names(kind)}


def marked(kind: type, mark: type[C]) -> dict[str, C]:
    """Return the marks of one type in the annotations of fields, by name; fields without one are left out."""
    found = {}
    for name, hint in field_types(kind).items():
        for each in getattr(hint, "__metadata__", ()):
            if isinstance(each, mark):
                found[name] = each
    return found


def execution_names(kind: type) -> list[str]:
    """Return the names of the fields that affect no image."""
    return list(marked(kind, _Execution))


def accepted(kind: type, name: str) -> str:
    """Return what a field accepts, for people: `one of jpg, webp, png`, or `a number from 0 to 1, or none`."""
    members = _members(field_types(kind)[name])
    told: dict[str, None] = {}
    for each in members:
        inside = _literals(_inside(each, 0)) if _base(each) is list else ()
        if choices := _literals(each):
            told[f"one of {', '.join(map(str, choices))}"] = None
        elif inside:
            told[f"a list of {', '.join(map(str, inside))}"] = None
        elif _base(each) is not type(None):
            told[_describe(each)] = None
    if any(_base(each) is type(None) for each in members):
        told["none"] = None
    *first, last = told
    return f"{', '.join(first)}, or {last}" if first else last


def json_schema(kind: type) -> dict[str, Any]:
    """Return the JSON Schema of recipes with a class's fields, all optional, with texts, defaults and ranges."""
    schema = pydantic.TypeAdapter(kind).json_schema()
    for name, text in describe_fields(kind).items():
        schema["properties"][name]["description"] = text
    for name, mark in marked(kind, FieldsOf).items():
        inside = json_schema(mark.kind)
        schema.setdefault("$defs", {}).update(inside.pop("$defs", {}))
        inside.pop("required", None)
        for given_elsewhere in mark.without:
            inside["properties"].pop(given_elsewhere, None)
        for prop in inside["properties"].values():
            prop.pop("default", None)  # they depend on the checkpoint
        schema["properties"][name] |= {"properties": inside["properties"], "additionalProperties": False}
    return schema


# Errors


def _refusal(error: ValidationError, kind: type) -> Exception:
    """Return the error for the first invalid field."""
    errors: list[dict[str, Any]] = [{**each, "loc": _by_name(each["loc"], kind)} for each in error.errors()]
    if not errors[0]["loc"]:  # from `__post_init__`
        cause: Exception = errors[0]["ctx"]["error"]
        return cause
    name = str(errors[0]["loc"][0])
    for each in errors:
        if each["loc"][-1] == "[key]":
            return RecipeError(name, f"{each['input']!r} is not a text; put it in quotes.")
    if errors[0]["type"] == "unexpected_keyword_argument":
        return RecipeError(name, f"there is no such setting{name_nearest(name, field_names(kind))}")
    if errors[0]["type"] == "missing_argument":
        return RecipeError(name, "it is required.")
    # Each member of a union has its own errors. The deepest error belongs to the member that the user meant.
    places = [
        ([p for p in each["loc"][1:] if not _is_member(p)], each["input"]) for each in errors if each["loc"][0] == name
    ]
    inside, value = max(places, key=lambda place: len(place[0]))
    hint = field_types(kind)[name]
    for part in inside:
        name, hint = f"{name}.{part}" if isinstance(part, str) else name, _inside(hint, part)
    return _unfit(value, hint, name)


def _by_name(place: tuple[Any, ...], kind: type) -> tuple[Any, ...]:
    """Return an error's location with the name of its field, which is a number if the field was given by position."""
    return (field_names(kind)[place[0]], *place[1:]) if place and isinstance(place[0], int) else place


def _is_member(part: Any) -> bool:
    """Return whether a part of an error's location names a member of a union, rather than a key or index."""
    return isinstance(part, str) and (part in _MEMBERS or "[" in part or part.startswith("literal"))


_MEMBERS = (
    "str", "int", "float", "bool", "constrained-str", "constrained-int", "constrained-float", "Correlation",
    "FeatureEntry", "FromPhotographs",
)  # fmt: skip


def _unfit(value: Any, hint: Any, name: str) -> RecipeError:
    members = [each for each in _members(hint) if _base(each) is not type(None)]
    bases = {_base(each) for each in members}
    choices = [str(choice) for each in members for choice in _literals(each)]
    if choices:
        others = [_describe(each) for each in members if not _literals(each)]
        told = f"{', '.join(choices)}{''.join(f' or {other}' for other in others)}"
        return RecipeError(name, f"{value!r} is not one of {told}{nearest(str(value), choices)}")
    told = f"{value!r} is not {' or '.join(dict.fromkeys(map(_describe, members)))}"
    if bases == {str} and value is not None and not isinstance(value, str | list | tuple | Mapping):
        return RecipeError(name, f"{told}; put it in quotes.")
    if bases == {list}:
        inside = [str(choice) for each in members for choice in _literals(_inside(each, 0))]
        return RecipeError(name, f"{told}; write it as [{', '.join(inside) or '…'}].")
    return RecipeError(name, f"{told}.")


def _literals(hint: Any) -> Sequence[Any]:
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, OneOf):
            return mark.registry.names()
    return get_args(_bare(hint)) if get_origin(_bare(hint)) is Literal else ()


def _members(hint: Any) -> list[Any]:
    """Return the types of a union, each with the union's ranges."""
    bare, marks = _bare(hint), getattr(hint, "__metadata__", ())
    if get_origin(bare) in (Union, types.UnionType):
        return [Annotated[(each, *marks)] if marks else each for every in get_args(bare) for each in _members(every)]
    return [hint]


def _bare(hint: Any) -> Any:
    return hint.__origin__ if get_origin(hint) is Annotated else hint


def _base(hint: Any) -> Any:
    bare = _bare(hint)
    if is_typeddict(bare):
        return dict
    origin = get_origin(bare)
    return str if origin is Literal else list if origin is tuple else origin or bare


def _inside(hint: Any, part: Any) -> Any:
    """Return the type of the value at a key or index."""
    for each in _members(hint):
        bare, base = _bare(each), _base(each)
        if isinstance(part, int) and base is list:
            return get_args(bare)[0]
        if isinstance(part, str) and base is dict:
            return field_types(bare).get(part, Any) if is_typeddict(bare) else (*get_args(bare), Any, Any)[1]
    return Any


def _describe(hint: Any) -> str:
    base = _base(hint)
    low, high = _range(hint)
    if base in (int, float):
        noun = "a whole number" if base is int else "a number"
        if high is None or high == MOST:
            return f"{noun} of at least {low:g}" if low is not None else noun
        return f"{noun} from {low} to {high}" if base is int else f"{noun} from {low:g} to {high:g}"
    if base is list and _base(_inside(hint, 0)) in (int, float):
        return f"a list of {_describe(_inside(hint, 0)).removeprefix('a ').replace('number', 'numbers', 1)}"
    told = {bool: "true or false", str: "a text", list: "a list", dict: "a mapping", type(None): "none"}
    return told.get(base, str(base))


def _range(hint: Any) -> tuple[Any, Any]:
    low = high = None
    for mark in getattr(hint, "__metadata__", ()):
        for each in getattr(mark, "metadata", None) or [mark]:
            if isinstance(each, annotated_types.Ge):
                low = each.ge
            if isinstance(each, annotated_types.Le):
                high = each.le
    return low, high
