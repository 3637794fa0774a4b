"""What is known of each photograph, on disk: one line of JSON each, so that a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, printable
from figureground.core.files import parse_json, read_text, replace_text
from figureground.materials.gates import Measures
from figureground.recipe.sample import Box

MADE_BY = "figureground cutouts"
CUT, NOTHING, UNREADABLE = "cut", "nothing", "unreadable"
"""States of a photograph."""


@dataclass(frozen=True)
class Row:
    """A photograph and its cut-out."""

    file: str
    """`folder/file` of the photograph."""
    cutout: str
    """`folder/file` of the cut-out."""
    inputs: str
    """Hash of what decides the cut-out: the file, its mask, the phrase."""
    state: str
    """`cut`, `nothing` found, or `unreadable`."""
    problem: str = ""
    """Why the photograph can't be read."""
    found: str = ""
    """Where the outline comes from: `segmenter`, `mask` or `transparency`."""
    size: tuple[int, int] = (0, 0)
    """Width and height of the reduced photograph."""
    box: Box = (0, 0, 0, 0)
    """The cut-out's place in the reduced photograph."""
    measures: Measures | None = None

    def to_json(self) -> str:
        told = {**asdict(self), "measures": self.measures and self.measures.to_json()}
        return json.dumps(told, ensure_ascii=False) + "\n"


class Journal:
    """The rows of a run, by photograph.

    Args:
        path: The file.
        identity: What decides all cut-outs: segmenter and settings. A journal with another one is started over.
    """

    def __init__(self, path: Path, identity: str):
        self._path, self._identity = path, identity
        self.rows: dict[str, Row] = {}
        self.outdated: list[Row] = []
        """Rows of an earlier run with another identity."""
        head, rows = _read(path)
        if head.get("identity") == identity:
            self.rows = rows
        else:
            self.outdated = list(rows.values())

    def start(self) -> None:
        """Write what is still true, so that a line that a killed run cut off is gone."""
        head = json.dumps({"made_by": MADE_BY, "identity": self._identity}) + "\n"
        replace_text(self._path, head + "".join(row.to_json() for row in self.rows.values()))

    def add(self, row: Row) -> None:
        """Add a row; it is on disk when this returns."""
        self.rows[row.file] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(row.to_json())
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, Row]]:
    """Return the first line and the rows; a last line that was cut off doesn't count.

    Raises:
        FiguregroundError: The file is damaged.
    """
    try:
        lines = read_text(path, most=2**31).split("\n")
    except FileNotFoundError:
        return {}, {}
    whole = lines[:-1]  # what follows the last line break was cut off
    try:
        head = parse_json(whole[0], path) if whole else {}
        rows = [_row(parse_json(line, path)) for line in whole[1:]]
        return head, {row.file: row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(
            f"{printable(path)} is damaged ({error}). Remove its folder's content and run the command again."
        ) from None


def _row(told: dict[str, Any]) -> Row:
    measures = told.pop("measures")
    size, box = tuple(told.pop("size")), tuple(told.pop("box"))
    return Row(**told, size=size, box=box, measures=None if measures is None else Measures(**measures))
