"""Batches of items, and their halves where memory doesn't suffice for a whole batch."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from figureground.core import signals
from figureground.core.errors import OutOfMemory

T = TypeVar("T")
R = TypeVar("R")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield items in lists of `size`; the last may be shorter. Items are taken only when their list is due."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def run_in_halves(run: Callable[[slice], R], sizes: Sequence[tuple[int, int]], model: str) -> list[R]:
    """Run a model on a batch of images; if memory doesn't suffice, on its halves, and so on down to one image.

    Args:
        run: Runs the model on the images in these positions.
        sizes: Width and height of each image of the batch, pixels; at least one.
        model: What runs, as an error names it, such as `The classifier resnet-50`.

    Returns:
        The results of the parts, in the images' order; a single one if the whole batch fits.

    Raises:
        OutOfMemory: A single image doesn't fit.
        Stopped: A signal requested a stop.
    """
    return _run_part(run, sizes, model, 0, len(sizes))


def _run_part(
    run: Callable[[slice], R], sizes: Sequence[tuple[int, int]], model: str, start: int, stop: int
) -> list[R]:
    signals.check()
    try:
        return [run(slice(start, stop))]
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        if stop - start == 1:
            width, height = sizes[start]
            raise OutOfMemory(
                f"{model} and one image of {width} × {height} px don't fit into the device's memory. Give --device cpu."
            ) from None
    if "torch" in sys.modules:  # outside the handler, which would keep the batch's memory alive
        from figureground.core.accelerator import release_memory

        release_memory()
    middle = (start + stop) // 2
    return [*_run_part(run, sizes, model, start, middle), *_run_part(run, sizes, model, middle, stop)]


def _is_out_of_memory(error: BaseException) -> bool:
    if "torch" not in sys.modules:  # not every model runs in torch, and importing it takes seconds
        return isinstance(error, MemoryError)
    from figureground.core.accelerator import is_out_of_memory

    return is_out_of_memory(error)
