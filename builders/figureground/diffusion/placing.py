"""Places pipelines on a device: all networks at once, or only while they work, with less memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from figureground.core.errors import RecipeError

Offload = Literal["none", "model", "sequential"]


def check_offload(offload: Offload, device: torch.device) -> None:
    """Raise RecipeError for offloading from a CPU, which has no memory of its own to save."""
    if offload != "none" and device.type == "cpu":
        raise RecipeError(
            "offload", f"{offload!r} needs an accelerator such as cuda, but the device is cpu. Set offload to none."
        )


def place(pipelines: Sequence[Any], device: torch.device, offload: Offload) -> None:
    """Move pipelines that share their networks to a device, or have them moved there while they work.

    Args:
        pipelines: The pipelines; the first has all networks.
        device: The device that computes.
        offload: `none`; `model` to move one network at a time; `sequential` to move one layer at a time.
    """
    if offload == "sequential":  # the layers are the same in all, and can be taken over once
        pipelines[0].enable_sequential_cpu_offload(device=device)
        return
    for pipeline in pipelines:
        if offload == "model":
            pipeline.enable_model_cpu_offload(device=device)
        else:
            pipeline.to(device)
