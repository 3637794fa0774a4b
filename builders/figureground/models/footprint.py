"""Estimates the disk space of a fine-tuned concept without opening its base checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from figureground.core.errors import FiguregroundError
from figureground.models.families.sd import SD1
from figureground.models.family import FAMILIES
from figureground.models.family_records import Size
from figureground.models.headers import Shapes, read_shapes
from figureground.models.weights import check_files, list_weights, local_directory, read_family
from figureground.sources.provenance import find_cached_snapshot

SMALL = 500_000_000
"""Checkpoints below this size, bytes, are kept whole regardless of the number of concepts."""

_FLOAT = 4


class Footprint(NamedTuple):
    """Disk space of a concept, bytes."""

    finished: int
    """Bytes of a finished concept."""
    working: int
    """Additional bytes of an unfinished concept: its weights and Adam's two averages, needed to resume."""
    is_measured: bool
    """Whether the checkpoint is on this machine; if not, its size is guessed from its name."""


def estimate_footprint(checkpoint: str, revision: str | None = None, lora_rank: int | None = None) -> Footprint:
    """Return the disk space that one concept needs.

    Args:
        checkpoint: `pocket`, a directory, or a Hub id.
        lora_rank: Rank of the adapters; None if all weights are trained and a whole checkpoint is kept.
    """
    measured = _measure_size(checkpoint, revision)
    is_measured = measured is not None
    name = checkpoint.rpartition("/")[2].lower()
    size, file_bytes = measured or (_guess_size(name), 0)
    trained = size.trained if lora_rank is None else size.rank * lora_rank
    finished = file_bytes or _FLOAT * size.whole if lora_rank is None else _FLOAT * trained
    return Footprint(finished, 3 * _FLOAT * trained, is_measured)


def _guess_size(name: str) -> Size:
    """Return the size of a checkpoint by its name, as the last family says that knows it; if none does, SD 1.x."""
    sizes = [size for _, kind in FAMILIES.items() if (size := kind().estimate_size(name))]
    return sizes[-1] if sizes else SD1


def _measure_size(checkpoint: str, revision: str | None) -> tuple[Size, int] | None:
    """Return sizes and bytes of a checkpoint's weights; None if it isn't on this machine."""
    try:
        folder = local_directory(checkpoint) or find_cached_snapshot(checkpoint, revision)
        if folder is None:
            return None
        variant = check_files(folder, checkpoint)
        adapted = read_family(folder, checkpoint).ADAPTED
        files = [path for part in sorted(folder.iterdir()) if part.is_dir() for path in list_weights(part, variant)]
        shapes_by_file = {path: read_shapes(path, path.name) for path in files}
    except (FiguregroundError, OSError, ValueError, KeyError):
        return None
    adapted_shapes = [
        (path.parent.name, shapes) for path, shapes in shapes_by_file.items() if path.parent.name in adapted
    ]
    weights_per_rank = sum(
        sum(shape[:2])
        for part, shapes in adapted_shapes
        for name, shape in shapes.items()
        if name.endswith(tuple(f".{layer}.weight" for layer in adapted[part]))
    )
    size = Size(
        _count_weights(shapes_by_file.values()),
        _count_weights(shapes for _, shapes in adapted_shapes),
        weights_per_rank,
    )
    return size, sum(path.stat().st_size for path in files)


def _count_weights(parts: Iterable[Shapes]) -> int:
    return sum(math.prod(shape) for shapes in parts for shape in shapes.values())
