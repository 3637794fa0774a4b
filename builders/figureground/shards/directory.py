"""What belongs to a dataset directory, by name, and what must not be opened in one that somebody else made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from figureground.core.files import FileError, leaves, strange_entries

FOLDERS = ("data", "webdataset", "rejects", "_figureground", "_evaluation")
"""The directories of a dataset."""

DESCRIPTIONS = ("README.md", "croissant.json", "preview.png", "report.html")
"""The files at the top that commands write."""

BESIDE = ("LICENSE", "LICENCE", "NOTICE", "ATTRIBUTION", "CITATION")
"""How files at the top begin that people put beside a dataset, to be published with it, in capitals."""


def belongs(name: str) -> bool:
    """Whether an entry at the top of a directory is the dataset's, and not something that somebody left there."""
    return name in FOLDERS or name in DESCRIPTIONS or name.upper().startswith(BESIDE)


def strange(directory: Path) -> list[tuple[str, str]]:
    """Return what must not be opened in a dataset directory: its name there, and what is wrong with it.

    These are links that leave the directory, FIFOs, devices and sockets. At the top, names that begin with `.` are
    passed over, for nothing reads them.
    """
    names = {name for name in _names(directory) if not name.startswith(".")}
    return list(strange_entries(directory, names))


def refuse_strange(directory: Path) -> None:
    """Refuse a dataset directory in which a name that commands read or write is no regular file inside it.

    Raises:
        FileError: Naming the first such entry; what a link points to is neither opened nor told.
    """
    names = {name for name in _names(directory) if belongs(name)}
    found = list(strange_entries(directory, names))
    if found:
        name, problem = found[0]
        more = f" (there are {len(found):,} such entries in all)" if found[1:] else ""
        raise FileError(directory / name, f"{problem}{more}. Put a file of its own there, or remove it")


def beside(directory: Path) -> Iterator[Path]:
    """Yield the files that people put beside a dataset, in order: licence, notice, attribution, citation."""
    for name in sorted(_names(directory)):
        path = directory / name
        if name.upper().startswith(BESIDE) and not leaves(path, directory) and path.is_file():
            yield path


def score_files(directory: Path) -> Iterator[Path]:
    """Yield the files of scores, CSV and Parquet, in order."""
    folder = directory / "_figureground" / "scores"
    for name in sorted(_names(folder)):
        path = folder / name
        if path.suffix not in (".csv", ".parquet") or name.startswith("."):
            continue
        if not leaves(path, directory) and path.is_file():
            yield path


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # whoever needs the directory says what is wrong with it
        return []
