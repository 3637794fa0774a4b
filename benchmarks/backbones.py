"""Backbones of several families that benchmarks train from random weights, with names for `Training`.

A backbone must learn a shape from few images that go against the bias. Of the small networks tried, convolutional ones
with batch or group normalisation (ResNet, RegNet, BiT, TextNet) do so in part, `pocket` best so far. Networks with
patches and layer normalisation (ViT, Swin, ConvNeXt, PoolFormer) learn only the scene.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import biased
import torch
from biased import Family
from transformers import AutoModelForImageClassification, MobileNetV2Config, RegNetConfig

from figureground.learn.backbone_settings import POCKET
from figureground.models.opening import make_network
from figureground.pocket import robust, world

FAMILIES: dict[str, Family] = {
    "regnetx": Family(
        lambda: RegNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 96, 160], depths=[1, 1, 1, 1], groups_width=32, layer_type="x"
        ),
        2e-3,
    ),
    "regnet-one-group": Family(
        lambda: RegNetConfig(embedding_size=32, hidden_sizes=[32, 64, 96, 160], depths=[1, 1, 1, 1], groups_width=160),
        3e-3,
    ),
    "mobilenet": Family(lambda: MobileNetV2Config(image_size=world.SIZE, depth_multiplier=0.35), 2e-3),
    **biased.FAMILIES,
}
"""Configurations, and the maximum learning rate for training from random weights."""
POCKET_RATE = 3e-3
"""Maximum learning rate of pocket's backbone: with the default it needs twice the epochs to converge."""
NAMES = (POCKET, *FAMILIES)


def training(name: str, folder: Path) -> dict[str, Any]:
    """Return the settings of `Training` for a backbone.

    Args:
        name: One of `NAMES`.
        folder: Folder of the backbones' directories. The backbone is created there if missing, always with the same
            bytes.
    """
    if name == POCKET:
        return {"backbone": POCKET, "learning_rate": POCKET_RATE}
    out = folder / name
    if not out.exists():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = make_network(AutoModelForImageClassification, FAMILIES[name].config())
        part = out.with_name(f".{name}.{os.getpid()}.part")
        robust.save(model, part)
        try:
            part.rename(out)
        except OSError:  # another process was faster
            shutil.rmtree(part)
    return {"backbone": str(out), "from_scratch": True, "learning_rate": FAMILIES[name].learning_rate}
