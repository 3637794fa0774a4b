"""Estimates the disk space of a fine-tuned concept without opening its base checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from figureground.core.errors import FiguregroundError
from figureground.models.families.sd import SD1
from figureground.models.family import FAMILIES
from figureground.models.family_records import Size
from figureground.models.weights import check_files, family_of, list_weights, local_directory
from figureground.sources.provenance import cached_snapshot

SMALL = 500_000_000
"""Checkpoints below this size, bytes, are kept whole regardless of the number of concepts."""

_FLOAT = 4


class Footprint(NamedTuple):
    """Disk space of a concept, bytes."""

    kept: int
    """Bytes of a finished concept."""
    working: int
    """Additional bytes of an unfinished concept: its weights and Adam's two averages, needed to resume."""
    known: bool
    """Whether the checkpoint is on this machine; if not, its size is guessed from its name."""


def footprint(checkpoint: str, revision: str | None = None, lora_rank: int | None = None) -> Footprint:
    """Return the disk space that one concept needs.

    Args:
        checkpoint: `pocket`, a directory, or a Hub id.
        lora_rank: Rank of the adapters; None if all weights are trained and a whole checkpoint is kept.
    """
    size = _size_of(checkpoint, revision)
    known = size is not None
    name = checkpoint.rpartition("/")[2].lower()
    weights, file = size or (_guess(name), 0)
    trained = weights.trained if lora_rank is None else weights.rank * lora_rank
    kept = file or _FLOAT * weights.whole if lora_rank is None else _FLOAT * trained
    return Footprint(kept, 3 * _FLOAT * trained, known)


def _guess(name: str) -> Size:
    """Return the size of a checkpoint by its name, as the last family says that knows it; if none does, SD 1.x."""
    found = [size for _, kind in FAMILIES.items() if (size := kind().estimate_size(name))]
    return found[-1] if found else SD1


def _size_of(checkpoint: str, revision: str | None) -> tuple[Size, int] | None:
    """Return sizes and bytes of a checkpoint's weights; None if it isn't on this machine."""
    try:
        folder = local_directory(checkpoint) or cached_snapshot(checkpoint, revision)
        if folder is None:
            return None
        variant = check_files(folder, checkpoint)
        adapted = family_of(folder, checkpoint).ADAPTED
        files = [path for part in sorted(folder.iterdir()) if part.is_dir() for path in list_weights(part, variant)]
        shapes = {path: _shapes(path) for path in files}
    except (FiguregroundError, OSError, ValueError, KeyError):
        return None
    trained = [(path.parent.name, named) for path, named in shapes.items() if path.parent.name in adapted]
    edges = sum(
        sum(shape[:2])
        for part, named in trained
        for name, shape in named.items()
        if name.endswith(tuple(f".{layer}.weight" for layer in adapted[part]))
    )
    size = Size(_count(shapes.values()), _count(named for _, named in trained), edges)
    return size, sum(path.stat().st_size for path in files)


def _count(parts: Iterable[dict[str, list[int]]]) -> int:
    return sum(math.prod(shape) for shapes in parts for shape in shapes.values())


def _shapes(path: Path) -> dict[str, list[int]]:
    """Return the shapes of the weights in a file, by name."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
