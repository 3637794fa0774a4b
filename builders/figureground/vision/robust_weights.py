"""ImageNet ResNets from weights files, especially robust ones, with key names mapped to those of transformers.

Adversarially robust ResNets are published as bare weights: with torchvision's names, or wrapped by the `robustness`
library of Madry's lab (`module.model.…` beside a normaliser, and a copy under `module.attacker.…`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from figureground.core.errors import FiguregroundError, join_names
from figureground.vision.preprocessing import IMAGENET_MEAN, IMAGENET_STD

SUFFIXES = (".safetensors", ".pt", ".pth")
NESTED_KEYS = ("state_dict", "model", "model_state_dict", "net")
"""Keys under which files store the weights beside other data, such as the epoch."""
ARCHITECTURES: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
}
"""torchvision's names by block type and number of blocks per stage."""
_BLOCK = re.compile(r"layer(?P<stage>[1-4])\.(?P<block>\d+)\.(?P<rest>.+)")
_CONVOLUTION = re.compile(r"(?P<kind>conv|bn)(?P<number>[123])\.(?P<rest>.+)")
_PROTOCOLS = {bytes([number]) for number in range(2, 6)}
"""Supported pickle protocols, as the second byte of the file."""
_STATISTIC = re.compile(r"(?:.*\.)?(?:new_)?(?P<which>mean|std)")


class ResNetWeights(NamedTuple):
    """A ResNet read from a file."""

    network: nn.Module
    """transformers' ResNetForImageClassification."""
    classes: int
    architecture: str
    """torchvision's name of the network."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Mean and deviation of the normaliser in the file, otherwise ImageNet's."""


