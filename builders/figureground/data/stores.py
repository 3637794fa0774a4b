"""Stores of labelled images and their masks: files, or the shards of a finished dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, printable
from figureground.data.content_hashes import find_copies, hash_files
from figureground.sources.images import UnreadableImage, open_stored, read_image
from figureground.sources.mask import find_bright, mask_path, mask_values, read_mask

if TYPE_CHECKING:
    from figureground.data.images import DatasetImages, Draw

DrawMask = Callable[[], np.ndarray]
"""Decodes a mask, bool (height, width): True where the object is. Raises FiguregroundError."""


class ImageStore(Protocol):
    """Storage of images and masks, by row."""

    @property
    def masked(self) -> np.ndarray:
        """bool (n,): which images have a true mask."""

    def read(self, rows: np.ndarray) -> Iterator[tuple[int, Draw]]:
        """Yield the images at the given rows, in ascending order."""

    def read_masks(self, rows: np.ndarray) -> Iterator[tuple[int, DrawMask]]:
        """Yield the masks at the given rows, in ascending order; each row must have one."""

    def objects(self, rows: np.ndarray) -> np.ndarray:
        """Return object numbers of rows, int64 (n,); images with equal numbers show one object, so are dependent."""

    def content(self, rows: np.ndarray) -> Any:
        """Return an identity of the content of images and masks at the given rows, JSON-able."""


@dataclass(frozen=True, eq=False)
class FileStore:
    """Image files, with mask files next to them."""

    root: Path
    names: Sequence[str]
    """Paths relative to the root."""
    sizes: np.ndarray
    """int64 (n,): size of each file, bytes."""
    mask_sizes: np.ndarray
    """int64 (n,): size of each mask file, bytes; -1 without a mask."""

    @property
    def masked(self) -> np.ndarray:
        return self.mask_sizes >= 0

    def read(self, rows: np.ndarray) -> Iterator[tuple[int, Draw]]:
        from figureground.data.images import MAX_EDGE

        for row in rows.tolist():
            max_edge = None if self.mask_sizes[row] >= 0 else MAX_EDGE
            yield row, functools.partial(_read_image, self.root / self.names[row], max_edge)

    def read_masks(self, rows: np.ndarray) -> Iterator[tuple[int, DrawMask]]:
        for row in rows.tolist():
            yield row, functools.partial(_read_mask, self.root / self.names[row])

    def objects(self, rows: np.ndarray) -> np.ndarray:
        """Return object numbers of rows, int64 (n,); equal only for copies, since nothing else is known of files."""
        numbers = np.array(rows, np.int64)
        return numbers[find_copies([self.root / self.names[row] for row in numbers.tolist()], self.sizes[numbers])]

    def content(self, rows: np.ndarray) -> Any:
        images = [self.root / self.names[row] for row in rows.tolist()]
        masks = [mask_path(self.root / self.names[row]) for row in rows[self.masked[rows]].tolist()]
        hashes = hash_files([*images, *masks])
        return {"images": hashes[: len(images)], "masks": hashes[len(images) :], "masked": self.masked[rows].tolist()}


def _read_image(path: Path, max_edge: int | None) -> Image.Image:
    try:
        return read_image(path, max_edge=max_edge)
    except UnreadableImage as error:
        raise _make_unusable_error(path, error.reason) from error


def _make_unusable_error(path: Path, reason: str) -> FiguregroundError:
    name = f"{printable(path.parent.name)}/{printable(path.name)}"
    return FiguregroundError(f"{name}: {reason}. Replace the file, or remove it from the data set.")


def _read_mask(path: Path) -> np.ndarray:
    mask_file, size = mask_path(path), _read_image(path, None).size
    try:
        bright = Image.fromarray(find_bright(read_mask(mask_file, path, size)))
    except UnreadableImage as error:
        raise _make_unusable_error(mask_file, error.reason) from error
    return np.asarray(bright if bright.size == size else bright.resize(size, Image.Resampling.NEAREST))


@dataclass(frozen=True, eq=False)
class ShardStore:
    """Samples of a finished dataset, with its column `mask`, if any."""

    images: DatasetImages

    @property
    def masked(self) -> np.ndarray:
        return np.full(len(self.images.keys), self.images.source.columns.mask)

    def read(self, rows: np.ndarray) -> Iterator[tuple[int, Draw]]:
        yield from self.images.read(rows)

    def read_masks(self, rows: np.ndarray) -> Iterator[tuple[int, DrawMask]]:
        source, start = self.images.source, 0
        for shard in source.shards:
            stop = start + source.marker(shard)["samples"]
            inside = rows[(rows >= start) & (rows < stop)]
            if len(inside):
                samples = source.stored(shard, (inside - start).tolist())
                for row, sample in zip(inside.tolist(), samples, strict=True):
                    yield row, functools.partial(_decode_mask, sample.images["mask"], sample.key)
            start = stop

    def objects(self, rows: np.ndarray) -> np.ndarray:
        return self.images.objects[rows]

    def content(self, rows: np.ndarray) -> Any:
        return self.images.source.identity()


def _decode_mask(data: bytes, key: str) -> np.ndarray:
    try:
        return find_bright(mask_values(open_stored(data)))
    except Exception as error:  # Pillow's decoders can raise any exception for damaged data
        raise FiguregroundError(
            f"{key}: its mask can't be decoded ({type(error).__name__}: {error}). figureground check gives details."
        ) from error
