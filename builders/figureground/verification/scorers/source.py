"""Similarity of an image to the cut-out and the scene that it was made from.

A feature network, any classifier of `evaluate` with features, reads the image and its guide twice: cropped to the
cut-out's box, and with the cut-out's pixels replaced by the mean colour of the rest. The cosines of the features are
the columns `foreground_similarity` and `background_similarity`, -1 to 1. They aren't probabilities: where a threshold
lies depends on the network and the strength. A guide that is a whole photograph, or a source image of which a part was
repainted, is compared whole, in `foreground_similarity`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from figureground.models.needs import refuse_absent_classifier
from figureground.sources.mask import find_box
from figureground.verification.questions import LabelQuestion
from figureground.verification.scorer import Batch, Guided, Kind, Options, Scorer, Values

if TYPE_CHECKING:
    from torch import Tensor

    from figureground.vision.classifiers import Classifier

POCKET = "pocket"
COLUMNS = ("foreground_similarity", "background_similarity")


class SourceScorer(Scorer):
    """Compares with the stored guide (recipe: `keep: [guide, mask]`); `id` is a name for `open_classifier`."""

    KIND: ClassVar[str] = "source"
    NEEDS_GUIDES: ClassVar[bool] = True

    def __init__(self, id: str, questions: Sequence[LabelQuestion], options: Options):
        super().__init__(id or POCKET, questions, options)
        refuse_absent_classifier("--scorer source", self.id)

    def identify(self) -> dict[str, Any]:
        from figureground.vision.classifiers import open_classifier

        self._network: Classifier | None = open_classifier(self.id)
        self._network.require_features()
        return {"sha256": self._network.facts["sha256"]}

    def open(self) -> None:
        from figureground.core.accelerator import choose_device

        assert self._network is not None
        self._network.to(choose_device(self.options.device))

    def close(self) -> None:
        self._network = None

    def columns(self) -> dict[str, Kind]:
        return dict.fromkeys(COLUMNS, "float")

    def expected(self, labels: Mapping[str, np.ndarray], guided: np.ndarray) -> dict[str, np.ndarray]:
        return {COLUMNS[0]: guided}

    def score(self, batch: Batch) -> Values:
        scores: dict[str, list[Any]] = {name: [None] * len(batch.keys) for name in COLUMNS}
        views: dict[str, list[tuple[int, Image.Image, Image.Image]]] = {name: [] for name in COLUMNS}
        for i, (image, guide) in enumerate(zip(batch.images, batch.guides, strict=True)):
            if guide is None:
                continue
            if guide.image.size != image.size:
                guide = Guided(guide.image.resize(image.size), _resize_mask(guide.mask, image.size))
            if guide.mask is None or not guide.mask.any():
                views[COLUMNS[0]].append((i, image, guide.image))
                continue
            box = find_box(guide.mask)
            views[COLUMNS[0]].append((i, image.crop(box), guide.image.crop(box)))
            if not guide.mask.all():
                views[COLUMNS[1]].append((i, mask_out(image, guide.mask), mask_out(guide.image, guide.mask)))
        for name, pairs in views.items():
            for (i, _, _), similarity in zip(pairs, self._similarities(pairs), strict=True):
                scores[name][i] = similarity
        return scores

    def _similarities(self, pairs: Sequence[tuple[int, Image.Image, Image.Image]]) -> list[float]:
        import torch

        if not pairs:
            return []
        with torch.inference_mode():
            images = self._features([image for _, image, _ in pairs])
            guides = self._features([guide for _, _, guide in pairs])
            return torch.nn.functional.cosine_similarity(images, guides).clamp(-1, 1).cpu().double().tolist()

    def _features(self, images: Sequence[Image.Image]) -> Tensor:
        assert self._network is not None
        return self._network.read(images).features


def mask_out(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """Return an image whose masked pixels have the mean colour of the others."""
    pixels = np.array(image)
    pixels[mask] = np.rint(pixels[~mask].mean(axis=0))
    return Image.fromarray(pixels)


def _resize_mask(mask: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
    return None if mask is None else np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
