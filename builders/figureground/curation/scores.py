"""Per-sample scores from a model or a person, in `_figureground/scores/NAME.csv` or `.parquet`.

A file has a column `key`, and further columns of numbers, text or booleans. Any program can write one. This example
writes a classifier's predictions for a rule like
`scores.mine.label == foreground and scores.mine.margin > 0.2`:

    with open("out/d3s/_figureground/scores/mine.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "label", "margin"])
        for dataset in load_dataset("out/d3s").values():
            names = dataset.features["foreground"].names
            for sample in dataset:
                second, first = sorted(enumerate(classify(sample["image"])), key=lambda pair: pair[1])[-2:]
                rows.writerow([sample["key"], names[first[0]], first[1] - second[1]])
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figureground.core.errors import FiguregroundError, join_names, plural
from figureground.core.files import create_bytes
from figureground.core.hashing import content_hash
from figureground.core.tables import TextTable, UnreadableText
from figureground.shards.directory import find_score_files
from figureground.shards.shard import SCORES

KEY = "key"
_PADDED = re.compile(r"-?0\d+$")
"""A whole number with leading zeros."""


class Scores:
    """The scores in one file, by key.

    Args:
        path: A CSV or Parquet file.

    Raises:
        FiguregroundError: The file can't be read, lacks the column `key`, or has duplicate keys, duplicate columns or
            columns of another type.
    """

    def __init__(self, path: Path):
        self.path = path
        self.name = path.stem
        self.path_in_dataset = f"{SCORES}/{path.name}"
        table = _read_table(path, self.path_in_dataset)
        if KEY not in table.column_names:
            raise FiguregroundError(
                f"{self.path_in_dataset} has no column {KEY!r}, only {join_names(table.column_names)}."
            )
        self.columns: tuple[str, ...] = tuple(name for name in table.column_names if name != KEY)
        if len(set(table.column_names)) < len(table.column_names):
            raise FiguregroundError(
                f"{self.path_in_dataset} has two columns with the same name: {join_names(table.column_names)}."
            )
        self._values = {name: _normalise_column(table[name], name, self.path_in_dataset) for name in table.column_names}
        keys = self._values.pop(KEY).to_pylist()
        empty = [row for row, key in enumerate(keys) if not isinstance(key, str) or not key]
        if empty:
            raise FiguregroundError(
                f"{self.path_in_dataset}: {plural(len(empty), 'row')} without a key, or with one that isn't text."
            )
        # Sorted bytes, because a dict of ten million keys takes gigabytes.
        unsorted = np.array([key.encode() for key in keys], dtype=np.bytes_)
        self._order = np.argsort(unsorted, kind="stable")
        self._keys = unsorted[self._order]
        duplicates = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        if len(duplicates):
            names = join_names((self._keys[i].decode() for i in duplicates), 3)
            raise FiguregroundError(
                f"{self.path_in_dataset}: {plural(len(duplicates), 'key')} given twice: {names}. Keep one row per key."
            )

    def __len__(self) -> int:
        return len(self._keys)

    def find_row(self, key: str) -> int | None:
        """Return the row of a key in the file, or None if it is absent."""
        encoded = key.encode()
        position = int(np.searchsorted(self._keys, np.bytes_(encoded)))
        return int(self._order[position]) if position < len(self._keys) and self._keys[position] == encoded else None

    def find_rows(self, keys: Sequence[str]) -> np.ndarray:
        """Return the row of each key in the file, int64 (keys,); -1 for those that are absent."""
        if not len(self._keys) or not keys:
            return np.full(len(keys), -1, np.int64)
        encoded = np.array([key.encode() for key in keys], dtype=np.bytes_)
        positions = np.minimum(np.searchsorted(self._keys, encoded), len(self._keys) - 1)
        return np.where(self._keys[positions] == encoded, self._order[positions], -1)

    def read_numbers(self, column: str) -> np.ndarray | None:
        """Return a column of numbers or booleans by row, float64 with NaN without a value; None if it holds text."""
        import pyarrow as pa

        values = self._values[column]
        if not (
            pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)
        ):
            return None
        return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)

    def value(self, row: int, column: str) -> Any:
        """Return a score, or None if it is missing or NaN."""
        value = self._values[column][row].as_py()
        return None if isinstance(value, float) and math.isnan(value) else value

    def keys(self, rows: np.ndarray) -> list[str]:
        """Return the sorted keys of the selected rows, bool (rows of the file)."""
        return sorted(key.decode() for key in self._keys[rows[self._order]])

    def write(self, rows: np.ndarray, directory: Path) -> None:
        """Write the selected rows, bool (rows of the file), to a file of the same name and type unless it exists."""
        path = directory / SCORES / self.path.name
        if path.exists():
            return
        if self.path.suffix == ".csv":
            data = _select_lines(self.path, self, rows)
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            buffer = io.BytesIO()
            pq.write_table(pq.read_table(self.path, partitioning=None).filter(pa.array(rows)), buffer)
            data = buffer.getvalue()
        create_bytes(path, data)


def read_scores(directory: Path) -> dict[str, Scores]:
    """Return all scores of a dataset, by name. Files that are neither CSV nor Parquet are ignored.

    Raises:
        FiguregroundError: As for `Scores`, or two files have the same name.
    """
    scores: dict[str, Scores] = {}
    for path in find_score_files(directory):
        if path.stem in scores:
            raise FiguregroundError(f"{SCORES} holds both {scores[path.stem].path.name} and {path.name}. Keep one.")
        scores[path.stem] = Scores(path)
    return scores


def fingerprints(scores: Mapping[str, Scores]) -> dict[str, str]:
    """Return the SHA-256 of each scores file, by name."""
    return {name: content_hash(file_scores.path) for name, file_scores in scores.items()}


def _read_table(path: Path, path_in_dataset: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            return pq.read_table(path, partitioning=None)
        if not os.path.getsize(path):
            raise FiguregroundError(f"{path_in_dataset} is empty.")
        return _read_csv(TextTable(path))
    except (pa.ArrowException, csv.Error, OSError, UnreadableText) as error:
        raise FiguregroundError(f"{path_in_dataset} can't be read: {error}") from None


def _read_csv(table: TextTable) -> Any:
    """Read a CSV as a pyarrow table, without the white space around names and values. An empty value is missing.

    A column with a number such as 007 is text, since 007 and 7 may be different names. Dates and times are text as they
    stand.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv

    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    header: list[str] = []
    text_columns = {KEY}
    for line in csv.reader(io.StringIO(table.text, newline=""), delimiter=table.separator):
        values = [value.strip() for value in line]
        writer.writerow(values)
        header = header or values
        text_columns.update(name for name, value in zip(header, values, strict=False) if _PADDED.match(value))
    data = out.getvalue().encode()

    def read_with(text_columns: Iterable[str]) -> Any:
        return pyarrow.csv.read_csv(
            io.BytesIO(data),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(text_columns, pa.string())),
        )

    read = read_with(text_columns)
    if len(set(read.column_names)) < len(read.column_names):
        return read
    times = [field.name for field in read.schema if pa.types.is_temporal(field.type)]
    texts = read_with([*text_columns, *times]) if times else read
    for position, field in enumerate(read.schema):
        if field.name in times:
            is_present = read[field.name].is_valid()
        elif field.name != KEY and pa.types.is_string(field.type):
            is_present = pc.not_equal(read[field.name], "")
        else:
            continue
        read = read.set_column(position, field.name, pc.if_else(is_present, texts[field.name], None))
    return read


def _normalise_column(column: Any, name: str, path_in_dataset: str) -> Any:
    """Return a column as one array of numbers, text or booleans."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_temporal(column.type):
        column = column.cast(pa.string())
    if types.is_decimal(column.type) or types.is_float16(column.type):
        column = column.cast(pa.float64())
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string)
    if not (types.is_null(column.type) or any(is_kind(column.type) for is_kind in kinds)):
        raise FiguregroundError(
            f"{path_in_dataset}: column {name!r} has type {column.type}. Numbers, text and booleans can be used."
        )
    return column.combine_chunks()


def _select_lines(path: Path, scores: Scores, rows: np.ndarray) -> bytes:
    """Return a CSV with its header and the selected rows, values unchanged."""
    out = io.StringIO(newline="")
    table = TextTable(path)
    lines = csv.reader(io.StringIO(table.text, newline=""), delimiter=table.separator)
    header = next(lines)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    key_column = [name.strip() for name in header].index(KEY)
    for line in lines:
        row = scores.find_row(line[key_column].strip()) if line else None
        if row is not None and rows[row]:
            writer.writerow(line)
    return out.getvalue().encode()
