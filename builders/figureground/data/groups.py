"""Labelled images in groups: a class y and, if known, an attribute a that may correlate with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, join_names, plural, printable
from figureground.core.hashing import digest
from figureground.core.text_width import pad, text_width
from figureground.data.splits import SPLITS
from figureground.recipe.table import Counts, cramers_v
from figureground.sources.images import MASK_SUFFIX, UnreadableImage, open_stored, read_image
from figureground.sources.mask import find_bright, mask_path, mask_values, read_mask

if TYPE_CHECKING:
    from figureground.data.images import DatasetImages, Draw

MAX_CLASSES_SHOWN, MAX_ATTRIBUTES_SHOWN = 60, 12
"""Maximum classes and attributes of a printed table; larger ones are summarised in one line."""

DrawMask = Callable[[], np.ndarray]
"""Decodes a mask, bool (height, width): True where the object is. Raises FiguregroundError."""


class Store(Protocol):
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
        """Return an identity of the images at the given rows, JSON-able, without reading them."""


@dataclass(frozen=True, eq=False)
class GroupedImages:
    """A labelled data set, whole or in part: `Images` whose label is the class."""

    name: str
    """Name in tables and errors, not a path."""
    layout: str
    """Layout on disk, one of `layouts.LAYOUTS`."""
    classes: tuple[str, ...]
    """Names of the values of y."""
    attributes: tuple[str, ...] | None
    """Names of the values of a; None if the data have no attribute."""
    keys: tuple[str, ...]
    """Unique names of the images."""
    split: np.ndarray
    """int64 (n,): 0 train, 1 validation, 2 test."""
    y: np.ndarray
    """int64 (n,): the class."""
    a: np.ndarray | None
    """int64 (n,): the attribute; None if the data have no attribute."""
    store: Store
    rows: np.ndarray
    """int64 (n,), ascending: row of each image in the store."""
    notes: tuple[str, ...] = ()
    """Notes on the whole data set, a sentence or two each; a part has none."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def label(self) -> np.ndarray:
        """int64 (n,): the class."""
        return self.y

    @property
    def group(self) -> np.ndarray:
        """int64 (n,): number of attributes · y + a.

        Raises:
            FiguregroundError: The data have no attribute.
        """
        if self.a is None or self.attributes is None:
            raise FiguregroundError(
                f"{self.name} has no attribute, so it has no groups. Give a table filename,split,y,a, or choose a "
                "method that needs no groups."
            )
        return len(self.attributes) * self.y + self.a

    @property
    def group_names(self) -> tuple[str, ...]:
        """`class × attribute` of each group, by number; only classes if the data have no attribute."""
        if self.attributes is None:
            return self.classes
        return tuple(f"{name} × {attribute}" for name in self.classes for attribute in self.attributes)

    @property
    def masked(self) -> np.ndarray:
        """bool (n,): which images have a true mask."""
        return self.store.masked[self.rows]

    @property
    def objects(self) -> np.ndarray:
        """int64 (n,): images with equal numbers show one object, so they aren't independent."""
        return self.store.objects(self.rows)

    def counts(self, split: int) -> Counts:
        """Count the images of a split, int64 (classes, attributes); (classes, 1) if the data have no attribute."""
        attributes = 1 if self.attributes is None else len(self.attributes)
        cells = self.y if self.a is None else attributes * self.y + self.a
        counts = np.bincount(cells[self.split == split], minlength=len(self.classes) * attributes)
        return counts.astype(np.int64).reshape(len(self.classes), attributes)

    def select(self, rows: Sequence[int] | np.ndarray) -> GroupedImages:
        """Return a part of the data set, in the same order and with the same classes and attributes.

        Args:
            rows: Positions, in any order, or bool (n,).
        """
        chosen = np.asarray(rows)
        if chosen.dtype != bool:
            mask = np.zeros(len(self), bool)
            mask[chosen.astype(np.int64)] = True
            chosen = mask
        positions = np.flatnonzero(chosen)
        return replace(
            self, keys=tuple(self.keys[row] for row in positions), split=self.split[positions], y=self.y[positions],
            a=None if self.a is None else self.a[positions], rows=self.rows[positions], notes=(),
        )  # fmt: skip

    def without_attribute(self) -> GroupedImages:
        """Return the same images and classes without the attribute."""
        return replace(self, attributes=None, a=None)

    def of_split(self, split: int) -> GroupedImages:
        """Return the images of a split: 0 train, 1 validation, 2 test.

        Raises:
            FiguregroundError: The split is empty.
        """
        part = self.select(self.split == split)
        if not len(part):
            raise FiguregroundError(f"{self.name} has no image in the split {SPLITS[split]}.")
        return part

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Draw]]:
        """Yield the images at the given rows, in order. An image with a mask is decoded at full size, like its mask.

        An image that can't be decoded raises a FiguregroundError that names it.
        """
        positions = np.sort(np.asarray(rows, np.int64))
        for row, (_, draw) in zip(positions.tolist(), self.store.read(self.rows[positions]), strict=True):
            yield row, draw

    def read_masks(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, DrawMask]]:
        """Yield the true masks of the given rows, in order; each as large as the image from `read`.

        Raises:
            FiguregroundError: A row has no mask.
        """
        positions = np.sort(np.asarray(rows, np.int64))
        unmasked = positions[~self.masked[positions]]
        if len(unmasked):
            raise FiguregroundError(
                f"{self.name}: {plural(len(unmasked), 'image')} of {len(positions):,} have no mask, such as "
                f"{self.keys[unmasked[0]]}. A mask is a file *{MASK_SUFFIX} next to the image, or a column of the "
                "dataset."
            )
        for row, (_, draw) in zip(positions.tolist(), self.store.read_masks(self.rows[positions]), strict=True):
            yield row, draw

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, keys, labels, and the sizes of files or the hashes of shards; independent of paths."""
        return digest({
            "classes": self.classes, "attributes": self.attributes, "keys": self.keys, "split": self.split.tolist(),
            "y": self.y.tolist(), "a": None if self.a is None else self.a.tolist(),
            "content": self.store.content(self.rows),
        })  # fmt: skip


# Stores


@dataclass(frozen=True, eq=False)
class Files:
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
        return np.asarray(rows, np.int64)

    def content(self, rows: np.ndarray) -> Any:
        return {"bytes": self.sizes[rows].tolist(), "masks": self.mask_sizes[rows].tolist()}


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
class Shards:
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


# Accuracy


def accuracy_by_group(correct: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Return the accuracy in each group, float64 (groups,), 0 to 1; NaN for a group without images.

    Args:
        correct: bool (n,).
        group: int (n,): `GroupedImages.group`, or y for accuracy by class.
        groups: Number of groups.
    """
    samples = np.bincount(group, minlength=groups)
    hits = np.bincount(group, weights=np.asarray(correct, np.float64), minlength=groups)
    return np.where(samples > 0, hits / np.maximum(samples, 1), np.nan)


