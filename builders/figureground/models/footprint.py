"""Estimates the disk space of a fine-tuned concept without opening its base checkpoint."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from figureground.core.errors import FiguregroundError
from figureground.models.weights import check_files, list_weights, local_directory
from figureground.sources.provenance import cached_snapshot

TRAINED = ("unet", "text_encoder", "text_encoder_2")
"""Parts of a checkpoint that fine-tuning changes."""
SMALL = 500_000_000
"""Checkpoints below this size, bytes, are kept whole regardless of the number of concepts."""

_ATTENTION = re.compile(r".*\.(to_[qkv]|to_out\.0|[qkv]_proj|out_proj)\.weight")
_FLOAT = 4


class Footprint(NamedTuple):
    """Disk space of a concept, bytes."""

    kept: int
    """Bytes of a finished concept."""
    working: int
    """Additional bytes of an unfinished concept: its weights and Adam's two averages, needed to resume."""
    known: bool
    """Whether the checkpoint is on this machine; if not, its size is guessed from its name."""


class _Size(NamedTuple):
    """Sizes of a kind of checkpoint, in numbers of weights."""

    whole: int
    trained: int
    """UNet and text encoders."""
    rank: int
    """Adapters on all attention layers, per rank."""


_SD1 = _Size(1_066_235_307, 859_520_964 + 123_060_480, 199_296 + 73_728)
_SD2 = _Size(1_289_952_427, 865_910_724 + 340_387_840, 207_872 + 188_416)
_SDXL = _Size(3_468_837_850, 2_567_463_684 + 123_060_480 + 694_659_840, 1_451_520 + 73_728 + 327_680)


def footprint(checkpoint: str, revision: str | None = None, lora_rank: int | None = None) -> Footprint:
    """Returns the disk space that one concept needs.

    Args:
        checkpoint: `pocket`, a directory, or a Hub id.
        lora_rank: Rank of the adapters; None if all weights are trained and a whole checkpoint is kept.
    """
    size = _size_of(checkpoint, revision)
    known = size is not None
    name = checkpoint.rpartition("/")[2].lower()
    weights, file = size or (_SDXL if "xl" in name else _SD2 if re.search(r"diffusion-(v)?2", name) else _SD1, 0)
    trained = weights.trained if lora_rank is None else weights.rank * lora_rank
    kept = file or _FLOAT * weights.whole if lora_rank is None else _FLOAT * trained
    return Footprint(kept, 3 * _FLOAT * trained, known)


def _size_of(checkpoint: str, revision: str | None) -> tuple[_Size, int] | None:
    """Returns sizes and bytes of a checkpoint's weights; None if it isn't on this machine."""
    try:
        folder = local_directory(checkpoint) or cached_snapshot(checkpoint, revision)
        if folder is None:
            return None
        variant = check_files(folder, checkpoint)
        files = [path for part in sorted(folder.iterdir()) if part.is_dir() for path in list_weights(part, variant)]
        shapes = {path: _shapes(path) for path in files}
    except (FiguregroundError, OSError, ValueError, KeyError):
        return None
    trained = [named for path, named in shapes.items() if path.parent.name in TRAINED]
    edges = sum(sum(shape[:2]) for named in trained for name, shape in named.items() if _ATTENTION.fullmatch(name))
    return _Size(_count(shapes.values()), _count(trained), edges), sum(path.stat().st_size for path in files)


def _count(parts: Iterable[dict[str, list[int]]]) -> int:
    return sum(math.prod(shape) for shapes in parts for shape in shapes.values())


def _shapes(path: Path) -> dict[str, list[int]]:
    """Returns the shapes of the weights in a file, by name."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
