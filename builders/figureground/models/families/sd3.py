"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core import libraries
from figureground.core.errors import FiguregroundError
from figureground.core.files import read_json
from figureground.models.families.flow import ATTENTION, FlowMatching, check_equal
from figureground.models.families.sd import TEXT_ADAPTED, fit_clip
from figureground.models.family_records import Embedding, Pipelines, SingleFile, Size
from figureground.models.parts import check_channels, has_part

if TYPE_CHECKING:
    from torch import Tensor

SD3_MEDIUM = Size(7_692_768_483, 2_846_638_144, 988_160)
SD35_MEDIUM = Size(7_907_612_003, 3_061_481_664, 1_147_904)
SD35_LARGE = Size(13_721_068_003, 8_874_937_664, 1_875_200)
TRANSFORMER, VAE = "model.diffusion_model.", "first_stage_model."
TEXTS = {
    "text_encoder": "text_encoders.clip_l.transformer.", "text_encoder_2": "text_encoders.clip_g.transformer.",
    "text_encoder_3": "text_encoders.t5xxl.transformer.",
}  # fmt: skip
"""Beginnings of tensor names in single files."""


def _find_sources(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
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
    sources=_find_sources,
)


class StableDiffusion3(FlowMatching):
    """A transformer that attends to two CLIP text encoders and a T5, which may be left out."""

    NAME = "sd3"
    PIPELINES = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    INPAINTING = ("StableDiffusion3InpaintPipeline",)
    TEXTS: ClassVar[Mapping[str, str]] = {
        "text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3",
    }  # fmt: skip
    ADAPTED: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "transformer": ATTENTION, "text_encoder": TEXT_ADAPTED, "text_encoder_2": TEXT_ADAPTED,
    }  # fmt: skip
    TOKEN_KEYS = ("clip_l", "clip_g", "t5")
    TOKENS: ClassVar[Mapping[str, int]] = {"text_encoder_3": 256}
    SINGLE_FILE = LAYOUT
    GUIDES_IN_ONE_BATCH = True
    EVEN_SIGMAS = False
    MAX_SHIFT = 1.16
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
        widths: list[Any] = [texts[name].get("hidden_size") for name in ("text_encoder", "text_encoder_2")]
        if isinstance(width, int) and None not in widths and sum(widths) > width:
            raise FiguregroundError(
                f"{what}: its transformer takes text of width {width} (joint_attention_dim), but gets {widths[0]} "
                f"(text_encoder) + {widths[1]} (text_encoder_2)."
            )
        projections = [texts[name].get("projection_dim") for name in ("text_encoder", "text_encoder_2")]
        total = (
            sum(projection for projection in projections if isinstance(projection, int))
            if None not in projections
            else None
        )
        check_equal(what, pooled, "pooled_projection_dim", total, "projection_dim of text_encoder and text_encoder_2")

    def native_size(self, folder: Path) -> int:
        return int(read_json(folder / self.DENOISER / "config.json")["sample_size"]) * self.pixels_a_latent(folder)

    def estimate_size(self, name: str) -> Size | None:
        if not re.search(r"diffusion-(v)?3|sd-?3", name):
            return None
        if re.search(r"3[.-]?5", name):
            return SD35_MEDIUM if "medium" in name else SD35_LARGE
        return SD3_MEDIUM

    def pipelines(self) -> Pipelines:
        with libraries.pause_garbage_collector():
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
        return dict.fromkeys(["image_encoder", "feature_extractor", *absent])  # image prompts are not used

    def convert_part(
        self, part: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], network: Any
    ) -> dict[str, Tensor]:
        import torch
        from diffusers.loaders import single_file_utils as converting

        if part == "transformer":
            remaining = dict(tensors)
            converted = converting.convert_sd3_transformer_checkpoint_to_diffusers(remaining)
            return {**converted, **remaining}  # with the tensors that it has no place for
        if part == "vae":
            return converting.convert_ldm_vae_checkpoint(dict(tensors), config)
        weights = {name.removeprefix(TEXTS[part]): tensor for name, tensor in tensors.items()}
        if part == "text_encoder_3":
            return weights
        if part == "text_encoder" and "text_projection.weight" not in weights:  # single files lack it
            weights["text_projection.weight"] = torch.eye(network.config.projection_dim)
        return fit_clip(weights, network)

    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        # Its pipelines, unlike others, don't know words of several vectors.
        prompt, negative_prompt = (self.expand_words(text, pipeline.tokenizer) for text in (prompt, negative_prompt))
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

    def embed(self, encoders: Sequence[Any], ids: Sequence[Tensor], masks: Sequence[Tensor]) -> Embedding:
        import torch
        from torch.nn import functional as F

        clips = [encoder(i, output_hidden_states=True) for encoder, i in zip(encoders[:2], ids[:2], strict=True)]
        pooled = torch.cat([out[0] for out in clips], dim=-1)
        hidden = torch.cat([out.hidden_states[-2] for out in clips], dim=-1)
        if len(encoders) > len(clips):
            states = encoders[-1](ids[-1])[0]
            hidden = torch.cat([F.pad(hidden, (0, states.shape[-1] - hidden.shape[-1])), states], dim=1)
        return Embedding(hidden, pooled)

    def predict(self, denoiser: Any, noisy: Tensor, time: Tensor, embedding: Embedding, size: int) -> Tensor:
        from torch.nn import functional as F

        hidden, tokens = embedding.hidden, self.TOKENS["text_encoder_3"]
        if hidden.shape[1] < tokens:  # zeros take the place of the states of a T5 that was left out
            hidden = F.pad(hidden, (0, denoiser.config.joint_attention_dim - hidden.shape[-1], 0, tokens))
        return denoiser(noisy, hidden, embedding.pooled, time).sample
