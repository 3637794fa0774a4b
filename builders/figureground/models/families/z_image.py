"""Z-Image (Tongyi Lab 2025, arXiv 2511.22699)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core import libraries
from figureground.models.families.flow import FlowMatching, check_equal
from figureground.models.family_records import Pipelines

if TYPE_CHECKING:
    from torch import Tensor


class ZImage(FlowMatching):
    """A transformer that takes latents and the states of a Qwen3 in one sequence."""

    NAME = "z-image"
    PIPELINES = ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
    TEXTS: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer"}
    TOKENS: ClassVar[Mapping[str, int]] = {"text_encoder": 512}

    def check_denoiser(
        self,
        denoiser: Mapping[str, Any],
        vae: Mapping[str, Any],
        texts: Mapping[str, Mapping[str, Any]],
        what: str,
        inpaint: bool,
    ) -> None:
        check_equal(
            what, denoiser.get("in_channels"), "in_channels", vae.get("latent_channels"), "latent_channels of vae"
        )
        width = texts.get("text_encoder", {}).get("hidden_size")
        check_equal(what, denoiser.get("cap_feat_dim"), "cap_feat_dim", width, "text_encoder")

    def pipelines(self) -> Pipelines:
        with libraries.pause_garbage_collector():
            from diffusers import ZImageImg2ImgPipeline, ZImageInpaintPipeline, ZImagePipeline

        return Pipelines(ZImagePipeline, ZImageImg2ImgPipeline, ZImageInpaintPipeline)

    def network_classes(self) -> dict[str, Any]:
        from diffusers import AutoencoderKL, ZImageTransformer2DModel
        from transformers import Qwen3ForCausalLM, Qwen3Model

        return {
            "ZImageTransformer2DModel": ZImageTransformer2DModel, "AutoencoderKL": AutoencoderKL,
            "Qwen3Model": Qwen3Model, "Qwen3ForCausalLM": Qwen3ForCausalLM,
        }  # fmt: skip

    def count_tokens(self, tokenizer: Any, prompt: str) -> int:
        chat = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=True)
        return len(tokenizer(text).input_ids)

    def guidance_options(self, guidance_scale: float, eta: float) -> dict[str, Any]:
        # The pipelines add this multiple of the difference to the guided prediction; 1 elsewhere is their 0.
        return {"guidance_scale": max(0.0, guidance_scale - 1)}

    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        negative_embeds = [known["negative_prompt_embeds"]] if "negative_prompt_embeds" in known else None
        # Lists of its own: the pipelines overwrite the lists that they are given with the filled chat template.
        positive, negative = pipeline.encode_prompt(
            prompt=[prompt], device=pipeline._execution_device, do_classifier_free_guidance=guidance_scale > 1,
            negative_prompt=[negative_prompt], negative_prompt_embeds=negative_embeds,
            max_sequence_length=self.TOKENS["text_encoder"],
        )  # fmt: skip
        return {"prompt_embeds": positive[0], **({"negative_prompt_embeds": negative[0]} if negative else {})}

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
        return {name: [row[name] for row in rows] for name in rows[0]}  # of different lengths, (tokens, width) each
