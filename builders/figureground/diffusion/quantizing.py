"""Stores the weights of a denoiser's linear layers in 8 bits, with torchao; they are expanded when they are used."""

from __future__ import annotations

import importlib
import logging
from typing import Any, Literal

import torch
from torch import nn

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.extras import hint

Quantization = Literal["int8", "fp8"]
FIELD = "quantization"


def check_quantization(kind: Quantization, device: torch.device) -> None:
    """Refuse a quantization without torchao, or on a device that lacks its numbers.

    Raises:
        FiguregroundError: torchao isn't installed, or doesn't fit torch.
        RecipeError: The device has no float8.
    """
    _import_torchao()
    if kind == "fp8":
        try:
            torch.ones(2, device=device).to(torch.float8_e4m3fn).to(torch.float32)
        except (RuntimeError, TypeError) as error:
            raise RecipeError(FIELD, f"fp8 needs float8 numbers, which {device} doesn't support. Use int8.") from error


def quantize(network: nn.Module, kind: Quantization) -> None:
    """Store the weights of a network's linear layers in 8 bits, with one scale for each row.

    Weights alone: activations keep their dtype, in which products are computed.
    """
    torchao: Any = _import_torchao()
    config = torchao.Int8WeightOnlyConfig() if kind == "int8" else torchao.Float8WeightOnlyConfig()
    torchao.quantize_(network, config)


def _import_torchao() -> Any:
    """Import torchao silently: it reports compiled kernels that don't fit torch, which aren't used here."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise FiguregroundError(
            f"{FIELD}: torchao can't be imported ({error}). Install it: {hint('torchao')}"
        ) from error
    finally:
        logging.disable(level)
