"""Class-wise neural PCA (Neuhaus, Augustin, Boreiko, Hein 2023, arXiv 2212.04871): the components of a class's logit.

The logit of class k is ⟨w_k, φ(x)⟩ + b_k. On images of class k, the weighted features ψ_k(x) = w_k ⊙ φ(x) are analysed
into principal components v_l. The entries of ψ_k sum to the logit minus its bias. So each component contributes
α_l(x) = ⟨v_l, ψ_k(x) − μ⟩ · ⟨1, v_l⟩ to it, and all contributions sum to the logit minus its mean over the class. A
component whose most activating images show something other than the class is a spurious feature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from figureground.core.errors import FiguregroundError
from figureground.core.files import replace_bytes

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier

_TENSORS = ("mean", "vectors", "values")
"""The tensors of `Components`, by their names in files."""


@dataclass(frozen=True)
class Components:
    """Principal components of a class, by descending eigenvalue."""

    label: int
    """The class's position in the logits."""
    mean: Tensor
    """μ, the mean of ψ_k over images of the class, float32 (d,)."""
    vectors: Tensor
    """Orthonormal rows v_l, float32 (L, d), with signs such that ⟨1, v_l⟩ ≥ 0."""
    values: Tensor
    """Eigenvalues of the covariance of ψ_k (divided by the number of images), float32 (L,)."""

    def activations(self, weighted: Tensor) -> Tensor:
        """Return α, (n, L), of weighted features ψ_k, (n, d): contributions to the logit; differentiable."""
        mean, vectors = self.mean.to(weighted), self.vectors.to(weighted)
        return (weighted - mean) @ vectors.T * vectors.sum(1)

    def select(self, indices: Sequence[int]) -> Components:
        """Return a subset of the components, such as those that a person found spurious.

        Raises:
            FiguregroundError: A number isn't that of a component.
        """
        for i in indices:
            if not 0 <= i < len(self.values):
                raise FiguregroundError(f"component {i}: there are {len(self.values)}, counted from 0.")
        chosen = list(indices)
        return replace(self, vectors=self.vectors[chosen], values=self.values[chosen])


def weight_features(features: Tensor, weight: Tensor) -> Tensor:
    """Return ψ_k = w_k ⊙ φ, (n, d), from features (n, d) and the class's row of the last layer's weight (d,)."""
    return features * weight.to(features)


def fit_components(weighted: Tensor, label: int, count: int | None = None) -> Components:
    """Compute principal components of the weighted features of a class's images.

    Args:
        weighted: ψ_k, (n, d).
        label: The class's position in the logits.
        count: Number of components; None for all d, which span the whole space, so that their α sum to the logit minus
            its mean for other images too.

    Raises:
        FiguregroundError: There are fewer than two images, features are non-finite or all equal, or `count` isn't in
            1..d.
    """
    n, d = weighted.shape
    if n < 2:
        raise FiguregroundError(f"neural PCA needs at least 2 images of the class, preferably 50 or more, not {n}.")
    if count is not None and not 1 <= count <= d:
        raise FiguregroundError(f"components: {count} were requested; {d} features have 1 to {d}.")
    exact = weighted.detach().cpu().double()
    if not torch.isfinite(exact).all():
        raise FiguregroundError("neural PCA: features hold NaN or infinity.")
    mean = exact.mean(0)
    centered = exact - mean
    if float(centered.abs().max()) <= 1e-9 * float(exact.abs().max()):
        raise FiguregroundError("neural PCA: the images' features are all equal, so they have no components.")
    values, vectors = torch.linalg.eigh(centered.T @ centered / n)
    values, vectors = values.flip(0).clamp(min=0)[:count], vectors.flip(1).T[:count]
    vectors = torch.where(vectors.sum(1, keepdim=True) < 0, -vectors, vectors)
    return Components(label, mean.float(), vectors.float().contiguous(), values.float())


def write_components(components: Components, path: Path, facts: Mapping[str, Any]) -> None:
    """Write components as safetensors, atomically.

    Args:
        facts: Origin of the components, JSON-serialisable: `classifier` (its facts), and any other entries.
    """
    tensors = {name: getattr(components, name).cpu().contiguous() for name in _TENSORS}
    replace_bytes(path, save(tensors, {"label": str(components.label), "facts": json.dumps(facts, sort_keys=True)}))


def read_components(path: Path, classifier: Classifier) -> Components:
    """Read components written by `write_components`.

    Raises:
        FiguregroundError: The file is missing, damaged or of another kind, or was made with another classifier.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            components = Components(int(metadata["label"]), **{name: file.get_tensor(name) for name in _TENSORS})
        made_with = json.loads(metadata["facts"])["classifier"]
    except FileNotFoundError:
        raise FiguregroundError(f"components: there is no file {str(path)!r}.") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise FiguregroundError(
            f"components: {path.name} isn't a file of `figureground components` ({error})."
        ) from error
    if made_with["sha256"] != classifier.facts["sha256"]:
        raise FiguregroundError(
            f"components: {path.name} was made with the classifier {made_with['name']!r}, whose weights or settings "
            f"differ from those of {classifier.name!r}. Make it again with `figureground components`."
        )
    return components
