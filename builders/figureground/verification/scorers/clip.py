"""Zero-shot classification over a dataset's class lists with CLIP, SigLIP or SigLIP 2.

Each label has several texts, from `prompts/scorers/`. Their features are normalised, averaged and normalised again
(prompt ensembles, Radford et al. 2021, section 3.1.4). The probabilities are the softmax, over the labels of a column,
of the model's scaled similarities; SigLIP's bias is the same for all labels and cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, listed
from figureground.verification.models import find_model, refuse_absent
from figureground.verification.questions import Question
from figureground.verification.scorer import LabelScorer, Options

if TYPE_CHECKING:
    from torch import Tensor

TEXTS_AT_A_TIME = 256
"""Number of texts that are embedded in one batch."""


class ClipScorer(LabelScorer):
    """Compares images with texts; `id` is a directory or a Hub id."""

    KIND: ClassVar[str] = "clip"
    TEXTS: ClassVar[str] = ""
    """Beginning of the names of the files with texts in `prompts/scorers/`."""

    def __init__(self, id: str, questions: Sequence[Question], options: Options):
        super().__init__(id, questions, options)
        self.shown = f"--scorer {self.KIND}" + (f":{id}" if id else "")
        refuse_absent(self.shown, self.model)

    @property
    def model(self) -> str:
        """Directory or Hub id of the model."""
        return self.id

    def identify(self) -> dict[str, Any]:
        self._texts = {question.what: question.texts(self.TEXTS) for question in self.questions}
        self._others = {question.what: self.others(question) for question in self.questions}
        self.leave_out(
            {
                q.what: [name for name, texts in zip(q.labels, self._texts[q.what], strict=True) if not texts]
                for q in self.questions
            }
        )
        if not self.asked():
            raise FiguregroundError(
                f"{self.shown}: there is nothing to compare, since neither the foregrounds "
                f"({listed(self.questions[0].labels, 3)}) nor the backgrounds ({listed(self.questions[-1].labels, 3)}) "
                "have two labels with words."
            )
        self._folder, digest = find_model(self.shown, self.model, "AutoModel")
        return {"sha256": digest, "texts": self._texts, "others": self._others}

    def knows_none(self, question: Question) -> bool:
        return bool(self._others[question.what])

    def open(self) -> None:
        import torch

        from figureground.core.accelerator import choose_device

        self._device = choose_device(self.options.device)
        network, self._tokenizer, self._processor = _open(self._folder, self.shown)
        self._network = network.to(self._device).eval()
        self._limit = int(network.config.text_config.max_position_embeddings)
        # SigLIP was trained on texts padded to the full length.
        self._padding = "max_length" if network.config.model_type.startswith("siglip") else True
        self._scale = float(network.logit_scale.detach().exp())
        with torch.inference_mode():
            self._labels = {q.what: self._embed([*self._texts[q.what], *self._others[q.what]]) for q in self.asked()}

    def others(self, question: Question) -> list[list[str]]:
        """Return the texts of further answers, which mean that an image shows none of the labels; here, none."""
        return []

    def views(self, pixels: Tensor) -> list[Tensor]:
        """Return the views of preprocessed images, (n, 3, h, w), over which features are averaged; here, one."""
        return [pixels]

    def close(self) -> None:
        self._network, self._labels = None, {}

    def probabilities(self, images: Sequence[Image.Image]) -> Mapping[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            inputs = self._processor(images=list(images), return_tensors="pt").to(self._device)
            views = self.views(inputs["pixel_values"])
            each = [self._network.get_image_features(**{**inputs, "pixel_values": view}) for view in views]
            features = torch.stack([_normalised(some) for some in each]).mean(0)
        found = {}
        for question in self.asked():
            known = self.knows(question)
            logits = (self._scale * features @ self._labels[question.what].T).cpu().double().numpy()
            answers = softmax(logits)
            p = np.full((len(images), len(known) + self.knows_none(question)), np.nan)
            p[:, : len(known)][:, known] = answers[:, : known.sum()]
            if self.knows_none(question):
                p[:, -1] = answers[:, known.sum() :].sum(axis=1)
            found[question.what] = p
        return found

    def _embed(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Return the mean features of the answers that have texts, (answers, d)."""
        import torch

        flat = [text for some in texts for text in some]
        parts = []
        for start in range(0, len(flat), TEXTS_AT_A_TIME):
            tokens = self._tokenizer(
                flat[start : start + TEXTS_AT_A_TIME], padding=self._padding, truncation=True, max_length=self._limit,
                return_tensors="pt",
            )  # fmt: skip
            parts.append(_normalised(self._network.get_text_features(**tokens.to(self._device))))
        each = torch.cat(parts).split([len(some) for some in texts if some])
        return _normalised(torch.stack([some.mean(0) for some in each]))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, in float64; NaN and infinity stay visible as NaN."""
    with np.errstate(invalid="ignore"):
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return p / p.sum(axis=-1, keepdims=True)


def _normalised(features: Any) -> Tensor:
    import torch

    vectors = features if isinstance(features, torch.Tensor) else features.pooler_output
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def _open(folder: Path, shown: str) -> tuple[Any, Any, Any]:
    """Open the network, the tokenizer and the image processor."""
    import torch
    from safetensors import SafetensorError

    from figureground.core import libraries

    libraries.prepare("transformers")
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    from figureground.models.opening import open_network, open_part

    try:
        network, info = open_network(AutoModel, folder, shown, dtype=torch.float32, output_loading_info=True)
        if not all(hasattr(network, part) for part in ("get_text_features", "get_image_features", "logit_scale")):
            raise FiguregroundError(
                f"{shown}: a {type(network).__name__} doesn't compare images with texts. Give a CLIP, SigLIP or "
                "SigLIP 2 model."
            )
        if info["missing_keys"]:
            raise FiguregroundError(
                f"{shown}: its weights lack {listed(sorted(info['missing_keys']), 2)}. Download it again."
            )
        return network, open_part(AutoTokenizer, folder, shown), open_part(AutoImageProcessor, folder, shown)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        if isinstance(error, FiguregroundError):
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"{shown} doesn't open: {first}") from error
