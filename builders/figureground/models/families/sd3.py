"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core import libraries
from figureground.core.errors import FiguregroundError
from figureground.core.files import read_json
from figureground.models.families.flow import FlowMatching, check_equal
from figureground.models.families.sd import fit_clip
from figureground.models.family import Pipelines, SingleFile
from figureground.models.parts import check_channels, has_part

if TYPE_CHECKING:
    from torch import Tensor

TRANSFORMER, VAE = "model.diffusion_model.", "first_stage_model."
TEXTS = {
    "text_encoder": "text_encoders.clip_l.transformer.", "text_encoder_2": "text_encoders.clip_g.transformer.",
    "text_encoder_3": "text_encoders.t5xxl.transformer.",
}  # fmt: skip
"""Beginnings of tensor names in single files."""


def _sources(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    blocks = {name.split(".")[3] for name in shapes if name.startswith(f"{TRANSFORMER}joint_blocks.")}
    if len(blocks) > 24:
        return ("stabilityai/stable-diffusion-3.5-large",)
    if any(name.endswith(".attn2.qkv.weight") for name in shapes):
        return ("stabilityai/stable-diffusion-3.5-medium",)
    return ("stabilityai/stable-diffusion-3-medium-diffusers",)


LAYOUT = SingleFile(
    marks=((f"{TRANSFORMER}joint_blocks.",),),
    lacks=(),
    parts={"transformer": (TRANSFORMER,), "vae": (VAE,), **{part: (each,) for part, each in TEXTS.items()}},
    sizes={
        ("transformer", "in_channels"): (f"{TRANSFORMER}x_embedder.proj.weight", 1),
        ("transformer", "joint_attention_dim"): (f"{TRANSFORMER}context_embedder.weight", 1),
        ("vae", "latent_channels"): (f"{VAE}decoder.conv_in.weight", 1),
    },
    sources=_sources,
)


class StableDiffusion3(FlowMatching):
    """A transformer that attends to two CLIP text encoders and a T5, which may be left out."""

    NAME = "sd3"
    PIPELINES = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    INPAINTING = ("StableDiffusion3InpaintPipeline",)
    TEXTS: ClassVar[Mapping[str, str]] = {
        "text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3",
    }  # fmt: skip
    TOKENS: ClassVar[Mapping[str, int]] = {"text_encoder_3": 256}
    SINGLE_FILE = LAYOUT
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

    def convert_part(
        self, part: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], network: Any
    ) -> dict[str, Tensor]:
        import torch
        from diffusers.loaders import single_file_utils as converting

        if part == "transformer":
            given = dict(tensors)
            converted = converting.convert_sd3_transformer_checkpoint_to_diffusers(given)
            return {**converted, **given}  # what it has no place for is left over
        if part == "vae":
            return converting.convert_ldm_vae_checkpoint(dict(tensors), config)
        found = {name.removeprefix(TEXTS[part]): each for name, each in tensors.items()}
        if part == "text_encoder_3":
            return found
        if part == "text_encoder" and "text_projection.weight" not in found:  # files leave it out
            found["text_projection.weight"] = torch.eye(network.config.projection_dim)
        return fit_clip(found, network)

    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        tensors = pipeline.encode_prompt(
            prompt=prompt, prompt_2=None, prompt_3=None, device=pipeline._execution_device,
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
