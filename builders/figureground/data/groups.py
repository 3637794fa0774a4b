"""Labelled images in groups: a class y and, where it is known, an attribute a that may be bound up with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from figureground.core.columns import pad, text_width
from figureground.core.errors import FiguregroundError, counted, listed, printable
from figureground.core.hashing import digest
from figureground.data.splits import SPLITS
from figureground.recipe.table import Counts, cramers_v
from figureground.sources.images import MASK_SUFFIX, UnreadableImage, open_stored, read_image
from figureground.sources.mask import mask_path, mask_values, read_mask, where_bright

if TYPE_CHECKING:
    from figureground.data.images import DatasetImages, Draw

MOST_CLASSES, MOST_ATTRIBUTES = 60, 12
"""Classes and attributes of a table that is still printed; of larger ones a line tells."""

DrawMask = Callable[[], np.ndarray]
"""Decodes a mask, bool (height, width): True where the object is. Raises FiguregroundError."""


class Store(Protocol):
    """Where images and masks lie, by row."""

    @property
    def masked(self) -> np.ndarray:
        """bool (n,): which images have a true mask."""

    def read(self, rows: np.ndarray) -> Iterator[tuple[int, Draw]]:
        """Images at certain rows, which ascend."""

    def read_masks(self, rows: np.ndarray) -> Iterator[tuple[int, DrawMask]]:
        """Masks at certain rows, which ascend and have one each."""

    def objects(self, rows: np.ndarray) -> np.ndarray:
        """int64 (n,), of images at certain rows: equal numbers show one object, so that those aren't independent."""

    def content(self, rows: np.ndarray) -> Any:
        """What tells other images from these, JSON-able, without reading them."""


