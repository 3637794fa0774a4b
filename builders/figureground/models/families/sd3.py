"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core import libraries
from figureground.core.errors import FiguregroundError
from figureground.core.files import read_json
from figureground.models.families.flow import FlowMatching, check_equal
from figureground.models.family import Pipelines
from figureground.models.parts import check_channels, has_part

if TYPE_CHECKING:
    from torch import Tensor


class StableDiffusion3(FlowMatching):
    """A transformer that attends to two CLIP text encoders and a T5, which may be left out."""

    NAME = "sd3"
    PIPELINES = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    INPAINTING = ("StableDiffusion3InpaintPipeline",)
    TEXTS: ClassVar[Mapping[str, str]] = {
        "text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3",
    }  # fmt: skip
    TOKENS: ClassVar[Mapping[str, int]] = {"text_encoder_3": 256}
    GUIDES_IN_ONE_BATCH = True
    EVEN_SIGMAS = False
    MOST_SHIFT = 1.16
    ENCODED: ClassVar[tuple[str, ...]] = (
        "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds",
    )  # fmt: skip
    """Results of a pipeline's `encode_prompt`, by the arguments of its call."""

    def check_denoiser(
        self,
        denoiser: Mapping[str, Any],
        vae: Mapping[str, Any],
        texts: Mapping[str, Mapping[str, Any]],
        what: str,
        inpaint: bool,
    ) -> None:
        check_channels(denoiser, vae, what, inpaint, "transformer")
        for name in ("text_encoder", "text_encoder_2"):
            if name not in texts:
                raise FiguregroundError(f"{what} is incomplete: its model_index.json names no {name}.")
        width, pooled = denoiser.get("joint_attention_dim"), denoiser.get("pooled_projection_dim")
        if "text_encoder_3" in texts:
            check_equal(what, width, "joint_attention_dim", texts["text_encoder_3"].get("d_model"), "text_encoder_3")
        clips = [texts[name].get("projection_dim") for name in ("text_encoder", "text_encoder_2")]
        both = sum(each for each in clips if isinstance(each, int)) if None not in clips else None
        check_equal(what, pooled, "pooled_projection_dim", both, "projection_dim of text_encoder and text_encoder_2")

    def native_size(self, folder: Path) -> int:
        return int(read_json(folder / self.DENOISER / "config.json")["sample_size"]) * self.pixels_a_latent(folder)

    def pipelines(self) -> Pipelines:
        with libraries.importing():
            from diffusers import (
                StableDiffusion3Img2ImgPipeline,
                StableDiffusion3InpaintPipeline,
                StableDiffusion3Pipeline,
            )

        return Pipelines(StableDiffusion3Pipeline, StableDiffusion3Img2ImgPipeline, StableDiffusion3InpaintPipeline)

    def network_classes(self) -> dict[str, Any]:
        from diffusers import AutoencoderKL, SD3Transformer2DModel
        from transformers import CLIPTextModelWithProjection, T5EncoderModel

        return {
            "SD3Transformer2DModel": SD3Transformer2DModel, "AutoencoderKL": AutoencoderKL,
            "CLIPTextModelWithProjection": CLIPTextModelWithProjection, "T5EncoderModel": T5EncoderModel,
        }  # fmt: skip

    def takes_mask(self, pipeline: Any) -> bool:
        return bool(pipeline.transformer.config.in_channels != pipeline.vae.config.latent_channels)

    def pipeline_options(self, index: Mapping[str, Any], safety: str) -> dict[str, Any]:
        absent = [name for name in ("text_encoder_3", "tokenizer_3") if not has_part(index, name)]
        return dict.fromkeys(["image_encoder", "feature_extractor", *absent])  # nothing here is prompted by images

    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        tensors = pipeline.encode_prompt(
            prompt=prompt, prompt_2=None, prompt_3=None, device=pipeline.device,
            do_classifier_free_guidance=guidance_scale > 1, negative_prompt=negative_prompt,
            max_sequence_length=self.TOKENS["text_encoder_3"], **known,
        )  # fmt: skip
        return {name: tensor for name, tensor in zip(self.ENCODED, tensors, strict=True) if tensor is not None}

    def draw(self, pipeline: Any, **settings: Any) -> Any:
        if "mask_image" not in settings:
            return super().draw(pipeline, **settings)
        # diffusers' inpainting pipeline leaves out the autoencoder's shift when it decodes, unlike the other two.
        out = pipeline(**settings, output_type="latent")
        vae = pipeline.vae
        latents = out.images / vae.config.scaling_factor + vae.config.shift_factor
        out.images = pipeline.image_processor.postprocess(vae.decode(latents, return_dict=False)[0], output_type="np")
        return out
