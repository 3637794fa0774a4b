"""Whether a checkpoint's family supports what a method's recipe asks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from figureground.core.errors import RecipeError
from figureground.models.family import Family
from figureground.models.loras import select_active
from figureground.models.single_file import refuse_training

if TYPE_CHECKING:
    from figureground.methods.base import Method


def check_support(method: Method, family: Family) -> None:
    """Refuse settings and trainings that the family of the recipe's checkpoint doesn't support.

    Raises:
        RecipeError: The family would ignore a sampling setting, or doesn't support a setting of the training.
        FiguregroundError: The family doesn't draw as the recipe asks, or the method trains checkpoints, and the
            family's can't be trained.
    """
    config, subject = method.config, f"checkpoint {method.config.checkpoint!r}"
    family.check_route(method.route, subject)
    family.check_sampling(
        subject, config.eta, config.negative_prompt, config.true_cfg_scale, config.guidance_interval,
        config.guidance_scale,
    )  # fmt: skip
    if method.trains_checkpoint:
        _check_training(method, family, subject)


def _check_training(method: Method, family: Family, subject: str) -> None:
    config = method.config
    field, settings = method.training()
    try:
        family.check_training(subject, settings)
    except RecipeError as error:
        raise error.within(field) from None
    refuse_training(config.checkpoint)
    unsupported = {
        "loras": bool(select_active(config.loras)), "quantization": config.quantization is not None,
        "offload": config.offload != "none",
    }  # fmt: skip
    for name in (name for name, value in unsupported.items() if value):
        raise RecipeError(
            name,
            f"{method.METHOD} trains the checkpoint, and training doesn't support this setting. Leave it out.",
        )
