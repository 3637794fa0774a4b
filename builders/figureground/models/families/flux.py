"""FLUX.1 (Black Forest Labs 2024): dev, schnell, Fill, which was made for inpainting, and Kontext, made for editing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core import libraries
from figureground.models.families.flow import ATTENTION, FlowMatching, check_equal
from figureground.models.families.sd import TEXT_ADAPTED
from figureground.models.family_records import Embedding, Pipelines, Route, SingleFile, Size

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

FLUX = Size(16_870_599_139, 12_024_468_800, 1_708_032)
GUIDANCE = 3.5
"""Guidance that a transformer that takes it as an input is told in training; the default of diffusers' script too."""
PREFIX = "model.diffusion_model."
"""Beginning of the transformer's tensor names in some single files; others hold nothing else, without a beginning."""


def _find_sources(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    if any(name.endswith("img_in.weight") and shape[-1] == 384 for name, shape in shapes.items()):
        return ("black-forest-labs/FLUX.1-Fill-dev",)
    guided = any("guidance_in." in name for name in shapes)
    return (f"black-forest-labs/FLUX.1-{'dev' if guided else 'schnell'}",)


LAYOUT = SingleFile(
    marks=(("double_blocks.", f"{PREFIX}double_blocks."), ("vector_in.", f"{PREFIX}vector_in.")),
    lacks=("distilled_guidance_layer.", f"{PREFIX}distilled_guidance_layer."),  # Chroma
    parts={"transformer": (PREFIX, "")},
    sizes={
        ("transformer", "in_channels"): ("img_in.weight", 1),
        ("transformer", "joint_attention_dim"): ("txt_in.weight", 1),
        ("transformer", "pooled_projection_dim"): ("vector_in.in_layer.weight", 1),
    },
    sources=_find_sources,
)


class Flux(FlowMatching):
    """A transformer that attends to a T5, and takes the pooled output of a CLIP and the guidance scale as inputs."""

    NAME = "flux"
    PIPELINES: ClassVar[tuple[str, ...]] = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    TEXTS: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
    ADAPTED: ClassVar[Mapping[str, tuple[str, ...]]] = {"transformer": ATTENTION, "text_encoder": TEXT_ADAPTED}
    TOKEN_KEYS: ClassVar[tuple[str, ...]] = ("clip_l", "t5")
    TOKENS: ClassVar[Mapping[str, int]] = {"text_encoder_2": 512}
    TRUE_GUIDANCE = True
    SINGLE_FILE: ClassVar[SingleFile | None] = LAYOUT

    def check_denoiser(
        self,
        denoiser: Mapping[str, Any],
        vae: Mapping[str, Any],
        texts: Mapping[str, Mapping[str, Any]],
        what: str,
        inpaint: bool,
    ) -> None:
        check_equal(what, denoiser.get("in_channels"), "in_channels", self.channels(vae), "latent_channels of vae")
        latent = Flux.channels(self, vae)
        check_equal(what, denoiser.get("out_channels"), "out_channels", latent, "latent_channels of vae", "outputs")
        width, pooled = denoiser.get("joint_attention_dim"), denoiser.get("pooled_projection_dim")
        check_equal(
            what, width, "joint_attention_dim", texts.get("text_encoder_2", {}).get("d_model"), "text_encoder_2"
        )
        check_equal(
            what, pooled, "pooled_projection_dim", texts.get("text_encoder", {}).get("hidden_size"), "text_encoder"
        )

    def channels(self, vae: Mapping[str, Any]) -> int:
        """Return the channels that the transformer takes: a patch of latents, by the autoencoder's configuration."""
        return int(vae.get("latent_channels", 16)) * self.PATCH**2

    def estimate_size(self, name: str) -> Size | None:
        return FLUX if "flux" in name else None

    def free_scale(self, guidance_scale: float, true_cfg_scale: float | None = None) -> float:
        return 1.0 if true_cfg_scale is None else true_cfg_scale

    def ignored(self, eta: float, negative_prompt: str, true_cfg_scale: float | None = None) -> dict[str, str]:
        reasons = super().ignored(eta, negative_prompt, true_cfg_scale)
        if negative_prompt and self.free_scale(1.0, true_cfg_scale) <= 1:
            advice = "Leave it out, or give a true_cfg_scale above 1." if self.TRUE_GUIDANCE else "Leave it out."
            reasons["negative_prompt"] = (
                f"its guidance is an input of the transformer, so a negative prompt has no effect. {advice}"
            )
        return reasons

    def pipelines(self) -> Pipelines:
        with libraries.pause_garbage_collector():
            from diffusers import FluxImg2ImgPipeline, FluxInpaintPipeline, FluxPipeline

        return Pipelines(FluxPipeline, FluxImg2ImgPipeline, FluxInpaintPipeline)

    def network_classes(self) -> dict[str, Any]:
        from diffusers import AutoencoderKL, FluxTransformer2DModel
        from transformers import CLIPTextModel, T5EncoderModel

        return {
            "FluxTransformer2DModel": FluxTransformer2DModel, "AutoencoderKL": AutoencoderKL,
            "CLIPTextModel": CLIPTextModel, "T5EncoderModel": T5EncoderModel,
        }  # fmt: skip

    def pipeline_options(self, index: Mapping[str, Any], safety: str) -> dict[str, Any]:
        return {"image_encoder": None, "feature_extractor": None}  # image prompts are not used

    def convert_part(
        self, part: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], network: Any
    ) -> dict[str, Tensor]:
        from diffusers.loaders import single_file_utils as converting

        remaining = dict(tensors)
        converted = converting.convert_flux_transformer_checkpoint_to_diffusers(remaining)
        return {**converted, **remaining}  # with the tensors that it has no place for

    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        row = self._encode(pipeline, prompt)
        if guidance_scale > 1:
            row |= known or {
                f"negative_{name}": tensor for name, tensor in self._encode(pipeline, negative_prompt).items()
            }
        return row

    def _encode(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        hidden, pooled, _ = pipeline.encode_prompt(
            prompt=prompt,
            prompt_2=None,
            device=pipeline._execution_device,
            max_sequence_length=self.TOKENS["text_encoder_2"],
        )
        return {"prompt_embeds": hidden, "pooled_prompt_embeds": pooled}

    def embed(self, encoders: Sequence[Any], ids: Sequence[Tensor], masks: Sequence[Tensor]) -> Embedding:
        return Embedding(encoders[1](ids[1])[0], encoders[0](ids[0]).pooler_output)

    def predict(self, denoiser: Any, noisy: Tensor, time: Tensor, embedding: Embedding, size: int) -> Tensor:
        import torch

        n, channels, edge = len(noisy), noisy.shape[1], noisy.shape[2] // self.PATCH
        patches = noisy.reshape(n, channels, edge, self.PATCH, edge, self.PATCH).permute(0, 2, 4, 1, 3, 5)
        # A patch's place is its row and column, behind an axis that is 0; all of a text's tokens are at 0.
        rows, columns = torch.meshgrid(*[torch.arange(edge, device=noisy.device, dtype=noisy.dtype)] * 2, indexing="ij")
        positions = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
        out = denoiser(
            patches.reshape(n, edge * edge, -1), embedding.hidden, embedding.pooled,
            timestep=time / 1000,
            img_ids=positions, txt_ids=positions.new_zeros(embedding.hidden.shape[1], 3),
            guidance=noisy.new_full((n,), GUIDANCE) if denoiser.config.guidance_embeds else None,
        ).sample  # fmt: skip
        patches = out.reshape(n, edge, edge, channels, self.PATCH, self.PATCH).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(noisy.shape)


class FluxFill(Flux):
    """FLUX.1 Fill, whose transformer also takes a mask in image pixels and the masked image."""

    NAME = "flux-fill"
    PIPELINES = ()
    INPAINTING = ("FluxFillPipeline",)
    ROUTES: ClassVar[tuple[Route, ...]] = ("inpaint",)
    ADAPTED: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    TOKEN_KEYS = ()
    TRUE_GUIDANCE = False

    def channels(self, vae: Mapping[str, Any]) -> int:
        factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
        return 2 * super().channels(vae) + (self.PATCH * factor) ** 2

    def pipelines(self) -> Pipelines:
        with libraries.pause_garbage_collector():
            from diffusers import FluxFillPipeline

        # The other two only hold the parts: without a mask, such a checkpoint draws nothing.
        return Pipelines(*super().pipelines()[:2], FluxFillPipeline)

    def takes_mask(self, pipeline: Any) -> bool:
        return True


class FluxKontext(Flux):
    """FLUX.1 Kontext (Labs et al. 2025, arXiv 2506.15742), whose transformer reads the reference before the image."""

    NAME = "flux-kontext"
    PIPELINES = ("FluxKontextPipeline", "FluxKontextInpaintPipeline")
    ROUTES: ClassVar[tuple[Route, ...]] = ("text", "inpaint", "edit")
    ADAPTED: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    TOKEN_KEYS = ()
    SINGLE_FILE = None

    def pipelines(self) -> Pipelines:
        with libraries.pause_garbage_collector():
            from diffusers import FluxKontextInpaintPipeline, FluxKontextPipeline, FluxPipeline

        return Pipelines(FluxPipeline, None, FluxKontextInpaintPipeline, FluxKontextPipeline)

    def inpaint_options(self, size: int) -> dict[str, Any]:
        # Otherwise images and references are enlarged to a million pixels, which the checkpoint was trained on.
        return {"height": size, "width": size, "max_area": size**2, "_auto_resize": False}

    def reference_options(self, references: Sequence[Image.Image], size: int) -> dict[str, Any]:
        return {"image": list(references), **self.inpaint_options(size)}
