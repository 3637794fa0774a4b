"""Models that compare images with texts: CLIP, SigLIP and SigLIP 2 of a fixed resolution, opened from transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from figureground.core import libraries
from figureground.core.errors import FiguregroundError, join_names
from figureground.models.opening import open_network, open_part

libraries.import_silently("transformers")

FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
"""Files of a model: settings, vocabulary, weights."""
TEXTS_AT_A_TIME = 256
"""Number of texts that are embedded in one batch."""


class ImageText:
    """A network with its tokenizer.

    Args:
        folder: A transformers directory.
        name: The model in errors, such as `--scorer clip:mine`.

    Raises:
        FiguregroundError: It doesn't open, is of another kind, or lacks weights.
    """

    def __init__(self, folder: Path, name: str):
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer

        try:
            network, info = open_network(AutoModel, folder, name, dtype=torch.float32, output_loading_info=True)
            if not all(hasattr(network, part) for part in ("get_text_features", "get_image_features", "logit_scale")):
                raise FiguregroundError(
                    f"{name}: a {type(network).__name__} doesn't compare images with texts. Give a CLIP, SigLIP or "
                    "SigLIP 2 model."
                )
            if info["missing_keys"]:
                raise FiguregroundError(
                    f"{name}: its weights lack {join_names(sorted(info['missing_keys']), 2)}. Download it again."
                )
            self.network: Any = network.eval()
            self._tokenizer: Any = open_part(AutoTokenizer, folder, name)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            if isinstance(error, FiguregroundError):
                raise
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise FiguregroundError(f"{name} doesn't open: {first}") from error
        self.scale = float(network.logit_scale.detach().exp())
        """Factor of similarities. SigLIP's bias is the same for all texts, and cancels in a softmax."""
        self._limit = int(network.config.text_config.max_position_embeddings)
        # SigLIP was trained on texts padded to the full length.
        self._padding: Any = "max_length" if network.config.model_type.startswith("siglip") else True

    @torch.inference_mode()
    def embed(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Return the features of answers, each given by several texts, (answers, d), of length 1.

        The texts' features are normalised, averaged and normalised again (prompt ensembles, Radford et al. 2021,
        section 3.1.4). Answers without texts are left out.
        """
        flat = [text for group in texts for text in group]
        parts = []
        for start in range(0, len(flat), TEXTS_AT_A_TIME):
            tokens = self._tokenizer(
                flat[start : start + TEXTS_AT_A_TIME], padding=self._padding, truncation=True, max_length=self._limit,
                return_tensors="pt",
            )  # fmt: skip
            parts.append(normalise(self.network.get_text_features(**tokens.to(self.network.device))))
        grouped = torch.cat(parts).split([len(group) for group in texts if group])
        return normalise(torch.stack([group.mean(0) for group in grouped]))


def normalise(features: Any) -> Tensor:
    """Return features, or the pooled output of a model, as vectors of length 1, float32 (n, d)."""
    vectors = features if isinstance(features, torch.Tensor) else features.pooler_output
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
