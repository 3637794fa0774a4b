"""Text encoders and UNet combined in one network that maps token ids and noisy latents to a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from figureground.diffusion.checkpoint import Checkpoint


class Embedding(NamedTuple):
    """Prompt embeddings for a UNet."""

    hidden: Tensor
    """(n, tokens, width)."""
    pooled: Tensor | None
    """(n, width), from SDXL's second text encoder."""

    def take(self, rows: Tensor) -> Embedding:
        return Embedding(self.hidden[rows], None if self.pooled is None else self.pooled[rows])


class Denoiser(nn.Module):
    """UNet and text encoders of a checkpoint, trained together.

    Args:
        size: Edge of the images in pixels, an input of SDXL.
    """

    def __init__(self, checkpoint: Checkpoint, size: int):
        super().__init__()
        pipeline = checkpoint.text_to_image
        both = (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None))
        self.unet = pipeline.unet
        self.text_encoders = nn.ModuleList([encoder for encoder in both if encoder is not None])
        self._xl = checkpoint.family == "sdxl"
        self._size = size

    def embed(self, ids: Sequence[Tensor], masks: Sequence[Tensor]) -> Embedding:
        """Encode prompts for the UNet, as diffusers' pipelines do.

        Args:
            ids: Token ids (n, tokens) for each text encoder.
            masks: For each text encoder, 1 where a token isn't padding.
        """
        if not self._xl:
            encoder = self.text_encoders[0]
            mask = masks[0] if getattr(encoder.config, "use_attention_mask", False) else None
            return Embedding(encoder(ids[0], attention_mask=mask)[0], None)
        found = [encoder(i, output_hidden_states=True) for encoder, i in zip(self.text_encoders, ids, strict=True)]
        return Embedding(torch.cat([out.hidden_states[-2] for out in found], dim=-1), found[-1][0])

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        ids: Sequence[Tensor],
        masks: Sequence[Tensor],
        rows: Tensor,
        embedding: Embedding | None,
    ) -> Tensor:
        """Return the UNet's prediction, (n, channels, height, width).

        Args:
            noisy: Latents with noise.
            time: (n,) timesteps.
            ids: Token ids of the distinct prompts.
            masks: Masks of the prompts.
            rows: (n,) prompt index of each latent.
            embedding: Precomputed embeddings of the prompts if the text encoders aren't trained; `ids` is ignored then.
        """
        told = (embedding if embedding is not None else self.embed(ids, masks)).take(rows)
        added: dict[str, Any] | None = None
        if self._xl:
            sizes = noisy.new_tensor([[self._size, self._size, 0, 0, self._size, self._size]]).expand(len(noisy), -1)
            added = {"text_embeds": told.pooled, "time_ids": sizes}
        return self.unet(noisy, time, told.hidden, added_cond_kwargs=added).sample


def tokenize(tokenizers: Sequence[Any], prompts: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
    """Return token ids and masks for each text encoder, (n, tokens) each, padded to its maximum length."""
    found = [
        tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length,
            return_tensors="pt",
        )
        for tokenizer in tokenizers
    ]  # fmt: skip
    return [f.input_ids for f in found], [f.attention_mask for f in found]
