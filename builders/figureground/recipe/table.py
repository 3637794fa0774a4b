"""Tables of images per foreground × background cell, and the correlation of the labels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from figureground.core.errors import RecipeError, join_names, suggest
from figureground.core.names import Lookup
from figureground.core.shares import round_to_total
from figureground.recipe.classes import open_table
from figureground.recipe.sample import derive_seed


@with_config(ConfigDict(extra="allow", strict=True, allow_inf_nan=False))  # `read_table` names the nearest known name
class Correlation(TypedDict, total=False):
    """A recipe's `table` of correlated labels; see `read_table`."""

    kind: str
    correlation: float | str
    bias_aligned_share: float | str
    pairing: str | dict[str, str | list[str]] | None
    split_pair: bool
    path: str


RENAMED = {"strength": "correlation", "paired_share": "bias_aligned_share"}
"""Earlier names of settings."""
CORRELATED, ANTI_CORRELATED = "correlated", "anti_correlated"
"""Splits of a split pair: each class on its own backgrounds only, and on all others only."""
MAX_PER_CELL = 1_000_000_000
"""Largest number of images in a cell; the total of all cells then fits into 64 bits."""
MAX_CELLS = 10_000_000
"""Largest number of cells in a table: enough for 21,000 classes on 400 backgrounds."""

Counts = np.ndarray
"""int64 (foregrounds, backgrounds): images per cell."""

_EPSILON = 1e-9
"""Tolerance for floating-point errors, so that they don't change counts."""


def uniform_counts(foregrounds: int, backgrounds: int, per_cell: int) -> Counts:
    return np.full((foregrounds, backgrounds), per_cell, np.int64)


def largest_remainder(weights: np.ndarray, total: int) -> np.ndarray:
    """Return whole numbers in proportion to `weights` that sum to `total`; ties go to the first."""
    counts, remainders = _split_quota(weights / weights.sum() * total)
    return np.array(round_to_total(counts.tolist(), remainders.tolist(), total), np.int64)