@dataclass(frozen=True, eq=False)
class GroupedImages:
    """A labelled data set, whole or in part: `Images` whose label is the class."""

    name: str
    """What tables and errors call it; no path."""
    layout: str
    """How it lies on the disk, one of `layouts.LAYOUTS`."""
    classes: tuple[str, ...]
    """Names of the values of y."""
    attributes: tuple[str, ...] | None
    """Names of the values of a; None where the data say none."""
    keys: tuple[str, ...]
    """Names of the images, each once."""
    split: np.ndarray
    """int64 (n,): 0 train, 1 validation, 2 test."""
    y: np.ndarray
    """int64 (n,): the class."""
    a: np.ndarray | None
    """int64 (n,): the attribute; None where the data say none."""
    store: Store
    rows: np.ndarray
    """int64 (n,), ascending: where in the store each image lies."""
    notes: tuple[str, ...] = ()
    """What a person should know of the whole, a sentence or two each; a part has none."""

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
            FiguregroundError: The data say no attribute.
        """
        if self.a is None or self.attributes is None:
            raise FiguregroundError(
                f"{self.name} says no attribute, so there are no groups in it. Give a table filename,split,y,a, or "
                "choose a method that needs no groups."
            )
        return len(self.attributes) * self.y + self.a

    @property
    def group_names(self) -> tuple[str, ...]:
        """`class × attribute` of each group, by number; the classes alone where the data say no attribute."""
        if self.attributes is None:
            return self.classes
        return tuple(f"{name} × {attribute}" for name in self.classes for attribute in self.attributes)

    @property
    def masked(self) -> np.ndarray:
        """bool (n,): which images have a true mask."""
        return self.store.masked[self.rows]

    @property
    def objects(self) -> np.ndarray:
        """int64 (n,): equal numbers show one object, so that those images aren't independent."""
        return self.store.objects(self.rows)

    def counts(self, split: int) -> Counts:
        """Images of a split, int64 (classes, attributes); (classes, 1) where the data say no attribute."""
        attributes = 1 if self.attributes is None else len(self.attributes)
        cells = self.y if self.a is None else attributes * self.y + self.a
        found = np.bincount(cells[self.split == split], minlength=len(self.classes) * attributes)
        return found.astype(np.int64).reshape(len(self.classes), attributes)

    def select(self, rows: Sequence[int] | np.ndarray) -> GroupedImages:
        """A part of it, in the same order and with the same classes and attributes.

        Args:
            rows: Positions, in any order, or bool (n,).
        """
        given = np.asarray(rows)
        if given.dtype != bool:
            chosen = np.zeros(len(self), bool)
            chosen[given.astype(np.int64)] = True
            given = chosen
        at = np.flatnonzero(given)
        return replace(
            self, keys=tuple(self.keys[row] for row in at), split=self.split[at], y=self.y[at],
            a=None if self.a is None else self.a[at], rows=self.rows[at], notes=(),
        )  # fmt: skip

    def without_attribute(self) -> GroupedImages:
        """The same images and classes, as if nobody had said an attribute."""
        return replace(self, attributes=None, a=None)

    def of_split(self, split: int) -> GroupedImages:
        """The images of a split: 0 train, 1 validation, 2 test.

        Raises:
            FiguregroundError: There is none.
        """
        part = self.select(self.split == split)
        if not len(part):
            raise FiguregroundError(f"{self.name} has no image in the split {SPLITS[split]}.")
        return part

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Draw]]:
        """Images at certain rows, in order. One with a mask is decoded whole, to be as large as its mask.

        An image that can't be decoded is a FiguregroundError that names it.
        """
        wanted = np.sort(np.asarray(rows, np.int64))
        for row, (_, draw) in zip(wanted.tolist(), self.store.read(self.rows[wanted]), strict=True):
            yield row, draw

    def read_masks(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, DrawMask]]:
        """True masks of certain rows, in order; each as large as the image that `read` gives.

        Raises:
            FiguregroundError: One of them has no mask.
        """
        wanted = np.sort(np.asarray(rows, np.int64))
        bare = wanted[~self.masked[wanted]]
        if len(bare):
            raise FiguregroundError(
                f"{self.name}: {counted(len(bare), 'image')} of {len(wanted):,} have no mask, such as "
                f"{self.keys[bare[0]]}. A mask is a file *{MASK_SUFFIX} beside the image, or a column of the dataset."
            )
        for row, (_, draw) in zip(wanted.tolist(), self.store.read_masks(self.rows[wanted]), strict=True):
            yield row, draw

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, keys, labels, and the sizes of files or the hashes of shards; no path enters it."""
        return digest({
            "classes": self.classes, "attributes": self.attributes, "keys": self.keys, "split": self.split.tolist(),
            "y": self.y.tolist(), "a": None if self.a is None else self.a.tolist(),
            "content": self.store.content(self.rows),
        })  # fmt: skip


# Stores


@dataclass(frozen=True, eq=False)
class Files:
    """Images that are files, and masks beside them."""

    root: Path
    names: Sequence[str]
    """Where they lie below the root."""
    sizes: np.ndarray
    """int64 (n,): bytes of each."""
    mask_sizes: np.ndarray
    """int64 (n,): bytes of the mask beside each; -1 where there is none."""

    @property
    def masked(self) -> np.ndarray:
        return self.mask_sizes >= 0

    def read(self, rows: np.ndarray) -> Iterator[tuple[int, Draw]]:
        from figureground.data.images import MOST_PIXELS

        for row in rows.tolist():
            most = None if self.mask_sizes[row] >= 0 else MOST_PIXELS
            yield row, functools.partial(_read_image, self.root / self.names[row], most)

    def read_masks(self, rows: np.ndarray) -> Iterator[tuple[int, DrawMask]]:
        for row in rows.tolist():
            yield row, functools.partial(_read_mask, self.root / self.names[row])

    def objects(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows, np.int64)

    def content(self, rows: np.ndarray) -> Any:
        return {"bytes": self.sizes[rows].tolist(), "masks": self.mask_sizes[rows].tolist()}


def _read_image(path: Path, most: int | None) -> Image.Image:
    try:
        return read_image(path, max_edge=most)
    except UnreadableImage as error:
        raise _unusable(path, error.reason) from error


def _unusable(path: Path, reason: str) -> FiguregroundError:
    shown = f"{printable(path.parent.name)}/{printable(path.name)}"
    return FiguregroundError(f"{shown}: {reason}. Replace the file, or take it out of the data set.")


def _read_mask(path: Path) -> np.ndarray:
    beside, size = mask_path(path), _read_image(path, None).size
    try:
        bright = Image.fromarray(where_bright(read_mask(beside, path, size)))
    except UnreadableImage as error:
        raise _unusable(beside, error.reason) from error
    return np.asarray(bright if bright.size == size else bright.resize(size, Image.Resampling.NEAREST))


@dataclass(frozen=True, eq=False)
class Shards:
    """Images that are the samples of a finished dataset, with its column `mask`, where there is one."""

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
                found = source.stored(shard, (inside - start).tolist())
                for row, stored in zip(inside.tolist(), found, strict=True):
                    yield row, functools.partial(_decode_mask, stored.images["mask"], stored.key)
            start = stop

    def objects(self, rows: np.ndarray) -> np.ndarray:
        return self.images.objects[rows]

    def content(self, rows: np.ndarray) -> Any:
        return self.images.source.identity()


def _decode_mask(data: bytes, key: str) -> np.ndarray:
    try:
        return where_bright(mask_values(open_stored(data)))
    except Exception as error:  # Pillow's decoders let through whatever damage leads to
        raise FiguregroundError(
            f"{key}: its mask can't be decoded ({type(error).__name__}: {error}). figureground check says more."
        ) from error


# Accuracy


def accuracy_by_group(correct: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Accuracy in each group, float64 (groups,), 0 to 1; NaN where a group has no image.

    Args:
        correct: bool (n,).
        group: int (n,): `GroupedImages.group`, or y for accuracy by class.
        groups: How many there are.
    """
    samples = np.bincount(group, minlength=groups)
    hits = np.bincount(group, weights=np.asarray(correct, np.float64), minlength=groups)
    return np.where(samples > 0, hits / np.maximum(samples, 1), np.nan)


