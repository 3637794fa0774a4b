"""Which images train the features, which train the probes, and which test them.

No image is in two parts. Where a split has to be divided, images that were made from one photograph stay together, as
far as provenance says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, counted, listed, nearest_or_all
from figureground.data.splits import choose_splits
from figureground.disentangling.data import Labelled
from figureground.recipe.sample import derive_seed
from figureground.recipe.table import ANTI_CORRELATED, CORRELATED

PARTS = ("features", "probes", "test")
"""Purposes of a part's images."""


@dataclass(frozen=True, eq=False)
class Division:
    """The parts, as rows of the data, int64, ascending."""

    features: np.ndarray
    """Images that train the features and fit erasures."""
    probes: np.ndarray
    """Images that train the probes."""
    test: np.ndarray
    """Images that test the probes."""
    heads: np.ndarray
    """Images that train the heads of the task with a broken correlation."""
    correlated: np.ndarray
    """Images that test them, each class on its own background."""
    anti_correlated: np.ndarray
    """Images that test them, each class on other backgrounds."""
    paired: np.ndarray
    """bool (foregrounds, backgrounds): each class's own backgrounds."""
    notes: tuple[str, ...] = ()


def divide(
    cell: np.ndarray, objects: np.ndarray, scenes: np.ndarray, shares: Sequence[float], seed: int
) -> tuple[np.ndarray, bool]:
    """Divide images at random, cell by cell, so that no photograph is on two sides.

    Images are connected if they share an object or a scene. If a cell would then miss a side, as when few scenes are
    used with all objects, only objects are kept together.

    Args:
        cell: int (n,): the cell of each image, spread evenly.
        objects, scenes: int (n,): images with equal numbers share one; a negative scene is not known.
        shares: Sizes of the sides, which sum to 1.
        seed: Seed of the division.

    Returns:
        int64 (n,): the side of each image; and whether scenes are kept together too.
    """
    _, of_object = np.unique(objects, return_inverse=True)
    known = np.where(scenes < 0, -1 - np.arange(len(scenes)), scenes)
    _, of_scene = np.unique(known, return_inverse=True)
    side = _spread(cell, _connected(of_object, of_scene), shares, seed)
    if _complete(cell, side, len(shares)):
        return side, True
    return _spread(cell, of_object, shares, seed), False


