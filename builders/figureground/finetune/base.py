"""The base of a fine-tuning: an opened checkpoint with all weights frozen, and the compute dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from figureground.core.accelerator import has_bfloat16
from figureground.diffusion.checkpoint import Checkpoint, open_checkpoint
from figureground.finetune.objective import check_prediction


def open_base(
    checkpoint: str,
    revision: str | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    settings: Mapping[str, Any] | None = None,
    scheduler: str | None = None,
    inpaint: bool = False,
) -> Checkpoint:
    """Open a base checkpoint: no parameter requires gradients, and the autoencoder is float32.

    Args:
        checkpoint: `pocket`, a directory in diffusers' layout, or a Hub id.
        revision: Branch, tag or commit on the Hub.
        dtype: Dtype of the other weights.
        settings: The training's settings by field, which must suit the family; None checks none.
        scheduler: Sampler used during fine-tuning, one of `checkpoint.SCHEDULERS`; None for the family's usual one.
        inpaint: Whether an inpainting checkpoint is accepted too.

    Raises:
        FiguregroundError: The checkpoint doesn't open, or its family or prediction type can't be trained.
        RecipeError: A setting doesn't suit the family.
    """
    opened = open_checkpoint(
        checkpoint, revision, device=device, dtype=dtype, scheduler=scheduler, safety="off", inpaint=inpaint
    )
    opened.family.check_training(f"checkpoint {checkpoint!r}", settings)
    check_prediction(opened.facts["prediction_type"])
    for network in opened.text_to_image.components.values():
        if isinstance(network, torch.nn.Module):
            network.requires_grad_(False)
    opened.text_to_image.vae.to(torch.float32)
    return opened


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the compute dtype; `auto` is bfloat16 if the GPU or CPU computes it natively, otherwise float32."""
    if dtype == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32
