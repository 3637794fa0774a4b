"""Images that look alike, and cut-outs and scenes that several splits use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from figureground.checking import similar


@dataclass(frozen=True)
class DuplicateGroup:
    """A group of images that look alike, each like at least one other."""

    rows: tuple[int, ...]
    bits: int
    """Smallest Hamming distance of perceptual hashes within the group, 0 to 15."""


def find_duplicates(hashes: Sequence[bytes]) -> list[DuplicateGroup]:
    """Return groups of near-duplicates, nearest first; see `checking.similar`."""
    if len(hashes) < 2:
        return []
    first, second, bits = similar.find_pairs(similar.stack_hashes(list(hashes)))
    parent = {row: row for row in (*first.tolist(), *second.tolist())}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        parent[root(i)] = root(j)
    members: dict[int, list[int]] = {}
    for row in sorted(parent):
        members.setdefault(root(row), []).append(row)
    nearest: dict[int, int] = {}
    for i, distance in zip(first.tolist(), bits.tolist(), strict=True):
        nearest[root(i)] = min(distance, nearest.get(root(i), similar.BITS))
    return sorted(
        (DuplicateGroup(tuple(rows), nearest[group_root]) for group_root, rows in members.items()),
        key=lambda group: group.bits,
    )


@dataclass(frozen=True)
class Reuse:
    """Use of cut-outs or of scenes."""

    sources: int
    """Number of different ones."""
    images: int
    """Number of images made from one."""
    most: int
    """Largest number of images made from the same one."""
    shared: dict[str, tuple[int, ...]]
    """Those that several splits use: id, and the rows of all its images."""


def count_reuse(ids: Sequence[str | None], split: np.ndarray) -> Reuse | None:
    """Count the uses of cut-outs or scenes, matched by content; None if no image has one.

    Args:
        ids: For each image, `folder/name@hash`, or None.
        split: int (n,).
    """
    rows_of: dict[str, list[int]] = {}
    for row, id in enumerate(ids):
        if id is not None:
            rows_of.setdefault(id.rpartition("@")[2] or id, []).append(row)
    if not rows_of:
        return None
    shared = {
        str(ids[rows[0]]): tuple(rows)
        for rows in rows_of.values() if len(np.unique(split[rows])) > 1
    }  # fmt: skip
    counts = [len(rows) for rows in rows_of.values()]
    return Reuse(len(rows_of), sum(counts), max(counts), shared)
