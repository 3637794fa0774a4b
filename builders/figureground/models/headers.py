"""Reads names and shapes of tensors from the header of a safetensors file. Needs no torch."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from figureground.core.errors import FiguregroundError

Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by name."""

_LFS = b"version https://git-lfs"


def read_shapes(path: Path, where: str) -> Shapes:
    """Return the shapes of all tensors in a safetensors file, whose length must fit its header.

    Args:
        path: The file.
        where: Its name in errors, such as `checkpoint 'mine': its unet/model.safetensors`.

    Raises:
        FiguregroundError: It is a Git LFS pointer, no safetensors file, or truncated.
    """
    stat = path.stat()
    return dict(_read_shapes(path, where, stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=64)
def _read_shapes(path: Path, where: str, size: int, mtime_ns: int) -> Shapes:
    # The time of modification is only a part of the cache's key.
    with path.open("rb") as file:
        start = file.read(8)
        if (start + file.read(len(_LFS) - 8)) == _LFS:
            raise FiguregroundError(f"{where} is a Git LFS pointer instead of the weights: run `git lfs pull`.")
        length = int.from_bytes(start, "little")
        file.seek(8)
        header = file.read(length) if 8 + length <= size else b""
    try:
        tensors = {name: tensor for name, tensor in json.loads(header).items() if name != "__metadata__"}
        expected_size = 8 + length + max(tensor["data_offsets"][1] for tensor in tensors.values())
        shapes = {name: tuple(int(edge) for edge in tensor["shape"]) for name, tensor in tensors.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise FiguregroundError(f"{where} is damaged or truncated ({size:,} bytes). Download it again.") from None
    if expected_size != size:
        raise FiguregroundError(f"{where} has {size:,} of {expected_size:,} bytes. Download it again.")
    return shapes


def find_shape(shapes: Shapes, ending: str) -> tuple[int, ...] | None:
    """Return the shape of the first tensor whose name ends so; None without one."""
    return next((shape for name, shape in shapes.items() if name.endswith(ending)), None)


def has_name_starting(shapes: Shapes, *beginnings: str) -> bool:
    """Return whether any tensor's name begins with one of these texts."""
    return any(name.startswith(beginnings) for name in shapes)