def worst_group_accuracy(accuracy: np.ndarray) -> float:
    """Return the lowest accuracy of the groups that have images (Sagawa et al. 2020, arXiv 1911.08731).

    For accuracies by class it is the worst-class accuracy, which needs no attribute.

    Args:
        accuracy: float (groups,), from `accuracy_by_group`.

    Raises:
        ValueError: No group has an image.
    """
    present = accuracy[~np.isnan(accuracy)]
    if not len(present):
        raise ValueError("No group has an image.")
    return float(present.min())


def worst_class_accuracy(correct: np.ndarray, y: np.ndarray, classes: int) -> float:
    """Return the lowest accuracy of the classes that have images.

    Args:
        correct: bool (n,).
        y: int (n,).
        classes: Number of classes.

    Raises:
        ValueError: No class has an image.
    """
    return worst_group_accuracy(accuracy_by_group(correct, y, classes))


def reweighted_accuracy(accuracy: np.ndarray, train_counts: np.ndarray) -> float:
    """Return the average accuracy weighted by training group counts: Σ n_g accuracy_g / Σ n_g.

    This is the convention for Waterbirds, whose validation and test splits are balanced, unlike its training split
    (Sagawa et al. 2020, arXiv 1911.08731). Groups without evaluated images are left out of both sums.

    Args:
        accuracy: float (groups,), from `accuracy_by_group`.
        train_counts: int, one number per group: its training images, such as `counts(0)`.

    Raises:
        ValueError: The number of counts is wrong, or no group has both training and evaluated images.
    """
    counts = np.asarray(train_counts, np.float64).ravel()
    if counts.shape != np.shape(accuracy):
        raise ValueError(f"There are {np.size(accuracy)} accuracies and {counts.size} counts.")
    evaluated = ~np.isnan(accuracy)
    if not counts[evaluated].sum():
        raise ValueError("No group has both training images and evaluated images.")
    return float((counts[evaluated] * accuracy[evaluated]).sum() / counts[evaluated].sum())


# Summaries


