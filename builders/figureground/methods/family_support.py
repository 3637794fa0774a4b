"""Whether a checkpoint's family supports what a recipe asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from figureground.core.errors import RecipeError
from figureground.models.family import Family
from figureground.models.family_records import Route
from figureground.models.loras import select_active
from figureground.models.single_file import refuse_training
from figureground.recipe.config import Config


def check_drawing(family: Family, config: Config, route: Route) -> None:
    """Refuse settings of sampling that a family doesn't support.

    Args:
        config: A recipe with a checkpoint of the family.
        route: How images are drawn.

    Raises:
        RecipeError: The family would ignore a setting.
        FiguregroundError: The family doesn't draw in this way.
    """
    subject = _describe_checkpoint(config)
    family.check_route(route, subject)
    family.check_sampling(
        subject, config.eta, config.negative_prompt, config.true_cfg_scale, config.guidance_interval,
        config.guidance_scale,
    )  # fmt: skip


def check_training(family: Family, config: Config, method: str, field: str, settings: Mapping[str, Any]) -> None:
    """Refuse a training that a family or the recipe's checkpoint doesn't support.

    Args:
        config: A recipe with a checkpoint of the family.
        method: Name of the method that trains it.
        field: Field of the training's settings in the recipe.
        settings: All of these settings, by field.

    Raises:
        RecipeError: The family doesn't support a setting, or no training supports a setting of the checkpoint.
        FiguregroundError: The family can't be trained.
    """
    try:
        family.check_training(_describe_checkpoint(config), settings)
    except RecipeError as error:
        raise error.within(field) from None
    refuse_training(config.checkpoint)
    unsupported = {
        "loras": bool(select_active(config.loras)), "quantization": config.quantization is not None,
        "offload": config.offload != "none",
    }  # fmt: skip
    for name in (name for name, value in unsupported.items() if value):
        raise RecipeError(
            name, f"{method} trains the checkpoint, and training doesn't support this setting. Leave it out."
        )


def _describe_checkpoint(config: Config) -> str:
    return f"checkpoint {config.checkpoint!r}"
