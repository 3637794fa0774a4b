"""Qwen-Image-Edit (Wu et al. 2025, arXiv 2508.02324), whose text encoder sees the reference.

The instruction is encoded here and not by diffusers' pipelines. These leave out which tokens are the image's, without
which the Qwen2.5-VL of transformers 5 places them in one row, and their processor needs torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from figureground.core import libraries
from figureground.models.families.qwen_image import QwenImage
from figureground.models.family_records import Pipelines, Route
from figureground.models.opening import open_part

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

IMAGE = "<|image_pad|>"
"""The token that stands for a patch of the reference."""
STEP = 32


class QwenImageEdit(QwenImage):
    """Qwen-Image trained to edit; references are enlarged to a million pixels, whatever the images' size."""

    NAME = "qwen-image-edit"
    PIPELINES = ("QwenImageEditPipeline",)
    ROUTES: ClassVar[tuple[Route, ...]] = ("edit",)
    SEES_REFERENCE = True
    REFERENCE_PIXELS: ClassVar[int] = 1024**2
    """Pixels of the reference that the text encoder sees."""
    PREFIX: ClassVar[str] = ""
    """Text between the beginning of the user's turn and the instruction, if the pipelines' template lacks it."""

    def pipelines(self) -> Pipelines:
        with libraries.pause_garbage_collector():
            from diffusers import QwenImageEditPipeline

        return Pipelines(QwenImageEditPipeline, None, None, QwenImageEditPipeline)

    def pipeline_options(self, index: Mapping[str, Any], safety: str) -> dict[str, Any]:
        return {"processor": None}

    def open_others(self, folder: Path, what: str) -> dict[str, Any]:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        return {"processor": open_part(Qwen2VLImageProcessorPil, folder / "processor", f"{what}: processor")}

    def guidance_options(self, guidance_scale: float, eta: float) -> dict[str, Any]:
        return {"true_cfg_scale": guidance_scale}

    def encode_instruction(
        self, pipeline: Any, prompt: str, negative_prompt: str, guidance_scale: float, reference: Image.Image
    ) -> dict[str, Tensor]:
        edge = round(math.sqrt(self.REFERENCE_PIXELS) / STEP) * STEP
        resized = pipeline.image_processor.resize(reference, edge, edge)
        row = {"prompt_embeds": self._encode_with_reference(pipeline, prompt, resized)}
        if guidance_scale > 1:  # without a negative prompt, even an empty one, the pipelines guide nothing
            row["negative_prompt_embeds"] = self._encode_with_reference(pipeline, negative_prompt, resized)
        return row

    def _encode_with_reference(self, pipeline: Any, prompt: str, reference: Image.Image) -> Tensor:
        """Return the states (tokens, width) of an instruction and the reference, without the system's turn."""
        import torch

        device, processor = pipeline._execution_device, pipeline.processor
        patches = processor(images=reference, return_tensors="pt").to(device)
        num_patches = int(patches["image_grid_thw"].prod()) // processor.merge_size**2
        text = pipeline.prompt_template_encode.format(self.PREFIX + prompt).replace(IMAGE, num_patches * IMAGE, 1)
        ids = pipeline.tokenizer(text, return_tensors="pt").input_ids.to(device)
        image_token = pipeline.tokenizer.convert_tokens_to_ids(IMAGE)
        encoder = pipeline.text_encoder
        out = encoder(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == image_token).int(),
            pixel_values=patches["pixel_values"].to(encoder.dtype), image_grid_thw=patches["image_grid_thw"],
            output_hidden_states=True,
        )  # fmt: skip
        return out.hidden_states[-1][0, pipeline.prompt_template_encode_start_idx :]

    def reference_options(self, references: Sequence[Image.Image], size: int) -> dict[str, Any]:
        return {"image": list(references), "height": size, "width": size}


class QwenImageEditPlus(QwenImageEdit):
    """Qwen-Image-Edit of September 2025 and later, whose text encoder sees a small copy of the reference."""

    NAME = "qwen-image-edit-plus"
    PIPELINES = ("QwenImageEditPlusPipeline",)
    REFERENCE_PIXELS = 384**2
    PREFIX = f"Picture 1: <|vision_start|>{IMAGE}<|vision_end|>"

    def pipelines(self) -> Pipelines:
        with libraries.pause_garbage_collector():
            from diffusers import QwenImageEditPlusPipeline

        return Pipelines(QwenImageEditPlusPipeline, None, None, QwenImageEditPlusPipeline)

    def draw(self, pipeline: Any, **settings: Any) -> Any:
        """Draw image by image: the pipeline takes no batches, but several references for one image."""
        per_image = ("image", "generator", "prompt_embeds", "prompt_embeds_mask", "negative_prompt_embeds",
                "negative_prompt_embeds_mask")  # fmt: skip
        shared = {name: value for name, value in settings.items() if name not in per_image}
        outputs = []
        for i in range(len(settings["generator"])):
            single = {name: settings[name][i : i + 1] for name in per_image if name in settings}
            single["generator"] = single["generator"][0]
            outputs.append(super().draw(pipeline, **shared, **single))
        outputs[0].images = np.concatenate([output.images for output in outputs])
        return outputs[0]
