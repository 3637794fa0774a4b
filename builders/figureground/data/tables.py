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

from figureground.core.errors import FiguregroundError, plural, printable, suggest
from figureground.core.names import RULE, Lookup, describe_same_names, find_same_names
from figureground.core.tables import Column
from figureground.data.groups import Files
from figureground.data.splits import SPLIT_NAMES, SPLITS, find_conflicts, split_number
from figureground.sources.companions import describe_shared
from figureground.sources.images import FOREIGN_SUFFIXES, MASK_SUFFIX, UnreadableImage, image_size, list_images

MAX_EXAMPLES = 3
"""Number of examples that an error names."""

SMALL_FILE_BYTES = 200
"""Files up to this size, bytes, are inspected: some are empty, or Git LFS pointers."""

_DRIVE = re.compile(r"[A-Za-z]:/")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")


Labels = tuple[np.ndarray, Sequence[str]]
"""Labels, int64 (n,), and the names of their values."""


class Problems:
    """Collects the problems of a data set, to report them all at once."""

    def __init__(self, where: str):
        self._where = where
        self._messages: list[str] = []

    def add(self, text: str) -> None:
        self._messages.append(text)

    def refuse(self) -> None:
        """Raise FiguregroundError if there are problems."""
        if len(self._messages) == 1:
            raise FiguregroundError(f"{self._where}: {self._messages[0]}")
        if self._messages:
            raise FiguregroundError("\n- ".join([f"{self._where}: {len(self._messages)} problems", *self._messages]))


# Columns


def quote_examples(column: Column, rows: Sequence[int]) -> str:
    """Return the first values of the given rows, with their lines, for an error."""
    return _join_examples([f"{column.values[row]!r} in line {column.lines[row]}" for row in rows])


def _join_examples(texts: Sequence[str]) -> str:
    return ", ".join([*texts[:MAX_EXAMPLES], *(["…"] if len(texts) > MAX_EXAMPLES else [])])


def _count_rows(n: int) -> str:
    return plural(n, "row")


# Labels and splits


