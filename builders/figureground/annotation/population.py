"""The images of a dataset that answers are a sample of: their labels, and what scorers say about them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from figureground.annotation.correction import MISSING
from figureground.annotation.questions import UNKNOWN
from figureground.core.errors import FiguregroundError, join_names
from figureground.core.files import check_regular
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import SCORES

VERIFIED = f"{SCORES}/verify.parquet"
"""Scores that `verify` writes."""

_PROBABILITY = re.compile(r"(?P<name>\w+)_(?P<what>foreground|background)_p")


@dataclass(frozen=True)
class Population:
    """All images of a dataset, in order."""

    keys: Sequence[str]
    splits: Sequence[str]
    """Names of the splits."""
    foregrounds: Sequence[str]
    backgrounds: Sequence[str]
    split: np.ndarray
    """int64 (images,): each image's split."""
    foreground: np.ndarray
    background: np.ndarray

    @classmethod
    def from_dataset(cls, dataset: FinishedDataset) -> Population:
        splits = list(dataset.index["splits"])
        keys: list[str] = []
        numbers: list[tuple[int, int, int]] = []
        for shard in dataset.shards:
            split_number = splits.index(shard.split)
            for row in dataset.rows(shard):
                keys.append(row["key"])
                numbers.append((split_number, row["foreground"], row["background"]))
        split, foreground, background = np.array(numbers, np.int64).reshape(-1, 3).T
        names = dataset.columns
        return cls(keys, splits, names.foregrounds, names.backgrounds, split, foreground, background)

    def __len__(self) -> int:
        return len(self.keys)

    def positions(self) -> Mapping[str, int]:
        """Return the position of each key."""
        return {key: position for position, key in enumerate(self.keys)}

    def cells(self) -> np.ndarray:
        """int64 (images,): number of each image's cell."""
        return (self.split * len(self.foregrounds) + self.foreground) * len(self.backgrounds) + self.background

    def parts(self) -> np.ndarray:
        """int64 (3, images): each image's split; split and foreground; cell."""
        return np.stack([self.split, self.split * len(self.foregrounds) + self.foreground, self.cells()])


def find_asked(dataset: FinishedDataset, population: Population, question: str) -> np.ndarray:
    """Return the images about which a question of the dataset is asked, bool (images,): all, except that nobody is
    asked about the unknown background of a repainted image."""
    asked = np.ones(len(population), bool)
    if question == "background" and "source" in dataset.columns.texts and UNKNOWN in population.backgrounds:
        asked &= population.background != list(population.backgrounds).index(UNKNOWN)
    return asked


@dataclass(frozen=True)
class ScorerJudgements:
    """One scorer's judgement of one of the two labels of each image."""

    name: str
    label: str
    """`foreground` or `background`."""
    p: np.ndarray
    """float64 (images,): probability of the image's own label; NaN where the scorer doesn't know the label."""
    right: np.ndarray
    """int8 (images,): 1 if the own label is more probable than any other, 0 if not, `MISSING` if unknown. Scorers that
    give no ranks say 1 from a probability of 0.5."""

    @property
    def known(self) -> np.ndarray:
        """bool (images,): whether the scorer judged the label."""
        return self.right != MISSING


def read_scorers(directory: Path, population: Population) -> list[ScorerJudgements]:
    """Read the scores that `verify` wrote; empty if there are none.

    Raises:
        FiguregroundError: The file can't be read, has no column `key`, or a column isn't numeric.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / VERIFIED
    try:
        check_regular(path, root=directory)
        table = pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        return []
    except (pa.ArrowException, OSError) as error:
        raise FiguregroundError(f"{VERIFIED} can't be read: {error}. Remove it and run verify again.") from None
    if "key" not in table.column_names:
        raise FiguregroundError(f"{VERIFIED} has no column 'key', only {join_names(table.column_names)}.")
    rows = {key: row for row, key in enumerate(table["key"].to_pylist())}
    order = np.array([rows.get(key, -1) for key in population.keys], np.int64)
    scorers = []
    for column in table.column_names:
        if match := _PROBABILITY.fullmatch(column):
            p = _read_numbers(table, column, order)
            ranks, margins = (
                _read_numbers(table, other, order) if other in table.column_names else np.full(len(p), np.nan)
                for other in (column.removesuffix("p") + "rank", column.removesuffix("p") + "margin")
            )
            # Of equally probable labels, each has the rank 1, but none is the most probable.
            right = np.where(np.isnan(ranks), p >= 0.5, (ranks == 1) & ~(margins <= 0)).astype(np.int8)
            right[np.isnan(p) & np.isnan(ranks)] = MISSING
            scorers.append(ScorerJudgements(match["name"], match["what"], p, right))
    return scorers


def predict(scorers: Sequence[ScorerJudgements]) -> np.ndarray | None:
    """Return a prediction for each image, float64 (images,): the mean probability of the scorers that know its label.

    Images that no scorer knows get the mean of all others. None without any score.
    """
    if not scorers:
        return None
    p = np.stack([scorer.p for scorer in scorers])
    known = ~np.isnan(p)
    if not known.any():
        return None
    mean = np.where(known, p, 0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known.any(0), mean, mean[known.any(0)].mean())


def _read_numbers(table: Any, column: str, order: np.ndarray) -> np.ndarray:
    """Return a column for the images of the dataset, float64 with NaN where it has no value."""
    import pyarrow as pa

    try:
        values = table[column].cast(pa.float64()).to_numpy()
    except pa.ArrowException:
        raise FiguregroundError(f"{VERIFIED}: column {column!r} isn't numeric. Run verify again.") from None
    return np.where(order >= 0, values[order], np.nan) if len(values) else np.full(len(order), np.nan)
