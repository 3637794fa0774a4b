"""Data sets that one table labels: `filename,split,y[,a]`, and Waterbirds' metadata.csv."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from figureground.errors import FiguregroundError, RecipeError, nearest_or_all
from figureground.learn.groups import Files, GroupedPictures
from figureground.learn.record import METADATA, Asked, make_record
from figureground.learn.tables import (
    Column,
    Problems,
    find_files,
    read_bits,
    read_columns,
    read_header,
    read_labels,
    read_splits,
)

TABLE = ("filename", "split")
"""Columns of a table, beside that of y."""
WATERBIRDS = ("img_filename", "y", "split", "place")

WATERBIRDS_TRAIN = ((3498, 184), (56, 1057))
"""Training pictures of Waterbirds, class × place (Sagawa et al. 2020, arXiv 1911.08731)."""


def find_tables(columns: Sequence[str]) -> Callable[[Path, str], list[Path]]:
    """Finds the tables that have certain columns, and that of y."""

    def find(path: Path, y: str) -> list[Path]:
        files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
        return [file for file in files if file.is_file() and {*columns, y} <= set(_header_of_any(file, path))]

    return find


def _header_of_any(file: Path, given: Path) -> list[str]:
    """As `read_header`; but a file that can't be read, and that nobody meant, has none."""
    try:
        return read_header(file)
    except FiguregroundError:
        if file == given or file.name == METADATA:
            raise
        return []


def read_table(asked: Asked) -> GroupedPictures:
    """`filename,split,y[,a]`."""
    y, a, header = asked.y or "y", asked.a or "a", read_header(asked.at)
    if asked.a is not None and a not in header:
        raise RecipeError("a", f"{asked.at.name} has no column {a!r}{nearest_or_all(a, header)}")
    if a == y:
        raise RecipeError("a", f"{a!r} is the class already; the attribute is another column.")
    columns = read_columns(asked.at, [*TABLE, y, *([a] if a in header else [])])
    if a in columns and not any(columns[a].values):
        del columns[a]
    problems = Problems(asked.at.name)
    split = read_splits(columns["split"], problems)
    labels = read_labels(columns[y], problems)
    attribute = read_labels(columns[a], problems) if a in columns else None
    files, keys, notes = _files_of(asked, columns["filename"], split, problems)
    return make_record(asked, "table", keys, split, labels, attribute, files, notes)


def _files_of(
    asked: Asked, column: Column, split: np.ndarray, problems: Problems
) -> tuple[Files, tuple[str, ...], list[str]]:
    """The files of a table; raises FiguregroundError for all problems of it."""
    hint = " If the pictures lie elsewhere, say where with --root DIR." if asked.root is None else ""
    found = find_files(asked.root or asked.at.parent, column, split, problems, hint)
    problems.refuse()
    return found


def read_waterbirds(asked: Asked) -> GroupedPictures:
    """`img_id,img_filename,y,split,place,place_filename` (Sagawa et al. 2020, arXiv 1911.08731)."""
    columns = read_columns(asked.at, WATERBIRDS)
    problems = Problems(asked.at.name)
    split = read_splits(columns["split"], problems)
    y, place = (read_bits(columns[name], {"0": 0, "1": 1}, problems) for name in ("y", "place"))
    files, keys, notes = _files_of(asked, columns["img_filename"], split, problems)
    groups = make_record(
        asked, "waterbirds", keys, split, (y, ("landbird", "waterbird")), (place, ("land", "water")), files, notes
    )
    known = ", ".join(f"{n:,}" for row in WATERBIRDS_TRAIN for n in row)
    if groups.counts(0).tolist() == [list(row) for row in WATERBIRDS_TRAIN]:
        said = f"The training groups are those of Waterbirds: {known}."
    else:
        said = f"The training groups are not those of Waterbirds ({known}): this is a part of it, or another draw."
    return replace(groups, notes=(said, *groups.notes))
