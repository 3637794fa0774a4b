"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv 2112.10752), and the pocket model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core import libraries
from figureground.core.files import read_json
from figureground.models.family import Embedding, Family, Pipelines, Size
from figureground.models.opening import open_part
from figureground.models.parts import check_channels, check_widths, limit_tokens, pixels_a_latent

if TYPE_CHECKING:
    from torch import Tensor

SD1 = Size(1_066_235_307, 859_520_964 + 123_060_480, 199_296 + 73_728)
SD2 = Size(1_289_952_427, 865_910_724 + 340_387_840, 207_872 + 188_416)
UNET_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ADAPTED = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Attention layers of a UNet and of a CLIP text encoder."""


class StableDiffusion(Family):
    """A UNet on latents that attends to one CLIP text encoder."""

    NAME = "sd"
    PIPELINES: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
    INPAINTING: ClassVar[tuple[str, ...]] = ("StableDiffusionInpaintPipeline",)
    DENOISER = "unet"
    TEXTS: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer"}
    ADAPTED: ClassVar[Mapping[str, tuple[str, ...]]] = {"unet": UNET_ADAPTED, "text_encoder": TEXT_ADAPTED}
    HAS_SAFETY_CHECKER = True
    GUIDES_IN_ONE_BATCH = True
    ENCODED: ClassVar[tuple[str, ...]] = ("prompt_embeds", "negative_prompt_embeds")
    """Results of a pipeline's `encode_prompt`, by the arguments of its call."""

    def check_denoiser(
        self,
        denoiser: Mapping[str, Any],
        vae: Mapping[str, Any],
        texts: Mapping[str, Mapping[str, Any]],
        what: str,
        inpaint: bool,
    ) -> None:
        check_channels(denoiser, vae, what, inpaint)
        check_widths(denoiser, texts, what)

    def native_size(self, folder: Path) -> int:
        return int(read_json(folder / self.DENOISER / "config.json")["sample_size"]) * pixels_a_latent(folder)

    def estimate_size(self, name: str) -> Size | None:
        return SD2 if re.search(r"diffusion-(v)?2", name) else None

    def pipelines(self) -> Pipelines:
        with libraries.importing():
            from diffusers import (
                StableDiffusionImg2ImgPipeline,
                StableDiffusionInpaintPipeline,
                StableDiffusionPipeline,
            )

        return Pipelines(StableDiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline)

    def network_classes(self) -> dict[str, Any]:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        return {
            "UNet2DConditionModel": UNet2DConditionModel, "AutoencoderKL": AutoencoderKL,
            "CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
        }  # fmt: skip

    def open_tokenizers(self, folder: Path, what: str) -> list[Any]:
        from transformers import CLIPTokenizer

        found = []
        for encoder, part in self.TEXTS.items():
            if (folder / part).is_dir():
                found.append(open_part(CLIPTokenizer, folder / part, f"{what}: {part}"))
                limit_tokens(found[-1], self.tokens_read(folder, encoder))
        return found

    def takes_mask(self, pipeline: Any) -> bool:
        return bool(pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels)

    def pipeline_options(self, index: Mapping[str, Any], safety: str) -> dict[str, Any]:
        options: dict[str, Any] = {"image_encoder": None}  # nothing here is prompted by images
        if safety == "off":
            options.update(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        elif index.get("safety_checker", [None])[0] is None:
            options["feature_extractor"] = None  # only the safety checker uses it
        return options

    def sibling_options(self, pipeline: Any) -> dict[str, Any]:
        return {"requires_safety_checker": pipeline.config["requires_safety_checker"]}

    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        tensors = pipeline.encode_prompt(
            prompt=prompt, device=pipeline.device, num_images_per_prompt=1,
            do_classifier_free_guidance=guidance_scale > 1, negative_prompt=negative_prompt, **known,
        )  # fmt: skip
        return {name: tensor for name, tensor in zip(self.ENCODED, tensors, strict=True) if tensor is not None}

    def image_size(self, size: int) -> dict[str, Any]:
        return {}

    def guidance_options(self, guidance_scale: float, eta: float) -> dict[str, Any]:
        return {"guidance_scale": guidance_scale, "eta": eta}

    def embed(self, encoders: Sequence[Any], ids: Sequence[Tensor], masks: Sequence[Tensor]) -> Embedding:
        encoder = encoders[0]
        mask = masks[0] if getattr(encoder.config, "use_attention_mask", False) else None
        return Embedding(encoder(ids[0], attention_mask=mask)[0], None)

    def predict(self, denoiser: Any, noisy: Tensor, time: Tensor, embedding: Embedding, size: int) -> Tensor:
        return denoiser(noisy, time, embedding.hidden).sample
