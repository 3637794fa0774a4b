"""Logs that killed runs go on from: a first line that says what the run is of, then a line of JSON for each result."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from figureground.core.files import parse_json, read_text, replace_text


def read_log(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the first line and the others; both are empty without a file. A last line that was cut off doesn't count.

    Raises:
        ValueError: A line isn't JSON.
        FileError: It isn't a regular file, or too large.
    """
    try:
        lines = read_text(path, max_bytes=2**31).split("\n")[:-1]  # whatever follows the last line break was cut off
    except FileNotFoundError:
        return {}, []
    head, *rows = [parse_json(line, path) for line in lines] or [{}]
    return head, rows


def start_log(path: Path, made_by: str, identity: str, rows: Iterable[Mapping[str, Any]] = ()) -> None:
    """Write a log anew, with the rows that are still true.

    Args:
        made_by: The command, such as `figureground cutouts`; marks the file as ours.
        identity: Hash of what decides all results.
    """
    lines = [json.dumps({"made_by": made_by, "identity": identity}) + "\n", *map(_line, rows)]
    replace_text(path, "".join(lines))


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row; it is on disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_line(row))
        file.flush()
        os.fsync(file.fileno())


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
