"""Names that belong to a dataset directory, and entries that must not be opened in an untrusted one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from figureground.core import files
from figureground.core.files import FileError, leads_outside
from figureground.shards.formats.format import list_folders
from figureground.shards.shard import PRIVATE, PUBLISHED_REJECTS, SCORES

FOLDERS = (PUBLISHED_REJECTS, PRIVATE, "_evaluation", "_audit")
"""Directories of a dataset, besides those of its formats."""

DESCRIPTIONS = ("README.md", "croissant.json", "preview.png", "report.html")
"""Top-level files that commands write."""

ADDED_FILES = ("LICENSE", "LICENCE", "NOTICE", "ATTRIBUTION", "CITATION")
"""Prefixes, in capitals, of top-level files that people add to be published with a dataset."""


def belongs_to_dataset(name: str) -> bool:
    """Whether a top-level entry belongs to the dataset."""
    return name in (*list_folders(), *FOLDERS) or name in DESCRIPTIONS or name.upper().startswith(ADDED_FILES)


def find_unsafe_entries(directory: Path) -> list[tuple[str, str]]:
    """Return the entries of a dataset directory that must not be opened: name, and what is wrong with it.

    These are links that leave the directory, FIFOs, devices and sockets. Top-level names that begin with `.` are
    skipped because nothing reads them.
    """
    names = {name for name in _list_names(directory) if not name.startswith(".")}
    return list(files.find_unsafe_entries(directory, names))


def refuse_unsafe_entries(directory: Path) -> None:
    """Refuse a dataset directory in which a name that commands use is not a regular file inside it.

    Raises:
        FileError: There is such an entry; names the first. The target of a link is neither opened nor named.
    """
    names = {name for name in _list_names(directory) if belongs_to_dataset(name)}
    unsafe = list(files.find_unsafe_entries(directory, names))
    if unsafe:
        name, problem = unsafe[0]
        others = f" (there are {len(unsafe):,} such entries in all)" if unsafe[1:] else ""
        raise FileError(directory / name, f"{problem}{others}. Put a file of its own there, or remove it")


def find_added_files(directory: Path) -> Iterator[Path]:
    """Yield the files that people added to a dataset (licence, notice, attribution, citation), sorted by name."""
    for name in sorted(_list_names(directory)):
        path = directory / name
        if name.upper().startswith(ADDED_FILES) and not leads_outside(path, directory) and path.is_file():
            yield path


def find_score_files(directory: Path) -> Iterator[Path]:
    """Yield the score files, CSV and Parquet, sorted by name."""
    folder = directory / SCORES
    for name in sorted(_list_names(folder)):
        path = folder / name
        if path.suffix not in (".csv", ".parquet") or name.startswith("."):
            continue
        if not leads_outside(path, directory) and path.is_file():
            yield path


def _list_names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # reported where the directory is needed
        return []