def summarise_groups(groups: GroupedImages) -> dict[str, Any]:
    """Return names, counts and notes, JSON-able.

    For each split that has images: `images`, `counts` (classes × attributes), `cramers_v` (0 if class and attribute
    are independent, 1 if one determines the other; None if the data have no attribute), and `smallest_group` among
    the groups that have images.
    """
    splits = {}
    for number, split in enumerate(SPLITS):
        counts = groups.counts(number)
        if counts.any():
            splits[split] = {
                "images": int(counts.sum()),
                "counts": counts.tolist(),
                "cramers_v": None if groups.attributes is None else cramers_v(counts),
                "smallest_group": _find_smallest(groups, counts),
            }
    return {
        "name": groups.name, "layout": groups.layout, "images": len(groups), "masks": int(groups.masked.sum()),
        "classes": list(groups.classes), "attributes": None if groups.attributes is None else list(groups.attributes),
        "fingerprint": groups.fingerprint, "splits": splits, "notes": list(groups.notes),
    }  # fmt: skip


def _find_smallest(groups: GroupedImages, counts: Counts) -> dict[str, Any]:
    flat = counts.ravel()
    present = np.flatnonzero(flat)
    smallest = int(present[flat[present].argmin()])
    return {"group": smallest, "name": groups.group_names[smallest], "images": int(flat[smallest])}


def format_summary(groups: GroupedImages) -> str:
    """Return the contents of `summarise_groups` as text: one table per split, then the notes."""
    summary = summarise_groups(groups)
    attributes = "no attribute" if groups.attributes is None else plural(len(groups.attributes), "attribute")
    classes = f"{len(groups.classes):,} class{'' if len(groups.classes) == 1 else 'es'}"
    masks = f", {plural(summary['masks'], 'mask')}" if summary["masks"] else ""
    blocks = [f"{groups.name} ({groups.layout}): {plural(len(groups), 'image')}, {classes}, {attributes}{masks}"]
    for name, split in summary["splits"].items():
        association = "" if split["cramers_v"] is None else f", Cramér's V {split['cramers_v']:.3f}"
        smallest = split["smallest_group"]
        kind = "class" if groups.attributes is None else "group"
        blocks.append("\n".join([
            f"{name}: {plural(split['images'], 'image')}{association}",
            *_format_table(groups, np.array(split["counts"])),
            f"  smallest {kind}: {smallest['name']} ({smallest['images']:,})",
        ]))  # fmt: skip
    if groups.notes:
        blocks.append("\n".join(f"note: {note}" for note in groups.notes))
    return "\n\n".join(blocks)


def _format_table(groups: GroupedImages, counts: Counts) -> list[str]:
    """Return lines of counts with totals; a single line if there are too many."""
    if len(groups.classes) > MAX_CLASSES_SHOWN or len(groups.attributes or ()) > MAX_ATTRIBUTES_SHOWN:
        present = counts[counts > 0]
        return [
            f"  {plural(present.size, 'group')} of {counts.size:,}, of {present.min():,} to {present.max():,} images"
        ]
    head, body = [""], [[name] for name in groups.classes]
    if groups.attributes is not None:
        head += groups.attributes
        body = [[name, *(f"{n:,}" for n in row)] for name, row in zip(groups.classes, counts.tolist(), strict=True)]
    rows = [[*head, "total"], *([*row, f"{n:,}"] for row, n in zip(body, counts.sum(1).tolist(), strict=True))]
    columns = counts.sum(0).tolist() if groups.attributes is not None else []
    rows.append(["total", *(f"{n:,}" for n in columns), f"{int(counts.sum()):,}"])
    return [f"  {line}" for line in align_columns(rows)]


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align cells in columns, the first flush left, the others flush right."""
    widths = [max(map(text_width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([pad(r[0], widths[0]), *(pad(c, w, right=True) for c, w in zip(r[1:], widths[1:], strict=True))])
        for r in rows
    ]


def describe_empty_groups(groups: GroupedImages) -> Iterator[str]:
    """Yield a sentence for each split that has images, but none of some group."""
    for number, split in enumerate(SPLITS):
        counts = groups.counts(number).ravel()
        empty = np.flatnonzero(counts == 0)
        if not len(empty) or not counts.any():
            continue
        names = join_names((groups.group_names[group] for group in empty), 5)
        if groups.attributes is None:
            yield f"{split} has no image of {names}."
        else:
            subject = f"the {counts.size - len(empty)} groups" if counts.size - len(empty) > 1 else "the one group"
            yield f"{split} has no image of {names}: its worst group is computed over {subject} that it has."
