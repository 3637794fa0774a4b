"""The spurious-feature similarity loss (SFSL), which makes a classifier's features of generated images similar to
those of the references.

MaungMaung, Nguyen, Kiya, Echizen 2024 (arXiv 2402.08200) fine-tune a diffusion model with a loss of this name on an
adversarially robust network. Their formula was not available; this one is our own. From a noisy latent and the model's
prediction, the clean latent is estimated in one step, decoded, and passed to the classifier. Its features are compared
with those of the references:

    SFSL(x_t) = w(t) · distance(f(decode(x̂_0)), target)

f are the features before the last linear layer (`penultimate`), the same times the weights of class k
(`class-weighted`, ψ_k), or the shares of the leading neural principal components of k in its logit (`neural-pca`;
Neuhaus et al. 2023, arXiv 2212.04871). These shares are ⟨v_l, ψ_k⟩ · ⟨1, v_l⟩, not centred like α. If most images of
the class show the feature, references lie at the class's mean, where α is about 0 and has no direction.

The target is the references' mean: they show the feature on various backgrounds, so the mean is what they share.
Nothing is lost: the mean distance to all references, squared L2 or cosine, equals the distance to their mean up to a
factor and a constant. (The distance to the nearest reference would reward copying it.)

A network fooled by the feature represents the feature and the class alike, so drawing the class may also bring f closer
to the target. To remove the class's own direction u (|u| = 1), φ is replaced by φ − ⟨φ, u⟩u on both sides. Then the
class in an image neither lowers nor raises the loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from figureground.core.errors import FiguregroundError, RecipeError, suggest_or_list
from figureground.finetune.latents import to_pixels

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier
    from figureground.vision.neural_pca import Components

FEATURES = ("penultimate", "class-weighted", "neural-pca")
DISTANCES = ("cosine", "l2")
WEIGHTINGS = ("alpha-bar", "threshold", "none")
LEADING = 10
BATCH = 16
"""Batch size for reading references."""


def decode(vae: Any, latents: Tensor, checkpointing: bool) -> Tensor:
    """Decode scaled latents of a denoiser into pixels, with gradients.

    The autoencoder's dtype is used regardless of autocast. A float16 autoencoder is converted to float32 in place,
    because it overflows (as SDXL's does) and its gradients vanish; the conversion is lossless.

    Args:
        vae: An `AutoencoderKL` or an `AutoencoderTiny`.
        latents: (n, c, h, w).
        checkpointing: Whether to recompute the decoder's activations in the backward pass: less memory, a third more
            time, the same gradients.

    Returns:
        (n, 3, factor × h, factor × w), float32 in 0..1. The gradient of a clipped pixel is 0.
    """
    if vae.dtype == torch.float16:
        vae.to(torch.float32)
    config = vae.config
    latents = latents.to(vae.device, vae.dtype)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        latents = latents * latents.new_tensor(std).view(1, -1, 1, 1)
    latents = latents / config.scaling_factor
    if mean is not None and std is not None:
        latents = latents + latents.new_tensor(mean).view(1, -1, 1, 1)
    latents = latents + (config.get("shift_factor") or 0.0)
    was_checkpointing = vae.is_gradient_checkpointing
    if checkpointing and not was_checkpointing:
        vae.enable_gradient_checkpointing()
    try:
        with torch.autocast(latents.device.type, enabled=False):
            pixels = vae.decode(latents).sample
    finally:
        if checkpointing and not was_checkpointing:
            vae.disable_gradient_checkpointing()
    return (pixels.float() / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def read_features(
    classifier: Classifier, images: Sequence[Image.Image], between_batches: Callable[[], None] = lambda: None
) -> Tensor:
    """Compute φ of RGB images of one size: (n, d), float32, on the classifier's device.

    Args:
        between_batches: Called between batches; it may raise, to stop.
    """
    parts = []
    for start in range(0, len(images), BATCH):
        between_batches()
        parts.append(classifier(torch.cat([to_pixels(image) for image in images[start : start + BATCH]])).features)
    return torch.cat(parts)


def compute_image_direction(class_features: Tensor, other_features: Tensor) -> Tensor:
    """Return the direction from the mean features of other images to those of the class, (d,), of length 1.

    Args:
        class_features: φ of images of the class, (n, d).
        other_features: φ of images without it, (m, d).

    Raises:
        FiguregroundError: Both means are equal.
    """
    difference = class_features.mean(0) - other_features.mean(0)
    if not float(difference.norm()) > 0:
        raise FiguregroundError(
            "class_direction: for the feature network, images of the class are on average the same as the prior "
            "images. Give your own images (--class-folder DIR), or --class-direction head."
        )
    return F.normalize(difference, dim=0)


def compute_head_direction(classifier: Classifier, label: int) -> Tensor:
    """Return the direction in which the class's logit rises above the mean of all logits, (d,), of length 1.

    Raises:
        FiguregroundError: The last layer has the same weights for all classes.
    """
    difference = classifier.weight[label] - classifier.weight.mean(0)
    if not float(difference.norm()) > 0:
        raise FiguregroundError(
            f"class_direction: classifier {classifier.name!r} has the same weights for all classes."
        )
    return F.normalize(difference, dim=0)


class SimilarityLoss:
    """SFSL, as defined in the module's docstring. The references are read once, here.

    Args:
        classifier: The feature network.
        label: k, the class's position in its logits.
        references: Images that show the feature, (m, 3, h, w) in 0..1.
        features: The features to compare, a name from `FEATURES`.
        distance: `cosine`: 1 − cos(f, mean of the references' f / |f|), in 0..2. `l2`: |f − mean|² divided by the
            references' mean |f|², so that it is 1 for f = 0 if they agree, whatever the scale of the network.
        weighting: w(t): `alpha-bar`: ᾱ_t, as estimates of clean images are blurrier with more noise. `threshold`: 1
            if ᾱ_t > `threshold`, otherwise 0. `none`: 1.
        threshold: In 0..1.
        components: Components of class k, for `neural-pca`; see `figureground.vision.components`.
        leading: Number of components to compare, those with the largest eigenvalues.

    Raises:
        RecipeError: An option is unknown, or components are missing or belong to another class or network.
        FiguregroundError: The classifier isn't a feature network, or the references' features are unusable.
    """

    def __init__(
        self,
        classifier: Classifier,
        label: int,
        references: Tensor,
        *,
        features: str = "penultimate",
        distance: str = "cosine",
        weighting: str = "alpha-bar",
        threshold: float = 0.5,
        components: Components | None = None,
        leading: int = LEADING,
    ):
        for field, value, choices in (
            ("features", features, FEATURES), ("distance", distance, DISTANCES), ("weighting", weighting, WEIGHTINGS),
        ):  # fmt: skip
            if value not in choices:
                raise RecipeError(field, f"{value!r} is unknown{suggest_or_list(value, choices)}")
        classifier.require_features()
        if not 0 <= label < len(classifier.labels):
            count = len(classifier.labels)
            raise FiguregroundError(f"classifier {classifier.name!r} has {count} classes, so {label} is out of range.")
        self._classifier, self._label = classifier, label
        self._references = references
        self._removed_direction: Tensor | None = None
        self._features, self._distance = features, distance
        self._weighting, self._threshold = weighting, threshold
        self._components = (
            _select_components(components, classifier, label, leading) if features == "neural-pca" else None
        )
        if self._components is not None and leading < 2 and distance == "cosine":
            raise RecipeError(
                "distance",
                "a single component has no direction for the distance cosine. Set distance to l2, or "
                "compare more components.",
            )
        self._set_target()

    @torch.no_grad()
    def _set_target(self) -> None:
        classifier = self._classifier
        features = torch.cat([self._extract(part) for part in self._references.split(BATCH)])
        if not len(features) or not torch.isfinite(features).all():
            raise FiguregroundError(
                f"classifier {classifier.name!r}: the references' features hold NaN or infinity."
                if len(features) else "SFSL needs at least one reference."
            )  # fmt: skip
        scale = features.square().sum(1).mean()
        if scale == 0:
            raise FiguregroundError(
                f"classifier {classifier.name!r}: the references' {self._features} features are all 0, so nothing can "
                "become similar to them. Choose other features, or another feature network."
            )
        self._scale = scale
        self._target = (F.normalize(features, dim=1) if self._distance == "cosine" else features).mean(0)

    def remove_direction(self, direction: Tensor) -> SimilarityLoss:
        """Return the same loss on φ − ⟨φ, u⟩u instead of φ, for the references and the compared images.

        Args:
            direction: u, (d,), of length 1.

        Raises:
            FiguregroundError: The references' features are 0 without this direction.
        """
        loss = copy.copy(self)
        loss._removed_direction = direction
        loss._set_target()
        return loss

    def __call__(self, pixels: Tensor, alphas_bar: Tensor) -> Tensor:
        """Return the loss of each image, weighted by its timestep.

        Args:
            pixels: Decoded estimates, (n, 3, h, w) in 0..1, of any size.
            alphas_bar: ᾱ_t of each image's timestep, (n,).

        Returns:
            (n,), float32.
        """
        return self.weight(alphas_bar) * self.distance(pixels)

    def weight(self, alphas_bar: Tensor) -> Tensor:
        """Return w(t) of timesteps given by ᾱ_t, (n,). Images with weight 0 needn't be decoded."""
        alphas_bar = alphas_bar.to(self._target)
        if self._weighting == "alpha-bar":
            return alphas_bar
        if self._weighting == "threshold":
            return (alphas_bar > self._threshold).to(alphas_bar)
        return torch.ones_like(alphas_bar)

    def distance(self, pixels: Tensor) -> Tensor:
        """Return the distance of each image's features from the target, (n,), without the timestep's weight."""
        features = self._extract(pixels)
        if self._distance == "cosine":
            return 1 - F.cosine_similarity(features, self._target[None], dim=1)
        return (features - self._target).square().sum(1) / self._scale

    def _extract(self, pixels: Tensor) -> Tensor:
        from figureground.vision.neural_pca import weight_features

        features = self._classifier(pixels).features
        if self._removed_direction is not None:
            features = features - (features @ self._removed_direction)[:, None] * self._removed_direction
        if self._features == "penultimate":
            return features
        weighted = weight_features(features, self._classifier.weight[self._label])
        return weighted if self._components is None else self._components.activations(weighted)


def _select_components(components: Components | None, classifier: Classifier, label: int, leading: int) -> Components:
    """Return the leading components, not centred, after checking that they match the class and the network."""
    if components is None:
        raise RecipeError(
            "features",
            "'neural-pca' needs the class's components. `figureground components` makes them from images of the class.",
        )
    weight = classifier.weight
    if components.label != label or components.mean.shape != weight[label].shape:
        raise RecipeError(
            "components",
            f"they are of class {components.label} with {len(components.mean)} features; needed are those of class "
            f"{label} ({classifier.labels[label]}) with {weight.shape[1]}, made with {classifier.name!r}.",
        )
    if not 1 <= leading <= len(components.values):
        raise RecipeError("leading", f"{leading} were requested; there are {len(components.values)} components.")
    selected = components.select(range(leading))
    return replace(selected, mean=torch.zeros_like(weight[label]), vectors=selected.vectors.to(weight))
