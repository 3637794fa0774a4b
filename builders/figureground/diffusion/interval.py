"""Guidance in an interval of steps (Kynkäänniemi et al. 2024, arXiv 2404.07724).

Pipelines that guide evaluate the denoiser on a batch with every image twice, first with the negative prompt. Outside of
the interval, only the second half is evaluated and returned for both: the pipeline's difference between the two is then
exactly zero, and the step costs one evaluation an image instead of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def skip_guidance(denoiser: nn.Module, images: int, is_guided: Callable[[], bool]) -> Iterator[None]:
    """Within the context, evaluate a denoiser without the negative prompt in some steps.

    Args:
        denoiser: Takes tensors whose first dimension is 2 × `images`, the negative prompt's half first.
        images: Number of images in a batch.
        is_guided: Whether the present step is guided; asked at each evaluation.
    """

    def halve(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return None if is_guided() else (_second_half(args, images), _second_half(kwargs, images))

    def double(module: nn.Module, args: Any, output: tuple[Tensor, ...]) -> Any:
        if is_guided():
            return None
        return tuple(torch.cat([part, part]) if len(part) == images else part for part in output)

    pre_hook = denoiser.register_forward_pre_hook(halve, with_kwargs=True)
    hook = denoiser.register_forward_hook(double)
    try:
        yield
    finally:
        pre_hook.remove()
        hook.remove()


def _second_half(value: Any, images: int) -> Any:
    """Return the second half of every tensor whose first dimension is 2 × `images`."""
    if isinstance(value, Tensor):
        return value[images:] if value.dim() and len(value) == 2 * images else value
    if isinstance(value, Mapping):
        return {name: _second_half(each, images) for name, each in value.items()}
    return tuple(_second_half(each, images) for each in value) if isinstance(value, tuple) else value
