"""Facts on each photograph, on disk: one line of JSON each, so that a killed run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, printable
from figureground.materials.gates import Measures
from figureground.materials.log import append, read_log, start_log
from figureground.recipe.sample import Box

MADE_BY = "figureground cutouts"
CUT, NOTHING, UNREADABLE = "cut", "nothing", "unreadable"
"""States of a photograph."""


@dataclass(frozen=True)
class CutoutRow:
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

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "measures": self.measures and self.measures.to_json()}


class CutoutJournal:
    """The rows of a run, by photograph.

    Args:
        path: The file.
        identity: What decides all cut-outs: segmenter and settings. A journal with another one is started over.
    """

    def __init__(self, path: Path, identity: str):
        self._path, self._identity = path, identity
        self.rows: dict[str, CutoutRow] = {}
        self.outdated: list[CutoutRow] = []
        """Rows of an earlier run with another identity."""
        head, rows = _read(path)
        if head.get("identity") == identity:
            self.rows = rows
        else:
            self.outdated = list(rows.values())

    def start(self) -> None:
        """Write what is still true, so that a line that a killed run cut off is gone."""
        start_log(self._path, MADE_BY, self._identity, (row.to_json() for row in self.rows.values()))

    def add(self, row: CutoutRow) -> None:
        """Add a row; it is on disk when this returns."""
        self.rows[row.file] = row
        append(self._path, row.to_json())


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, CutoutRow]]:
    """Return the first line and the rows.

    Raises:
        FiguregroundError: The file is damaged.
    """
    try:
        head, rows = read_log(path)
        return head, {row.file: row for row in map(_parse_row, rows)}
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(
            f"{printable(path)} is damaged ({error}). Remove its folder's content and run the command again."
        ) from None


def _parse_row(fields: dict[str, Any]) -> CutoutRow:
    measures = fields.pop("measures")
    size, box = tuple(fields.pop("size")), tuple(fields.pop("box"))
    return CutoutRow(**fields, size=size, box=box, measures=None if measures is None else Measures(**measures))
