"""Labelled images in groups: a class y and, if known, an attribute a that may correlate with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from figureground.core.errors import FiguregroundError, join_names, plural
from figureground.core.hashing import digest
from figureground.data.splits import SPLITS
from figureground.data.stores import DrawMask, ImageStore
from figureground.recipe.table import Counts
from figureground.sources.images import MASK_SUFFIX

if TYPE_CHECKING:
    from figureground.data.images import Draw


@dataclass(frozen=True, eq=False, kw_only=True)
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
    store: ImageStore
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
            others = [name for number, name in enumerate(SPLITS) if (self.split == number).any()]
            only = f", only in {join_names(others)}" if others else ""
            raise FiguregroundError(
                f"{self.name} has no image in the split {SPLITS[split]}{only}. Training needs train, validation and "
                "test; a D3S dataset gets them with --set 'per_cell={train: 10, validation: 2, test: 2}'."
            )
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
        """SHA-256 over names, keys, labels, and the content of files or the hashes of shards; independent of paths."""
        return digest({
            "classes": self.classes, "attributes": self.attributes, "keys": self.keys, "split": self.split.tolist(),
            "y": self.y.tolist(), "a": None if self.a is None else self.a.tolist(),
            "content": self.store.content(self.rows),
        })  # fmt: skip
