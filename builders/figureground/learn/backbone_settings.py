"""Settings that say which backbone a method starts from."""

from __future__ import annotations

from typing import Annotated

from figureground.core.errors import RecipeError
from figureground.recipe.settings import Names, Text, settings

POCKET = "pocket"
"""The backbone for small images, trained from random weights."""
MAX_POCKET = 96
"""Edge in pixels of the largest images for which the pocket backbone is the default."""


@settings(frozen=True)
class BackboneSettings:
    """Base class of the settings of methods that start from a backbone.

    Raises:
        RecipeError: A value is invalid.
    """

    method: str
    """Name of the method. It is here because it comes before the backbone wherever settings are printed or saved."""
    backbone: Annotated[Text | None, Names("directory")] = None
    """Backbone: `pocket`, a transformers directory or Hub id, or `timm:NAME`; none means `pocket`, for small images."""
    revision: Text | None = None
    """Branch, tag or commit of a backbone on the Hub."""
    from_scratch: bool = False
    """Whether the backbone starts from random weights instead of its pretrained ones."""


def choose_backbone(settings: BackboneSettings, edge: int, option: str = "--backbone") -> str:
    """Return the name of the backbone: the given one, or `pocket` for small images.

    Args:
        edge: Longer edge of an image in pixels.
        option: How a backbone is given, for errors.

    Raises:
        RecipeError: No backbone is given, and the images are larger than `MAX_POCKET`.
    """
    if settings.backbone is not None:
        return settings.backbone
    if edge <= MAX_POCKET:
        return POCKET
    raise RecipeError(
        "backbone",
        f"name one, since the images have {edge} px, and the pocket backbone is for at most {MAX_POCKET}: "
        f"{option} with a transformers directory, a Hub id such as microsoft/resnet-50, or timm:NAME.",
    )
