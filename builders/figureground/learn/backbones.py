"""Backbones: opened or newly initialised, given a head for the classes of the data, and saved after training."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from figureground.core.errors import FiguregroundError, RecipeError, join_names
from figureground.core.extras import explain_missing
from figureground.core.files import read_json
from figureground.core.seeding import seed_default_generators
from figureground.learn.backbone_settings import POCKET, BackboneSettings, choose_backbone
from figureground.models.needs import TIMM, timm_directory
from figureground.models.opening import make_network, make_timm
from figureground.recipe.sample import derive_seed
from figureground.vision.classifiers import Classifier, open_classifier
from figureground.vision.preprocessing import Preprocessing, read_preprocessing, read_timm

POCKET_EDGE = 64
"""Maximum edge of the pocket backbone's input, in pixels."""
STATE = "state.safetensors"
"""File of a timm network's weights; `timm.json` beside it names the network."""

_PILLOW = {"lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


@dataclass(eq=False)
class Backbone:
    """A network to train, and its preprocessing."""

    network: nn.Module
    preprocessing: Preprocessing
    size: tuple[int, int]
    """Height and width of the network's input."""
    classes: tuple[str, ...]
    name: str
    """The name that the user gave; for a directory, only its last part."""
    pretrained: bool
    facts: dict[str, Any]
    """Everything that determines the backbone; JSON-serialisable, without paths."""
    notes: tuple[str, ...] = ()

    def prepare(self, pixels: Tensor, device: torch.device) -> Tensor:
        """Convert pixels, uint8 (n, 3, h, w), to the network's input."""
        return self.preprocessing(pixels.to(device).float() / 255)

    def normalise(self, pixels: Tensor, device: torch.device) -> Tensor:
        """Like `prepare`, for pixels that already have the network's input size."""
        without_resizing = dataclasses.replace(self.preprocessing, size=None, longest=None, crop=None)
        return without_resizing(pixels.to(device).float() / 255)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits, float32 (n, classes)."""
        outputs = self.network(inputs)
        return (outputs if isinstance(outputs, Tensor) else outputs.logits).float()


def open_backbone(settings: BackboneSettings, classes: Sequence[str], edge: int, seed: int) -> Backbone:
    """Open a backbone; its random initialisation depends on the seed alone.

    Args:
        classes: Names of the classes, in the order of the logits.
        edge: Longer edge of an image, in pixels: for the choice, and for the pocket backbone's input size.

    Raises:
        FiguregroundError: The backbone doesn't open, or its head can't be replaced.
    """
    name = choose_backbone(settings, edge)
    with torch.random.fork_rng():
        seed_default_generators(derive_seed(seed, "weights"))
        if name == POCKET:
            backbone = _make_pocket(settings, classes, min(edge, POCKET_EDGE))
        elif name.startswith(TIMM) and settings.from_scratch:
            backbone = _make_timm_backbone(name, classes)
        else:
            backbone = _open_existing(settings, name, classes)
    # Convolutions are faster in this layout: on a CPU, a step of the pocket backbone by a quarter.
    network: Any = backbone.network
    network.to(memory_format=torch.channels_last)
    return backbone


def _make_pocket(settings: BackboneSettings, classes: Sequence[str], edge: int) -> Backbone:
    from transformers import ResNetConfig, ResNetForImageClassification

    if settings.revision is not None:
        raise RecipeError("revision", "it applies only to backbones on the Hub.")
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 96, 160], depths=[1, 1, 1, 1], layer_type="basic",
        **_make_label_maps(classes),
    )  # fmt: skip
    preprocessing = Preprocessing((edge, edge), None, "bilinear", None, (0.5,) * 3, (0.5,) * 3)
    facts = {"name": POCKET, "architecture": "ResNetForImageClassification", "size": [edge, edge]}
    return Backbone(
        ResNetForImageClassification(config), preprocessing, (edge, edge), tuple(classes), POCKET, False, facts
    )


def _make_label_maps(classes: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}


def _open_existing(settings: BackboneSettings, name: str, classes: Sequence[str]) -> Backbone:
    if Path(name).expanduser().is_file():
        raise RecipeError("backbone", f"{name} is a file; give a transformers directory, a Hub id or timm:NAME.")
    classifier = open_classifier(name, revision=settings.revision)
    if not name.startswith(TIMM) and not hasattr(classifier.network, "save_pretrained"):
        raise RecipeError(
            "backbone", f"{classifier.name} is not a transformers model, but a {type(classifier.network).__name__}. "
            "Give the backbone that it was made from."
        )  # fmt: skip
    network, notes = classifier.network, []
    config = getattr(network, "config", None)
    if settings.from_scratch:
        from transformers import AutoModelForImageClassification

        network = make_network(AutoModelForImageClassification, _set_labels(config, classes), dtype=torch.float32)
    else:
        notes += _fit_head(classifier, classes)
    if config is not None:
        _set_labels(network.config, classes)
    preprocessing, size = _fix_size(classifier.preprocessing, config)
    # A state is reopened by the name of timm's network, not by that of a local directory.
    backbone_name = classifier.name if timm_directory(name) is None else f"{TIMM}{classifier.facts['architecture']}"
    facts = {"name": backbone_name, "sha256": classifier.facts["sha256"], "size": list(size)}
    return Backbone(
        network.requires_grad_(True), preprocessing, size, tuple(classes), backbone_name, not settings.from_scratch,
        facts, tuple(notes),
    )  # fmt: skip


def _set_labels(config: Any, classes: Sequence[str]) -> Any:
    for key, value in _make_label_maps(classes).items():
        setattr(config, key, value)
    config.problem_type = None
    return config


def find_last_layer(network: nn.Module, weight: Tensor) -> tuple[nn.Module, str]:
    """Return the module that contains the linear layer with these weights, and the layer's name in it.

    Args:
        weight: As returned by `Classifier.weight`, which shares the layer's memory.
    """
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child.weight.data_ptr() == weight.data_ptr():
                return module, name
    raise ValueError("No linear layer has these weights.")


def _fit_head(classifier: Classifier, classes: Sequence[str]) -> list[str]:
    """Fit a classifier's head to the classes, in their order, and return notes on the change.

    A head with the same class names keeps its weights: its rows are reordered by name. Any other head is replaced,
    because a row without a matching name would represent a wrong class.

    Raises:
        FiguregroundError: The head must change, but the logits are not the output of one linear layer.
    """
    order = classifier.positions(classes)
    if order == list(range(len(classes))):
        return []
    classifier.require_features()
    if order is not None:
        parent, name = find_last_layer(classifier.network, classifier.weight)
        layer = getattr(parent, name)
        with torch.no_grad():
            layer.weight.copy_(layer.weight[order])
            if layer.bias is not None:
                layer.bias.copy_(layer.bias[order])
        return [
            f"The backbone {classifier.name} has the classes of the data in another order: the rows of its last layer "
            "were reordered by name."
        ]
    num_labels = len(classifier.labels)
    _replace_head(classifier.network, classifier.weight, len(classes))
    if num_labels != len(classes):
        return [
            f"The backbone {classifier.name} has {num_labels:,} classes and the data have {len(classes):,}: its last "
            "layer was replaced."
        ]
    return [
        f"The backbone {classifier.name} has as many classes as the data, but other names "
        f"({join_names(classifier.labels, 3)} for {join_names(classes, 3)}): its last layer was replaced. If the "
        "classes are the same, rename them (id2label in its config.json)."
    ]


def _replace_head(network: Any, weight: Tensor, classes: int) -> None:
    parent, name = find_last_layer(network, weight)
    setattr(parent, name, nn.Linear(weight.shape[1], classes))
    if hasattr(network, "num_labels"):
        network.num_labels = classes


def _make_timm_backbone(name: str, classes: Sequence[str]) -> Backbone:
    if timm_directory(name) is not None:
        raise RecipeError("from_scratch", f"{name} names weights; give timm:NAME, the name of a network.")
    try:
        import timm.data
    except ImportError as error:
        raise explain_missing("timm", f"backbone {name!r}", error) from error
    try:
        network = make_timm(name.removeprefix(TIMM), pretrained=False, num_classes=len(classes))
    except Exception as error:  # timm raises errors from many sources
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"backbone {name!r} doesn't open: {reason}") from error
    preprocessing, size = _fix_size(read_timm(timm.data.resolve_model_data_config(network)), None)
    return Backbone(network, preprocessing, size, tuple(classes), name, False, {"name": name, "size": list(size)})


def _fix_size(preprocessing: Preprocessing, config: Any) -> tuple[Preprocessing, tuple[int, int]]:
    """Return preprocessing with a fixed output size, as batches require, and that size."""
    if preprocessing.crop is not None:
        return preprocessing, preprocessing.crop
    if isinstance(preprocessing.size, tuple):
        return preprocessing, preprocessing.size
    edge = preprocessing.size or getattr(config, "image_size", None) or 224
    size = (edge, edge) if isinstance(edge, int) else (edge[0], edge[1])
    return dataclasses.replace(preprocessing, size=size, longest=None), size


# Saving


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """Write a trained network into a new directory, atomically.

    A transformers network can be opened by `from_pretrained` and `figureground evaluate --classifier`. A timm network
    is saved as its state, `state.safetensors`, with `timm.json`, which names the network.
    """
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    network: Any = backbone.network
    if hasattr(network, "save_pretrained"):
        network.save_pretrained(draft)
        config = read_json(draft / "config.json")
        config.pop("_name_or_path", None)  # don't publish a local path
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _save_preprocessing(backbone.preprocessing, draft, backbone.name)
    else:
        from safetensors.torch import save_file

        state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        save_file(state, draft / STATE)
        facts: Mapping[str, Any] = {"name": backbone.name, "classes": list(backbone.classes)}
        (draft / "timm.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed before it recorded this
    draft.rename(folder)


def check_saving(backbone: Backbone) -> None:
    """Check, before any training, that a network's preprocessing can be saved with it.

    Raises:
        FiguregroundError: The preprocessing can't be saved.
    """
    if hasattr(backbone.network, "save_pretrained"):
        with tempfile.TemporaryDirectory(prefix="figureground-") as folder:
            _save_preprocessing(backbone.preprocessing, Path(folder), backbone.name)


def _save_preprocessing(preprocessing: Preprocessing, folder: Path, name: str) -> None:
    """Write the preprocessing as `preprocessor_config.json`."""
    from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

    config: dict[str, Any] = {
        "resample": _PILLOW[preprocessing.filter], "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std), "do_resize": preprocessing.size is not None,
    }  # fmt: skip
    size, crop = preprocessing.size, preprocessing.crop
    if isinstance(size, int):
        config["size"] = {"shortest_edge": size}
        config |= (
            {} if preprocessing.longest is None else {"size": {**config["size"], "longest_edge": preprocessing.longest}}
        )
    elif size is not None:
        config["size"] = {"height": size[0], "width": size[1]}
    if crop is None:
        ViTImageProcessorPil(**config).save_pretrained(folder)
    else:
        crops = {"crop_size": {"height": crop[0], "width": crop[1]}, "do_center_crop": True}
        CLIPImageProcessorPil(**config, **crops, do_convert_rgb=True).save_pretrained(folder)
    if read_preprocessing(folder, name) != preprocessing:
        raise FiguregroundError(
            f"backbone {name!r}: its preprocessing can't be written as a preprocessor_config.json, so the trained "
            "classifier couldn't be opened. Choose another backbone."
        )
