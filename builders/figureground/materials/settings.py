"""Settings of cut-outs. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from figureground.core.errors import RecipeError
from figureground.core.values import field_types
from figureground.materials.gates import Gates
from figureground.recipe.settings import Share, field_names, settings, suggest_setting


@settings(frozen=True)
class Cutting(Gates):
    """How objects are cut out of photographs, and when cut-outs are left out."""

    threshold: Share = 0.5
    """Probability from which a pixel shows the object rather than what is behind it. Grounding DINO with SAM needs
    about 0.25."""
    softness: Share = 0.8
    """Width of the soft edge, as a difference of probabilities around the threshold; 0 cuts sharply."""
    max_edge: Annotated[int, Field(ge=64, le=8192)] = 1024
    """Longer edge in pixels to which photographs are reduced before they are cut."""


FROM = "from"
"""Key of a recipe's mapping that names the photographs."""

if TYPE_CHECKING:
    FromPhotographs = dict[str, Any]
else:
    FromPhotographs = with_config(ConfigDict(extra="allow", strict=True, allow_inf_nan=False))(
        TypedDict(
            "FromPhotographs", {FROM: str, "segmenter": str, "marks": str, **field_types(Cutting)}, total=False,
        )
    )  # fmt: skip
"""A recipe's `cutouts` that are cut out of photographs: `{from: DIR, segmenter: NAME, …}`, with fields of `Cutting`."""


def is_from_photographs(value: object) -> TypeGuard[FromPhotographs]:
    """Whether a recipe's `cutouts` are to be cut out of photographs."""
    return isinstance(value, Mapping) and FROM in value


def read_cutting(field: str, value: FromPhotographs) -> tuple[str, str | None, str | None, Cutting]:
    """Return the photographs, the segmenter, the marks and the settings of a recipe's mapping.

    Without a segmenter, every photograph needs a mask or transparency.

    Raises:
        RecipeError: A setting is unknown, missing or doesn't fit.
    """
    known = (FROM, "segmenter", "marks", *field_names(Cutting))
    for name in value:
        if name not in known:
            raise RecipeError(f"{field}.{name}", f"there is no such setting{suggest_setting(name, known)}")
    for name in (FROM, "segmenter"):
        if name in value and (not isinstance(value[name], str) or not value[name].strip()):
            raise RecipeError(f"{field}.{name}", "give the photographs and a segmenter: {from: DIR, segmenter: NAME}.")
    try:
        settings_ = Cutting(**{name: v for name, v in value.items() if name in field_names(Cutting)})
    except RecipeError as error:
        raise error.within(field) from None
    return value[FROM], value.get("segmenter"), value.get("marks"), settings_


IDENTITY = ("threshold", "softness", "max_edge")
"""Settings that decide pixels; the gates decide only which cut-outs are left out."""
