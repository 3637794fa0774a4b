"""Parses columns of labels, splits and file names, and reports all problems of a table at once."""

from __future__ import annotations

import itertools
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from figureground.core.errors import FiguregroundError, counted, nearest, printable
from figureground.core.names import RULE, Lookup, describe_same_names, find_same_names
from figureground.core.tables import Column
from figureground.data.groups import Files
from figureground.data.splits import KNOWN, SPLITS, conflicts, split_number
from figureground.sources.companions import why_shared
from figureground.sources.images import FOREIGN_SUFFIXES, MASK_SUFFIX, UnreadableImage, image_size, list_images

FIRST = 3
"""Number of examples that an error names."""

SMALL = 200
"""Files up to this size, bytes, are inspected: some are empty, or Git LFS pointers."""

_DRIVE = re.compile(r"[A-Za-z]:/")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")


Labels = tuple[np.ndarray, Sequence[str]]
"""Labels, int64 (n,), and the names of their values."""


class Problems:
    """Collects the problems of a data set, to report them all at once."""

    def __init__(self, where: str):
        self._where = where
        self._found: list[str] = []

    def add(self, text: str) -> None:
        self._found.append(text)

    def refuse(self) -> None:
        """Raise FiguregroundError if there are problems."""
        if len(self._found) == 1:
            raise FiguregroundError(f"{self._where}: {self._found[0]}")
        if self._found:
            raise FiguregroundError("\n- ".join([f"{self._where}: {len(self._found)} problems", *self._found]))


# Columns


def some(column: Column, rows: Sequence[int]) -> str:
    """Return the first values of the given rows, with their lines, for an error."""
    return _first([f"{column.values[row]!r} in line {column.lines[row]}" for row in rows])


def _first(texts: Sequence[str]) -> str:
    return ", ".join([*texts[:FIRST], *(["…"] if len(texts) > FIRST else [])])


def _rows(n: int) -> str:
    return counted(n, "row")


# Labels and splits


