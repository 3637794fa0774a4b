"""The feature network of a fine-tuning, and the similarity loss that it judges by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.diffusion.checkpoint import Checkpoint
from figureground.finetune.latents import to_pixels
from figureground.finetune.request import FinetuneRequest
from figureground.finetune.similarity import SimilarityLoss
from figureground.finetune.training import Similarity
from figureground.finetune.training_images import TrainingImages
from figureground.models.opening import open_network
from figureground.training.processes import Processes
from figureground.vision.classifiers import Classifier, open_classifier
from figureground.vision.model_files import download
from figureground.vision.neural_pca import read_components


@dataclass(frozen=True)
class FeatureNetwork:
    """The feature network and the class's position in its logits."""

    classifier: Classifier
    label: int


def open_feature_network(request: FinetuneRequest, processes: Processes) -> FeatureNetwork | None:
    """Open the feature network, if it is used."""
    settings = request.settings
    if not settings.reads_features:
        return None
    assert settings.feature_model is not None
    classifier = open_classifier(
        settings.feature_model, revision=settings.feature_model_revision, device=processes.device
    )
    classifier.require_features()
    return FeatureNetwork(classifier, classifier.index(request.label))


def set_up_similarity(
    request: FinetuneRequest,
    checkpoint: Checkpoint,
    references: TrainingImages,
    network: FeatureNetwork | None,
    processes: Processes,
) -> Similarity | None:
    """Set up SFSL, if its weight isn't 0: the feature network, its class, and the features of the references."""
    settings = request.settings
    if settings.sfsl_weight == 0 or network is None:
        return None
    classifier, label = network.classifier, network.label
    components = read_components(request.components, classifier) if request.components is not None else None
    loss = SimilarityLoss(
        classifier, label, torch.cat([to_pixels(r.image) for r in references.images]), features=settings.features,
        distance=settings.distance, weighting=settings.weighting, threshold=settings.threshold, components=components,
        leading=settings.leading,
    )  # fmt: skip
    vae = checkpoint.text_to_image.vae
    if settings.tiny_autoencoder is not None:
        vae = _open_tiny_autoencoder(settings.tiny_autoencoder).to(processes.device).requires_grad_(False)
    return Similarity(loss, vae, classifier.facts)


def _open_tiny_autoencoder(name: str) -> Any:
    from diffusers import AutoencoderTiny

    description = f"tiny_autoencoder {name!r}"
    folder = Path(name).expanduser()
    try:
        if not folder.is_dir():
            folder = download("tiny_autoencoder", name, None, ("config.json", "*.safetensors"))
        return open_network(AutoencoderTiny, folder, description, dtype=torch.float32)
    except (FiguregroundError, OSError, ValueError, RuntimeError) as error:
        message = (str(error).splitlines() or ["?"])[0]
        raise RecipeError("tiny_autoencoder", f"{name!r} doesn't open as an AutoencoderTiny: {message}") from None
