"""Parses columns of labels and splits, and reports all problems of a table at once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np

from figureground.core.errors import FiguregroundError, plural, suggest
from figureground.core.names import RULE, describe_same_names, find_same_names
from figureground.core.tables import Column
from figureground.data.splits import SPLIT_NAMES, SPLITS, find_conflicts, split_number

MAX_EXAMPLES = 3
"""Number of examples that an error names."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")


Labels = tuple[np.ndarray, Sequence[str]]
"""Labels, int64 (n,), and the names of their values."""


class DataProblems:
    """Collects the problems of a data set, to report them all at once."""

    def __init__(self, where: str):
        self._where = where
        self._messages: list[str] = []

    def add(self, text: str) -> None:
        self._messages.append(text)

    def refuse(self) -> None:
        """Raise FiguregroundError if there are problems."""
        if len(self._messages) == 1:
            raise FiguregroundError(f"{self._where}: {self._messages[0]}")
        if self._messages:
            raise FiguregroundError("\n- ".join([f"{self._where}: {len(self._messages)} problems", *self._messages]))


# Columns


def quote_examples(column: Column, rows: Sequence[int]) -> str:
    """Return the first values of the given rows, with their lines, for an error."""
    return join_examples([f"{column.values[row]!r} in line {column.lines[row]}" for row in rows])


def join_examples(texts: Sequence[str]) -> str:
    """Join the first texts for an error, with an ellipsis for the others."""
    return ", ".join([*texts[:MAX_EXAMPLES], *(["…"] if len(texts) > MAX_EXAMPLES else [])])


def count_rows(n: int) -> str:
    """Return `1 row`, or `n rows`."""
    return plural(n, "row")


# Labels and splits


def read_labels(column: Column, problems: DataProblems, are_names: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels of a column, int64 (n,), and their names.

    Integers must be 0 to n − 1, and are their own names. Names are numbered in alphabetical order; two spellings of
    one name (see `core.names`) are refused. Invalid values are added to the problems.

    Args:
        are_names: Whether the values are known to be names, so that other numbers, such as 7 or 007, are names too.
    """
    values = column.values
    are_whole = [_WHOLE.fullmatch(value) is not None for value in values]
    empty = [row for row, value in enumerate(values) if not value]
    no_labels = np.zeros(len(values), np.int64), ()
    if empty:
        lines = join_examples([str(column.lines[row]) for row in empty])
        problems.add(f"{column.name}: {count_rows(len(empty))} without a value (line {lines}).")
        return no_labels
    are_names = are_names and _have_gap(values)
    if all(are_whole) and not are_names:
        labels = [int(value.partition(".")[0]) for value in values]
        gap = _describe_gap(column, labels)
        if gap:
            problems.add(f"{column.name}: labels are 0 to n − 1, {gap}.")
            return no_labels
        return np.array(labels, np.int64), tuple(map(str, range(max(labels) + 1)))
    invalid = [row for row, is_whole in enumerate(are_whole) if not is_whole]
    if not any(are_whole):
        invalid = [row for row in invalid if is_number(values[row])]
    if invalid and not are_names:
        problems.add(
            f"{column.name}: {count_rows(len(invalid))} without a whole number: {quote_examples(column, invalid)}. "
            "Use numbers from 0 in all rows, or names in all."
        )
        return no_labels
    names = sorted(set(values))
    if same := find_same_names(names):
        one, other = (quote_examples(column, [values.index(name)]) for name in same[0])
        problems.add(f"{column.name}: {describe_same_names(same)} ({one}; {other}). {RULE}: use one spelling of each.")
        return no_labels
    label_of = {name: label for label, name in enumerate(names)}
    return np.array([label_of[value] for value in values], np.int64), tuple(names)


def is_number(text: str) -> bool:
    """Whether a label reads as a number, which a column of names may not contain."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _have_gap(values: Sequence[str]) -> bool:
    """Whether texts are not the numbers 0 to n − 1, each in one spelling."""
    distinct = set(values)
    return distinct != set(map(str, range(len(distinct))))


def _describe_gap(column: Column, labels: Sequence[int]) -> str:
    """Describe why integers are not 0 to n − 1; empty if they are."""
    negative = [row for row, label in enumerate(labels) if label < 0]
    if negative:
        return f"but {count_rows(len(negative))} below 0: {quote_examples(column, negative)}"
    present, largest = set(labels), max(labels)
    absent = itertools.islice((label for label in range(largest) if label not in present), MAX_EXAMPLES + 1)
    missing = join_examples([str(label) for label in absent])
    return missing and f"and the largest is {largest}, but {missing} is missing. Number them without gaps, or use names"


def read_bits(column: Column, bits: Mapping[str, int], problems: DataProblems) -> np.ndarray:
    """Return labels 0 or 1, int64 (n,), from values in `bits`; others are added to the problems."""
    labels = [bits.get(value, -1) for value in column.values]
    invalid = [row for row, label in enumerate(labels) if label < 0]
    if invalid:
        problems.add(
            f"{column.name}: {count_rows(len(invalid))} with neither {' nor '.join(bits)}: "
            f"{quote_examples(column, invalid)}."
        )
    return np.maximum(np.array(labels, np.int64), 0)


def read_splits(column: Column, problems: DataProblems) -> np.ndarray:
    """Return splits, int64 (n,), from 0, 1, 2, or names in `data.splits`.

    Unknown names, and names of two parts of one split, such as `val` and `id_val`, are added to the problems.
    """
    split_of = {value: split_number(value) for value in set(column.values)}
    splits = [-1 if split_of[value] is None else split_of[value] for value in column.values]
    invalid = [row for row, split in enumerate(splits) if split == -1]
    if invalid:
        near = suggest(column.values[invalid[0]], SPLIT_NAMES)
        problems.add(
            f"{column.name}: {count_rows(len(invalid))} with none of 0, 1, 2, train, validation (val, dev), test: "
            f"{quote_examples(column, invalid)}{near or '.'}"
        )
    for number, names in find_conflicts(sorted(split_of)):
        problems.add(
            f"{column.name}: {' and '.join(map(repr, names))} would both be the split {SPLITS[number]}. Keep only the "
            "rows of one, or give other names in another column: --split-column NAME."
        )
    return np.array(splits, np.int64)


def cross_labels(attributes: Sequence[Labels], columns: Sequence[str]) -> Labels:
    """Cross attributes into one: each combination that occurs is a value, ordered by the first, then the others.

    Args:
        attributes: Labels of the columns, and the names of their values.
        columns: Column names, which become part of the names of numeric and boolean values: `Male=1 + Young=0`.
    """
    if len(attributes) == 1:
        return attributes[0]
    cells = np.zeros(len(attributes[0][0]), np.int64)
    for numbers, names in attributes:
        cells = cells * len(names) + numbers
    values, labels = np.unique(cells, return_inverse=True)
    texts = []
    for cell in values.tolist():
        parts = []
        for (_, names), column in zip(reversed(attributes), reversed(columns), strict=True):
            cell, value = divmod(cell, len(names))
            parts.append(f"{column}={names[value]}" if _needs_column_name(names[value]) else names[value])
        texts.append(" + ".join(reversed(parts)))
    return labels.astype(np.int64), tuple(texts)


def _needs_column_name(value: str) -> bool:
    """Whether a value of an attribute can't be understood without the column's name."""
    return value.isdecimal() or value.casefold() in ("true", "false", "yes", "no")


def parse_names(text: str, known: Sequence[str]) -> list[str]:
    """Return the column names in an option: one, or several separated by commas."""
    return [text] if text in known else [name.strip() for name in text.split(",") if name.strip()] or [text]
