"""Finds the image files that a table or folders list, and the masks next to them."""

from __future__ import annotations

import itertools
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from figureground.core.errors import plural, printable
from figureground.core.names import Lookup
from figureground.core.tables import Column
from figureground.data.splits import SPLITS
from figureground.data.stores import FileStore
from figureground.data.tables import MAX_EXAMPLES, DataProblems, count_rows, join_examples, quote_examples
from figureground.sources.companions import companion_suffixes, describe_shared
from figureground.sources.images import FOREIGN_SUFFIXES, MASK_SUFFIX, UnreadableImage, image_size, list_images

SMALL_FILE_BYTES = 200
"""Files up to this size, bytes, are inspected: some are empty, or Git LFS pointers."""

_DRIVE = re.compile(r"[A-Za-z]:/")


def find_files(
    root: Path, column: Column, split: np.ndarray, problems: DataProblems, hint: str = ""
) -> tuple[FileStore, tuple[str, ...], list[str]]:
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
            f"{column.name}: {count_rows(len(unusable))} without the name of a file below {root}: "
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
    mask_suffixes = companion_suffixes(MASK_SUFFIX)
    missing: list[str] = []
    unreadable: list[str] = []
    for row in sorted(set(range(len(names))) - set(unusable)):
        folder, base = posixpath.split(names[row])
        entries = listing[folder]
        masks = (posixpath.splitext(base)[0] + suffix for suffix in mask_suffixes)
        mask_sizes[row] = next((entries[mask] for mask in masks if mask in entries), -1)
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
            f"{plural(len(missing), 'file')} of {len(names):,} missing in {root}: {join_examples(missing)}.{hint}"
        )
    if unreadable:
        problems.add(f"{plural(len(unreadable), 'file')} that can't be read as an image: {join_examples(unreadable)}.")
    masked = (root / names[row] for row in np.flatnonzero(mask_sizes >= 0))
    if problem := describe_shared(masked, MASK_SUFFIX, "mask"):
        problems.add(problem)
    files = FileStore(root, names, sizes, mask_sizes)
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


def _refuse_duplicates(names: Sequence[str], column: Column, split: np.ndarray, problems: DataProblems) -> None:
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
        problems.add(f"{plural(len(within), 'file')} listed twice: {join_examples(within)}. Keep one row of each.")
    if across:
        members = [{name for name, number in zip(names, split, strict=True) if number == n} for n in range(len(SPLITS))]
        pairs = itertools.combinations(range(len(SPLITS)), 2)
        same_pair = next(((a, b) for a, b in pairs if members[a] and members[a] == members[b]), None)
        same = f" {SPLITS[same_pair[0]]} and {SPLITS[same_pair[1]]} are the same files." if same_pair else ""
        problems.add(
            f"{plural(len(across), 'file')} listed in two splits: {join_examples(across)}.{same} Training "
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
        examples = join_examples(unlisted)
        yield f"{plural(len(unlisted), 'image')} in the folders of the table but not listed: {examples}."