def worst_group_accuracy(accuracy: np.ndarray) -> float:
    """The least accuracy of the groups that have images (Sagawa et al. 2020, arXiv 1911.08731).

    Of accuracies by class it is the worst class accuracy, which needs no attribute.

    Args:
        accuracy: float (groups,), as `accuracy_by_group` gives it.

    Raises:
        ValueError: No group has an image.
    """
    there = accuracy[~np.isnan(accuracy)]
    if not len(there):
        raise ValueError("No group has an image.")
    return float(there.min())


def worst_class_accuracy(correct: np.ndarray, y: np.ndarray, classes: int) -> float:
    """The least accuracy of the classes that have images.

    Args:
        correct: bool (n,).
        y: int (n,).
        classes: How many there are.

    Raises:
        ValueError: There is no image.
    """
    return worst_group_accuracy(accuracy_by_group(correct, y, classes))


def reweighted_accuracy(accuracy: np.ndarray, train_counts: np.ndarray) -> float:
    """Average accuracy re-weighted by training group counts: Σ n_g accuracy_g / Σ n_g.

    So the average of Waterbirds is told, whose validation and test splits are balanced as its training split is not
    (Sagawa et al. 2020, arXiv 1911.08731). Groups without an image to be judged are left out of both sums.

    Args:
        accuracy: float (groups,), as `accuracy_by_group` gives it.
        train_counts: int, as many numbers: images of each group in training, such as `counts(0)`.

    Raises:
        ValueError: Another number of counts, or no group that has images in training and to be judged.
    """
    counts = np.asarray(train_counts, np.float64).ravel()
    if counts.shape != np.shape(accuracy):
        raise ValueError(f"There are {np.size(accuracy)} accuracies and {counts.size} counts.")
    judged = ~np.isnan(accuracy)
    if not counts[judged].sum():
        raise ValueError("No group has images both in training and to be judged.")
    return float((counts[judged] * accuracy[judged]).sum() / counts[judged].sum())


# What people are told


