"""Scores of images for the page: numbers to filter and sort by, and what each scores file says about one image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figureground.annotation.correction import MISSING
from figureground.annotation.population import Population, read_scorers
from figureground.core.errors import FiguregroundError, join_names, plural
from figureground.curation.scores import Scores
from figureground.shards.directory import find_score_files

_HASHES = ("image",)
"""Columns that aren't scores: the hash by which `verify` finds the image."""


class ScoreTable:
    """One scores file, read while the images pass in their order."""

    def __init__(self, scores: Scores):
        self._scores = scores
        self.name = scores.name
        self.path = scores.path_in_dataset
        self._columns = [name for name in scores.columns if name not in _HASHES]
        self._numbers = {
            name: values for name in self._columns if (values := scores.read_numbers(name)) is not None
        }  # fmt: skip
        self._rows: list[np.ndarray] = []
        self._matched = np.zeros(len(scores), bool)

    def take(self, keys: Sequence[str]) -> list[list[tuple[str, Any]]]:
        """Note the next images, and return what the file says about each: names of columns and values."""
        rows = self._scores.find_rows(keys)
        self._rows.append(rows)
        self._matched[rows[rows >= 0]] = True
        return [
            []
            if row < 0
            else [
                (f"{self.name}.{name}", value)
                for name in self._columns
                if (value := self._scores.value(int(row), name)) is not None
            ]
            for row in rows
        ]

    def columns(self) -> dict[str, np.ndarray]:
        """Return the numbers of all images that passed, float32 (images,), NaN without a value, by FILE.COLUMN."""
        rows = np.concatenate(self._rows) if self._rows else np.zeros(0, np.int64)
        has_row = rows >= 0
        columns = {}
        for name, values in self._numbers.items():
            column = np.full(len(rows), np.nan, np.float32)
            column[has_row] = values[rows[has_row]]
            if not np.isnan(column).all():
                columns[f"{self.name}.{name}"] = column
        return columns

    def describe_unknown_keys(self) -> str | None:
        """Return what doesn't fit the images that passed; None if all does."""
        if self._matched.all():
            return None
        unknown = self._scores.keys(~self._matched)
        return f"{self.path} has {plural(len(unknown), 'key')} that no image here has: {join_names(unknown, 3)}."


def read_tables(directory: Path) -> tuple[list[ScoreTable], list[str]]:
    """Read the scores files of a dataset.

    Returns:
        The files that can be used, by name, and what is wrong with the others.
    """
    tables: dict[str, ScoreTable] = {}
    notes = []
    for path in find_score_files(directory):
        try:
            table = ScoreTable(Scores(path))
        except FiguregroundError as error:
            notes.append(f"{error} Its scores aren't shown.")
            continue
        if table.name in tables:
            notes.append(f"{tables[table.name].path} and {table.path} have the same name; only the first is shown.")
        else:
            tables[table.name] = table
    return list(tables.values()), notes


def count_votes(directory: Path, population: Population) -> tuple[np.ndarray, int]:
    """Count the scorers of `verify` whose first choice is an image's own label, for each label that they know.

    Returns:
        The number of votes for each image, plus 1; 0 where no scorer knows a label: int64 (images,). And the number of
        scorers.

    Raises:
        FiguregroundError: The file of `verify` can't be used.
    """
    by_name: dict[str, list[np.ndarray]] = {}
    for scorer in read_scorers(directory, population):
        by_name.setdefault(scorer.name, []).append(scorer.right)
    votes, known = np.zeros(len(population), np.int64), np.zeros(len(population), bool)
    for columns in by_name.values():
        right = np.stack(columns)
        knows = (right != MISSING).any(0)
        votes += knows & ((right == 1) | (right == MISSING)).all(0)
        known |= knows
    return np.where(known, votes + 1, 0), len(by_name)
