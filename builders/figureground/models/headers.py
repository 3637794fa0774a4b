"""Reads names, shapes and types of tensors from the header of a safetensors file. Needs no torch.

`huggingface_hub.parse_local_safetensors_file_metadata` reads the same, but takes a file whose tensors are cut off, and
raises errors of many kinds for headers that are JSON of another form.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

from figureground.core.errors import FiguregroundError
from figureground.core.files import open_regular, parse_json
from figureground.core.lfs import refuse_pointer

MAX_HEADER = 100_000_000
"""Largest header of a safetensors file, bytes: the library's own limit."""

Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by name."""


class TensorHeader(NamedTuple):
    """What a header says of a tensor."""

    dtype: str
    """Type as safetensors names it, such as `F16`."""
    shape: tuple[int, ...]


class Header(NamedTuple):
    """Header of a safetensors file, with at least one tensor."""

    tensors: dict[str, TensorHeader]
    """Tensors by name."""
    file_size: int
    """Bytes of the whole file, if nothing is missing."""


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file; whether its tensors are there isn't checked.

    Raises:
        ValueError: It isn't a regular file or has no such header.
        OSError: It can't be read.
    """
    stat = path.stat()
    return _read_header(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _read_header(path: Path, size: int, mtime_ns: int) -> Header:
    # The time of modification is only a part of the cache's key.
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        data = file.read(length) if length <= min(MAX_HEADER, size - 8) else b""
    try:
        entries = {name: entry for name, entry in parse_json(data, path).items() if name != "__metadata__"}
        file_size = 8 + length + max(entry["data_offsets"][1] for entry in entries.values())
        tensors = {
            name: TensorHeader(entry["dtype"], tuple(int(edge) for edge in entry["shape"]))
            for name, entry in entries.items()
        }
    except (TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} has no header of safetensors") from error
    return Header(tensors, file_size)


def read_tensors(path: Path, where: str) -> dict[str, TensorHeader]:
    """Return what is known of all tensors in a safetensors file, whose length must fit its header.

    Args:
        path: The file.
        where: Its name in errors, such as `checkpoint 'mine': its unet/model.safetensors`.

    Raises:
        FiguregroundError: It is a Git LFS pointer, no safetensors file, or truncated.
    """
    refuse_pointer(path, where, "weights")
    size = path.stat().st_size
    try:
        header = read_header(path)
    except ValueError:
        raise FiguregroundError(f"{where} is damaged or truncated ({size:,} bytes). Download it again.") from None
    if header.file_size != size:
        raise FiguregroundError(f"{where} has {size:,} of {header.file_size:,} bytes. Download it again.")
    return dict(header.tensors)


def read_shapes(path: Path, where: str) -> Shapes:
    """Return the shapes of all tensors in a safetensors file; raises like `read_tensors`."""
    return {name: tensor.shape for name, tensor in read_tensors(path, where).items()}


def find_shape(shapes: Shapes, ending: str) -> tuple[int, ...] | None:
    """Return the shape of the first tensor whose name ends so; None without one."""
    return next((shape for name, shape in shapes.items() if name.endswith(ending)), None)


def has_name_starting(shapes: Shapes, *beginnings: str) -> bool:
    """Return whether any tensor's name begins with one of these texts."""
    return any(name.startswith(beginnings) for name in shapes)
