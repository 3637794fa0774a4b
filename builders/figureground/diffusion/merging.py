"""Merges LoRA files into the weights of a pipeline, so that drawing costs no more than without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from figureground.core.errors import FiguregroundError
from figureground.core.terminal import print_note
from figureground.models.loras import FIELD, Lora
from figureground.models.opening import load_adapters, read_adapters

ADAPTER = "merged"
_PAIRS = ("lora_A.weight", "lora.down.weight", "lora_down.weight", "lora_linear_layer.down.weight")


def merge_loras(pipeline: Any, loras: Sequence[Lora]) -> None:
    """Add LoRA files to a pipeline's weights, one after the other, as diffusers reads them.

    A remark says how many layers of a file have no place in the pipeline.

    Raises:
        FiguregroundError: diffusers can't read a file, or none of its layers has a place.
    """
    for lora in loras:
        name = lora.path.name
        try:
            num_layers = sum(tensor.endswith(_PAIRS) for tensor in read_adapters(pipeline, lora.path.parent, name))
            load_adapters(pipeline, lora.path.parent, name, ADAPTER)
        except (ValueError, KeyError, RuntimeError, IndexError) as error:
            first = (str(error).splitlines() or ["?"])[0]
            raise FiguregroundError(f"{FIELD}: {name!r} can't be read: {first}") from error
        networks = {part: getattr(pipeline, part, None) for part in pipeline._lora_loadable_modules}
        parts = [part for part, network in networks.items() if isinstance(network, nn.Module)]
        num_placed = sum(_count_adapted(getattr(pipeline, part)) for part in parts)
        if not num_placed:
            raise FiguregroundError(
                f"{FIELD}: none of the {num_layers:,} layers of {name!r} is in the checkpoint. It is for another model."
            )
        if num_placed < num_layers:
            print_note(
                f"{FIELD}: {num_layers - num_placed:,} of the {num_layers:,} layers of {name!r} aren't in the "
                "checkpoint."
            )
        pipeline.fuse_lora(components=parts, lora_scale=lora.scale, adapter_names=[ADAPTER])
        pipeline.unload_lora_weights()


def _count_adapted(network: nn.Module) -> int:
    """Return the layers that have the adapter."""
    return sum(ADAPTER in getattr(module, "lora_A", ()) for module in network.modules())