def _spread(cell: np.ndarray, groups: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Return the side of each image, int64 (n,); images of one group are on one side."""
    rng = np.random.default_rng(derive_seed(seed, "division"))
    side = np.empty(groups.max() + 1, np.int64)
    counts = np.zeros((len(shares), int(cell.max()) + 1))
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    order = rng.permutation(len(members))
    wanted = np.asarray(shares)[:, None]
    # Large groups first, each to the side that lacks most of its cells: otherwise a cell could miss a side.
    for group in sorted(order.tolist(), key=lambda i: -len(members[i])):
        cells = cell[members[group]]
        total = counts[:, cells].sum(0) + 1
        lack = (wanted * total - counts[:, cells]).sum(1)
        side[group] = int(np.argmax(np.round(lack, 9)))
        np.add.at(counts[side[group]], cells, 1)
    return side[groups]


def _complete(cell: np.ndarray, side: np.ndarray, sides: int) -> bool:
    """Return whether each side has images of every cell that has enough of them."""
    counts = np.stack([np.bincount(cell[side == i], minlength=int(cell.max()) + 1) for i in range(sides)])
    return bool((counts[:, counts.sum(0) >= sides] > 0).all())


def _connected(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the number of each image's component, int64 (n,); images with an equal number in either are connected."""
    parent = np.arange(len(first))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for numbers in (first, second):
        begin: dict[int, int] = {}
        for i, number in enumerate(numbers.tolist()):
            parent[root(i)] = root(begin.setdefault(number, i))
    return np.unique([root(i) for i in range(len(first))], return_inverse=True)[1].astype(np.int64)


def assign(
    data: Labelled,
    given: Mapping[str, str | None],
    paired: np.ndarray,
    *,
    allow_empty: bool = False,
    seed: int = 0,
) -> Division:
    """Divide the images of a data set.

    With splits for train, validation and test, these train the features, train the probes, and test. With two, the
    training split is divided in halves for features and probes, and the other tests. A single split is divided: half
    for features, a quarter for probes, a quarter for tests.

    The task with a broken correlation trains heads on the probes' images whose class is on its own background, and
    tests on the test images. If the data have the splits `correlated` and `anti_correlated`, it uses those instead: it
    trains on one half of the former, and tests on its other half and on the latter.

    Args:
        given: Split of each part in `PARTS`, or None.
        paired: bool (foregrounds, backgrounds).
        allow_empty: Whether a part may lack cells that another has.
        seed: Seed of divisions.

    Raises:
        FiguregroundError: A part lacks a class, a background or a cell.
        RecipeError: A split doesn't exist, or is given for two parts.
    """
    notes: list[str] = []
    of_task = {CORRELATED, ANTI_CORRELATED} <= set(data.splits)
    usable = [name for name in data.splits if not of_task or name not in (CORRELATED, ANTI_CORRELATED)]
    parts = _chosen(data, given, usable) or _derived(data, usable, seed, notes)
    for name, rows in parts.items():
        _check(data, name, rows, allow_empty, notes)
    if of_task:
        one = _rows(data, CORRELATED)
        side, together = _divided(data, one, (0.5, 0.5), seed)
        heads, correlated, anti = one[side == 0], one[side == 1], _rows(data, ANTI_CORRELATED)
        if not together:
            notes.append(_shared(CORRELATED))
    else:
        own = paired[data.foreground, data.background]
        heads = parts["probes"][own[parts["probes"]]]
        correlated, anti = parts["test"][own[parts["test"]]], parts["test"][~own[parts["test"]]]
    return Division(
        parts["features"], parts["probes"], parts["test"], heads, correlated, anti, paired, tuple(notes)
    )  # fmt: skip


def _rows(data: Labelled, split: str) -> np.ndarray:
    return np.flatnonzero(data.images.split == data.splits.index(split))


def _divided(data: Labelled, rows: np.ndarray, shares: Sequence[float], seed: int) -> tuple[np.ndarray, bool]:
    return divide(data.cell[rows], data.objects[rows], data.scenes[rows], shares, seed)


def _chosen(data: Labelled, given: Mapping[str, str | None], usable: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Return the parts that were named; None if none was."""
    named = {part: split for part in PARTS if (split := given.get(part)) is not None}
    if not named:
        return None
    for part in PARTS:
        option = f"--{part}-split"
        if part not in named:
            raise RecipeError(
                option, f"this split is missing; name all of {listed(f'--{each}-split' for each in PARTS)}, or none."
            )
        if named[part] not in data.splits:
            raise RecipeError(
                option, f"{data.name} has no split {named[part]!r}{nearest_or_all(named[part], data.splits)}"
            )
        if list(named.values()).count(named[part]) > 1:
            raise RecipeError(
                option, f"{named[part]!r} is given for two parts, but the images that train the features, train the "
                "probes and test the probes must be separate. Give each part a split of its own."
            )  # fmt: skip
    return {part: _rows(data, named[part]) for part in PARTS}


def _derived(data: Labelled, usable: Sequence[str], seed: int, notes: list[str]) -> dict[str, np.ndarray]:
    numbers = dict(zip(usable, choose_splits(usable), strict=True))
    there = {number: name for name, number in numbers.items() if number is not None and len(_rows(data, name))}
    if set(there) == {0, 1, 2}:
        return {part: _rows(data, there[number]) for part, number in zip(PARTS, (0, 1, 2), strict=True)}
    if not there:
        raise RecipeError(
            "--features-split", f"{data.name} has the splits {listed(usable)}; name the one that trains the features, "
            "and give --probes-split and --test-split."
        )  # fmt: skip
    first = there.get(0, next(iter(there.values())))
    rest = [name for name in there.values() if name != first]
    rows = _rows(data, first)
    side, together = _divided(data, rows, (0.5, 0.5) if rest else (0.5, 0.25, 0.25), seed)
    if not together:
        notes.append(_shared(first))
    test = _rows(data, rest[0]) if rest else rows[side == 2]
    return {"features": rows[side == 0], "probes": rows[side == 1], "test": test}


def _shared(split: str) -> str:
    return (
        f"{split} was divided by object: so many images share its scenes that its parts share scenes, too. For parts "
        "that share no scene, build with the splits train, validation and test."
    )


def _check(data: Labelled, part: str, rows: np.ndarray, allow_empty: bool, notes: list[str]) -> None:
    """Refuse a part that lacks a label, or a cell that the data have."""
    role = {"features": "train the features", "probes": "train the probes", "test": "test"}[part]
    for what, names, label in (
        ("foreground", data.foregrounds, data.foreground), ("background", data.backgrounds, data.background)
    ):  # fmt: skip
        everywhere, here = np.unique(label), np.unique(label[rows])
        if len(everywhere) < 2:
            raise FiguregroundError(
                f"{data.name}: all images have the {what} {names[everywhere[0]]!r}. Separating features needs at least "
                f"two {what}s."
            )
        if lacking := sorted(set(everywhere.tolist()) - set(here.tolist())):
            raise FiguregroundError(
                f"{data.name}: of the images that {role}, none has the {what} "
                f"{listed((names[k] for k in lacking), 3)}. Build more images of it, or choose other splits "
                f"(--{part}-split)."
            )
    cells = sorted(set(data.cell.tolist()) - set(data.cell[rows].tolist()))
    if cells:
        told = listed((_cell_name(data, number) for number in cells), 3)
        lacks = f"of the images that {role} ({len(rows):,}), there is none of {counted(len(cells), 'cell')}: {told}"
        if not allow_empty:
            raise FiguregroundError(
                f"{data.name}: {lacks}. Build more images per cell, choose other splits (--{part}-split), or allow it "
                "with --allow-empty."
            )
        notes.append(f"{lacks[0].upper()}{lacks[1:]}.")


def _cell_name(data: Labelled, number: int) -> str:
    foreground, background = divmod(number, len(data.backgrounds))
    return f"{data.foregrounds[foreground]} on {data.backgrounds[background]}"
