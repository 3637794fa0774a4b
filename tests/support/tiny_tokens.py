"""Tokens learned in a second or two, for the checkpoints of `tiny_checkpoints`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from figureground.finetune.inversion import invert
from figureground.finetune.inversion_settings import Inversion

TINY: dict[str, Any] = {
    "dtype": "float32",  # auto is bfloat16 on some CPUs
    "max_train_steps": 4, "batch_size": 2, "size": 32, "learning_rate": 0.02,
    "templates": ("a photo of a {token}", "a {token}"),
}  # fmt: skip


def tiny(checkpoint: Path | str, **changes: Any) -> Inversion:
    """Settings for a checkpoint of `tiny_checkpoints`."""
    return Inversion(str(checkpoint), **{**TINY, **changes})


def learn(
    checkpoint: Path, images: Path | Sequence[Path], out: Path, noun: str = "mug", token: str = "<mug>",
    masks: Sequence[Path] | None = None, **changes: Any,
) -> Path:  # fmt: skip
    """Learn a token with such settings."""
    settings = tiny(checkpoint, **changes)
    return invert(images, noun, token, out, settings, masks=masks, device="cpu", show_progress=False)


def vectors(out: Path) -> dict[str, Tensor]:
    """The learned tensors, by their names in the file."""
    return load_file(out / "learned_embeds.safetensors")
