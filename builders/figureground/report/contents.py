"""Reads what a dataset directory holds: its finished shards and class names, whether or not the build is finished."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from figureground.core.errors import FiguregroundError, join_names
from figureground.core.files import FileError, parse_json, read_object
from figureground.core.shapes import check_shape
from figureground.shards.card import find_class_splits
from figureground.shards.directory import refuse_unsafe_entries
from figureground.shards.formats.format import list_folders, load_formats
from figureground.shards.index import INDEX
from figureground.shards.markers import formats_of, markers
from figureground.shards.reader import ShardReader
from figureground.shards.shard import MARKERS

T = TypeVar("T")
Labels = tuple[int, int]
"""Foreground and background label."""


class ShownShard(NamedTuple):
    """A finished shard: its samples, and the facts from its marker."""

    reader: ShardReader
    split: str
    part: int
    of: int
    """Planned number of shards of the split in this part."""
    samples: int
    cells: dict[Labels, int]
    """Number of samples of each cell."""
    rejects: dict[str, int]
    """Number of planned images that were rejected, by reason."""


class Example(NamedTuple):
    """One sample as stored in a shard."""

    image: bytes
    """Encoded image: JPEG, WebP or PNG."""
    prompt: str
    key: str
    provenance: dict[str, Any]

    @property
    def labels(self) -> Labels:
        return self.provenance["labels"]["foreground"], self.provenance["labels"]["background"]


class Contents(NamedTuple):
    """Contents of a dataset directory, without its images."""

    splits: dict[str, list[ShownShard]]
    """Finished shards by split, in order; splits in planned order if known, else training first."""
    foregrounds: dict[int, str]
    """Name of each label; for tars, only of labels that occur."""
    backgrounds: dict[int, str]
    """Name of each label; for tars, only of labels that occur."""
    finished: bool
    """Whether the index lists exactly the existing shards."""

    @property
    def shards(self) -> list[ShownShard]:
        return [shard for split_shards in self.splits.values() for shard in split_shards]

    def one_foreground_each(self) -> dict[str, int]:
        """Return the foreground of each split if every split has a single one, else an empty dict."""
        return find_class_splits(
            {
                split: {
                    "samples": sum(s.samples for s in split_shards),
                    "cells": [cell for s in split_shards for cell in s.cells],
                }
                for split, split_shards in self.splits.items()
            }
        )

    @property
    def progress(self) -> str | None:
        """Progress of an unfinished build, such as `3 of 12 shards`; None if it is finished."""
        if self.finished:
            return None
        # Splits without a finished shard are unknown here.
        planned = {(shard.split, shard.part): shard.of for shard in self.shards}
        return f"{len(self.shards)} of {sum(planned.values())} shards"


def choose_evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` of the items, evenly spaced, including the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def read_contents(directory: Path, planned: Sequence[str] = ()) -> Contents:
    """Read markers and class names, but no images.

    Args:
        planned: Split names in planned order, for a dataset that has no index yet.

    Raises:
        FiguregroundError: The directory doesn't exist or has no finished shard.
    """
    if not directory.is_dir():
        raise FiguregroundError(f"{directory}: the directory doesn't exist; build a dataset into it first.")
    refuse_unsafe_entries(directory)
    shard_markers = markers(directory)
    shards = [_open_shard(directory, name, marker) for name, marker in shard_markers.items()]
    if not shards:
        raise FiguregroundError(
            f"{directory}: no shard is finished: {MARKERS}/ has no marker. "
            "Give the --out of a build, or wait until its first shard is finished."
        )
    path = directory / INDEX
    index: dict[str, Any] = {"shards": [], "splits": planned}
    if path.exists():
        index = read_object(path, root=directory)
        try:
            check_shape(index, {"splits": dict, "shards": [{"shard": str}]})
        except ValueError as error:
            raise FileError(path, f"{error}. Build again: it is rewritten") from None
    order = {split: position for position, split in enumerate(index["splits"])}
    splits: dict[str, list[ShownShard]] = {}
    for shard in sorted(shards, key=lambda s: (order.get(s.split, len(order)), s.split != "train", s.split)):
        splits.setdefault(shard.split, []).append(shard)
    foregrounds, backgrounds = _read_label_names(shards)
    return Contents(
        splits, foregrounds, backgrounds, {shard["shard"] for shard in index["shards"]} == set(shard_markers)
    )


def _open_shard(directory: Path, name: str, marker: Mapping[str, Any]) -> ShownShard:
    formats = load_formats()
    for format_name in formats_of(marker):
        reader = ShardReader(directory, marker, formats[format_name])
        if reader.path.exists():
            cells = {(foreground, background): count for foreground, background, count in marker["cells"]}
            return ShownShard(
                reader, marker["split"], marker.get("part", 0), marker["of"], marker["samples"], cells,
                marker["rejects"],
            )  # fmt: skip
    raise FiguregroundError(
        f"{directory}: shard {name} has a marker, but is in none of "
        f"{join_names(f'{folder}/' for folder in list_folders())}. "
        f"Restore it, or delete {MARKERS}/{name}.json and build again."
    )


def _read_label_names(shards: Sequence[ShownShard]) -> tuple[dict[int, str], dict[int, str]]:
    """Return the names of the foreground and background labels."""
    if (columns := shards[0].reader.schema()) is not None:
        return dict(enumerate(columns.foregrounds)), dict(enumerate(columns.backgrounds))
    foregrounds: dict[int, str] = {}
    backgrounds: dict[int, str] = {}
    for shard in shards:
        new = {cell for cell in shard.cells if cell[0] not in foregrounds or cell[1] not in backgrounds}
        for row in shard.reader.columns_of((), ("provenance",)) if new else ():
            provenance = parse_json(row["provenance"], "provenance")
            foregrounds[provenance["labels"]["foreground"]] = provenance["foreground"]
            backgrounds[provenance["labels"]["background"]] = provenance["background"]
    return dict(sorted(foregrounds.items())), dict(sorted(backgrounds.items()))


def read_sample_labels(shard: ShownShard) -> list[Labels]:
    """Return the labels of each sample of a shard, in order."""
    return [(row["foreground"], row["background"]) for row in shard.reader.columns_of(texts=())]


def read_examples(shard: ShownShard, rows: Iterable[int]) -> Iterator[Example]:
    """Yield the samples at `rows`, in the shard's order."""
    for sample in shard.reader.samples(sorted(rows)):
        yield Example(
            sample.image, sample.prompt, sample.key, parse_json(sample.provenance, f"{sample.key}: its provenance")
        )
