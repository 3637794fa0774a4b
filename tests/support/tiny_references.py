"""Folders of small images to fine-tune on, and settings that take a second or two."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from figureground.finetune.settings import Finetuning

TINY: dict[str, Any] = {
    "dtype": "float32",  # auto is bfloat16 on some CPUs
    "max_train_steps": 4, "batch_size": 2, "num_class_images": 3, "num_inference_steps": 2, "sfsl_weight": 0.0,
    "learning_rate": 1e-3, "preview_images": 0, "size": 32,
}  # fmt: skip


def make_references(folder: Path, count: int = 4, edge: int = 40) -> Path:
    """Write images of coloured noise, each another one."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((edge, edge), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    return folder


def tiny(checkpoint: Path | str, **changes: Any) -> Finetuning:
    """Settings for a checkpoint of `tiny_checkpoints`."""
    return Finetuning(str(checkpoint), **{**TINY, **changes})


def flags(checkpoint: Path | str, **changes: Any) -> list[str]:
    """The same, for the command line."""
    values = {**TINY, **changes, "checkpoint": checkpoint}
    return [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
