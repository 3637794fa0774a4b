"""Qwen-Image (Wu et al. 2025, arXiv 2508.02324)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core import libraries
from figureground.core.errors import FiguregroundError
from figureground.core.files import read_json
from figureground.models.families.flow import FlowMatching, check_equal
from figureground.models.family_records import Pipelines

if TYPE_CHECKING:
    from torch import Tensor

TOKENS_READ = 1024
"""Tokens of a filled template that the pipelines keep."""
CLOSING_TOKENS = 5
"""Tokens of the template after the prompt; those before it aren't counted."""


class QwenImage(FlowMatching):
    """A transformer that attends to the states of a Qwen2.5-VL; its autoencoder is one of videos."""

    NAME = "qwen-image"
    PIPELINES: ClassVar[tuple[str, ...]] = ("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline")
    TEXTS: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer"}
    TOKENS: ClassVar[Mapping[str, int]] = {"text_encoder": TOKENS_READ - CLOSING_TOKENS}

    def check_denoiser(
        self,
        denoiser: Mapping[str, Any],
        vae: Mapping[str, Any],
        texts: Mapping[str, Mapping[str, Any]],
        what: str,
        inpaint: bool,
    ) -> None:
        if denoiser.get("guidance_embeds"):
            raise FiguregroundError(
                f"{what}: its transformer takes the guidance scale as an input (guidance_embeds), which isn't "
                f"supported for {self.NAME}. Choose another checkpoint."
            )
        channels = vae.get("z_dim", 16) * self.PATCH**2
        check_equal(what, denoiser.get("in_channels"), "in_channels", channels, "z_dim of vae")
        check_equal(what, denoiser.get("out_channels"), "out_channels", vae.get("z_dim", 16), "z_dim of vae", "outputs")
        text = texts.get("text_encoder", {})
        width = text.get("text_config", text).get("hidden_size")
        check_equal(what, denoiser.get("joint_attention_dim"), "joint_attention_dim", width, "text_encoder")

    def pixels_a_latent(self, folder: Path) -> int:
        return 2 ** len(read_json(folder / "vae" / "config.json").get("temperal_downsample", [0] * 3))

    def pipelines(self) -> Pipelines:
        with libraries.pause_garbage_collector():
            from diffusers import QwenImageImg2ImgPipeline, QwenImageInpaintPipeline, QwenImagePipeline

        return Pipelines(QwenImagePipeline, QwenImageImg2ImgPipeline, QwenImageInpaintPipeline)

    def network_classes(self) -> dict[str, Any]:
        from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
        from transformers import Qwen2_5_VLForConditionalGeneration

        return {
            "QwenImageTransformer2DModel": QwenImageTransformer2DModel,
            "AutoencoderKLQwenImage": AutoencoderKLQwenImage,
            "Qwen2_5_VLForConditionalGeneration": Qwen2_5_VLForConditionalGeneration,
        }

    def guidance_options(self, guidance_scale: float, eta: float) -> dict[str, Any]:
        return {"true_cfg_scale": guidance_scale, "max_sequence_length": TOKENS_READ}

    def encode_prompt(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        row = {"prompt_embeds": self._encode(pipeline, prompt)}
        if guidance_scale > 1:  # without a negative prompt, even an empty one, the pipelines guide nothing
            name = "negative_prompt_embeds"
            row[name] = known[name] if name in known else self._encode(pipeline, negative_prompt)
        return row

    def _encode(self, pipeline: Any, prompt: str) -> Tensor:
        """Return (tokens, width) without padding."""
        states, _ = pipeline.encode_prompt(
            prompt=[prompt], device=pipeline._execution_device, max_sequence_length=TOKENS_READ
        )
        return states[0]

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
        """Pad states to the longest, with a mask of 1 where one isn't padding; the pipelines drop a mask of ones."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        arguments: dict[str, Any] = {}
        for name in rows[0]:
            states = [row[name] for row in rows]
            masks = [torch.ones(len(tensor), dtype=torch.long, device=tensor.device) for tensor in states]
            arguments |= {name: pad_sequence(states, batch_first=True), f"{name}_mask": pad_sequence(masks, True)}
        return arguments
