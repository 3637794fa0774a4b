"""Converts a data set's contents to `GroupedImages`: checks, splits, and notes."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from figureground.core.errors import FiguregroundError, plural
from figureground.core.hashing import content_hash
from figureground.core.names import RULE, describe_same_names, find_same_names
from figureground.data.data_source import DataSource
from figureground.data.groups import GroupedImages
from figureground.data.splits import SPLITS
from figureground.data.stores import FileStore, ImageStore
from figureground.data.summary import describe_empty_groups
from figureground.data.tables import Labels
from figureground.recipe.sample import derive_seed
from figureground.recipe.table import largest_remainder

MAX_COMPARED = 8
"""Maximum pairs of files compared by content when two splits look the same."""


DATASET = "dataset"
"""Layout of datasets built by this package."""


def make_record(
    source: DataSource,
    layout: str,
    keys: Sequence[str],
    split: np.ndarray,
    y: Labels,
    a: Labels | None,
    store: ImageStore,
    notes: Sequence[str] = (),
    rows: np.ndarray | None = None,
    given_split: np.ndarray | None = None,
) -> GroupedImages:
    """Make the record of a data set, and add notes about its splits and groups.

    Args:
        keys: Names of the images.
        split: int64 (n,).
        rows: Rows in the store, ascending; default: 0 to n − 1.
        given_split: int64 (n,): the splits before missing ones were completed; default: `split`.

    Raises:
        FiguregroundError: Data from elsewhere have only one class or two spellings of a name; or two images have the
            same key.
    """
    for kind, labels in (("classes", y), ("attributes", a)):
        # Datasets of this package were checked when they were built.
        if labels is not None and layout != DATASET and (same := find_same_names(labels[1])):
            raise FiguregroundError(
                f"{source.path}: {kind} {describe_same_names(same)}. {RULE}: use one spelling of each."
            )
    classes = np.unique(y[0])
    if len(classes) < 2 and layout != DATASET:  # generated images may be of one class, because they are added to others
        raise FiguregroundError(
            f"{source.path}: only one class, {y[1][classes[0]]!r}, in all {plural(len(keys), 'image')}. At least two "
            "classes are needed."
        )
    if len(set(keys)) < len(keys):
        raise FiguregroundError(f"{source.path}: two images have the same name; for a dataset, see figureground check.")
    groups = GroupedImages(
        name=source.name, layout=layout, classes=tuple(y[1]), attributes=None if a is None else tuple(a[1]),
        keys=tuple(keys), split=split, y=y[0], a=None if a is None else a[0], store=store,
        rows=np.arange(len(keys)) if rows is None else rows,
    )  # fmt: skip
    all_notes = [*notes, *(f"The {name} split is missing." for n, name in enumerate(SPLITS) if not (split == n).any())]
    all_notes += describe_empty_groups(groups)
    if a is not None and len(np.unique(a[0])) == 1:
        all_notes.append(f"All images have the same attribute, {a[1][a[0][0]]!r}, so groups equal classes.")
    if isinstance(store, FileStore):
        all_notes += _note_same_splits(store, split if given_split is None else given_split)
    return replace(groups, notes=tuple(all_notes))


def _note_same_splits(files: FileStore, split: np.ndarray) -> Iterator[str]:
    """Yield notes on splits with the same images under other paths, by names, sizes, and contents of some files."""
    files_by_split = [
        sorted(
            (posixpath.basename(files.names[row]), int(files.sizes[row]), row)
            for row in np.flatnonzero(split == n).tolist()
        )
        for n in range(len(SPLITS))
    ]

    def have_same_content(pair: tuple[tuple[str, int, int], tuple[str, int, int]]) -> bool:
        one, other = (content_hash(files.root / files.names[row]) for _, _, row in pair)
        return one == other

    for a, b in itertools.combinations(range(len(SPLITS)), 2):
        first, second = files_by_split[a], files_by_split[b]
        if not first or [file[:2] for file in first] != [file[:2] for file in second]:
            continue
        pairs = list(zip(first, second, strict=True))
        if all(map(have_same_content, pairs[:: -(-len(pairs) // MAX_COMPARED)])):
            yield f"{SPLITS[a]} and {SPLITS[b]} contain the same images under other paths."


SHARES = (0.70, 0.15, 0.15)
"""Shares of each group for train, validation and test if no splits are given. If only validation is missing, the same
share is taken from training."""


def complete_splits(
    keys: Sequence[str],
    y: Labels,
    a: Labels | None,
    split: np.ndarray,
    files: FileStore,
    *,
    has_splits: bool,
    seed: int,
) -> tuple[np.ndarray, list[str]]:
    """Complete missing splits with training images; return the splits, and a note about the images moved.

    Args:
        keys: Names of the images.
        files: The images; copies of a file are put into one split.
        split: int64 (n,).
        has_splits: Whether folders define splits; otherwise all splits are drawn.
    """
    cells, kind = (y[0], "class") if a is None else (len(a[1]) * y[0] + a[0], "group")
    if not has_splits:
        shares = ", ".join(f"{share:.0%} {name}" for share, name in zip(SHARES, SPLITS, strict=True))
        note = f"No splits are given: each {kind} is divided into {shares}, with the seed {seed}."
        return split_off(keys, cells, split, SHARES, seed, files.objects(np.arange(len(keys)))), [note]
    if (split == 0).any() and not (split == 1).any():
        note = (
            f"The validation folder is missing: {SHARES[1]:.0%} of each {kind} of train is used instead, chosen with "
            f"the seed {seed}."
        )
        shares_kept = (1 - SHARES[1], SHARES[1])
        return split_off(keys, cells, split, shares_kept, seed, files.objects(np.arange(len(keys)))), [note]
    return split, []


def split_off(
    keys: Sequence[str], cells: np.ndarray, split: np.ndarray, shares: Sequence[float], seed: int, objects: np.ndarray
) -> np.ndarray:
    """Move shares of each group's training images to other splits, chosen only by key and seed.

    Images of one object stay together, so shares are not exact where there are copies.

    Args:
        keys: Names of the images.
        cells: int (n,): the group of each image.
        split: int64 (n,).
        shares: Shares for train, validation and test, which add up to 1.
        objects: int64 (n,): images with equal numbers show one object.

    Returns:
        The new splits, int64 (n,).
    """
    split = split.copy()
    order_of_row = {row: derive_seed(seed, "split", keys[row]) for row in np.flatnonzero(split == 0).tolist()}
    order_of_object: dict[int, int] = {}
    for row, order in order_of_row.items():
        number = int(objects[row])
        order_of_object[number] = min(order, order_of_object.get(number, order))
    # Copies stand side by side, so only those at the end of a split's share would be separated.
    ordered = sorted(order_of_row, key=lambda row: (order_of_object[int(objects[row])], order_of_row[row]))
    rows_by_cell: dict[int, list[int]] = {}
    for row in ordered:
        rows_by_cell.setdefault(int(cells[row]), []).append(row)
    for rows in rows_by_cell.values():
        split[rows] = np.repeat(np.arange(len(shares)), largest_remainder(np.array(shares), len(rows)))
    split_of_object: dict[int, int] = {}
    for row in ordered:
        split[row] = split_of_object.setdefault(int(objects[row]), int(split[row]))
    return split
