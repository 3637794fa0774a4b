"""Settings as dataclasses that pydantic checks: a field says its type, range, text and what it names, once.

From a class of settings come its checks, what `figureground settings` prints, its JSON Schema, the flags of commands,
which relative paths of a recipe are moved, and which fields decide a dataset.
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
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import is_typeddict

from figureground.core.errors import RecipeError, nearest, nearest_or_all
from figureground.core.values import FieldsOf, kinds_of

MOST = 2**63 - 1
"""The largest whole number that a setting may be: what signed 64-bit integers hold."""

CONFIG = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""
Count = Annotated[int, Field(ge=1, le=MOST)]
"""A whole number from 1 on."""
Text = Annotated[str, Field(pattern=r"\S")]
"""Text that isn't blank."""


@dataclass(frozen=True)
class Names:
    """Marks a field whose texts, also inside mappings, may name files. Nothing else in a recipe is taken for a path."""

    kind: Literal["directory", "file", "path"]
    """`directory`: a directory, or a name such as `pocket` or a Hub id. `file`: whatever looks like a path (a slash, or
    a known suffix). `path`: always a path."""
    source: bool = False
    """Whether images are made from what lies there, so that no dataset is written among it."""
    made: bool = False
    """Whether a build makes the directory where it isn't there."""


RENAMED = {
    "accumulate": "gradient_accumulation_steps", "warmup": "lr_warmup_steps", "max_gradient_norm": "max_grad_norm",
    "prior_images": "num_class_images", "sampling_steps": "num_inference_steps", "least_found": "mask_threshold",
    "grow": "mask_dilation", "least_probability": "min_probability",
    "least_attribution_ratio": "min_attribution_ratio",
}  # fmt: skip
"""Earlier names of settings."""


def name_nearest(name: str, known: Collection[str]) -> str:
    """Return the end of a sentence that refuses an unknown setting: its new name, or the nearest that exists."""
    if RENAMED.get(name) in known:
        return f": it is called {RENAMED[name]} now."
    return nearest_or_all(name, known)


class _Execution:
    """Marks a field that decides no image: where and how fast a build runs."""


EXECUTION = _Execution()

C = TypeVar("C")


@dataclass_transform(field_specifiers=(dataclasses.field,))
def settings(*, frozen: bool = False) -> typing.Callable[[type[C]], type[C]]:
    """Make a class a dataclass of settings that are checked when it is made.

    Numbers, `true` and `false`, and text are never taken for one another; a list is taken for a tuple. A field has its
    range in its type, `Annotated[int, Field(ge=1)]`, and its text below it. `__post_init__` may raise RecipeError for
    fields that don't fit together.

    The class raises RecipeError for the first value that can't be used, and for a name that it doesn't have.
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
    """Names of the fields, in order."""
    return [each.name for each in dataclasses.fields(kind)]


def describe_fields(kind: type) -> dict[str, str]:
    """The text below each field, in one line, by the field's name."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for name, found in getattr(base, "__pydantic_fields__", {}).items():
            if found.description:
                texts[name] = " ".join(found.description.split())
    return {name: texts.get(name, "") for name in field_names(kind)}


def marked(kind: type, mark: type[C]) -> dict[str, C]:
    """The marks of a type in the annotations of fields, by name; fields without one are left out."""
    found = {}
    for name, hint in kinds_of(kind).items():
        for each in getattr(hint, "__metadata__", ()):
            if isinstance(each, mark):
                found[name] = each
    return found


def execution_names(kind: type) -> list[str]:
    """Names of the fields that decide no image."""
    return list(marked(kind, _Execution))


def json_schema(kind: type) -> dict[str, Any]:
    """JSON Schema of recipes with the fields of a class, each optional, with texts, defaults and ranges."""
    schema = pydantic.TypeAdapter(kind).json_schema()
    for name, text in describe_fields(kind).items():
        schema["properties"][name]["description"] = text
    for name, mark in marked(kind, FieldsOf).items():
        inside = json_schema(mark.kind)
        schema.setdefault("$defs", {}).update(inside.pop("$defs", {}))
        inside.pop("required", None)
        for prop in inside["properties"].values():
            prop.pop("default", None)  # they depend on the checkpoint
        schema["properties"][name] |= {"properties": inside["properties"], "additionalProperties": False}
    return schema


# Errors


def _refusal(error: ValidationError, kind: type) -> RecipeError:
    """The error of the first field that can't be used."""
    errors = error.errors()
    cause = errors[0].get("ctx", {}).get("error")
    if isinstance(cause, RecipeError):  # of `__post_init__`
        return cause
    name = str(errors[0]["loc"][0])
    if errors[0]["type"] == "unexpected_keyword_argument":
        return RecipeError(name, f"there is no such setting{name_nearest(name, field_names(kind))}")
    if errors[0]["type"] == "missing_argument":
        return RecipeError(name, "it has to be given.")
    # Each member of a union has its own errors. The one that came furthest into the value is what was meant.
    places = [
        ([p for p in each["loc"][1:] if not _is_member(p)], each["input"]) for each in errors if each["loc"][0] == name
    ]
    inside, value = max(places, key=lambda place: len(place[0]))
    hint = kinds_of(kind)[name]
    for part in inside:
        name, hint = f"{name}.{part}" if isinstance(part, str) else name, _inside(hint, part)
    return _unfit(value, hint, name)


def _is_member(part: Any) -> bool:
    """Whether a part of an error's place names a member of a union, and is no key or index."""
    return isinstance(part, str) and (part in _MEMBERS or "[" in part or part.startswith("literal"))


_MEMBERS = (
    "str", "int", "float", "bool", "constrained-str", "constrained-int", "constrained-float", "Correlation",
    "FeatureEntry",
)  # fmt: skip


def _unfit(value: Any, hint: Any, name: str) -> RecipeError:
    members = [each for each in _members(hint) if _base(each) is not type(None)]
    bases = {_base(each) for each in members}
    choices = [str(choice) for each in members for choice in _literals(each)]
    if choices:
        return RecipeError(name, f"{value!r} is not one of {', '.join(choices)}{nearest(str(value), choices)}")
    told = f"{value!r} is not {' or '.join(dict.fromkeys(map(_describe, members)))}"
    if bases == {str} and value is not None and not isinstance(value, str | list | tuple | Mapping):
        return RecipeError(name, f"{told}; put it in quotes.")
    if bases == {list}:
        inside = [str(choice) for each in members for choice in _literals(_inside(each, 0))]
        return RecipeError(name, f"{told}; write it as [{', '.join(inside) or '…'}].")
    return RecipeError(name, f"{told}.")


def _literals(hint: Any) -> Sequence[Any]:
    return get_args(_bare(hint)) if get_origin(_bare(hint)) is Literal else ()


def _members(hint: Any) -> list[Any]:
    """The types of a union, each with the ranges that are said of it."""
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
    """The type of what lies at a key or an index."""
    for each in _members(hint):
        bare, base = _bare(each), _base(each)
        if isinstance(part, int) and base is list:
            return get_args(bare)[0]
        if isinstance(part, str) and base is dict:
            return kinds_of(bare).get(part, Any) if is_typeddict(bare) else (*get_args(bare), Any, Any)[1]
    return Any


def _describe(hint: Any) -> str:
    base = _base(hint)
    low, high = _range(hint)
    if base in (int, float):
        noun = "a whole number" if base is int else "a number"
        if high is None or high >= MOST:
            return f"{noun} of at least {low:g}" if low is not None else noun
        return f"{noun} from {low} to {high}" if base is int else f"{noun} from {low:g} to {high:g}"
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
