"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv 2112.10752), and the pocket model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core import libraries
from figureground.core.files import read_json
from figureground.models.family import Family
from figureground.models.family_records import Embedding, Pipelines, SingleFile, Size
from figureground.models.opening import open_part
from figureground.models.parts import check_channels, check_widths, limit_tokens, pixels_a_latent

if TYPE_CHECKING:
    from torch import Tensor

SD1 = Size(1_066_235_307, 859_520_964 + 123_060_480, 199_296 + 73_728)
SD2 = Size(1_289_952_427, 865_910_724 + 340_387_840, 207_872 + 188_416)
UNET_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ADAPTED = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Attention layers of a UNet and of a CLIP text encoder."""


UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
"""Beginnings of tensor names in single files."""


def _find_sources(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    if any(name.startswith(OPEN_CLIP) for name in shapes):
        return ()  # files of Stable Diffusion 2 don't tell whether they predict noise or v
    if shapes.get(f"{UNET}input_blocks.0.0.weight", (0, 4))[1] == 9:
        return ("stable-diffusion-v1-5/stable-diffusion-inpainting", "runwayml/stable-diffusion-inpainting")
    return ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5")


LAYOUT = SingleFile(
    marks=((f"{UNET}input_blocks.",),),
    lacks=(f"{UNET}label_emb.",),
    parts={"unet": (UNET,), "vae": (VAE,), "text_encoder": (CLIP, OPEN_CLIP)},
    sizes={
        ("unet", "in_channels"): (f"{UNET}input_blocks.0.0.weight", 1),
        ("unet", "cross_attention_dim"): (".attn2.to_k.weight", 1),
        ("vae", "latent_channels"): (f"{VAE}decoder.conv_in.weight", 1),
        ("text_encoder", "hidden_size"): (f"{CLIP}text_model.embeddings.token_embedding.weight", 1),
    },
    sources=_find_sources,
)


class StableDiffusion(Family):
    """A UNet on latents that attends to one CLIP text encoder."""

    NAME = "sd"
    PIPELINES: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
    INPAINTING: ClassVar[tuple[str, ...]] = ("StableDiffusionInpaintPipeline",)
    DENOISER = "unet"
    TEXTS: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer"}
    ADAPTED: ClassVar[Mapping[str, tuple[str, ...]]] = {"unet": UNET_ADAPTED, "text_encoder": TEXT_ADAPTED}
    HAS_SAFETY_CHECKER = True
    SINGLE_FILE = LAYOUT
    OPEN_CLIPS: ClassVar[Mapping[str, str]] = {"text_encoder": OPEN_CLIP}
    """Text encoders that may be OpenCLIP's in a single file, with the beginnings of their tensors' names."""
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
        with libraries.pause_garbage_collector():
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

        tokenizers = []
        for encoder, part in self.TEXTS.items():
            if (folder / part).is_dir():
                tokenizers.append(open_part(CLIPTokenizer, folder / part, f"{what}: {part}"))
                limit_tokens(tokenizers[-1], self.tokens_read(folder, encoder))
        return tokenizers

    def takes_mask(self, pipeline: Any) -> bool:
        return bool(pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels)

    def pipeline_options(self, index: Mapping[str, Any], safety: str) -> dict[str, Any]:
        options: dict[str, Any] = {"image_encoder": None}  # image prompts are not used
        if safety == "off":
            options.update(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        elif index.get("safety_checker", [None])[0] is None:
            options["feature_extractor"] = None  # only the safety checker uses it
        return options

    def convert_part(
        self, part: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], network: Any
    ) -> dict[str, Tensor]:
        from diffusers.loaders import single_file_utils as converting

        weights = dict(tensors)
        if part == "unet":
            return converting.convert_ldm_unet_checkpoint(weights, config)
        if part == "vae":
            return converting.convert_ldm_vae_checkpoint(weights, config)
        beginning = self.OPEN_CLIPS.get(part, "")
        if beginning and any(name.startswith(beginning) for name in weights):
            converted = converting.convert_open_clip_checkpoint(network, weights, prefix=beginning)
        else:
            converted = converting.convert_ldm_clip_checkpoint(weights)
        return fit_clip(converted, network)

    def sibling_options(self, pipeline: Any) -> dict[str, Any]:
        return {"requires_safety_checker": pipeline.config["requires_safety_checker"]}

    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str | None, guidance_scale: float,
        known: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        tensors = pipeline.encode_prompt(
            prompt=prompt, device=pipeline._execution_device, num_images_per_prompt=1,
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


def fit_clip(weights: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Return a CLIP text encoder's weights under the names of its class, of which some wrap a `text_model`."""
    tensors = {name: tensor for name, tensor in weights.items() if not name.endswith("position_ids")}
    if hasattr(network, "text_model"):
        return tensors
    return {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