def read_labels(column: Column, problems: Problems) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels of a column, int64 (n,), and their names.

    Integers must be 0 to n − 1, and are their own names. Names are numbered in alphabetical order; two spellings of
    one name (see `core.names`) are refused. Invalid values are added to the problems.
    """
    values = column.values
    whole = [_WHOLE.fullmatch(value) is not None for value in values]
    empty = [row for row, value in enumerate(values) if not value]
    nothing = np.zeros(len(values), np.int64), ()
    if empty:
        lines = _first([str(column.lines[row]) for row in empty])
        problems.add(f"{column.name}: {_rows(len(empty))} without a value (line {lines}).")
        return nothing
    if all(whole):
        labels = [int(value.partition(".")[0]) for value in values]
        trouble = _gap(column, labels)
        if trouble:
            problems.add(f"{column.name}: labels are 0 to n − 1, {trouble}.")
            return nothing
        return np.array(labels, np.int64), tuple(map(str, range(max(labels) + 1)))
    odd = [row for row, is_whole in enumerate(whole) if not is_whole]
    if not any(whole):
        odd = [row for row in odd if _is_number(values[row])]
    if odd:
        problems.add(
            f"{column.name}: {_rows(len(odd))} without a whole number: {some(column, odd)}. Use numbers from 0 in "
            "all rows, or names in all."
        )
        return nothing
    names = sorted(set(values))
    if same := find_same_names(names):
        one, other = (some(column, [values.index(name)]) for name in same[0])
        problems.add(f"{column.name}: {describe_same_names(same)} ({one}; {other}). {RULE}: use one spelling of each.")
        return nothing
    place = {name: label for label, name in enumerate(names)}
    return np.array([place[value] for value in values], np.int64), tuple(names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _gap(column: Column, labels: Sequence[int]) -> str:
    """Describe why integers are not 0 to n − 1; empty if they are."""
    below = [row for row, label in enumerate(labels) if label < 0]
    if below:
        return f"but {_rows(len(below))} below 0: {some(column, below)}"
    there, top = set(labels), max(labels)
    lacking = itertools.islice((label for label in range(top) if label not in there), FIRST + 1)
    missing = _first([str(label) for label in lacking])
    return missing and f"and the largest is {top}, but {missing} is missing. Number them without gaps, or use names"


def read_bits(column: Column, known: Mapping[str, int], problems: Problems) -> np.ndarray:
    """Return labels 0 or 1, int64 (n,), from values in `known`; others are added to the problems."""
    found = [known.get(value, -1) for value in column.values]
    odd = [row for row, label in enumerate(found) if label < 0]
    if odd:
        problems.add(f"{column.name}: {_rows(len(odd))} with neither {' nor '.join(known)}: {some(column, odd)}.")
    return np.maximum(np.array(found, np.int64), 0)


def read_splits(column: Column, problems: Problems) -> np.ndarray:
    """Return splits, int64 (n,), from 0, 1, 2, or names in `data.splits`.

    Unknown names, and names of two parts of one split, such as `val` and `id_val`, are added to the problems.
    """
    known = {value: split_number(value) for value in set(column.values)}
    found = [-1 if known[value] is None else known[value] for value in column.values]
    odd = [row for row, split in enumerate(found) if split == -1]
    if odd:
        near = nearest(column.values[odd[0]], KNOWN)
        problems.add(
            f"{column.name}: {_rows(len(odd))} with none of 0, 1, 2, train, validation (val, dev), test: "
            f"{some(column, odd)}{near or '.'}"
        )
    for number, names in conflicts(sorted(known)):
        problems.add(
            f"{column.name}: {' and '.join(map(repr, names))} would both be the split {SPLITS[number]}. Keep only the "
            "rows of one, or give other names in another column: --split-column NAME."
        )
    return np.array(found, np.int64)


def cross(each: Sequence[Labels], columns: Sequence[str]) -> Labels:
    """Cross attributes into one: each combination that occurs is a value, ordered by the first, then the others.

    Args:
        each: Labels of the columns, and the names of their values.
        columns: Column names, which become part of the names of numeric and boolean values: `Male=1 + Young=0`.
    """
    if len(each) == 1:
        return each[0]
    cells = np.zeros(len(each[0][0]), np.int64)
    for labels, names in each:
        cells = cells * len(names) + labels
    there, found = np.unique(cells, return_inverse=True)
    texts = []
    for cell in there.tolist():
        parts = []
        for (_, names), column in zip(reversed(each), reversed(columns), strict=True):
            cell, at = divmod(cell, len(names))
            parts.append(f"{column}={names[at]}" if _says_little(names[at]) else names[at])
        texts.append(" + ".join(reversed(parts)))
    return found.astype(np.int64), tuple(texts)


def _says_little(value: str) -> bool:
    """Whether a value of an attribute can't be understood without the column's name."""
    return value.isdecimal() or value.casefold() in ("true", "false", "yes", "no")


def column_names(said: str, known: Sequence[str]) -> list[str]:
    """Return the column names in an option: one, or several separated by commas."""
    return [said] if said in known else [name.strip() for name in said.split(",") if name.strip()] or [said]


# Files


def find_files(
    root: Path, column: Column, split: np.ndarray, problems: Problems, hint: str = ""
) -> tuple[Files, tuple[str, ...], list[str]]:
    """Find files, and masks next to them.

    Args:
        root: Directory of the files.
        column: Their names relative to the root.
        split: int64 (n,), for messages about files listed twice.
        hint: Advice for missing files, as a sentence after a space.

    Returns:
        The files; their keys; notes about other files next to them.
    """
    names = [_below(root, _with_slashes(root, value)) for value in column.values]
    lost = [row for row, (name, value) in enumerate(zip(names, column.values, strict=True))
            if not value or _is_outside(name)]  # fmt: skip
    if lost:
        problems.add(
            f"{column.name}: {_rows(len(lost))} without the name of a file below {root}: {some(column, lost)}. "
            "All images must be below one directory; give it with --root DIR."
        )
    folders = {posixpath.dirname(name) for name in names if not _is_outside(name)}
    listing = {folder: _list_folder(root / folder) for folder in sorted(folders)}
    codings = _Codings(root)
    for row in sorted(set(range(len(names))) - set(lost)):
        folder, base = posixpath.split(names[row])
        if base not in listing[folder] and (stored := codings.stored(names[row])):
            names[row] = stored
            folder = posixpath.dirname(stored)
            if folder not in listing:
                listing[folder] = _list_folder(root / folder)
    _refuse_twice(names, column, split, problems)
    sizes, mask_sizes = np.full((2, len(names)), -1, np.int64)
    missing: list[str] = []
    odd: list[str] = []
    for row in sorted(set(range(len(names))) - set(lost)):
        folder, base = posixpath.split(names[row])
        there = listing[folder]
        mask_sizes[row] = there.get(posixpath.splitext(base)[0] + MASK_SUFFIX, -1)
        if base not in there:
            # An error names only the first; searching a folder for each of a hundred thousand would take hours.
            near = Lookup(there).find(base) if len(missing) < FIRST else []
            hint_of_case = f"; found {printable(near[0])}" if near else ""
            missing.append(f"{printable(names[row])} (line {column.lines[row]}{hint_of_case})")
            continue
        sizes[row] = there[base]
        foreign = posixpath.splitext(base)[1].lower() in FOREIGN_SUFFIXES
        if (foreign or there[base] <= SMALL) and (reason := why_unreadable(root / names[row])):
            odd.append(f"{printable(names[row])}: {reason}")
    if missing:
        problems.add(f"{counted(len(missing), 'file')} of {len(names):,} missing in {root}: {_first(missing)}.{hint}")
    if odd:
        problems.add(f"{counted(len(odd), 'file')} that can't be read as an image: {_first(odd)}.")
    masked = (root / names[row] for row in np.flatnonzero(mask_sizes >= 0))
    if problem := why_shared(masked, MASK_SUFFIX, "mask"):
        problems.add(problem)
    files = Files(root, names, sizes, mask_sizes)
    return files, tuple(map(printable, names)), list(_beside(root, listing, set(names)))


def _with_slashes(root: Path, name: str) -> str:
    """Return a Windows file name with `/`; a name that itself contains `\\` stays."""
    return name.replace("\\", "/") if "\\" in name and not os.path.lexists(root / name) else name


def _is_outside(name: str) -> bool:
    """Whether a name from `_below` leads out of the root."""
    return posixpath.isabs(name) or _DRIVE.match(name) is not None or name == ".." or name.startswith("../")


class _Codings:
    """Finds stored names of files that differ only in Unicode normalisation, as between macOS and Linux.

    Args:
        root: Directory of the files. Each folder is read once.
    """

    def __init__(self, root: Path):
        self._root = root
        self._folders: dict[str, dict[str, list[str]]] = {}
        """By folder relative to the root: the names in it, by their composed form (NFC)."""

    def stored(self, name: str) -> str | None:
        """Return the stored name of a file below the root; None if there is none, or more than one."""
        if unicodedata.normalize("NFC", name) == name and unicodedata.normalize("NFD", name) == name:
            return None
        folder = ""
        for part in name.split("/"):
            same = self._names_in(folder).get(unicodedata.normalize("NFC", part), [])
            found = part if part in same else same[0] if len(same) == 1 else None
            if found is None:
                return None
            folder = posixpath.join(folder, found)
        return folder

    def _names_in(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._folders:
            names = self._folders[folder] = {}
            for each in _list_folder(self._root / folder):
                names.setdefault(unicodedata.normalize("NFC", each), []).append(each)
        return self._folders[folder]


def _below(root: Path, name: str) -> str:
    """Return a file's normalised name relative to the root; absolute if it is elsewhere."""
    if _DRIVE.match(name):
        return name
    if posixpath.isabs(name):
        inside = posixpath.relpath(name, root.absolute().as_posix())
        return posixpath.normpath(name) if inside.startswith("..") else inside
    return posixpath.normpath(name)


