"""Opens classifiers, as judges of images and as feature networks.

Both uses share one path: pixels in 0..1 in, logits and the features before the last linear layer out. Preprocessing
(resize, crop, normalise) is included and differentiable.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from figureground.core import libraries
from figureground.core.errors import FiguregroundError, join_names
from figureground.core.names import find_symbols, name_key
from figureground.core.resources import find_resource
from figureground.core.seeding import make_generator
from figureground.models.classifier_files import find_kind
from figureground.recipe.classes import read_csv
from figureground.vision.onnx_classifier import OnnxLogits
from figureground.vision.preprocessing import (
    Preprocessing,
    to_pixels,
)

libraries.import_silently("transformers")

IMAGENET_CLASSES = 1000
SETTINGS = ("config.json", "preprocessor_config.json")
"""Files of a directory that affect a classifier's output, besides its weights."""


class Reading(NamedTuple):
    """A classifier's output for n images."""

    logits: Tensor
    """(n, classes), float32."""
    features: Tensor
    """(n, d), float32: input of the last linear layer; d is 0 if no such layer was found."""


class Classifier(nn.Module):
    """A frozen classifier, always in evaluation mode: its weights get no gradients, its pixels do.

    Args:
        network: Takes preprocessed pixels, returns logits or an object with a `logits` attribute.
        edge: Edge of the square image with which the network is tried once.

    Raises:
        FiguregroundError: A weight isn't finite, the network doesn't accept images from its preprocessing, or the
            numbers of logits and labels differ.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        labels: Sequence[str],
        name: str,
        facts: Mapping[str, Any],
        *,
        edge: int = 224,
    ):
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.preprocessing = preprocessing
        self.name = name
        self.labels = tuple(labels)
        self._refuse_non_finite()
        self._last_layer_name = self._find_last_layer(edge)
        self.facts: dict[str, Any] = {**facts, "name": name, "classes": len(self.labels)}
        """Description for provenance; JSON-serialisable, without paths."""

    def train(self, mode: bool = True) -> Classifier:
        """Stay in evaluation mode, whatever mode an enclosing model is set to."""
        super().train(False)
        return self

    @property
    def _last_layer(self) -> nn.Linear | None:
        last = None if self._last_layer_name is None else self.network.get_submodule(self._last_layer_name)
        return last if isinstance(last, nn.Linear) else None

    @property
    def weight(self) -> Tensor:
        """Weight of the last linear layer, (classes, d): logits = features @ weight.T + bias."""
        last = self._last_layer
        return torch.empty(len(self.labels), 0) if last is None else last.weight.detach()

    @property
    def bias(self) -> Tensor:
        """Bias of the last linear layer, (classes,); zeros if it has none."""
        last = self._last_layer
        if last is None or last.bias is None:
            return self.weight.new_zeros(len(self.labels))
        return last.bias.detach()

    def forward(self, pixels: Tensor) -> Reading:
        """Return logits and features of images.

        Args:
            pixels: (n, 3, h, w), red, green, blue in 0..1, of any height and width.
        """
        return self.read_prepared(self.prepare(pixels))

    def read(self, images: Sequence[Image.Image]) -> Reading:
        """Return logits and features of RGB images of any sizes, each resized individually."""
        prepared = [self.prepare(to_pixels(image)[None]) for image in images]
        if len({p.shape for p in prepared}) == 1:
            return self.read_prepared(torch.cat(prepared))
        logits, features = zip(*map(self.read_prepared, prepared), strict=True)
        return Reading(torch.cat(logits), torch.cat(features))

    def prepare(self, pixels: Tensor) -> Tensor:
        weight = next(self.network.parameters())
        with torch.autocast(weight.device.type, enabled=False):
            return self.preprocessing(pixels.to(weight.device, weight.dtype))

    def read_prepared(self, prepared: Tensor) -> Reading:
        features: list[Tensor] = []
        last = self._last_layer
        hook = None if last is None else last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        try:
            # Always in full precision, because features are compared with those computed elsewhere.
            with torch.autocast(prepared.device.type, enabled=False):
                out = self.network(prepared)
        finally:
            if hook is not None:
                hook.remove()
        logits = out if isinstance(out, Tensor) else out.logits
        return Reading(logits, features[-1] if features else logits.new_empty(len(logits), 0))

    def require_features(self) -> None:
        """Check that the classifier has features.

        Raises:
            FiguregroundError: Its logits are not the output of one linear layer.
        """
        self.require_gradients()
        if self._last_layer is None:
            raise FiguregroundError(
                f"classifier {self.name!r} can judge images, but can't be a feature network: its logits aren't the "
                "output of one linear layer on one vector per image. Choose another, such as a ResNet or a ViT."
            )

    def require_gradients(self) -> None:
        """Check that pixels get gradients.

        Raises:
            FiguregroundError: The network runs in onnxruntime, which gives none.
        """
        if isinstance(self.network, OnnxLogits):
            raise FiguregroundError(
                f"classifier {self.name!r} can judge images, but runs in onnxruntime, which gives no gradients and no "
                "features. Choose a transformers directory, a Hub id or timm:NAME."
            )

    def index(self, label: str) -> int:
        """Return the position of a class in the logits.

        Args:
            label: Its name, in any case, with spaces, `_` or `-` between words; or one of the comma-separated
                synonyms in ImageNet's labels; or, for an ImageNet classifier, a WordNet id.

        Raises:
            FiguregroundError: No class matches (the message lists similar ones), or several do.
        """
        if list(self.labels).count(label) == 1:
            return list(self.labels).index(label)
        key = _normalise(label)
        for names in self._positions_by_name:
            positions = names.get(key, [])
            if len(positions) == 1:
                return positions[0]
            if positions:
                candidates = join_names(f"{self.labels[i]!r} (logit {i})" for i in positions)
                hint = " Give the WordNet id." if self._positions_by_name[2] else ""
                raise FiguregroundError(f"classifier {self.name!r}: {label!r} may be any of {candidates}.{hint}")
        raise FiguregroundError(f"classifier {self.name!r} has no class {label!r}{self._suggest(key)}")

    def index_or_none(self, label: str) -> int | None:
        """Return the position of a class as `index` finds it, or None if none or several match."""
        try:
            return self.index(label)
        except FiguregroundError:
            return None

    def positions(self, classes: Sequence[str]) -> list[int] | None:
        """Return the position of each class in the logits, or None unless the classifier has exactly these classes.

        Identical names are matched first; otherwise names are matched as by `index`.
        """
        labels = list(self.labels)
        if len(set(labels)) == len(labels) and sorted(labels) == sorted(classes):  # else `a b` may be `a b` or `a_b`
            return [labels.index(name) for name in classes]
        positions = [self.index_or_none(name) for name in classes]
        order = [position for position in positions if position is not None]
        return order if len(labels) == len(classes) == len(set(order)) else None

    @functools.cached_property
    def _positions_by_name(self) -> tuple[dict[str, list[int]], ...]:
        """Positions by full label, by synonym, and by ImageNet's other names for a class, all normalised."""
        by_label, by_synonym, by_imagenet_name = (defaultdict[str, list[int]](list) for _ in range(3))
        for i, label in enumerate(self.labels):
            by_label[_normalise(label)].append(i)
            for synonym in {_normalise(part) for part in label.split(",")}:
                by_synonym[synonym].append(i)
        if len(self.labels) == IMAGENET_CLASSES:
            nouns = imagenet_nouns()
            num_matching = sum(i in by_synonym.get(_normalise(aliases[-1]), ()) for i, (_, aliases) in enumerate(nouns))
            if num_matching > 0.8 * IMAGENET_CLASSES:  # the same classes in the same order
                for i, (name, aliases) in enumerate(nouns):
                    for alias in {_normalise(text) for text in (name, *aliases)}:
                        by_imagenet_name[alias].append(i)
        return dict(by_label), dict(by_synonym), dict(by_imagenet_name)

    def _suggest(self, key: str) -> str:
        synonyms = self._positions_by_name[1]
        sharing_words = [name for name in synonyms if set(key.split()) & set(name.split())]
        similar = dict.fromkeys([*difflib.get_close_matches(key, synonyms, n=3, cutoff=0.6), *sharing_words])
        if similar:
            return f"; similar: {join_names([repr(name) for name in similar], 5)}."
        return f"; it has {join_names(self.labels)}."

    def _refuse_non_finite(self) -> None:
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise FiguregroundError(
                    f"classifier {self.name!r}: its weights hold NaN or infinity ({name}), so it can't be used."
                )

    @torch.no_grad()
    def _find_last_layer(self, edge: int) -> str | None:
        """Return the name of the linear layer whose output is the logits, found by a trial run, or None."""
        calls: list[tuple[nn.Linear, Tensor, Tensor]] = []
        layers = {module: name for name, module in self.network.named_modules() if isinstance(module, nn.Linear)}
        hooks = [
            layer.register_forward_hook(lambda _, inputs, out, layer=layer: calls.append((layer, inputs[0], out)))
            for layer in layers
        ]
        weight = next(self.network.parameters())
        probe = torch.rand(2, 3, edge, edge, generator=make_generator(0)).to(weight)
        try:
            out = self.network(self.preprocessing(probe))
            logits = out if isinstance(out, Tensor) else out.logits
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            first = (str(error).splitlines() or ["?"])[0]
            raise FiguregroundError(
                f"classifier {self.name!r} can't read the images from its own preprocessing: {first}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        if logits.ndim != 2 or logits.shape[1] != len(self.labels):
            raise FiguregroundError(
                f"classifier {self.name!r} returns {'×'.join(map(str, logits.shape[1:]))} numbers per image but has "
                f"{len(self.labels)} labels."
            )
        for layer, inputs, out in reversed(calls):
            if inputs.ndim == 2 and out.shape == logits.shape and torch.allclose(out, logits):
                product = nn.functional.linear(inputs, layer.weight, layer.bias)  # how features will be used
                if torch.allclose(product, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
                    return layers[layer]
        return None


def _normalise(text: str) -> str:
    """Normalise a label for comparison: lower case, one space for each run of other than letters and digits.

    Symbols that tell names apart come last: `c ++` and `c #`.
    """
    words = re.sub(r"[\W_]+", " ", name_key(text)).strip()
    return f"{words} {find_symbols(text)}".strip() if words else text.strip()


@functools.cache
def imagenet_nouns() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return ImageNet's 1,000 classes in logit order: a unique name, and other names (WordNet id, name)."""
    path = find_resource("prompts/classes/imagenet.csv")
    return tuple((noun.name, (*noun.aliases, noun.text)) for noun in read_csv(path, "classes"))


def open_classifier(name: str, *, revision: str | None = None, device: str | torch.device = "cpu") -> Classifier:
    """Open a classifier, in float32.

    Args:
        name: `pocket`, the robust network bundled with this package; a directory or a Hub id of a transformers
            image-classification model; `timm:NAME`; `onnx:FILE` (see `onnx_classifier`); or a `.safetensors`, `.pt`
            or `.pth` file with the weights of an ImageNet ResNet, such as a robust one (see `robust_weights`).
        revision: Branch, tag or commit on the Hub.

    Raises:
        FiguregroundError: The classifier is missing, unreachable, of another kind, pickle-only, damaged, or has
            non-finite weights.
    """
    kind, rest = find_kind(name)
    if revision is not None and not kind.on_hub(rest):
        raise FiguregroundError(f"classifier {name!r}: revision {revision} applies only to Hub ids. Remove it.")
    classifier: Classifier = kind.open(rest, revision)
    return classifier.to(device)


def make_labels(classes: int) -> list[str]:
    """Return ImageNet's names for 1,000 logits, otherwise numbers."""
    if classes == IMAGENET_CLASSES:
        return [name for name, _ in imagenet_nouns()]
    return [str(i) for i in range(classes)]
