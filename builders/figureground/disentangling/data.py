"""Images with both labels: those of a finished dataset, or of another data set whose attribute is the background."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, printable
from figureground.core.hashing import digest
from figureground.data.content_hashes import hash_files
from figureground.data.groups import GroupedImages
from figureground.data.images import DatasetImages, Draw, FolderImages
from figureground.data.layouts import UNKNOWN, read_groups
from figureground.data.splits import SPLITS
from figureground.data.stores import ShardStore
from figureground.shards.shard import PRIVATE
from figureground.sources.images import UnreadableImage


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images with a foreground label and a background label."""

    images: GroupedImages
    """The class is the foreground, the attribute the background."""
    splits: tuple[str, ...]
    """Names of the splits; `images.split` refers to them."""
    scenes: np.ndarray
    """int64 (n,): images with equal numbers show one scene photograph; -1 if that isn't known."""
    objects: np.ndarray
    """int64 (n,): images with equal numbers show one object."""

    @property
    def name(self) -> str:
        return self.images.name

    @property
    def foregrounds(self) -> tuple[str, ...]:
        return self.images.classes

    @property
    def backgrounds(self) -> tuple[str, ...]:
        return self.images.attributes or ()

    @property
    def foreground(self) -> np.ndarray:
        """int64 (n,)."""
        return self.images.y

    @property
    def background(self) -> np.ndarray:
        """int64 (n,)."""
        assert self.images.a is not None
        return self.images.a

    @property
    def cell(self) -> np.ndarray:
        """int64 (n,): number of backgrounds · foreground + background."""
        return self.images.group


def open_data(path: Path) -> LabelledImages:
    """Open a finished dataset with all its splits, or another data set as `figureground groups` reads it.

    Raises:
        FiguregroundError: The data set can't be used, has no background label, or its background is unknown.
    """
    if (path / PRIVATE).is_dir() or not path.exists():
        images = DatasetImages.open(path, column="foreground")
        columns = images.source.columns
        grouped = GroupedImages(
            name=images.name, layout="dataset", classes=tuple(columns.foregrounds),
            attributes=tuple(columns.backgrounds), keys=tuple(images.keys), split=images.split, y=images.foreground,
            a=images.background, store=ShardStore(images), rows=np.arange(len(images.keys)),
        )  # fmt: skip
        data = LabelledImages(grouped, images.splits, images.scenes, images.objects)
    else:
        grouped = read_groups(path)
        if grouped.a is None:
            raise FiguregroundError(
                f"{grouped.name} has no background label. Give a dataset built by figureground, or one with an "
                "attribute, as `figureground groups` shows."
            )
        data = LabelledImages(grouped, SPLITS, np.full(len(grouped), -1), grouped.objects)
    if set(np.array(data.backgrounds)[np.unique(data.background)]) == {UNKNOWN}:
        raise FiguregroundError(
            f"{data.name} has no known backgrounds (all are {UNKNOWN}), like a dataset of scgs whose recipe names no "
            "backgrounds. Give a dataset with two labels, such as one of d3s."
        )
    return data


@dataclass(eq=False)
class Photographs:
    """Real photographs of foreground classes, without a background label, in the form that `Album` reads.

    Args:
        directory: Photographs in one folder per class.
        foregrounds: Names of the classes.

    Raises:
        FiguregroundError: The directory is missing, or has no folder of a class.
    """

    directory: Path
    foregrounds: Sequence[str]
    images: FolderImages = field(init=False)

    def __post_init__(self) -> None:
        self.images = FolderImages(self.directory, self.foregrounds)
        self.keys = tuple(self.images.keys)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def foreground(self) -> np.ndarray:
        """int64 (n,)."""
        return self.images.label

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Draw]]:
        """Yield the images at the given rows, in ascending order."""
        for row, draw in self.images.read(rows):
            yield row, _Photograph(draw)

    def content(self) -> dict[str, Any]:
        """Return what identifies the photographs, without paths."""
        hashes = hash_files(self.images.paths)
        return {"photographs": digest({"keys": self.keys, "images": hashes, "label": self.foreground.tolist()})}


@dataclass(frozen=True)
class _Photograph:
    """A photograph whose error says what to do."""

    draw: Draw

    def __call__(self) -> Image.Image:
        try:
            return self.draw()
        except UnreadableImage as error:
            name = f"{printable(error.path.parent.name)}/{printable(error.path.name)}"
            raise FiguregroundError(f"--photographs: {name}: {error.reason}. Replace it, or remove it.") from error