def _list_folder(folder: Path) -> dict[str, int]:
    """Return the entries of a folder: size of files in bytes, -1 for anything else."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size if entry.is_file() else -1 for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def why_unreadable(path: Path) -> str | None:
    """Return why a file is not a readable image, by its header alone; None if it is."""
    try:
        image_size(path)
    except UnreadableImage as error:
        return error.reason
    return None


def _refuse_twice(names: Sequence[str], column: Column, split: np.ndarray, problems: Problems) -> None:
    """Add problems for files listed twice within a split or, worse, in two splits."""
    first: dict[str, int] = {}
    within: list[str] = []
    across: list[str] = []
    for row, name in enumerate(names):
        before = first.setdefault(name, row)
        if before != row and column.values[row]:
            told = f"{printable(name)} (lines {column.lines[before]} and {column.lines[row]})"
            (within if split[before] == split[row] else across).append(told)
    if within:
        problems.add(f"{counted(len(within), 'file')} listed twice: {_first(within)}. Keep one row of each.")
    if across:
        members = [{name for name, one in zip(names, split, strict=True) if one == n} for n in range(len(SPLITS))]
        pairs = itertools.combinations(range(len(SPLITS)), 2)
        alike = next(((a, b) for a, b in pairs if members[a] and members[a] == members[b]), None)
        same = f" {SPLITS[alike[0]]} and {SPLITS[alike[1]]} are the same files." if alike else ""
        problems.add(
            f"{counted(len(across), 'file')} listed in two splits: {_first(across)}.{same} Training "
            "images can't be used for evaluation."
        )


def _beside(root: Path, listing: Mapping[str, Mapping[str, int]], known: set[str]) -> Iterator[str]:
    """Yield a note about images in the folders of a table that the table doesn't list."""
    strangers = [
        printable(name)
        for folder, there in listing.items() if there
        for name in (posixpath.join(folder, path.name) for path in list_images(root / folder))
        if name not in known
    ]  # fmt: skip
    if strangers:
        yield f"{counted(len(strangers), 'image')} in the folders of the table but not listed: {_first(strangers)}."
