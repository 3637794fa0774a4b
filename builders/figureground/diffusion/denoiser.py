"""Text encoders and denoiser combined in one network that maps token ids and noisy latents to a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from figureground.diffusion.checkpoint import Checkpoint
from figureground.models.family_records import Embedding


class Denoiser(nn.Module):
    """Denoiser and text encoders of a checkpoint, trained together.

    Args:
        size: Edge of the images in pixels, an input of some families.
    """

    def __init__(self, checkpoint: Checkpoint, size: int):
        super().__init__()
        self.family, self._size = checkpoint.family, size
        self.add_module(self.family.DENOISER, checkpoint.denoiser)
        self.text_encoders = nn.ModuleList(checkpoint.text_encoders)

    def train(self, mode: bool = True) -> Denoiser:
        """Put the networks that fine-tuning changes into training mode; others, such as a T5, would drop values out."""
        super().train(mode)
        for networks in self.parts().values():
            for name, network in networks.items():
                network.train(mode and name in self.family.ADAPTED)
        return self

    @property
    def network(self) -> Any:
        """The denoiser alone, without the text encoders."""
        return getattr(self, self.family.DENOISER)

    def parts(self) -> dict[str, dict[str, nn.Module]]:
        """Return the denoiser and the text encoders as groups, each with its networks by their parts' names."""
        texts = dict(zip(self.family.TEXTS, self.text_encoders, strict=False))
        return {self.family.DENOISER: {self.family.DENOISER: self.network}, "text_encoder": texts}

    def embed(self, ids: Sequence[Tensor], masks: Sequence[Tensor]) -> Embedding:
        """Encode prompts for the denoiser; see `Family.embed`."""
        return self.family.embed(list(self.text_encoders), ids, masks)

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        ids: Sequence[Tensor],
        masks: Sequence[Tensor],
        rows: Tensor,
        embedding: Embedding | None,
    ) -> Tensor:
        """Return the denoiser's prediction, (n, channels, height, width).

        Args:
            noisy: Latents with noise.
            time: (n,) timesteps.
            ids: Token ids of the distinct prompts.
            masks: Masks of the prompts.
            rows: (n,) prompt index of each latent.
            embedding: Precomputed embeddings of the prompts if the text encoders aren't trained; `ids` is ignored then.
        """
        prompt_embedding = (embedding if embedding is not None else self.embed(ids, masks)).take(rows)
        return self.family.predict(self.network, noisy, time, prompt_embedding, self._size)


def tokenize(tokenizers: Sequence[Any], prompts: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
    """Return token ids and masks for each text encoder, (n, tokens) each, padded to its maximum length."""
    encodings = [
        tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length,
            return_tensors="pt",
        )
        for tokenizer in tokenizers
    ]  # fmt: skip
    return [encoding.input_ids for encoding in encodings], [encoding.attention_mask for encoding in encodings]
