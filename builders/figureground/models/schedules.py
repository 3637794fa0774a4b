"""Checks that a sampler can express the noise schedule that a checkpoint was trained with. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from figureground.core.errors import FiguregroundError, RecipeError, join_names

DISCRETE = (
    "DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler",
    "SASolverScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
"""Schedulers that differ only in how they sample. Their noise schedule is DDPM's, by betas, so they are
interchangeable. All others (EDM, flow matching, consistency models) define another schedule or prediction by entries
that these lack, and `from_config` would silently drop those entries."""

KINDS = {
    "DDIMScheduler": "ddim", "DDPMScheduler": "ddpm", "DPMSolverMultistepScheduler": "dpm++",
    "EulerDiscreteScheduler": "euler", "EulerAncestralDiscreteScheduler": "euler-a", "PNDMScheduler": "pndm",
    "UniPCMultistepScheduler": "unipc",
}  # fmt: skip
"""Schedulers that draw with all randomness from an image's seed, each with its name in recipes."""
LCM = "LCMScheduler"
"""The scheduler of latent consistency models (Luo et al. 2023, arXiv 2310.04378). Its noise levels are DDPM's, but its
steps are made for what such a model predicts, so only a checkpoint that has it is drawn from with it."""
LCM_STEPS = 50
"""Steps that `LCMScheduler` chooses its own among, unless its configuration says otherwise."""

BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""Beta schedules that every sampler supports."""
MORE_BETAS = {"ddpm": ("laplace", "sigmoid")}
PREDICTIONS = ("epsilon", "v_prediction")
"""Prediction types that every sampler supports."""
MORE_PREDICTIONS: dict[str, tuple[str, ...]] = {name: ("sample",) for name in ("ddim", "ddpm", "dpm++", "unipc")}
NO_ZERO_SNR = ("pndm",)
"""Samplers without `rescale_betas_zero_snr`."""

LATENT: dict[str, Any] = {"set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True}
"""Settings of Stable Diffusion checkpoints that differ from the schedulers' defaults. They apply to a configuration
that was saved without these entries."""
UNBOUNDED: dict[str, Any] = {"clip_sample": False, "thresholding": False}
"""Both settings clip predictions to −1..1, the range of pixels but not of latents; DDIM and DDPM clip by default."""


def check_schedule(config: Mapping[str, Any], kind: str, sampler: str, what: str) -> None:
    """Refuse a noise schedule that a sampler can't express.

    Args:
        config: The checkpoint's `scheduler_config.json`.
        kind: The scheduler class in `model_index.json`.
        sampler: Name of the sampler in recipes, such as `ddim`.
        what: The checkpoint's name in errors.

    Raises:
        FiguregroundError: No sampler can express the schedule; names the entry.
        RecipeError: Another sampler can express it.
    """
    for name in (kind, config.get("_class_name")):
        if name == LCM:
            raise RecipeError("scheduler", f"{what} works only with its own scheduler, {LCM}. Give own.")
        if name is not None and name not in DISCRETE:
            raise FiguregroundError(
                f"{what} uses a {name}, whose noise schedule or prediction no sampler here can express: they "
                "support DDPM's discrete noise levels. Choose a checkpoint with another scheduler, such as "
                f"{join_names(('DDIMScheduler', 'EulerDiscreteScheduler'))}."
            )
    _check_levels(config, sampler, f"{what}: its scheduler/scheduler_config.json")


def check_own_scheduler(config: Mapping[str, Any], kind: str, steps: int | None, what: str) -> None:
    """Refuse a checkpoint's own scheduler of DDPM's noise levels if it isn't one that draws here.

    Args:
        config: The checkpoint's `scheduler_config.json`.
        kind: The scheduler class in `model_index.json`.
        steps: Denoising steps; None skips their check.
        what: The checkpoint's name in errors.

    Raises:
        FiguregroundError: The noise schedule isn't supported; names the entry.
        RecipeError: The scheduler isn't supported, or can't draw in so many steps.
    """
    for name in (kind, config.get("_class_name")):
        if name is not None and name != LCM and name not in KINDS:
            raise RecipeError(
                "scheduler", f"{what} has a {name} of its own; supported are {join_names((*KINDS, LCM))}. Give ddim."
            )
    _check_levels(config, KINDS.get(kind, "ddim"), f"{what}: its scheduler/scheduler_config.json")
    limit = config.get("original_inference_steps", LCM_STEPS)
    if steps is not None and kind == LCM and isinstance(limit, int) and steps > limit:
        raise RecipeError(
            "num_inference_steps", f"{steps} is too many for {what}: its {LCM} takes {limit} at most. Give 4 to 8."
        )


def _check_levels(config: Mapping[str, Any], sampler: str, where: str) -> None:
    """Refuse noise levels or predictions that a sampler can't express; see `check_schedule`."""
    for name, default in (("use_flow_sigmas", False), ("timestep_type", "discrete")):
        if config.get(name, default) not in (default, None):
            raise FiguregroundError(
                f"{where} has {name}: {config[name]!r}, which DDPM's discrete noise levels can't express. Choose "
                "another checkpoint."
            )
    _check_supported(
        "prediction_type", config.get("prediction_type", "epsilon"), PREDICTIONS, MORE_PREDICTIONS, sampler, where
    )
    if config.get("trained_betas") is None:
        _check_supported("beta_schedule", config.get("beta_schedule", "linear"), BETAS, MORE_BETAS, sampler, where)
    if config.get("rescale_betas_zero_snr") and sampler in NO_ZERO_SNR:
        raise RecipeError(
            "scheduler", f"{sampler} can't start from pure noise (rescale_betas_zero_snr in {where}). Give ddim."
        )


def _check_supported(
    entry: str, value: Any, common: tuple[str, ...], special: Mapping[str, tuple[str, ...]], sampler: str, where: str
) -> None:
    if value in common or value in special.get(sampler, ()):
        return
    samplers = [name for name, values in special.items() if value in values]
    if samplers:
        raise RecipeError(
            "scheduler", f"{sampler} lacks the {entry} {value!r} ({where}). Give {' or '.join(samplers)}."
        )
    raise FiguregroundError(
        f"{where} has the {entry} {value!r}; supported: {join_names(common)}. Choose another checkpoint."
    )


def remove_clipping(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint's own scheduler, without those that clip latents.

    Args:
        config: Configuration of the opened diffusers scheduler, with the defaults of its class.
    """
    return {**config, **{name: value for name, value in UNBOUNDED.items() if name in config}}


def settings_for_latents(config: Mapping[str, Any]) -> dict[str, Any]:
    """Derive the settings of any sampler for latents from those of the checkpoint's own scheduler.

    Args:
        config: Configuration of the opened diffusers scheduler, with the defaults of its class and their names in
            `_use_default_values`. Defaults of one class don't apply to another, so they are left out.
    """
    unsaved = {"_use_default_values", *config.get("_use_default_values", ())}
    saved = {name: value for name, value in config.items() if name not in unsaved}
    return {**LATENT, **saved, **UNBOUNDED}