def read_weights(path: Path) -> ResNetWeights:
    """Read a ResNet (18 to 152, or wide) from a `.safetensors` file or a tensor-only `.pt` or `.pth`.

    Raises:
        FiguregroundError: The file is damaged, doesn't hold ResNet weights, or is a pickle of more than tensors.
    """
    tensors = _read_tensors(path)
    prefix = _find_prefix(tensors, path)
    weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    mean, std = _read_normaliser(tensors)
    network, architecture = _build_network(weights, path)
    return ResNetWeights(network, len(weights["fc.weight"]), architecture, mean, std)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file, by name."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise FiguregroundError(f"{path.name} doesn't open as safetensors: {error}. Download it again.") from error
    import pickle

    _check_format(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FiguregroundError(
            f"{path.name} is a pickle of more than tensors, which can run code when it is opened. If you trust it, "
            "convert it:\n"
            "    import torch\n"
            "    from safetensors.torch import save_file\n"
            f"    found = torch.load({path.name!r}, map_location='cpu', weights_only=False)\n"
            f"    found = next((found[k] for k in {NESTED_KEYS!r} if k in found), found)\n"
            "    save_file({k: v.clone() for k, v in found.items() if isinstance(v, torch.Tensor)}, "
            f"{path.with_suffix('.safetensors').name!r})\n"
            "(a checkpoint of the robustness library also needs `pip install dill` for that)."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"{path.name} doesn't open as weights of torch: {first}") from error
    return _flatten(content, path)


def _check_format(path: Path) -> None:
    """Raise FiguregroundError for a file not saved by torch, which writes ZIP archives or (formerly) pickles."""
    with path.open("rb") as file:
        head = file.read(2)
    if head.startswith(b"PK") or (head[:1] == b"\x80" and head[1:2] in _PROTOCOLS):
        return
    what = "wasn't saved by torch" if head else "is empty"
    raise FiguregroundError(f"{path.name} is not a weights file: it {what}. Download it again.")


def _flatten(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the weights in a file's content, which may be nested repeatedly."""
    while isinstance(content, dict):
        inner = [content[name] for name in NESTED_KEYS if isinstance(content.get(name), dict)]
        if not inner:
            break
        content = inner[0]
    tensors = {n: t for n, t in content.items() if isinstance(t, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise FiguregroundError(f"{path.name} holds no named weights, but a {type(content).__name__}.")
    return tensors


def _find_prefix(tensors: dict[str, Tensor], path: Path) -> str:
    """Return the prefix of the ResNet's names; the shortest, because attackers contain a copy of the network."""
    suffix = "fc.weight"
    prefixes = [name.removesuffix(suffix) for name in tensors if name.endswith(suffix)]
    prefixes = [p for p in prefixes if f"{p}conv1.weight" in tensors and f"{p}layer1.0.conv1.weight" in tensors]
    if prefixes:
        return min(prefixes, key=len)
    hint = ""
    if any(name.startswith("resnet.embedder.") for name in tensors):
        hint = " These are transformers' names: give the directory with the config.json."
    elif any("layer1.0.shortcut" in name or name.endswith("linear.weight") for name in tensors):
        hint = " It looks like a ResNet for CIFAR, which has another architecture."
    raise FiguregroundError(
        f"{path.name} holds no ResNet with torchvision's names (conv1.weight, layer1.0.conv1.weight, fc.weight), but "
        f"{join_names(sorted(tensors), 3)}.{hint} Other networks open as transformers directories."
    )


def _read_normaliser(tensors: dict[str, Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation by channel from the file (not a batch norm's `running_mean`), or ImageNet's."""
    statistics: dict[str, tuple[float, ...]] = {}
    for name in sorted(tensors, key=len):
        match = _STATISTIC.fullmatch(name)
        if match and tensors[name].numel() == 3:
            statistics.setdefault(match["which"], tuple(tensors[name].flatten().double().tolist()))
    if set(statistics) == {"mean", "std"}:
        return statistics["mean"], statistics["std"]
    return IMAGENET_MEAN, IMAGENET_STD


def _build_network(tensors: dict[str, Tensor], path: Path) -> tuple[nn.Module, str]:
    """Build the network that fits the weights, and load them."""
    from transformers import ResNetConfig, ResNetForImageClassification
    from transformers.models.resnet.modeling_resnet import ResNetBottleNeckLayer

    bottleneck = "layer1.0.conv3.weight" in tensors
    depths = [
        len({m["block"] for m in map(_BLOCK.fullmatch, tensors) if m and int(m["stage"]) == i}) for i in (1, 2, 3, 4)
    ]
    last = "conv3" if bottleneck else "conv2"
    try:
        stem = tensors["conv1.weight"]
        sizes = [len(tensors[f"layer{stage}.0.{last}.weight"]) for stage in (1, 2, 3, 4)]
        inner = tensors["layer1.0.conv2.weight"]
        config = ResNetConfig(
            num_channels=stem.shape[1], embedding_size=len(stem), hidden_sizes=sizes, depths=depths,
            layer_type="bottleneck" if bottleneck else "basic", num_labels=len(tensors["fc.weight"]),
            downsample_in_bottleneck=False,  # torchvision strides in the 3 × 3 convolution
        )  # fmt: skip
    except KeyError as error:
        raise FiguregroundError(f"{path.name} is not a complete ResNet: it lacks {error.args[0]}.") from None
    if stem.shape[2:] != (7, 7):
        raise FiguregroundError(
            f"{path.name}: its first convolution is {stem.shape[2]} × {stem.shape[3]}; ImageNet's ResNets have 7 × 7. "
            "Other networks open as transformers directories."
        )
    if inner.shape[1] != inner.shape[0]:
        raise FiguregroundError(f"{path.name} is a ResNeXt: grouped convolutions aren't supported.")
    network = ResNetForImageClassification(config)
    widening = sizes[0] // len(inner) if bottleneck else 4
    if bottleneck and widening != 4:  # a wide ResNet: not supported by transformers' config, but by its layers
        for stage, size in zip(network.resnet.encoder.stages, sizes, strict=True):
            for i, layer in enumerate(stage.layers):
                in_channels = layer.layer[0].convolution.in_channels
                stride = layer.layer[1].convolution.stride[0]
                stage.layers[i] = ResNetBottleNeckLayer(in_channels, size, stride, reduction=widening)
    names = {name: new_name for name in tensors if (new_name := transformers_name(name, bottleneck))}
    expected = network.state_dict()
    weights = {names[name]: tensors[name].float() for name in names}
    weights.update({n: t for n, t in expected.items() if n.endswith("num_batches_tracked") and n not in weights})
    mismatched = sorted(set(expected) ^ set(weights)) or [n for n in expected if expected[n].shape != weights[n].shape]
    if mismatched:
        raise FiguregroundError(
            f"{path.name} is not a ResNet that transformers supports: {join_names(mismatched, 3)} differ."
        )
    network.load_state_dict(weights)
    kind = ("bottleneck" if bottleneck else "basic", tuple(depths))
    name = ARCHITECTURES.get(kind, f"resnet of {'-'.join(map(str, depths))} blocks")
    return network, name if widening == 4 else f"wide_{name}_{4 // widening}"


def transformers_name(name: str, bottleneck: bool) -> str | None:
    """Return transformers' name for a tensor of torchvision's ResNet, or None for other tensors.

    >>> transformers_name("layer1.0.conv2.weight", bottleneck=True)
    'resnet.encoder.stages.0.layers.0.layer.1.convolution.weight'
    """
    if name.startswith("fc."):
        return f"classifier.1.{name.removeprefix('fc.')}"
    parts = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    if match := _CONVOLUTION.fullmatch(name):
        return f"resnet.embedder.embedder.{parts[match['kind']]}.{match['rest']}" if match["number"] == "1" else None
    block = _BLOCK.fullmatch(name)
    if block is None:
        return None
    prefix = f"resnet.encoder.stages.{int(block['stage']) - 1}.layers.{block['block']}"
    if match := re.fullmatch(r"downsample\.(?P<number>[01])\.(?P<rest>.+)", block["rest"]):
        return f"{prefix}.shortcut.{parts[match['number']]}.{match['rest']}"
    match = _CONVOLUTION.fullmatch(block["rest"])
    if match is None or (match["number"] == "3" and not bottleneck):
        return None
    return f"{prefix}.layer.{int(match['number']) - 1}.{parts[match['kind']]}.{match['rest']}"
