"""A backbone whose output is its pooled features: the input of its last linear layer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from figureground.core.errors import FiguregroundError
from figureground.core.extras import explain_missing
from figureground.core.files import read_json
from figureground.learn.backbones import STATE, Backbone, find_last_layer, save_backbone
from figureground.models.needs import TIMM
from figureground.models.opening import make_timm
from figureground.vision.classifiers import Classifier, open_classifier
from figureground.vision.preprocessing import read_timm


class Trunk(nn.Module):
    """The network of a backbone without its last linear layer.

    Args:
        backbone: Its network is changed in place.

    Raises:
        FiguregroundError: The backbone's logits are not the output of one linear layer.
    """

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone
        self.network = backbone.network
        classifier = Classifier(
            backbone.network, backbone.preprocessing, backbone.classes, backbone.name, {}, edge=max(backbone.size)
        )
        classifier.require_features()
        self.dimensions: int = classifier.weight.shape[1]
        """Number of pooled features."""
        self._parent, self._layer_name = find_last_layer(backbone.network, classifier.weight)
        self._last_layer = [getattr(self._parent, self._layer_name)]  # in a list, so that it isn't part of the network
        setattr(self._parent, self._layer_name, nn.Identity())
        self.network.requires_grad_(True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return features, float32 (n, dimensions), of the network's input, (n, 3, h, w)."""
        return self.backbone.logits(inputs)

    def fingerprint(self) -> str:
        """Return a SHA-256 of the weights and the preprocessing."""
        sha256 = hashlib.sha256(repr(self.backbone.preprocessing).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            sha256.update(f"{name}\0".encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return sha256.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the backbone into a new directory, as `figureground train` does; its last layer is not used."""
        setattr(self._parent, self._layer_name, self._last_layer[0])
        try:
            save_backbone(self.backbone, folder)
        finally:
            setattr(self._parent, self._layer_name, nn.Identity())


def open_trunk(folder: Path) -> Trunk:
    """Open a backbone that `Trunk.save` wrote.

    Raises:
        FiguregroundError: A file is missing or damaged.
    """
    return Trunk(_open_timm(folder) if (folder / "timm.json").is_file() else _open_transformers(folder))


def _open_transformers(folder: Path) -> Backbone:
    classifier = open_classifier(str(folder))
    preprocessing = classifier.preprocessing
    edge = preprocessing.crop or preprocessing.size or 224
    size = (edge, edge) if isinstance(edge, int) else edge
    return _channels_last(
        Backbone(classifier.network, preprocessing, size, classifier.labels, classifier.name, True, {})
    )


def _open_timm(folder: Path) -> Backbone:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        import timm.data
    except ImportError as error:
        raise explain_missing("timm", f"{folder}: its backbone", error) from error
    try:
        facts = read_json(folder / "timm.json")
        name, classes = str(facts["name"]), tuple(map(str, facts["classes"]))
        network = make_timm(name.removeprefix(TIMM), pretrained=False, num_classes=len(classes))
        network.load_state_dict(load_file(folder / STATE))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"{folder}: its backbone doesn't open: {reason}") from error
    settings: Any = timm.data.resolve_model_data_config(network)
    preprocessing = read_timm(settings)
    return _channels_last(Backbone(network, preprocessing, settings["input_size"][1:], classes, name, True, {}))


def _channels_last(backbone: Backbone) -> Backbone:
    """Use the memory layout of `learn.backbones.open_backbone`, so that features have the same bits."""
    network: Any = backbone.network
    network.to(memory_format=torch.channels_last)
    return backbone
