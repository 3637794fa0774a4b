"""Which images train the features, which train the probes, and which test them.

No image is in two parts. Where a split has to be divided, images that were made from one photograph stay together, as
far as provenance says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural, suggest_or_list
from figureground.data.splits import choose_splits
from figureground.disentangling.data import LabelledImages
from figureground.recipe.sample import derive_seed
from figureground.recipe.table import ANTI_CORRELATED, CORRELATED

PARTS = ("features", "probes", "test")
"""Purposes of a part's images."""
_ROLES = {"features": "train the features", "probes": "train the probes", "test": "test"}
_EARLIER_ROLES = {"probes": "trains the features", "test": "trains the features or the probes"}


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
    _, object_index = np.unique(objects, return_inverse=True)
    scene_ids = np.where(scenes < 0, -1 - np.arange(len(scenes)), scenes)
    _, scene_index = np.unique(scene_ids, return_inverse=True)
    side = _assign_sides(cell, _find_components(object_index, scene_index), shares, seed)
    if _covers_cells(cell, side, len(shares)):
        return side, True
    return _assign_sides(cell, object_index, shares, seed), False


def _assign_sides(cell: np.ndarray, groups: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Return the side of each image, int64 (n,); images of one group are on one side."""
    rng = np.random.default_rng(derive_seed(seed, "division"))
    side = np.empty(groups.max() + 1, np.int64)
    counts = np.zeros((len(shares), int(cell.max()) + 1))
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    order = rng.permutation(len(members))
    target_shares = np.asarray(shares)[:, None]
    # Large groups first, each to the side that lacks most of its cells: otherwise a cell could miss a side.
    for group in sorted(order.tolist(), key=lambda i: -len(members[i])):
        cells = cell[members[group]]
        total = counts[:, cells].sum(0) + 1
        deficit = (target_shares * total - counts[:, cells]).sum(1)
        side[group] = int(np.argmax(np.round(deficit, 9)))
        np.add.at(counts[side[group]], cells, 1)
    return side[groups]


def _covers_cells(cell: np.ndarray, side: np.ndarray, sides: int) -> bool:
    """Return whether each side has images of every cell that has enough of them."""
    counts = np.stack([np.bincount(cell[side == i], minlength=int(cell.max()) + 1) for i in range(sides)])
    return bool((counts[:, counts.sum(0) >= sides] > 0).all())


def _find_components(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the number of each image's component, int64 (n,); images with an equal number in either are connected."""
    parent = np.arange(len(first))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for numbers in (first, second):
        first_rows: dict[int, int] = {}
        for i, number in enumerate(numbers.tolist()):
            parent[root(i)] = root(first_rows.setdefault(number, i))
    return np.unique([root(i) for i in range(len(first))], return_inverse=True)[1].astype(np.int64)


def assign(
    data: LabelledImages,
    requested: Mapping[str, str | None],
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
        requested: Split of each part in `PARTS`, or None.
        paired: bool (foregrounds, backgrounds).
        allow_empty: Whether a part may lack cells that another has.
        seed: Seed of divisions.

    Raises:
        FiguregroundError: A part lacks a class, a background or a cell.
        RecipeError: A split doesn't exist, or is given for two parts.
    """
    notes: list[str] = []
    has_task_splits = {CORRELATED, ANTI_CORRELATED} <= set(data.splits)
    usable = [name for name in data.splits if not has_task_splits or name not in (CORRELATED, ANTI_CORRELATED)]
    parts = _use_named_splits(data, requested) or _derive_parts(data, usable, seed, notes)
    for name, rows in parts.items():
        _check_part(data, name, rows, allow_empty, notes)
    notes.extend(_note_shared_objects(data, parts))
    if has_task_splits:
        correlated = _find_rows(data, CORRELATED)
        side, keeps_scenes = _divide_rows(data, correlated, (0.5, 0.5), seed)
        heads, correlated, anti_correlated = (
            correlated[side == 0],
            correlated[side == 1],
            _find_rows(data, ANTI_CORRELATED),
        )
        if not keeps_scenes:
            notes.append(_note_shared_scenes(CORRELATED))
    else:
        is_paired = paired[data.foreground, data.background]
        probes, test = parts["probes"], parts["test"]
        heads, correlated, anti_correlated = probes[is_paired[probes]], test[is_paired[test]], test[~is_paired[test]]
    return Division(
        parts["features"], parts["probes"], parts["test"], heads, correlated, anti_correlated, paired, tuple(notes)
    )  # fmt: skip


def _find_rows(data: LabelledImages, split: str) -> np.ndarray:
    return np.flatnonzero(data.images.split == data.splits.index(split))


def _divide_rows(data: LabelledImages, rows: np.ndarray, shares: Sequence[float], seed: int) -> tuple[np.ndarray, bool]:
    return divide(data.cell[rows], data.objects[rows], data.scenes[rows], shares, seed)


def _use_named_splits(data: LabelledImages, requested: Mapping[str, str | None]) -> dict[str, np.ndarray] | None:
    """Return the parts that were named; None if none was."""
    split_names = {part: split for part in PARTS if (split := requested.get(part)) is not None}
    if not split_names:
        return None
    for part in PARTS:
        option = f"--{part}-split"
        if part not in split_names:
            raise RecipeError(
                option,
                f"this split is missing; name all of {join_names(f'--{name}-split' for name in PARTS)}, or none.",
            )
        if split_names[part] not in data.splits:
            raise RecipeError(
                option,
                f"{data.name} has no split {split_names[part]!r}{suggest_or_list(split_names[part], data.splits)}",
            )
        if list(split_names.values()).count(split_names[part]) > 1:
            raise RecipeError(
                option, f"{split_names[part]!r} is given for two parts, but the images that train the features, train "
                "the probes and test the probes must be separate. Give each part a split of its own."
            )  # fmt: skip
    return {part: _find_rows(data, split_names[part]) for part in PARTS}


def _derive_parts(data: LabelledImages, usable: Sequence[str], seed: int, notes: list[str]) -> dict[str, np.ndarray]:
    numbers_by_name = dict(zip(usable, choose_splits(usable), strict=True))
    names_by_number = {
        number: name for name, number in numbers_by_name.items() if number is not None and len(_find_rows(data, name))
    }
    if set(names_by_number) == {0, 1, 2}:
        return {part: _find_rows(data, names_by_number[number]) for part, number in zip(PARTS, (0, 1, 2), strict=True)}
    if not names_by_number:
        raise RecipeError(
            "--features-split",
            f"{data.name} has the splits {join_names(usable)}; name the one that trains the features, "
            "and give --probes-split and --test-split."
        )  # fmt: skip
    first = names_by_number.get(0, next(iter(names_by_number.values())))
    other_names = [name for name in names_by_number.values() if name != first]
    rows = _find_rows(data, first)
    side, keeps_scenes = _divide_rows(data, rows, (0.5, 0.5) if other_names else (0.5, 0.25, 0.25), seed)
    if not keeps_scenes:
        notes.append(_note_shared_scenes(first))
    test = _find_rows(data, other_names[0]) if other_names else rows[side == 2]
    return {"features": rows[side == 0], "probes": rows[side == 1], "test": test}


def _note_shared_scenes(split: str) -> str:
    return (
        f"{split} was divided by object: so many images share its scenes that its parts share scenes, too. For parts "
        "that share no scene, build with the splits train, validation and test."
    )


def _check_part(data: LabelledImages, part: str, rows: np.ndarray, allow_empty: bool, notes: list[str]) -> None:
    """Refuse a part that lacks a label, or a cell that the data have."""
    role = _ROLES[part]
    for side, names, label in (
        ("foreground", data.foregrounds, data.foreground), ("background", data.backgrounds, data.background)
    ):  # fmt: skip
        labels_in_data, labels_in_part = np.unique(label), np.unique(label[rows])
        if len(labels_in_data) < 2:
            raise FiguregroundError(
                f"{data.name}: all images have the {side} {names[labels_in_data[0]]!r}. Separating features needs at "
                f"least two {side}s."
            )
        if missing := sorted(set(labels_in_data.tolist()) - set(labels_in_part.tolist())):
            raise FiguregroundError(
                f"{data.name}: of the images that {role}, none has the {side} "
                f"{join_names((names[k] for k in missing), 3)}. Build more images of it, or choose other splits "
                f"(--{part}-split)."
            )
    cells = sorted(set(data.cell.tolist()) - set(data.cell[rows].tolist()))
    if cells:
        cell_names = join_names((_cell_name(data, number) for number in cells), 3)
        problem = (
            f"of the images that {role} ({len(rows):,}), there is none of {plural(len(cells), 'cell')}: {cell_names}"
        )
        if not allow_empty:
            raise FiguregroundError(
                f"{data.name}: {problem}. Build more images per cell, choose other splits (--{part}-split), or allow "
                "it with --allow-empty."
            )
        notes.append(f"{problem[0].upper()}{problem[1:]}.")


def _note_shared_objects(data: LabelledImages, parts: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield notes on images that aren't independent of an earlier part, such as copies in another split."""
    for i, part in enumerate(PARTS[1:], start=1):
        earlier = np.concatenate([parts[name] for name in PARTS[:i]])
        if num_shared := int(np.isin(data.objects[parts[part]], data.objects[earlier]).sum()):
            yield (
                f"Of the images that {_ROLES[part]} ({len(parts[part]):,}), {num_shared:,} show an object of an image "
                f"that {_EARLIER_ROLES[part]}, or are copies of it, so accuracy is partly measured on images seen "
                "in training."
            )


def _cell_name(data: LabelledImages, number: int) -> str:
    foreground, background = divmod(number, len(data.backgrounds))
    return f"{data.foregrounds[foreground]} on {data.backgrounds[background]}"
