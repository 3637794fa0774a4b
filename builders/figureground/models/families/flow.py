"""Base of the families of flow matching: a transformer on patches of latents, and the checkpoint's own sampler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core.errors import FiguregroundError, RecipeError, join_names
from figureground.core.shares import as_fraction
from figureground.models.family import OWN, Family
from figureground.models.family_records import Start
from figureground.models.opening import open_part
from figureground.models.parts import limit_tokens

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from figureground.models.noising import Noising

SCHEDULERS = ("FlowMatchEulerDiscreteScheduler",)
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Attention layers of a transformer: those of the image, and those of the text beside it."""
LATENT_EDGE = 128
"""Latent pixels along the edge of the images that these checkpoints are made for, unless they say it."""


class FlowMatching(Family):
    """Flow matching (Lipman et al. 2023, arXiv 2210.02747): latents are (1 − σ) × image + σ × noise."""

    DENOISER = "transformer"
    ADAPTED: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    ADAPTERS_ONLY = True
    SCHEDULER = OWN
    HALF = "bfloat16"
    PATCH = 2
    EVEN_SIGMAS: ClassVar[bool] = True
    """Whether pipelines give their scheduler evenly spaced noise levels, which it shifts, and not the number alone."""
    MAX_SHIFT: ClassVar[float] = 1.15
    """The pipelines' largest shift of noise levels, if the scheduler's configuration has none."""

    def native_size(self, folder: Path) -> int:
        return LATENT_EDGE * self.pixels_a_latent(folder)

    def check_schedule(
        self, config: Mapping[str, Any], kind: str, sampler: str, what: str, steps: int | None = None
    ) -> None:
        for name in (kind, config.get("_class_name")):
            if name is not None and name not in SCHEDULERS:
                raise FiguregroundError(
                    f"{what} uses a {name}; supported for the family {self.NAME} is {join_names(SCHEDULERS)}."
                )
        if config.get("stochastic_sampling"):
            raise FiguregroundError(
                f"{what}: its scheduler/scheduler_config.json sets stochastic_sampling, which adds noise that the "
                "seed doesn't control. Set it to false."
            )
        if sampler != OWN:
            raise RecipeError(
                "scheduler", f"{sampler} has DDPM's noise levels, but {what} was trained by flow matching. Use {OWN}."
            )

    def ignored(self, eta: float, negative_prompt: str, true_cfg_scale: float | None = None) -> dict[str, str]:
        return {"eta": f"its sampler adds no noise in a step, so {eta:g} has no effect. Give 0."} if eta else {}

    def start(self, strength: float, steps: int) -> Start:
        run_steps = math.ceil(steps * as_fraction(strength))  # the pipelines round up, in floating point
        return Start(self.strength_of(run_steps, steps), run_steps)

    def strength_of(self, run: int, steps: int) -> float:
        return 1.0 if run >= steps else max(0.0, run - 0.5) / steps

    def prediction_type(self, scheduler: Mapping[str, Any]) -> str:
        return "flow"

    def open_tokenizers(self, folder: Path, what: str) -> list[Any]:
        from transformers import AutoTokenizer

        tokenizers = []
        for encoder, part in self.TEXTS.items():
            if (folder / part).is_dir():
                tokenizers.append(open_part(AutoTokenizer, folder / part, f"{what}: {part}"))
                limit_tokens(tokenizers[-1], self.tokens_read(folder, encoder))
        return tokenizers

    def pipeline_options(self, index: Mapping[str, Any], safety: str) -> dict[str, Any]:
        return {}

    def takes_mask(self, pipeline: Any) -> bool:
        return False

    def set_timesteps(self, scheduler: Any, steps: int, edge: int) -> None:
        import numpy as np

        sigmas = np.linspace(1, 1 / steps, steps) if self.EVEN_SIGMAS else None
        shift = self._compute_shift(scheduler.config, (edge // self.PATCH) ** 2)
        scheduler.set_timesteps(steps, sigmas=sigmas, mu=shift if scheduler.config.use_dynamic_shifting else None)

    def _compute_shift(self, config: Mapping[str, Any], patches: int) -> float:
        """Return the shift of noise levels for images of a number of patches, linear in it."""
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", self.MAX_SHIFT)
        return low + (high - low) * (patches - few) / (many - few)

    def add_noise(self, scheduler: Any, latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return scheduler.scale_noise(latents, time, noise)

    def unsuited(self, settings: Mapping[str, Any]) -> dict[str, str]:
        reasons = {}
        if settings.get("scheduler", OWN) != OWN:
            reasons["scheduler"] = f"it was trained by flow matching, and draws only with its own sampler. Use {OWN}."
        if self.ADAPTERS_ONLY and settings.get("lora_rank", 1) is None:
            reasons["lora_rank"] = (
                "all weights of its transformer, with gradients and averages, need too much memory: only adapters are "
                "trained. Give a rank, such as 16."
            )
        if settings.get("min_snr_gamma") is not None:
            reasons["min_snr_gamma"] = (
                "it weights losses at DDPM's noise levels; in flow matching, the weight of a level is how often it "
                "is drawn. Leave it out."
            )
        return reasons

    def noising(self, scheduler: Any, edge: int, device: torch.device, levels: str | None = None) -> Noising:
        from figureground.models.noising import Flow

        config, shift = scheduler.config, scheduler.shift
        if config.use_dynamic_shifting:
            shift = self._compute_shift(config, (edge // self.PATCH) ** 2)
            shift = math.exp(shift) if config.time_shift_type == "exponential" else shift
        return Flow(float(shift), config.num_train_timesteps, levels or "logit-normal")

    def guidance_options(self, guidance_scale: float, eta: float) -> dict[str, Any]:
        return {"guidance_scale": guidance_scale}


def check_equal(
    what: str, actual: int | None, entry: str, expected: int | None, origin: str, verb: str = "takes"
) -> None:
    """Refuse a transformer of which an input or output has another width than it should; unknown widths pass.

    Args:
        what: The checkpoint's name in errors.
        actual: The width that the transformer takes.
        entry: Its name in the transformer's configuration.
        expected: The width that it gets.
        origin: Where that comes from.
        verb: `takes`, or `outputs` for what it returns.

    Raises:
        FiguregroundError: They differ.
    """
    if isinstance(actual, int) and isinstance(expected, int) and actual != expected:
        other_verb = "gets" if verb == "takes" else "needs"
        raise FiguregroundError(
            f"{what}: its transformer {verb} {actual} ({entry}), but {other_verb} {expected} ({origin})."
        )
