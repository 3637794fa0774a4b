"""What tables say of pictures: columns of labels, splits and file names, with all that is wrong told at once."""

from __future__ import annotations

import csv
import itertools
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from figureground.errors import FiguregroundError, counted, listed, nearest, printable
from figureground.images import MASK_SUFFIX, UnreadableImage, list_images, picture_size
from figureground.learn.groups import SPLITS, Files

SPLIT_NAMES: Mapping[str, int] = {
    "train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "val_out_of_domain": 1, "test": 2, "testing": 2,
}  # fmt: skip
"""What splits are called, in small letters. Tables may also say 0, 1 and 2."""

FIRST = 3
"""How many of many an error names."""

SMALL = 200
"""Files up to this many bytes are looked into: some are empty, or Git LFS pointers."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")


class Problems:
    """What is wrong with a data set, gathered so that all of it is told at once."""

    def __init__(self, where: str):
        self._where = where
        self._found: list[str] = []

    def add(self, text: str) -> None:
        self._found.append(text)

    def refuse(self) -> None:
        """Raises FiguregroundError if there is any."""
        if len(self._found) == 1:
            raise FiguregroundError(f"{self._where}: {self._found[0]}")
        if self._found:
            raise FiguregroundError("\n- ".join([f"{self._where}: {len(self._found)} problems", *self._found]))


# Columns


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    values: Sequence[str]
    lines: Sequence[int]
    """Line of each value in its file."""

    def some(self, rows: Sequence[int]) -> str:
        """The first values of certain rows with their lines, for an error."""
        return _first([f"{self.values[row]!r} in line {self.lines[row]}" for row in rows])


def _first(texts: Sequence[str]) -> str:
    return ", ".join([*texts[:FIRST], *(["…"] if len(texts) > FIRST else [])])


def _rows(n: int) -> str:
    return counted(n, "row")


def read_header(path: Path) -> list[str]:
    """Names of the columns of a CSV; empty for a file without a line.

    Raises:
        FiguregroundError: It isn't a text of columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FiguregroundError(f"{path.name}: its header can't be read as that of a CSV in UTF-8: {error}.") from None


def show_header(header: Sequence[str]) -> str:
    """What the first line of a table says, as a sentence."""
    return f"Its first line reads: {printable(listed(header, 8)) or 'nothing'}."


