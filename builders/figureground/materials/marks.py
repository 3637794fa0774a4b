"""People's marks of cut-outs: a CSV `file,mark`, as the page saves it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from figureground.core.errors import UsageError, suggest_or_list
from figureground.materials.photographs import read_columns

KEEP, LEAVE = "keep", "leave"
"""Marks: take a cut-out that a gate leaves out, and leave out one that passes."""


def read_marks(path: Path, files: Collection[str]) -> Mapping[str, str]:
    """Return the marks by photograph, `folder/file`. Empty marks are ignored; of several, the last counts.

    Raises:
        UsageError: The file can't be read, or names another photograph or mark; names file and line.
    """
    marks = {}
    for line, (file, mark) in read_columns(path, ("file", "mark"), "--marks"):
        if not mark:
            continue
        if file not in files:
            raise UsageError(f"--marks {path}, line {line}: no photograph {file!r}{suggest_or_list(file, files)}")
        if mark not in (KEEP, LEAVE):
            raise UsageError(f"--marks {path}, line {line}: {mark!r} is not a mark; give {KEEP} or {LEAVE}.")
        marks[file] = mark
    return marks