def told(groups: GroupedImages) -> dict[str, Any]:
    """Names, counts and notes, JSON-able.

    Of each split that has images: `images`, `counts` (classes × attributes), `cramers_v` (0 when class and
    attribute are independent, 1 when one decides the other; None where the data say no attribute), and
    `smallest_group` of those that have images.
    """
    splits = {}
    for number, split in enumerate(SPLITS):
        counts = groups.counts(number)
        if counts.any():
            splits[split] = {
                "images": int(counts.sum()),
                "counts": counts.tolist(),
                "cramers_v": None if groups.attributes is None else cramers_v(counts),
                "smallest_group": _smallest(groups, counts),
            }
    return {
        "name": groups.name, "layout": groups.layout, "images": len(groups), "masks": int(groups.masked.sum()),
        "classes": list(groups.classes), "attributes": None if groups.attributes is None else list(groups.attributes),
        "fingerprint": groups.fingerprint, "splits": splits, "notes": list(groups.notes),
    }  # fmt: skip


def _smallest(groups: GroupedImages, counts: Counts) -> dict[str, Any]:
    flat = counts.ravel()
    there = np.flatnonzero(flat)
    least = int(there[flat[there].argmin()])
    return {"group": least, "name": groups.group_names[least], "images": int(flat[least])}


def summarise(groups: GroupedImages) -> str:
    """What `told` tells, as text: a table a split, then the notes."""
    said = told(groups)
    attributes = "no attribute" if groups.attributes is None else counted(len(groups.attributes), "attribute")
    classes = f"{len(groups.classes):,} class{'' if len(groups.classes) == 1 else 'es'}"
    masks = f", {counted(said['masks'], 'mask')}" if said["masks"] else ""
    blocks = [f"{groups.name} ({groups.layout}): {counted(len(groups), 'image')}, {classes}, {attributes}{masks}"]
    for name, split in said["splits"].items():
        bound = "" if split["cramers_v"] is None else f", Cramér's V {split['cramers_v']:.3f}"
        smallest = split["smallest_group"]
        kind = "class" if groups.attributes is None else "group"
        blocks.append("\n".join([
            f"{name}: {counted(split['images'], 'image')}{bound}",
            *_table(groups, np.array(split["counts"])),
            f"  smallest {kind}: {smallest['name']} ({smallest['images']:,})",
        ]))  # fmt: skip
    if groups.notes:
        blocks.append("\n".join(f"note: {note}" for note in groups.notes))
    return "\n\n".join(blocks)


def _table(groups: GroupedImages, counts: Counts) -> list[str]:
    """Lines of counts with totals; one line where they are too many."""
    if len(groups.classes) > MOST_CLASSES or len(groups.attributes or ()) > MOST_ATTRIBUTES:
        there = counts[counts > 0]
        return [f"  {counted(there.size, 'group')} of {counts.size:,}, of {there.min():,} to {there.max():,} images"]
    head, body = [""], [[name] for name in groups.classes]
    if groups.attributes is not None:
        head += groups.attributes
        body = [[name, *(f"{n:,}" for n in row)] for name, row in zip(groups.classes, counts.tolist(), strict=True)]
    rows = [[*head, "total"], *([*row, f"{n:,}"] for row, n in zip(body, counts.sum(1).tolist(), strict=True))]
    columns = counts.sum(0).tolist() if groups.attributes is not None else []
    rows.append(["total", *(f"{n:,}" for n in columns), f"{int(counts.sum()):,}"])
    return [f"  {line}" for line in align(rows)]


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells in columns, the first flush left, the others flush right."""
    widths = [max(map(text_width, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([pad(r[0], widths[0]), *(pad(c, w, right=True) for c, w in zip(r[1:], widths[1:], strict=True))])
        for r in rows
    ]


def empty_groups(groups: GroupedImages) -> Iterator[str]:
    """A sentence for each split that has images, but none of some group."""
    for number, split in enumerate(SPLITS):
        counts = groups.counts(number).ravel()
        bare = np.flatnonzero(counts == 0)
        if not len(bare) or not counts.any():
            continue
        names = listed((groups.group_names[group] for group in bare), 5)
        if groups.attributes is None:
            yield f"{split} has no image of {names}."
        else:
            there = f"the {counts.size - len(bare)} groups" if counts.size - len(bare) > 1 else "the one group"
            yield f"{split} has no image of {names}: its worst group is over {there} that it has."
