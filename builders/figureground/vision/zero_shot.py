"""Zero-shot classifiers: CLIP, SigLIP or SigLIP 2 with texts for classes, as ordinary classifiers.

The logits are the scaled cosine similarities of an image with the classes' mean text features (Radford et al. 2021,
arXiv 2103.00020, section 3.1.4). The texts' features are the weight of a last linear layer, and the image's are its
input, so that all that works with a `Classifier` works with these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from figureground.core.errors import FiguregroundError
from figureground.core.hashing import digest
from figureground.models.bundled import MATCHER
from figureground.models.classifier_files import POCKET
from figureground.models.needs import ZERO_SHOT
from figureground.vision.classifiers import Classifier
from figureground.vision.image_text import FILES, ImageText, normalise
from figureground.vision.model_files import check_weights, download, hash_files, read_model_type
from figureground.vision.preprocessing import read_preprocessing


class _ZeroShotNetwork(nn.Module):
    """The image half of a model, and a linear layer whose weight are the texts' features times the model's scale."""

    def __init__(self, network: Any, texts: Tensor, scale: float):
        super().__init__()
        network.text_model = nn.Identity()  # no longer needed, and takes memory
        self.images = network
        self.head = nn.Linear(texts.shape[1], len(texts), bias=False)
        self.head.weight = nn.Parameter((scale * texts).clone(), requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of preprocessed pixels, (n, classes)."""
        logits: Tensor = self.head(normalise(self.images.get_image_features(pixel_values=pixels)))
        return logits


def open_zero_shot(name: str, labels: Sequence[str], texts: Sequence[Sequence[str]]) -> Classifier:
    """Open a zero-shot classifier, in float32, on the CPU.

    Args:
        name: `clip:` and a directory or a Hub id; `clip:pocket` is the bundled model of the pocket's drawings.
        labels: Names of the classes.
        texts: Texts of each class, at least one.

    Raises:
        FiguregroundError: The model is missing, unreachable, of another kind, pickle-only or damaged, or its images
            have no fixed resolution.
    """
    model_id = name.removeprefix(ZERO_SHOT)
    facts: dict[str, Any] = {}
    folder, public_name = Path(model_id).expanduser(), name
    if model_id == POCKET:
        folder = MATCHER
    elif folder.is_dir():
        public_name = f"{ZERO_SHOT}{folder.resolve().name}"
    else:
        folder = download("classifier", model_id, None, FILES)
        facts["revision"] = folder.name
    check_weights(folder, "classifier", public_name, "AutoModel")
    if read_model_type(folder) == "siglip2":
        raise FiguregroundError(
            f"classifier {public_name!r} takes images of any resolution (NaFlex), which isn't supported. Give one of a "
            "fixed resolution, such as clip:google/siglip2-base-patch16-224."
        )
    model = ImageText(folder, f"classifier {public_name!r}")
    features = model.embed(texts).clone()
    architecture, vision = type(model.network).__name__, model.network.config.vision_config
    return Classifier(
        _ZeroShotNetwork(model.network, features, model.scale), read_preprocessing(folder, public_name), labels,
        public_name,
        {
            "architecture": architecture, "robust": None, "zero_shot": True,
            "texts": sum(map(len, texts)), "texts_sha256": digest([list(class_texts) for class_texts in texts]),
            "sha256": digest([hash_files(path for pattern in FILES for path in folder.glob(pattern)), list(texts)]),
            **facts,
        },
        edge=int(vision.image_size),
    )  # fmt: skip
