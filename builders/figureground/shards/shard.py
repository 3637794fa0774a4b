"""A shard: its name, its files, and where the parts of a dataset directory lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.recipe.formats import FORMATS
from figureground.recipe.plan import PlannedShard

PRIVATE = "_figureground"
"""Directory for everything except the data; `datasets` skips names that begin with `_`."""

RECIPE = f"{PRIVATE}/recipe.json"

NUMERICS = f"{PRIVATE}/numerics.json"
"""Device, dtype, batch size and versions of the first shard; see `core.numerics`."""

STAGES = f"{PRIVATE}/stages"
"""Directory of the results of a method's stages; see `shards.stages`."""

MARKERS = f"{PRIVATE}/shards"
"""Directory of the markers, relative to the dataset directory."""

JOURNAL = f"{PRIVATE}/journal"
"""Directory of the rendered batches of unfinished shards."""

REJECTS = f"{PRIVATE}/rejects"

PUBLISHED_REJECTS = "rejects"
"""Directory of rejects as Parquet files, in datasets that publish them."""

SCORES = f"{PRIVATE}/scores"
"""Directory of scores, one file per score."""

LABELS = f"{PRIVATE}/labels.json"
"""Findings of people and scorers about the labels; see `annotation.labels`."""


class ShardError(FiguregroundError, ValueError):
    """Raised for samples that can't be written as requested, and for files on disk that contradict each other."""


_FIXED_KINDS = {
    "marker": (MARKERS, ".json"), "rejects": (REJECTS, ".jsonl"), "published_rejects": (PUBLISHED_REJECTS, ".parquet"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shard:
    """Unit of work: the planned images of one file."""

    split: str
    index: int
    """Position within its split and part, from 0."""
    of: int
    """Number of shards of the split in this part."""
    count: int
    """Number of planned images; each becomes a sample or a reject."""
    part: int = 0
    """0 for the first build, n for the n-th extension."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w+", self.split, re.ASCII):
            raise ShardError(f"split {self.split!r}: a split's name consists of letters, digits and '_'.")
        if not 0 <= self.index < self.of:
            raise ShardError(f"split {self.split!r}: shard {self.index} of {self.of} doesn't exist.")

    @classmethod
    def from_marker(cls, marker: Mapping[str, Any]) -> Shard:
        """Return the shard that a marker describes."""
        return cls(marker["split"], marker["index"], marker["of"], marker["planned"], marker.get("part", 0))

    @property
    def name(self) -> str:
        part = f"-e{self.part}" if self.part else ""
        return f"{self.split}{part}-{self.index:05d}-of-{self.of:05d}"

    def path(self, kind: str) -> str:
        """Return the path of the shard's file of a kind, relative to the dataset directory.

        Kinds are the formats, `marker`, `rejects`, and `published_rejects`.
        """
        return _file_path(self.name, kind)


def list_paths(name: str) -> list[str]:
    """Return the paths of the files that a shard of this name may have, without its marker."""
    return [_file_path(name, kind) for kind in (*dict(FORMATS.items()), "rejects", "published_rejects")]


def _file_path(name: str, kind: str) -> str:
    folder, suffix = _FIXED_KINDS[kind] if kind in _FIXED_KINDS else (FORMATS[kind].FOLDER, FORMATS[kind].SUFFIX)
    return f"{folder}/{name}{suffix}"


def as_shard(planned: PlannedShard) -> Shard:
    """Convert a planned shard to a `Shard`."""
    return Shard(planned.split, planned.index, planned.of, planned.count, planned.part)
