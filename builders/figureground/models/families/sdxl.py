"""Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core import libraries
from figureground.core.errors import FiguregroundError
from figureground.models.families.sd import TEXT_ADAPTED, UNET, VAE, StableDiffusion
from figureground.models.family_records import Embedding, Pipelines, SingleFile, Size

if TYPE_CHECKING:
    from torch import Tensor

SDXL = Size(3_468_837_850, 2_567_463_684 + 123_060_480 + 694_659_840, 1_451_520 + 73_728 + 327_680)
TIME_IDS = 6
"""Number of conditioning values: original size, crop position, and target size of an image."""

CLIP, OPEN_CLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
"""Beginnings of tensor names in single files."""


def _find_sources(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    if shapes.get(f"{UNET}input_blocks.0.0.weight", (0, 4))[1] == 9:
        return ("diffusers/stable-diffusion-xl-1.0-inpainting-0.1",)
    return ("stabilityai/stable-diffusion-xl-base-1.0",)


LAYOUT = SingleFile(
    marks=((f"{UNET}input_blocks.",), (f"{UNET}label_emb.",)),
    lacks=("conditioner.embedders.0.model.",),  # the refiner
    parts={"unet": (UNET,), "vae": (VAE,), "text_encoder": (CLIP,), "text_encoder_2": (OPEN_CLIP,)},
    sizes={
        ("unet", "in_channels"): (f"{UNET}input_blocks.0.0.weight", 1),
        ("unet", "cross_attention_dim"): (".attn2.to_k.weight", 1),
        ("vae", "latent_channels"): (f"{VAE}decoder.conv_in.weight", 1),
        ("text_encoder", "hidden_size"): (f"{CLIP}text_model.embeddings.token_embedding.weight", 1),
        ("text_encoder_2", "hidden_size"): (f"{OPEN_CLIP}token_embedding.weight", 1),
    },
    sources=_find_sources,
)


class StableDiffusionXL(StableDiffusion):
    """A UNet that attends to two text encoders, and also takes the second one's pooled output and the image's size."""

    NAME = "sdxl"
    PIPELINES = ("StableDiffusionXLPipeline",)
    INPAINTING = ("StableDiffusionXLInpaintPipeline",)
    TEXTS: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
    ADAPTED: ClassVar[Mapping[str, tuple[str, ...]]] = {**StableDiffusion.ADAPTED, "text_encoder_2": TEXT_ADAPTED}
    TOKEN_KEYS = ("clip_l", "clip_g")
    HAS_SAFETY_CHECKER = False
    SINGLE_FILE = LAYOUT
    OPEN_CLIPS: ClassVar[Mapping[str, str]] = {"text_encoder_2": OPEN_CLIP}
    LEAVES_WEIGHTS_UNUSED = True  # the text encoders are read one layer before their end
    ENCODED = (*StableDiffusion.ENCODED, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")

    def check_denoiser(
        self,
        denoiser: Mapping[str, Any],
        vae: Mapping[str, Any],
        texts: Mapping[str, Mapping[str, Any]],
        what: str,
        inpaint: bool,
    ) -> None:
        super().check_denoiser(denoiser, vae, texts, what, inpaint)
        if "text_encoder_2" not in texts or denoiser.get("addition_embed_type") != "text_time":
            return
        pooled = texts["text_encoder_2"].get("projection_dim", 512)
        width, expected = denoiser.get("addition_time_embed_dim"), denoiser.get("projection_class_embeddings_input_dim")
        if isinstance(width, int) and isinstance(expected, int) and pooled + TIME_IDS * width != expected:
            raise FiguregroundError(
                f"{what}: its UNet takes {expected} values (projection_class_embeddings_input_dim), but it gets "
                f"{pooled} from text_encoder_2 (projection_dim) + {TIME_IDS} × {width} (addition_time_embed_dim)."
            )

    def estimate_size(self, name: str) -> Size | None:
        return SDXL if "xl" in name else None

    def pipelines(self) -> Pipelines:
        with libraries.pause_garbage_collector():
            from diffusers import (
                StableDiffusionXLImg2ImgPipeline,
                StableDiffusionXLInpaintPipeline,
                StableDiffusionXLPipeline,
            )

        return Pipelines(StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline)

    def pipeline_options(self, index: Mapping[str, Any], safety: str) -> dict[str, Any]:
        # Image prompts are not used. A watermark would depend on whether a watermarking library is installed.
        return {"image_encoder": None, "feature_extractor": None, "add_watermarker": False}

    def sibling_options(self, pipeline: Any) -> dict[str, Any]:
        zeros = pipeline.config["force_zeros_for_empty_prompt"]
        return {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}

    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str | None, guidance_scale: float,
        known: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        # Only for None do the pipelines heed `force_zeros_for_empty_prompt`, with which SDXL was trained.
        return super().encode_prompt(pipeline, prompt, negative_prompt or None, guidance_scale, known)

    def embed(self, encoders: Sequence[Any], ids: Sequence[Tensor], masks: Sequence[Tensor]) -> Embedding:
        import torch

        outputs = [encoder(i, output_hidden_states=True) for encoder, i in zip(encoders, ids, strict=True)]
        return Embedding(torch.cat([out.hidden_states[-2] for out in outputs], dim=-1), outputs[-1][0])

    def predict(self, denoiser: Any, noisy: Tensor, time: Tensor, embedding: Embedding, size: int) -> Tensor:
        sizes = noisy.new_tensor([[size, size, 0, 0, size, size]]).expand(len(noisy), -1)
        added = {"text_embeds": embedding.pooled, "time_ids": sizes}
        return denoiser(noisy, time, embedding.hidden, added_cond_kwargs=added).sample