def read_columns(path: Path, names: Sequence[str]) -> dict[str, Column]:
    """Columns of a CSV by name; blank lines are passed over, spaces around values dropped.

    Raises:
        FiguregroundError: A column is missing or there twice, a line has another number of fields than the first,
            or there is no line but the first.
    """
    header = read_header(path)
    for name in names:
        if header.count(name) > 1:
            raise FiguregroundError(f"{path.name} has two columns {name!r}. {show_header(header)}")
        if name not in header:
            near = nearest(name, header) or f". {show_header(header)}"
            raise FiguregroundError(f"{path.name} has no column {name!r}{near}")
    places = [header.index(name) for name in names]
    values: list[list[str]] = [[] for _ in names]
    lines: list[int] = []
    uneven: list[tuple[int, int]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            next(reader)
            for fields in filter(any, reader):
                if len(fields) != len(header):
                    uneven.append((reader.line_num, len(fields)))
                    continue
                lines.append(reader.line_num)
                for column, place in zip(values, places, strict=True):
                    column.append(fields[place].strip())
    except (UnicodeDecodeError, csv.Error) as error:
        raise FiguregroundError(f"{path.name} can't be read as a CSV in UTF-8: {error}.") from None
    if uneven:
        line, count = uneven[0]
        raise FiguregroundError(
            f"{path.name}: {_rows(len(uneven))} with another number of fields than the {len(header)} of the first "
            f"line, such as line {line} with {count}. A comma within a name needs quotes around it."
        )
    if not lines:
        raise FiguregroundError(f"{path.name} has no row below its first line.")
    return {name: Column(name, column, lines) for name, column in zip(names, values, strict=True)}


# Labels and splits


def read_labels(column: Column, problems: Problems) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels of a column, int64 (n,), and their names.

    Whole numbers must be 0 to n − 1, and are their own names. Names are numbered in alphabetical order. What can't be
    used is added to the problems.
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
            f"{column.name}: {_rows(len(odd))} without a whole number: {column.some(odd)}. Give numbers from 0 on in "
            "all rows, or names in all."
        )
        return nothing
    names = sorted(set(values))
    place = {name: label for label, name in enumerate(names)}
    return np.array([place[value] for value in values], np.int64), tuple(names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _gap(column: Column, labels: Sequence[int]) -> str:
    """What keeps whole numbers from being 0 to n − 1, in words; empty if nothing does."""
    below = [row for row, label in enumerate(labels) if label < 0]
    if below:
        return f"but {_rows(len(below))} below 0: {column.some(below)}"
    there, top = set(labels), max(labels)
    lacking = itertools.islice((label for label in range(top) if label not in there), FIRST + 1)
    missing = _first([str(label) for label in lacking])
    return missing and f"and the largest is {top}, but there is no {missing}. Number them without gaps, or write names"


def read_bits(column: Column, known: Mapping[str, int], problems: Problems) -> np.ndarray:
    """Labels 0 or 1, int64 (n,), written in one of two known ways."""
    found = [known.get(value, -1) for value in column.values]
    odd = [row for row, label in enumerate(found) if label < 0]
    if odd:
        problems.add(f"{column.name}: {_rows(len(odd))} with neither {' nor '.join(known)}: {column.some(odd)}.")
    return np.maximum(np.array(found, np.int64), 0)


def read_splits(column: Column, problems: Problems) -> np.ndarray:
    """Splits, int64 (n,): 0, 1, 2, or any of `SPLIT_NAMES`."""
    known = {**SPLIT_NAMES, **{text: n for n in range(3) for text in (str(n), f"{n}.0")}}
    found = [known.get(value.lower(), -1) for value in column.values]
    odd = [row for row, split in enumerate(found) if split < 0]
    if odd:
        near = nearest(column.values[odd[0]], SPLIT_NAMES)
        problems.add(
            f"{column.name}: {_rows(len(odd))} with none of 0, 1, 2, train, validation (val), test: {column.some(odd)}"
            f"{near or '.'}"
        )
    return np.array(found, np.int64)


# Files


def find_files(
    root: Path, column: Column, split: np.ndarray, problems: Problems, hint: str = ""
) -> tuple[Files, tuple[str, ...], list[str]]:
    """Looks for files, and for masks beside them.

    Args:
        root: Where they lie.
        column: Their names below the root.
        split: int64 (n,), for what is told of a file that is named twice.
        hint: What to do where files are missing, as a sentence after a space.

    Returns:
        The files; their keys; notes about what lies beside them.
    """
    names = [_below(root, value) for value in column.values]
    lost = [row for row, (name, value) in enumerate(zip(names, column.values, strict=True))
            if not value or posixpath.isabs(name)]  # fmt: skip
    if lost:
        problems.add(
            f"{column.name}: {_rows(len(lost))} without the name of a file below {root}: {column.some(lost)}. Pictures "
            "lie in one directory, or below it; --root DIR says which."
        )
    _refuse_twice(names, column, split, problems)

    folders = {posixpath.dirname(name) for name in names if not posixpath.isabs(name)}
    listing = {folder: _list_folder(root / folder) for folder in sorted(folders)}
    sizes, mask_sizes = np.full((2, len(names)), -1, np.int64)
    missing, odd = [], []
    for row in sorted(set(range(len(names))) - set(lost)):
        folder, base = posixpath.split(names[row])
        there = listing[folder]
        mask_sizes[row] = there.get(posixpath.splitext(base)[0] + MASK_SUFFIX, -1)
        if base not in there:
            missing.append(f"{printable(names[row])} (line {column.lines[row]})")
            continue
        sizes[row] = there[base]
        if there[base] <= SMALL and (reason := _why_unreadable(root / names[row])):
            odd.append(f"{printable(names[row])}: {reason}")
    if missing:
        problems.add(f"{counted(len(missing), 'file')} of {len(names):,} missing in {root}: {_first(missing)}.{hint}")
    if odd:
        problems.add(f"{counted(len(odd), 'file')} that can't be read as a picture: {_first(odd)}.")
    files = Files(root, names, sizes, mask_sizes)
    return files, tuple(map(printable, names)), list(_beside(root, listing, set(names)))


def _below(root: Path, name: str) -> str:
    """A file's name below the root, without turns that lead nowhere; absolute if it lies elsewhere."""
    if posixpath.isabs(name):
        inside = posixpath.relpath(name, root.absolute().as_posix())
        return posixpath.normpath(name) if inside.startswith("..") else inside
    return posixpath.normpath(name)


def _list_folder(folder: Path) -> dict[str, int]:
    """What lies in a folder, with the bytes of files, and -1 for what is none."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size if entry.is_file() else -1 for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _why_unreadable(path: Path) -> str | None:
    """What keeps a file from being a picture, by its header alone."""
    try:
        picture_size(path)
    except UnreadableImage as error:
        return error.reason
    return None


def _refuse_twice(names: Sequence[str], column: Column, split: np.ndarray, problems: Problems) -> None:
    """Tells of files that are named twice: within a split, or, which is worse, in two."""
    first: dict[str, int] = {}
    within: list[str] = []
    across: list[str] = []
    for row, name in enumerate(names):
        before = first.setdefault(name, row)
        if before != row and column.values[row]:
            told = f"{printable(name)} (lines {column.lines[before]} and {column.lines[row]})"
            (within if split[before] == split[row] else across).append(told)
    if within:
        problems.add(f"{counted(len(within), 'file')} listed twice: {_first(within)}. Leave one row of each.")
    if across:
        members = [{name for name, one in zip(names, split, strict=True) if one == n} for n in range(len(SPLITS))]
        pairs = itertools.combinations(range(len(SPLITS)), 2)
        alike = next(((a, b) for a, b in pairs if members[a] and members[a] == members[b]), None)
        same = f" {SPLITS[alike[0]]} and {SPLITS[alike[1]]} are the same files." if alike else ""
        problems.add(
            f"{counted(len(across), 'file')} listed in two splits: {_first(across)}.{same} A picture that is trained "
            "on can't test what was learnt."
        )


def _beside(root: Path, listing: Mapping[str, Mapping[str, int]], known: set[str]) -> Iterator[str]:
    """A note about images that lie in the folders of a table and aren't in it."""
    strangers = [
        printable(name)
        for folder, there in listing.items() if there
        for name in (posixpath.join(folder, path.name) for path in list_images(root / folder))
        if name not in known
    ]  # fmt: skip
    if strangers:
        yield f"{counted(len(strangers), 'image')} beside those of the table, and not in it: {_first(strangers)}."
