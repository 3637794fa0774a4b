"""From what was read of a data set to `GroupedImages`: what was asked for, checks, splits, and notes about them."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from figureground.core.errors import FiguregroundError, counted
from figureground.core.names import RULE, describe_same, same_names
from figureground.data.groups import Files, GroupedImages, Store, empty_groups
from figureground.data.splits import SPLITS
from figureground.data.tables import Labels
from figureground.recipe.sample import derive_seed
from figureground.recipe.table import largest_remainder
from figureground.sources.images import content_hash

METADATA = "metadata.csv"
"""What tables are called that come with a data set."""
CELEBA = ("list_attr_celeba.csv", "list_attr_celeba.txt")
"""What CelebA's table of attributes is called."""

COMPARED = 8
"""Pairs of files that are compared byte by byte where two splits look the same."""


@dataclass(frozen=True)
class Asked:
    """What someone asked to be read."""

    path: Path
    """As it was given."""
    at: Path
    """What decides the layout: a table, or a directory."""
    root: Path | None = None
    """Where files lie that a table names; its own directory unless said otherwise."""
    y: str | None = None
    a: str | None = None
    """One name, or several with commas between, whose values are crossed."""
    file: str | None = None
    """Which column of a table names the files."""
    split: str | None = None
    """Which column of a table says the split."""
    seed: int = 0

    @property
    def name(self) -> str:
        """What the data set is called: its directory, or a table that was given and has a name of its own."""
        if self.path.is_dir():
            return self.path.resolve().name
        return self.at.resolve().parent.name if self.at.name in (METADATA, *CELEBA) else self.at.stem


DATASET = "dataset"
"""The layout of what was built here."""


def make_record(
    asked: Asked,
    layout: str,
    keys: Sequence[str],
    split: np.ndarray,
    y: Labels,
    a: Labels | None,
    store: Store,
    notes: Sequence[str] = (),
    rows: np.ndarray | None = None,
) -> GroupedImages:
    """The record of what was read, with notes about its splits and groups added.

    Args:
        keys: Names of the images.
        split: int64 (n,).
        rows: Where in the store they lie, ascending; in this order unless said otherwise.

    Raises:
        FiguregroundError: There is one class only, or a name in two spellings, in data that aren't a dataset of ours;
            or two images have one key.
    """
    for what, labels in (("classes", y), ("attributes", a)):
        # What was built here was checked when it was built.
        if labels is not None and layout != DATASET and (same := same_names(labels[1])):
            raise FiguregroundError(
                f"{asked.path}: there are the {what} {describe_same(same)}. {RULE}: use one spelling of each."
            )
    there = np.unique(y[0])
    if len(there) < 2 and layout != DATASET:  # images of one class may be made, to be added to others
        raise FiguregroundError(
            f"{asked.path}: it has one class only, {y[1][there[0]]!r}, in all {counted(len(keys), 'image')}. It "
            "takes two to learn to tell them apart."
        )
    if len(set(keys)) < len(keys):
        raise FiguregroundError(f"{asked.path}: two images have one name. figureground check says more of a dataset.")
    groups = GroupedImages(
        asked.name, layout, tuple(y[1]), None if a is None else tuple(a[1]), tuple(keys), split, y[0],
        None if a is None else a[0], store, np.arange(len(keys)) if rows is None else rows,
    )  # fmt: skip
    told = [*notes, *(f"There is no {name} split." for n, name in enumerate(SPLITS) if not (split == n).any())]
    told += empty_groups(groups)
    if a is not None and len(np.unique(a[0])) == 1:
        told.append(f"All images have one attribute, {a[1][a[0][0]]!r}: a group is a class.")
    if isinstance(store, Files):
        told += _same_splits(store, split)
    return replace(groups, notes=tuple(told))


def _same_splits(files: Files, split: np.ndarray) -> Iterator[str]:
    """Notes about splits that hold the same images under other paths, by names, sizes, and the bytes of some."""
    order = [
        sorted(
            (posixpath.basename(files.names[row]), int(files.sizes[row]), row)
            for row in np.flatnonzero(split == n).tolist()
        )
        for n in range(len(SPLITS))
    ]

    def same(pair: tuple[tuple[str, int, int], tuple[str, int, int]]) -> bool:
        one, other = (content_hash(files.root / files.names[row]) for _, _, row in pair)
        return one == other

    for a, b in itertools.combinations(range(len(SPLITS)), 2):
        if not order[a] or [each[:2] for each in order[a]] != [each[:2] for each in order[b]]:
            continue
        pairs = list(zip(order[a], order[b], strict=True))
        if all(map(same, pairs[:: -(-len(pairs) // COMPARED)])):
            yield f"{SPLITS[a]} and {SPLITS[b]} hold the same images under other paths."


SHARES = (0.70, 0.15, 0.15)
"""Of each group, what becomes train, validation and test where nothing says the splits. Where only validation is
missing, training gives up as much."""


def complete_splits(
    keys: Sequence[str], y: Labels, a: Labels | None, split: np.ndarray, said: bool, seed: int
) -> tuple[np.ndarray, list[str]]:
    """Splits, and a note about what was taken of training for those that nothing says.

    Args:
        keys: Names of the images.
        split: int64 (n,).
        said: Whether folders say splits; without, all are drawn.
    """
    cells, kind = (y[0], "class") if a is None else (len(a[1]) * y[0] + a[0], "group")
    if not said:
        told = ", ".join(f"{share:.0%} {name}" for share, name in zip(SHARES, SPLITS, strict=True))
        note = f"Nothing says the splits: of each {kind}, {told}, chosen with the seed {seed}."
        return split_off(keys, cells, split, SHARES, seed), [note]
    if (split == 0).any() and not (split == 1).any():
        note = (
            f"There is no folder of validation: {SHARES[1]:.0%} of each {kind} of train is taken for it, chosen with "
            f"the seed {seed}."
        )
        return split_off(keys, cells, split, (1 - SHARES[1], SHARES[1]), seed), [note]
    return split, []


def split_off(
    keys: Sequence[str], cells: np.ndarray, split: np.ndarray, shares: Sequence[float], seed: int
) -> np.ndarray:
    """Shares of each group's training images become other splits, chosen by key and seed alone.

    Args:
        keys: Names of the images.
        cells: int (n,): the group of each.
        split: int64 (n,).
        shares: What stays train, and what becomes validation and test; they add up to 1.

    Returns:
        The new splits, int64 (n,).
    """
    split = split.copy()
    for cell in np.unique(cells):
        rows = np.flatnonzero((cells == cell) & (split == 0))
        order = sorted(rows.tolist(), key=lambda row: derive_seed(seed, "split", keys[row]))
        split[order] = np.repeat(np.arange(len(shares)), largest_remainder(np.array(shares), len(rows)))
    return split