def read_labels(column: Column, problems: Problems) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels of a column, int64 (n,), and their names.

    Integers must be 0 to n − 1, and are their own names. Names are numbered in alphabetical order; two spellings of
    one name (see `core.names`) are refused. Invalid values are added to the problems.
    """
    values = column.values
    are_whole = [_WHOLE.fullmatch(value) is not None for value in values]
    empty = [row for row, value in enumerate(values) if not value]
    no_labels = np.zeros(len(values), np.int64), ()
    if empty:
        lines = _join_examples([str(column.lines[row]) for row in empty])
        problems.add(f"{column.name}: {_count_rows(len(empty))} without a value (line {lines}).")
        return no_labels
    if all(are_whole):
        labels = [int(value.partition(".")[0]) for value in values]
        gap = _describe_gap(column, labels)
        if gap:
            problems.add(f"{column.name}: labels are 0 to n − 1, {gap}.")
            return no_labels
        return np.array(labels, np.int64), tuple(map(str, range(max(labels) + 1)))
    invalid = [row for row, is_whole in enumerate(are_whole) if not is_whole]
    if not any(are_whole):
        invalid = [row for row in invalid if _is_number(values[row])]
    if invalid:
        problems.add(
            f"{column.name}: {_count_rows(len(invalid))} without a whole number: {quote_examples(column, invalid)}. "
            "Use numbers from 0 in all rows, or names in all."
        )
        return no_labels
    names = sorted(set(values))
    if same := find_same_names(names):
        one, other = (quote_examples(column, [values.index(name)]) for name in same[0])
        problems.add(f"{column.name}: {describe_same_names(same)} ({one}; {other}). {RULE}: use one spelling of each.")
        return no_labels
    label_of = {name: label for label, name in enumerate(names)}
    return np.array([label_of[value] for value in values], np.int64), tuple(names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _describe_gap(column: Column, labels: Sequence[int]) -> str:
    """Describe why integers are not 0 to n − 1; empty if they are."""
    negative = [row for row, label in enumerate(labels) if label < 0]
    if negative:
        return f"but {_count_rows(len(negative))} below 0: {quote_examples(column, negative)}"
    present, largest = set(labels), max(labels)
    absent = itertools.islice((label for label in range(largest) if label not in present), MAX_EXAMPLES + 1)
    missing = _join_examples([str(label) for label in absent])
    return missing and f"and the largest is {largest}, but {missing} is missing. Number them without gaps, or use names"


def read_bits(column: Column, bits: Mapping[str, int], problems: Problems) -> np.ndarray:
    """Return labels 0 or 1, int64 (n,), from values in `bits`; others are added to the problems."""
    labels = [bits.get(value, -1) for value in column.values]
    invalid = [row for row, label in enumerate(labels) if label < 0]
    if invalid:
        problems.add(
            f"{column.name}: {_count_rows(len(invalid))} with neither {' nor '.join(bits)}: "
            f"{quote_examples(column, invalid)}."
        )
    return np.maximum(np.array(labels, np.int64), 0)


def read_splits(column: Column, problems: Problems) -> np.ndarray:
    """Return splits, int64 (n,), from 0, 1, 2, or names in `data.splits`.

    Unknown names, and names of two parts of one split, such as `val` and `id_val`, are added to the problems.
    """
    split_of = {value: split_number(value) for value in set(column.values)}
    splits = [-1 if split_of[value] is None else split_of[value] for value in column.values]
    invalid = [row for row, split in enumerate(splits) if split == -1]
    if invalid:
        near = suggest(column.values[invalid[0]], SPLIT_NAMES)
        problems.add(
            f"{column.name}: {_count_rows(len(invalid))} with none of 0, 1, 2, train, validation (val, dev), test: "
            f"{quote_examples(column, invalid)}{near or '.'}"
        )
    for number, names in find_conflicts(sorted(split_of)):
        problems.add(
            f"{column.name}: {' and '.join(map(repr, names))} would both be the split {SPLITS[number]}. Keep only the "
            "rows of one, or give other names in another column: --split-column NAME."
        )
    return np.array(splits, np.int64)


def cross_labels(attributes: Sequence[Labels], columns: Sequence[str]) -> Labels:
    """Cross attributes into one: each combination that occurs is a value, ordered by the first, then the others.

    Args:
        attributes: Labels of the columns, and the names of their values.
        columns: Column names, which become part of the names of numeric and boolean values: `Male=1 + Young=0`.
    """
    if len(attributes) == 1:
        return attributes[0]
    cells = np.zeros(len(attributes[0][0]), np.int64)
    for numbers, names in attributes:
        cells = cells * len(names) + numbers
    values, labels = np.unique(cells, return_inverse=True)
    texts = []
    for cell in values.tolist():
        parts = []
        for (_, names), column in zip(reversed(attributes), reversed(columns), strict=True):
            cell, value = divmod(cell, len(names))
            parts.append(f"{column}={names[value]}" if _needs_column_name(names[value]) else names[value])
        texts.append(" + ".join(reversed(parts)))
    return labels.astype(np.int64), tuple(texts)


def _needs_column_name(value: str) -> bool:
    """Whether a value of an attribute can't be understood without the column's name."""
    return value.isdecimal() or value.casefold() in ("true", "false", "yes", "no")


def parse_names(text: str, known: Sequence[str]) -> list[str]:
    """Return the column names in an option: one, or several separated by commas."""
    return [text] if text in known else [name.strip() for name in text.split(",") if name.strip()] or [text]


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
    names = [_normalise_name(root, _with_slashes(root, value)) for value in column.values]
    unusable = [row for row, (name, value) in enumerate(zip(names, column.values, strict=True))
            if not value or _is_outside(name)]  # fmt: skip
    if unusable:
        problems.add(
            f"{column.name}: {_count_rows(len(unusable))} without the name of a file below {root}: "
            f"{quote_examples(column, unusable)}. All images must be below one directory; give it with --root DIR."
        )
    folders = {posixpath.dirname(name) for name in names if not _is_outside(name)}
    listing = {folder: _list_folder(root / folder) for folder in sorted(folders)}
    unicode_names = _UnicodeNames(root)
    for row in sorted(set(range(len(names))) - set(unusable)):
        folder, base = posixpath.split(names[row])
        if base not in listing[folder] and (stored := unicode_names.find_stored(names[row])):
            names[row] = stored
            folder = posixpath.dirname(stored)
            if folder not in listing:
                listing[folder] = _list_folder(root / folder)
    _refuse_duplicates(names, column, split, problems)
    sizes, mask_sizes = np.full((2, len(names)), -1, np.int64)
    missing: list[str] = []
    unreadable: list[str] = []
    for row in sorted(set(range(len(names))) - set(unusable)):
        folder, base = posixpath.split(names[row])
        entries = listing[folder]
        mask_sizes[row] = entries.get(posixpath.splitext(base)[0] + MASK_SUFFIX, -1)
        if base not in entries:
            # An error names only the first; searching a folder for each of a hundred thousand would take hours.
            similar = Lookup(entries).find(base) if len(missing) < MAX_EXAMPLES else []
            hint_of_case = f"; found {printable(similar[0])}" if similar else ""
            missing.append(f"{printable(names[row])} (line {column.lines[row]}{hint_of_case})")
            continue
        sizes[row] = entries[base]
        foreign = posixpath.splitext(base)[1].lower() in FOREIGN_SUFFIXES
        if (foreign or entries[base] <= SMALL_FILE_BYTES) and (reason := explain_unreadable(root / names[row])):
            unreadable.append(f"{printable(names[row])}: {reason}")
    if missing:
        problems.add(
            f"{plural(len(missing), 'file')} of {len(names):,} missing in {root}: {_join_examples(missing)}.{hint}"
        )
    if unreadable:
        problems.add(f"{plural(len(unreadable), 'file')} that can't be read as an image: {_join_examples(unreadable)}.")
    masked = (root / names[row] for row in np.flatnonzero(mask_sizes >= 0))
    if problem := describe_shared(masked, MASK_SUFFIX, "mask"):
        problems.add(problem)
    files = Files(root, names, sizes, mask_sizes)
    return files, tuple(map(printable, names)), list(_note_unlisted(root, listing, set(names)))


def _with_slashes(root: Path, name: str) -> str:
    """Return a Windows file name with `/`; a name that itself contains `\\` stays."""
    return name.replace("\\", "/") if "\\" in name and not os.path.lexists(root / name) else name


def _is_outside(name: str) -> bool:
    """Whether a name from `_normalise_name` leads out of the root."""
    return posixpath.isabs(name) or _DRIVE.match(name) is not None or name == ".." or name.startswith("../")


class _UnicodeNames:
    """Finds stored names of files that differ only in Unicode normalisation, as between macOS and Linux.

    Args:
        root: Directory of the files. Each folder is read once.
    """

    def __init__(self, root: Path):
        self._root = root
        self._folders: dict[str, dict[str, list[str]]] = {}
        """By folder relative to the root: the names in it, by their composed form (NFC)."""

    def find_stored(self, name: str) -> str | None:
        """Return the stored name of a file below the root; None if there is none, or more than one."""
        if unicodedata.normalize("NFC", name) == name and unicodedata.normalize("NFD", name) == name:
            return None
        folder = ""
        for part in name.split("/"):
            candidates = self._names_in(folder).get(unicodedata.normalize("NFC", part), [])
            match = part if part in candidates else candidates[0] if len(candidates) == 1 else None
            if match is None:
                return None
            folder = posixpath.join(folder, match)
        return folder

    def _names_in(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._folders:
            names = self._folders[folder] = {}
            for name in _list_folder(self._root / folder):
                names.setdefault(unicodedata.normalize("NFC", name), []).append(name)
        return self._folders[folder]


def _normalise_name(root: Path, name: str) -> str:
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


def explain_unreadable(path: Path) -> str | None:
    """Return why a file is not a readable image, by its header alone; None if it is."""
    try:
        image_size(path)
    except UnreadableImage as error:
        return error.reason
    return None


def _refuse_duplicates(names: Sequence[str], column: Column, split: np.ndarray, problems: Problems) -> None:
    """Add problems for files listed twice within a split or, worse, in two splits."""
    first: dict[str, int] = {}
    within: list[str] = []
    across: list[str] = []
    for row, name in enumerate(names):
        earlier = first.setdefault(name, row)
        if earlier != row and column.values[row]:
            description = f"{printable(name)} (lines {column.lines[earlier]} and {column.lines[row]})"
            (within if split[earlier] == split[row] else across).append(description)
    if within:
        problems.add(f"{plural(len(within), 'file')} listed twice: {_join_examples(within)}. Keep one row of each.")
    if across:
        members = [{name for name, number in zip(names, split, strict=True) if number == n} for n in range(len(SPLITS))]
        pairs = itertools.combinations(range(len(SPLITS)), 2)
        same_pair = next(((a, b) for a, b in pairs if members[a] and members[a] == members[b]), None)
        same = f" {SPLITS[same_pair[0]]} and {SPLITS[same_pair[1]]} are the same files." if same_pair else ""
        problems.add(
            f"{plural(len(across), 'file')} listed in two splits: {_join_examples(across)}.{same} Training "
            "images can't be used for evaluation."
        )


def _note_unlisted(root: Path, listing: Mapping[str, Mapping[str, int]], known: set[str]) -> Iterator[str]:
    """Yield a note about images in the folders of a table that the table doesn't list."""
    unlisted = [
        printable(name)
        for folder, entries in listing.items() if entries
        for name in (posixpath.join(folder, path.name) for path in list_images(root / folder))
        if name not in known
    ]  # fmt: skip
    if unlisted:
        examples = _join_examples(unlisted)
        yield f"{plural(len(unlisted), 'image')} in the folders of the table but not listed: {examples}."
