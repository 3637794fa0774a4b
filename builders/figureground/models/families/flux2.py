"""FLUX.2 klein (Black Forest Labs 2026), small and mostly distilled to a few steps."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core import libraries
from figureground.core.errors import RecipeError
from figureground.models.families.flow import FlowMatching, check_equal
from figureground.models.family_records import Pipelines, Route

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

TOKENS_READ = 512
"""Tokens of a filled chat template that the text encoder reads."""
LARGEST = 1024
"""Edge of images, in pixels, above which the inpainting pipeline would reduce them."""
LAYERS = 3
"""Layers of the text encoder whose states the transformer takes side by side."""


class Flux2Klein(FlowMatching):
    """A transformer that attends to the states of a Qwen3, and to references."""

    NAME = "flux2-klein"
    PIPELINES = ("Flux2KleinPipeline", "Flux2KleinInpaintPipeline")
    ROUTES: ClassVar[tuple[Route, ...]] = ("text", "inpaint", "edit")
    MASK_CELL = 2
    TEXTS: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer"}
    TOKENS: ClassVar[Mapping[str, int]] = {"text_encoder": TOKENS_READ}
    distilled = False
    """Whether the checkpoint was distilled to draw without guidance."""

    def variant(self, index: Mapping[str, Any]) -> Flux2Klein:
        family = type(self)()
        family.distilled = bool(index.get("is_distilled", [False])[0])
        return family

    def check_denoiser(
        self,
        denoiser: Mapping[str, Any],
        vae: Mapping[str, Any],
        texts: Mapping[str, Mapping[str, Any]],
        what: str,
        inpaint: bool,
    ) -> None:
        channels = vae.get("latent_channels", 32) * self.PATCH**2
        check_equal(what, denoiser.get("in_channels"), "in_channels", channels, "latent_channels of vae")
        width = texts.get("text_encoder", {}).get("hidden_size")
        expected = LAYERS * width if isinstance(width, int) else None
        check_equal(what, denoiser.get("joint_attention_dim"), "joint_attention_dim", expected, "three of text_encoder")

    def free_scale(self, guidance_scale: float, true_cfg_scale: float | None = None) -> float:
        return 1.0 if self.distilled else guidance_scale

    def ignored(self, eta: float, negative_prompt: str, true_cfg_scale: float | None = None) -> dict[str, str]:
        reasons = super().ignored(eta, negative_prompt, true_cfg_scale)
        if negative_prompt and self.distilled:
            reasons["negative_prompt"] = (
                "it was distilled to draw without guidance, so a negative prompt has no effect. Leave it out."
            )
        return reasons

    def pipelines(self) -> Pipelines:
        with libraries.pause_garbage_collector():
            from diffusers import Flux2KleinInpaintPipeline, Flux2KleinPipeline

        return Pipelines(Flux2KleinPipeline, None, Flux2KleinInpaintPipeline, _make_edit_pipeline())

    def network_classes(self) -> dict[str, Any]:
        from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
        from transformers import Qwen3ForCausalLM, Qwen3Model

        return {
            "Flux2Transformer2DModel": Flux2Transformer2DModel, "AutoencoderKLFlux2": AutoencoderKLFlux2,
            "Qwen3Model": Qwen3Model, "Qwen3ForCausalLM": Qwen3ForCausalLM,
        }  # fmt: skip

    def sibling_options(self, pipeline: Any) -> dict[str, Any]:
        return {"is_distilled": pipeline.config["is_distilled"]}

    def set_timesteps(self, scheduler: Any, steps: int, edge: int) -> None:
        import numpy as np
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        sigmas = None if scheduler.config.get("use_flow_sigmas") else np.linspace(1, 1 / steps, steps)
        scheduler.set_timesteps(steps, sigmas=sigmas, mu=compute_empirical_mu((edge // self.PATCH) ** 2, steps))

    def count_tokens(self, tokenizer: Any, prompt: str) -> int:
        chat = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        return len(tokenizer(text).input_ids)

    def guidance_options(self, guidance_scale: float, eta: float) -> dict[str, Any]:
        return {"guidance_scale": self.free_scale(guidance_scale)}

    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        row = {"prompt_embeds": self._encode(pipeline, prompt)}
        if guidance_scale > 1:
            row |= known or {"negative_prompt_embeds": self._encode(pipeline, negative_prompt)}
        return row

    def _encode(self, pipeline: Any, prompt: str) -> Tensor:
        states, _ = pipeline.encode_prompt(
            prompt=prompt, device=pipeline._execution_device, max_sequence_length=TOKENS_READ
        )
        return states

    def inpaint_options(self, size: int) -> dict[str, Any]:
        if size > LARGEST:
            raise RecipeError("size", f"{size} is too large: {self.NAME} inpaints at most {LARGEST} pixels an edge.")
        return super().inpaint_options(size)

    def reference_options(self, references: Sequence[Image.Image], size: int) -> dict[str, Any]:
        return {"image": list(references), "height": size, "width": size}


@functools.cache
def _make_edit_pipeline() -> Any:
    """Return a pipeline that edits batches: diffusers' takes all references of a call for each of its images."""
    import torch
    from diffusers import Flux2KleinPipeline

    class BatchEditPipeline(Flux2KleinPipeline):
        """Takes a list of references, one an image, of any size."""

        def __init__(
            self, scheduler: Any, vae: Any, text_encoder: Any, tokenizer: Any, transformer: Any,
            is_distilled: bool = False,
        ):  # fmt: skip
            super().__init__(scheduler, vae, text_encoder, tokenizer, transformer, is_distilled)
            self.image_processor.check_image_input = lambda image: image

        def prepare_image_latents(
            self, images: list[Tensor], batch_size: int, generator: Any, device: Any, dtype: Any
        ) -> tuple[Tensor, Tensor]:
            """Return latents (n, positions, channels) of n references (1, 3, height, width), and their positions."""
            assert len(images) == batch_size, "one reference an image"
            latents = [self._encode_vae_image(image.to(device, dtype), generator) for image in images]
            positions = self._prepare_image_ids(latents[:1]).to(device)
            return self._pack_latents(torch.cat(latents)), positions.expand(batch_size, -1, -1)

    return BatchEditPipeline
