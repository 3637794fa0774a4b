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

from figureground.core.errors import FiguregroundError, join_names
from figureground.core.softmax import softmax
from figureground.verification.models import find_model, refuse_absent
from figureground.verification.questions import LabelQuestion
from figureground.verification.scorer import LabelScorer, Options

if TYPE_CHECKING:
    from torch import Tensor


class ClipScorer(LabelScorer):
    """Compares images with texts; `id` is a directory or a Hub id."""

    KIND: ClassVar[str] = "clip"
    TEXTS: ClassVar[str] = ""
    """Beginning of the names of the files with texts in `prompts/scorers/`."""

    def __init__(self, id: str, questions: Sequence[LabelQuestion], options: Options):
        super().__init__(id, questions, options)
        self.flag = f"--scorer {self.KIND}" + (f":{id}" if id else "")
        refuse_absent(self.flag, self.model)

    @property
    def model(self) -> str:
        """Directory or Hub id of the model."""
        return self.id

    def identify(self) -> dict[str, Any]:
        self._texts = {question.what: self.label_texts(question) for question in self.questions}
        self._other_texts = {question.what: self.other_texts(question) for question in self.questions}
        self.leave_out(
            {
                q.what: [name for name, texts in zip(q.labels, self._texts[q.what], strict=True) if not texts]
                for q in self.questions
            }
        )
        if not self.answerable_questions():
            raise FiguregroundError(
                f"{self.flag}: there is nothing to compare, since neither the foregrounds "
                f"({join_names(self.questions[0].labels, 3)}) nor the backgrounds "
                f"({join_names(self.questions[-1].labels, 3)}) have two labels with words."
            )
        self._folder, digest = find_model(self.flag, self.model, "AutoModel")
        return {"sha256": digest, "texts": self._texts, "others": self._other_texts}

    def knows_none(self, question: LabelQuestion) -> bool:
        return bool(self._other_texts[question.what])

    def open(self) -> None:
        from figureground.core.accelerator import choose_device
        from figureground.vision.image_text import ImageText

        self._device = choose_device(self.options.device)
        model = ImageText(self._folder, self.flag)
        self._processor = _open_processor(self._folder, self.flag)
        self._network: Any = model.network.to(self._device)
        self._scale = model.scale
        self._labels = {
            q.what: model.embed([*self._texts[q.what], *self._other_texts[q.what]]) for q in self.answerable_questions()
        }

    def label_texts(self, question: LabelQuestion) -> list[list[str]]:
        """Return the texts of each label; empty for a label that the model doesn't know or that has no words."""
        return question.texts(self.TEXTS)

    def other_texts(self, question: LabelQuestion) -> list[list[str]]:
        """Return the texts of further answers, which mean that an image shows none of the labels; here, none."""
        return []

    def views(self, pixels: Tensor) -> list[Tensor]:
        """Return the views of preprocessed images, (n, 3, h, w), over which features are averaged; here, one."""
        return [pixels]

    def close(self) -> None:
        self._network, self._labels = None, {}

    def probabilities(self, images: Sequence[Image.Image]) -> Mapping[str, np.ndarray]:
        import torch

        from figureground.vision.image_text import normalise

        with torch.inference_mode():
            inputs = self._processor(images=list(images), return_tensors="pt").to(self._device)
            views = self.views(inputs["pixel_values"])
            view_features = [self._network.get_image_features(**{**inputs, "pixel_values": view}) for view in views]
            features = torch.stack([normalise(features) for features in view_features]).mean(0)
        probabilities = {}
        for question in self.answerable_questions():
            known = self.knows(question)
            logits = (self._scale * features @ self._labels[question.what].T).cpu().double().numpy()
            answers = softmax(logits)
            p = np.full((len(images), len(known) + self.knows_none(question)), np.nan)
            p[:, : len(known)][:, known] = answers[:, : known.sum()]
            if self.knows_none(question):
                p[:, -1] = answers[:, known.sum() :].sum(axis=1)
            probabilities[question.what] = p
        return probabilities


def _open_processor(folder: Path, flag: str) -> Any:
    from transformers import AutoImageProcessor

    from figureground.models.opening import open_part

    try:
        return open_part(AutoImageProcessor, folder, flag)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"{flag} doesn't open: {first_line}") from error
