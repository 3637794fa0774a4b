"""FLUX.1 (Black Forest Labs 2024): dev, schnell, and Fill, which was made for inpainting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core import libraries
from figureground.models.families.flow import FlowMatching, check_equal
from figureground.models.family import Pipelines, SingleFile

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "model.diffusion_model."
"""Beginning of the transformer's tensor names in some single files; others hold nothing else, without a beginning."""


def _sources(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
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
    sources=_sources,
)


class Flux(FlowMatching):
    """A transformer that attends to a T5, and takes the pooled output of a CLIP and the guidance scale as inputs."""

    NAME = "flux"
    PIPELINES: ClassVar[tuple[str, ...]] = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    TEXTS: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
    TOKENS: ClassVar[Mapping[str, int]] = {"text_encoder_2": 512}
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

    def evaluations(self, guidance_scale: float) -> int:
        return 1

    def ignored(self, eta: float, negative_prompt: str) -> dict[str, str]:
        found = super().ignored(eta, negative_prompt)
        if negative_prompt:
            found["negative_prompt"] = (
                "its guidance is an input of the transformer, so a negative prompt has no effect. Leave it out."
            )
        return found

    def pipelines(self) -> Pipelines:
        with libraries.importing():
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
        return {"image_encoder": None, "feature_extractor": None}  # nothing here is prompted by images

    def convert_part(
        self, part: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], network: Any
    ) -> dict[str, Tensor]:
        from diffusers.loaders import single_file_utils as converting

        given = dict(tensors)
        converted = converting.convert_flux_transformer_checkpoint_to_diffusers(given)
        return {**converted, **given}  # what it has no place for is left over

    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        hidden, pooled, _ = pipeline.encode_prompt(
            prompt=prompt,
            prompt_2=None,
            device=pipeline._execution_device,
            max_sequence_length=self.TOKENS["text_encoder_2"],
        )
        return {"prompt_embeds": hidden, "pooled_prompt_embeds": pooled}


class FluxFill(Flux):
    """FLUX.1 Fill, whose transformer also takes a mask in image pixels and the masked image."""

    NAME = "flux-fill"
    PIPELINES = ()
    INPAINTING = ("FluxFillPipeline",)

    def channels(self, vae: Mapping[str, Any]) -> int:
        factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
        return 2 * super().channels(vae) + (self.PATCH * factor) ** 2

    def pipelines(self) -> Pipelines:
        with libraries.importing():
            from diffusers import FluxFillPipeline

        # The other two only hold the parts: without a mask, such a checkpoint draws nothing.
        return Pipelines(*super().pipelines()[:2], FluxFillPipeline)

    def takes_mask(self, pipeline: Any) -> bool:
        return True