def _split_quota(quota: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whole parts and remainders, rounded so that floating-point errors don't break ties."""
    counts = np.floor(quota + _EPSILON).astype(np.int64)
    return counts, np.round(quota - counts, 9)


def correlated_counts(
    paired: np.ndarray, per_cell: int, correlation: float, seed: int = 0, existing: Counts | None = None
) -> Counts:
    """Return counts between uniform (`correlation` 0) and paired cells only (1); every class keeps its total.

    count = (1 - correlation) * uniform + correlation * paired, rounded over the whole table. The number of images in
    paired cells is the nearest whole number to the exact one, divided among classes by largest remainder. Within a
    class, the remaining images go to the backgrounds that lack most, so that none is favoured. The seed breaks ties.

    Args:
        paired: bool (foregrounds, backgrounds), True where a class is paired with a background.
        per_cell: Images per cell of the uniform table; a class has `per_cell * backgrounds`.
        correlation: From 0 to 1.
        seed: Breaks ties among classes and among backgrounds.
        existing: Existing images per cell, from a smaller `per_cell`; no cell gets fewer. Without it, a cell that was
            rounded up before could be rounded down in a larger table.

    Returns:
        int64 (foregrounds, backgrounds); each is its exact count rounded down or up.
    """
    backgrounds = paired.shape[1]
    total = per_cell * backgrounds
    favoured = np.where(
        paired.any(1, keepdims=True), paired / np.maximum(1, paired.sum(1, keepdims=True)), 1 / backgrounds
    )
    quota = ((1 - correlation) / backgrounds + correlation * favoured) * total
    class_ties, background_ties = (
        np.array([derive_seed(seed, "table", axis, str(i)) for i in range(n)])
        for axis, n in zip(("class", "background"), paired.shape, strict=True)
    )
    paired_quota = (quota * paired).sum(1)
    in_pairs, remainders = _split_quota(paired_quota)
    remaining = math.floor(paired_quota.sum() + 0.5 + _EPSILON) - int(in_pairs.sum())
    in_pairs[np.lexsort((class_ties, -remainders))[:remaining]] += 1

    counts, expected = np.zeros(paired.shape, np.int64), quota.sum(0)
    for cells, images in ((paired, in_pairs), (~paired, total - in_pairs)):
        whole_parts, remainders = _split_quota(np.where(cells, quota, 0))
        counts += whole_parts
        deficit = expected - counts.sum(0)
        for f in np.argsort(class_ties):
            order = np.lexsort((background_ties, -np.round(deficit, 9), -remainders[f], ~cells[f]))
            chosen = order[: int(images[f] - whole_parts[f].sum())]
            counts[f, chosen] += 1
            deficit[chosen] -= 1
    if existing is not None:
        _keep_existing(counts, existing, quota, paired, background_ties)
    return counts


def _keep_existing(counts: Counts, existing: Counts, quota: np.ndarray, paired: np.ndarray, ties: np.ndarray) -> None:
    """Raise counts to at least `existing`, in place, and take as many images from other cells of the same class.

    Images are taken from the cells furthest above their exact count: first from paired cells for a paired cell, and
    from unpaired ones for an unpaired cell. A class with fewer images in total than before stays unchanged.
    """
    for f in np.flatnonzero((counts < existing).any(1) & (counts.sum(1) >= existing.sum(1))):
        for b in np.flatnonzero(counts[f] < existing[f]):
            for _ in range(int(existing[f, b] - counts[f, b])):
                excess = np.round(counts[f] - quota[f], 9)
                order = np.lexsort((ties, -excess, paired[f] != paired[f, b], counts[f] <= existing[f]))
                counts[f, order[0]] -= 1
                counts[f, b] += 1


def split_pair_counts(paired: np.ndarray, per_cell: Mapping[str, int], seed: int = 0,
               existing: Mapping[str, Counts] | None = None) -> dict[str, Counts]:  # fmt: skip
    """Return counts of the splits of D3S's task with a broken correlation (Kattakinda et al. 2022); others are uniform.

    `CORRELATED` has images in paired cells only, `ANTI_CORRELATED` in the others only. Every class keeps its total.

    Args:
        paired: bool (foregrounds, backgrounds).
        per_cell: Images per cell of the uniform table, by split.
        seed: Breaks ties.
        existing: Existing images per cell, by split; see `correlated_counts`.

    Raises:
        RecipeError: A split of the pair is missing, or a class is paired with every background.
    """
    for name in (CORRELATED, ANTI_CORRELATED):
        if name not in per_cell:
            raise RecipeError(
                "table.split_pair", f"per_cell has no split {name!r}; it needs {CORRELATED!r} and {ANTI_CORRELATED!r}."
            )
    if paired.all(1).any():
        raise RecipeError(
            "table.split_pair",
            "a class is paired with every background, so none is left for anti_correlated. Pair it with fewer.",
        )
    cells = {CORRELATED: paired, ANTI_CORRELATED: ~paired}
    return {
        split: correlated_counts(
            cells[split], n, 1.0, derive_seed(seed, "split", split), existing[split] if existing else None
        ) if split in cells else uniform_counts(paired.shape[0], paired.shape[1], n)
        for split, n in per_cell.items()
    }  # fmt: skip


def find_planned_gaps(value: Any, split: str, paired: np.ndarray | None) -> np.ndarray | None:
    """Return the cells of a split that a recipe's `table` leaves empty on purpose, bool; None if there are none."""
    if not (isinstance(value, Mapping) and value.get("split_pair")) or paired is None:
        return None
    return {CORRELATED: ~paired, ANTI_CORRELATED: paired}.get(split)


def correlation_for_share(paired: np.ndarray, share: float) -> float:
    """Return the correlation at which the share `share` of the images is in paired cells.

    Raises:
        RecipeError: The share is lower than with independent labels, or above 1.
    """
    chance = float(paired.mean())
    if not chance <= share <= 1:
        raise RecipeError(
            "table.bias_aligned_share", f"{share} is not from {chance:.3g} (the share with independent labels) to 1."
        )
    return 1.0 if chance == 1 else (share - chance) / (1 - chance)


def read_pairing(value: Any, foregrounds: Sequence[str], backgrounds: Sequence[str]) -> np.ndarray:
    """Resolve `pairing`: `diagonal` (class i with background i modulo the number of backgrounds), or a mapping of
    class names to one or several backgrounds.

    Returns:
        bool (foregrounds, backgrounds), True for paired cells.

    Raises:
        RecipeError: A name isn't in the recipe, or a class has no background.
    """
    paired = np.zeros((len(foregrounds), len(backgrounds)), bool)
    if value in (None, "diagonal"):
        paired[np.arange(len(foregrounds)), np.arange(len(foregrounds)) % len(backgrounds)] = True
        return paired
    if not isinstance(value, Mapping):
        raise RecipeError("table.pairing", f"{value!r} is neither 'diagonal' nor a mapping of classes to backgrounds.")
    classes, scenes = Lookup(foregrounds), Lookup(backgrounds)
    for name, partners in value.items():
        matches = classes.find(str(name))
        if not matches:
            raise RecipeError("table.pairing", f"there is no class {name!r}{suggest(name, foregrounds)}")
        if not isinstance(partners, str | Sequence):
            raise RecipeError("table.pairing", f"{name}: {partners!r} is neither a background nor a list of them.")
        for partner in [partners] if isinstance(partners, str) else partners:
            background_matches = scenes.find(str(partner))
            if not background_matches:
                raise RecipeError(
                    "table.pairing", f"{name}: there is no background {partner!r}{suggest(partner, backgrounds)}"
                )
            paired[foregrounds.index(matches[0]), backgrounds.index(background_matches[0])] = True
    unpaired = [f for f, row in zip(foregrounds, paired, strict=True) if not row.any()]
    if unpaired:
        raise RecipeError(
            "table.pairing", f"{len(unpaired)} classes are paired with no background: {join_names(unpaired, 5)}."
        )
    return paired


def read_counts_csv(
    path: Path, splits: Sequence[str], foregrounds: Sequence[str], backgrounds: Sequence[str]
) -> dict[str, Counts]:
    """Read a CSV `foreground,background,count[,split]`; a row without a split applies to every split.

    Raises:
        RecipeError: A name is unknown, a count isn't a whole number, or a cell occurs twice; with the line.
    """
    if not path.is_file():
        raise RecipeError("table", f"{path.name!r} is neither 'uniform', 'correlated' nor the path of a CSV.")
    tables = {s: np.zeros((len(foregrounds), len(backgrounds)), np.int64) for s in splits}
    line_of_cell: dict[tuple[str, int, int], int] = {}
    axes = [_Axis("foreground", foregrounds), _Axis("background", backgrounds)]
    with open_table(path, "table", "foreground", "background", "count") as table:
        for line, row in table.records():
            where = f"{table.name}, line {line}"
            f, b = (axis.position(where, row[axis.column]) for axis in axes)
            count = row["count"]
            if not re.fullmatch(r"[0-9]{1,18}", count) or int(count) > MAX_PER_CELL:
                raise RecipeError(
                    "table", f"{where}: count {count[:30]!r} is not a whole number of images, 0 to {MAX_PER_CELL:,}."
                )
            split = row.get("split", "")
            if split and split not in splits:
                raise RecipeError("table", f"{where}: there is no split {split!r}{suggest(split, splits)}")
            for name in [split] if split else splits:
                if (name, f, b) in line_of_cell:
                    raise RecipeError(
                        "table", f"{where}: this cell of {name} was given in line {line_of_cell[name, f, b]} already."
                    )
                line_of_cell[name, f, b] = line
                tables[name][f, b] = int(row["count"])
    return tables


class _Axis:
    """Names of a table's rows or columns, compared by `core.names.name_key`."""

    def __init__(self, column: str, names: Sequence[str]):
        self.column = column
        self._names = names
        self._lookup = Lookup(names)
        self._places = {name: place for place, name in enumerate(names)}

    def position(self, where: str, name: str) -> int:
        """Return the position of a name; raise RecipeError with `where` if it is unknown."""
        if not (matches := self._lookup.find(name)):
            raise RecipeError("table", f"{where}: there is no {self.column} {name!r}{suggest(name, self._names)}")
        return self._places[matches[0]]


_SETTINGS_BY_KIND: Mapping[str, Sequence[str]] = {
    "uniform": (),
    "csv": ("path",),
    "correlated": ("correlation", "bias_aligned_share", "pairing", "split_pair"),
}


def read_table(
    value: Any,
    per_cell: Mapping[str, int],
    foregrounds: Sequence[str],
    backgrounds: Sequence[str],
    seed: int = 0,
    existing: Mapping[str, Counts] | None = None,
) -> tuple[dict[str, Counts], dict[str, np.ndarray]]:
    """Resolve a recipe's `table` into counts by split, and the pairings of correlated splits.

    Args:
        value: `uniform`; `correlated` or a mapping with `kind: correlated`, `correlation` or `bias_aligned_share`, and
            `pairing`, or with `split_pair`; the path of a CSV, or a mapping with `path`; or a mapping of split names to
            any of these.
        per_cell: Images per cell of the uniform table, by split.
        foregrounds: Names of the classes.
        backgrounds: Names of the backgrounds.
        seed: Breaks ties in rounding.
        existing: Counts of a dataset to extend, by split; no cell gets fewer by rounding.

    Returns:
        Counts by split, and pairings, bool (foregrounds, backgrounds), by split.

    Raises:
        RecipeError: A part of `value` is invalid; the error names it.
    """
    splits = list(per_cell)
    if len(foregrounds) * len(backgrounds) > MAX_CELLS:
        raise RecipeError(
            "backgrounds",
            f"{len(foregrounds):,} classes on {len(backgrounds):,} backgrounds are more than {MAX_CELLS:,} cells.",
        )
    if isinstance(value, Mapping) and value and set(value) <= set(splits):
        counts, pairings = {}, {}
        for split in splits:
            split_counts, pairing = read_table(
                value.get(split, "uniform"), {split: per_cell[split]}, foregrounds, backgrounds, seed, existing
            )
            counts.update(split_counts)
            pairings.update(pairing)
        return counts, pairings
    if isinstance(value, Mapping) and set(value) & set(splits):
        unknown = next(name for name in value if name not in splits)
        raise RecipeError("table", f"per_cell has no split {unknown!r}; it has {join_names(splits)}.")
    if value == "uniform":
        return {s: uniform_counts(len(foregrounds), len(backgrounds), n) for s, n in per_cell.items()}, {}
    if value == "correlated":
        value = {"kind": "correlated"}
    if isinstance(value, str):
        return read_counts_csv(Path(value), splits, foregrounds, backgrounds), {}
    if not isinstance(value, Mapping):
        raise RecipeError("table", f"{value!r} is neither 'uniform', 'correlated', a CSV's path nor a mapping.")
    accepted = ("kind", "correlation", "bias_aligned_share", "pairing", "split_pair", "path")
    for name in value:
        if name in RENAMED:
            raise RecipeError(f"table.{name}", f"it is called {RENAMED[name]} now.")
        if name not in accepted:
            raise RecipeError(
                "table",
                f"there is no setting {name!r}{suggest(name, [*accepted, *splits]) or '.'} "
                f"Known: {join_names(accepted)}, or splits.",
            )
    kind = value.get("kind", "csv" if "path" in value else "correlated")
    for name in value:
        if kind in _SETTINGS_BY_KIND and name not in ("kind", *_SETTINGS_BY_KIND[kind]):
            raise RecipeError(f"table.{name}", f"a table of the kind {kind} doesn't use it. Leave it out.")
    if kind == "uniform":
        return read_table("uniform", per_cell, foregrounds, backgrounds)
    if kind == "csv":
        return read_counts_csv(Path(str(value.get("path", ""))), splits, foregrounds, backgrounds), {}
    if kind != "correlated":
        kinds = ("uniform", "correlated", "csv")
        hint = suggest(str(kind), kinds) or "."
        raise RecipeError("table.kind", f"{kind!r} is not one of {join_names(kinds)}{hint}")
    paired = read_pairing(value.get("pairing"), foregrounds, backgrounds)
    if (is_pair := value.get("split_pair", False)) is not False:
        return _read_split_pair(is_pair, value, paired, per_cell, seed, existing)
    if "correlation" in value and "bias_aligned_share" in value:
        raise RecipeError("table", "give correlation or bias_aligned_share, not both.")
    if "bias_aligned_share" in value:
        correlation = correlation_for_share(
            paired, _read_share("table.bias_aligned_share", value["bias_aligned_share"])
        )
    else:
        correlation = _read_share("table.correlation", value.get("correlation", 0.9))
    counts = {
        s: correlated_counts(paired, n, correlation, derive_seed(seed, "split", s), existing[s] if existing else None)
        for s, n in per_cell.items()
    }
    return counts, {s: paired for s in splits}


def _read_split_pair(
    is_pair: Any, value: Mapping[str, Any], paired: np.ndarray, per_cell: Mapping[str, int], seed: int,
    existing: Mapping[str, Counts] | None,
) -> tuple[dict[str, Counts], dict[str, np.ndarray]]:  # fmt: skip
    if is_pair is not True:
        raise RecipeError("table.split_pair", f"{is_pair!r} is not true or false.")
    for name in ("correlation", "bias_aligned_share"):
        if name in value:
            raise RecipeError(
                f"table.{name}", f"split_pair sets it: all images of {CORRELATED} are in paired cells. Leave it out."
            )
    return split_pair_counts(paired, per_cell, seed, existing), {CORRELATED: paired, ANTI_CORRELATED: paired}


def _read_share(field: str, value: Any) -> float:
    if isinstance(value, str) and value.rstrip().endswith("%"):
        with suppress(ValueError):
            value = float(value.rstrip().rstrip("%")) / 100
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 or math.isnan(value):
        raise RecipeError(field, f"{value!r} is not a number from 0 to 1.")
    return float(value)


def bias_aligned_share(counts: Counts, paired: np.ndarray) -> float:
    """Return the share of images in paired cells, 0 to 1."""
    return float(counts[paired].sum() / max(1, counts.sum()))


def cramers_v(counts: Counts) -> float:
    """Return Cramér's V of foreground and background: 0 if they are independent, 1 if one determines the other.

    Rows and columns without images are left out. With fewer than two of either, the result is 0.
    """
    table = counts[counts.sum(1) > 0][:, counts.sum(0) > 0].astype(float)
    if min(table.shape) < 2:
        return 0.0
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    chi2 = ((table - expected) ** 2 / expected).sum()
    return float(np.sqrt(chi2 / table.sum() / (min(table.shape) - 1)))
