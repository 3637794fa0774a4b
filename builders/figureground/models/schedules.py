"""Whether a sampler can draw by the noise schedule that a checkpoint was trained with. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from figureground.core.errors import FiguregroundError, RecipeError, listed

DISCRETE = (
    "DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler",
    "SASolverScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
"""Schedulers that differ in how they sample alone: their noise schedule is DDPM's, by betas, so each can stand for
another. All others (EDM, flow matching, consistency models) mean another schedule or another prediction by entries
that these don't have, and `from_config` would drop those without a word."""

BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""Beta schedules that every sampler knows."""
MORE_BETAS = {"ddpm": ("laplace", "sigmoid")}
PREDICTIONS = ("epsilon", "v_prediction")
"""What a UNet may predict, for every sampler."""
MORE_PREDICTIONS: dict[str, tuple[str, ...]] = {name: ("sample",) for name in ("ddim", "ddpm", "dpm++", "unipc")}
NO_ZERO_SNR = ("pndm",)
"""Samplers without `rescale_betas_zero_snr`."""

LATENT: dict[str, Any] = {"set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True}
"""What Stable Diffusion's checkpoints say and the schedulers' own defaults contradict: for a configuration that was
saved by a scheduler without these entries."""
UNBOUNDED: dict[str, Any] = {"clip_sample": False, "thresholding": False}
"""Both clip what a step predicts to −1..1, which pixels keep to and latents don't; DDIM's and DDPM's defaults clip."""


def check_schedule(config: Mapping[str, Any], kind: str, sampler: str, what: str) -> None:
    """Refuse a noise schedule that a sampler can't express.

    Args:
        config: The checkpoint's `scheduler_config.json`.
        kind: The class that `model_index.json` names.
        sampler: A name such as `ddim`, as recipes have it.
        what: What errors call the checkpoint.

    Raises:
        FiguregroundError: No sampler here can; it names the entry.
        RecipeError: Another sampler could.
    """
    where = f"{what}: its scheduler/scheduler_config.json"
    for name in (kind, config.get("_class_name")):
        if name is not None and name not in DISCRETE:
            raise FiguregroundError(
                f"{what} is drawn by a {name}, whose noise schedule or prediction no sampler here can express: they "
                "know DDPM's discrete noise levels. Choose a checkpoint with another scheduler, such as "
                f"{listed(('DDIMScheduler', 'EulerDiscreteScheduler'))}."
            )
    for name, usual in (("use_flow_sigmas", False), ("timestep_type", "discrete")):
        if config.get(name, usual) not in (usual, None):
            raise FiguregroundError(
                f"{where} has {name}: {config[name]!r}, noise levels that DDPM's discrete ones can't express. Choose "
                "another checkpoint."
            )
    _check_known(
        "prediction_type", config.get("prediction_type", "epsilon"), PREDICTIONS, MORE_PREDICTIONS, sampler, where
    )
    if config.get("trained_betas") is None:
        _check_known("beta_schedule", config.get("beta_schedule", "linear"), BETAS, MORE_BETAS, sampler, where)
    if config.get("rescale_betas_zero_snr") and sampler in NO_ZERO_SNR:
        raise RecipeError(
            "scheduler", f"{sampler} can't draw down from pure noise (rescale_betas_zero_snr in {where}). Give ddim."
        )


def _check_known(
    entry: str, value: Any, by_all: tuple[str, ...], by_some: Mapping[str, tuple[str, ...]], sampler: str, where: str
) -> None:
    if value in by_all or value in by_some.get(sampler, ()):
        return
    able = [name for name, values in by_some.items() if value in values]
    if able:
        raise RecipeError("scheduler", f"{sampler} doesn't know {entry} {value!r} ({where}). Give {' or '.join(able)}.")
    raise FiguregroundError(
        f"{where} has the {entry} {value!r}; known are {listed(by_all)}. Choose another checkpoint."
    )


def settings_for_latents(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings from which any sampler is made for latents, from those of the checkpoint's own scheduler.

    Args:
        config: As diffusers has it of an opened scheduler: with the defaults of that scheduler's class, and their
            names in `_use_default_values`. Defaults of one class say nothing of another, so they are left out.
    """
    unsaid = {"_use_default_values", *config.get("_use_default_values", ())}
    said = {name: value for name, value in config.items() if name not in unsaid}
    return {**LATENT, **said, **UNBOUNDED}
