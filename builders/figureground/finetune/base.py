"""The base of a fine-tuning: a checkpoint opened with nothing in it that learns yet, and what is computed in."""

from __future__ import annotations

import torch

from figureground.diffusion.checkpoint import Checkpoint, open_checkpoint
from figureground.finetune.objective import check_prediction


def open_base(
    checkpoint: str,
    revision: str | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    scheduler: str = "ddim",
    inpaint: bool = False,
) -> Checkpoint:
    """Opens a checkpoint to learn from: no parameter requires gradients, and the autoencoder is float32.

    Args:
        checkpoint: `pocket`, a directory in diffusers' layout, or a Hub id.
        revision: Branch, tag or commit on the Hub.
        dtype: What the other weights are held in.
        scheduler: What draws during the fine-tuning, one of `checkpoint.SCHEDULERS`.
        inpaint: Whether one made for inpainting will do too.

    Raises:
        FiguregroundError: It doesn't open, or predicts what isn't trained here.
    """
    opened = open_checkpoint(
        checkpoint, revision, device=device, dtype=dtype, scheduler=scheduler, safety="off", inpaint=inpaint
    )
    check_prediction(opened.facts["prediction_type"])
    for network in opened.text_to_image.components.values():
        if isinstance(network, torch.nn.Module):
            network.requires_grad_(False)
    opened.text_to_image.vae.to(torch.float32)
    return opened


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """What is computed in: `auto` is bfloat16 where CUDA has it, else float32."""
    if dtype == "auto":
        has = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has else torch.float32
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32
