"""Shards as Parquet: what `load_dataset`, the Hub's viewer and Croissant read."""

from __future__ import annotations

import array
import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core.errors import FiguregroundError, join_names
from figureground.core.files import FileError, check_regular
from figureground.shards.columns import Columns
from figureground.shards.drafts import Draft
from figureground.shards.formats.format import TEXTS, Format, Reading, Writer
from figureground.shards.index_shape import INDEX
from figureground.shards.problems import ShardProblems, explain_damage, shorten_error
from figureground.shards.samples import Encoded, Stored

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 100
BYTES_PER_GROUP = 32 * 2**20
"""A row group ends at whichever limit comes first. Reading one row from the Hub reads its whole group."""

CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}
"""Content-defined chunking of Parquet pages: datasets that share images share storage on the Hub."""

MAX_INFLATED, MAX_RATIO = 2**26, 4
"""Bytes of memory allowed for a row group, and additional bytes per byte in the file. Images hardly compress."""
MAX_ROWS, MAX_IN_MEMORY = 1000, 2**30
"""Maximum number and size, bytes, of the Parquet rows held in memory at a time."""
MAX_LOST = 100_000
"""Upper limit on the rows that a damaged row group is assumed to have held."""

_COMMON = ("foreground", "background", "prompt", "key", "provenance", "image")


class Parquet(Format):
    """A Parquet file per shard, with the columns of the dataset and its class names."""

    NAME = "parquet"
    TITLE = "Parquet"
    FOLDER = "data"
    SUFFIX = ".parquet"
    MIME = "application/x-parquet"
    LOADABLE = True
    COLUMNAR = True
    PUBLISHES_REJECTS = True
    NEEDS: ClassVar[tuple[str, ...]] = ("pyarrow", "datasets")

    def write(self, draft: Draft, columns: Columns, image_format: str) -> ParquetWriter:
        return ParquetWriter(draft, columns, image_format)

    def read(self, path: Path, rows: Collection[int] | None = None) -> Iterator[Stored]:
        """Yield the samples of a shard in order, or only those in `rows`; other row groups stay unread."""
        import pyarrow.parquet as pq

        check_regular(path)
        with explain_damage(path), pq.ParquetFile(path) as file:
            start = 0
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                selected = None if rows is None else {row - start for row in rows if start <= row < stop}
                if selected is None or selected:
                    for position, row in enumerate(_read_group_rows(file, group)):
                        if selected is None or position in selected:
                            _check_labels(row)
                            yield from_row(row)
                start = stop

    def columns_of(
        self, path: Path, labels: Sequence[str] = ("foreground", "background"), texts: Sequence[str] = TEXTS
    ) -> Iterator[dict[str, Any]]:
        return read_rows(path, [*labels, *texts])

    def schema(self, path: Path) -> Columns:
        """Return the columns from the `datasets` metadata in the file's schema.

        Raises:
            FiguregroundError: The file can't be read, or another program wrote it.
        """
        import pyarrow.parquet as pq
        from datasets import ClassLabel, Features, Value

        check_regular(path)
        with explain_damage(path):
            schema = pq.read_schema(path)
            if b"huggingface" not in (schema.metadata or {}):
                raise FiguregroundError("its schema lacks class names, so figureground didn't write this file.")
            features = Features.from_arrow_schema(schema)
            classes = {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}
            return Columns(
                classes.pop("foreground"),
                classes.pop("background"),
                classes,
                tuple(n for n, feature in features.items() if isinstance(feature, Value) and n not in TEXTS),
                "guide" in features,
                "mask" in features,
            )

    def tables(self, path: Path) -> Iterator[pa.Table]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(path).iter_batches(100):
            yield pa.Table.from_batches([batch])

    def check(self, reading: Reading) -> Iterator[Stored | None]:
        for row in check_rows(reading.path, reading.where, reading.columns, reading.planned, reading.problems):
            yield None if row is None else _check_row(reading, row)


# Writing


class ParquetWriter(Writer):
    """Writes row groups in its own thread, one group behind the incoming samples."""

    def __init__(self, draft: Draft, columns: Columns, image_format: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._columns = columns
        self._schema: pa.Schema = columns.features().arrow_schema
        self._image_format = image_format
        self._samples: list[Encoded] = []
        self._bytes = 0
        self._loaded_bytes = 0
        images = ["image", *columns.images]
        short = ["foreground", "background", "prompt", "key", *columns.labels, *columns.texts]
        # Not the draft's own file: each write to it would wait for the thread that runs Python.
        self._file = pa.OSFile(str(draft.path), "wb")
        self._writer = pq.ParquetWriter(
            self._file,
            self._schema,
            # Images are already compressed; statistics of long columns would only enlarge the footer.
            compression={name: "snappy" for name in [*short, "provenance", *(f"{p}.path" for p in images)]},
            use_dictionary=[name for name in short if name != "key"],
            write_statistics=short,
            write_page_index=True,
            use_content_defined_chunking=CHUNKING,
        )
        self._writer.add_key_value_metadata({"content_defined_chunking": json.dumps(CHUNKING)})
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parquet")
        self._writing: Future[None] | None = None

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)
        with self._file:
            self._writer.close()

    def add(self, sample: Encoded) -> None:
        self._samples.append(sample)
        self._bytes += len(sample.image) + sum(map(len, sample.images.values()))
        if len(self._samples) >= ROWS_PER_GROUP or self._bytes >= BYTES_PER_GROUP:
            self._flush()

    def close(self) -> None:
        if self._samples:
            self._flush()
        self._wait()
        self._writer.close()
        self._file.close()

    def facts(self) -> dict[str, Any]:
        """Return the size of the samples once loaded, bytes."""
        return {"arrow_bytes": self._loaded_bytes}

    def _flush(self) -> None:
        self._wait()
        self._writing = self._thread.submit(self._write, self._samples)
        self._samples, self._bytes = [], 0

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _write(self, samples: list[Encoded]) -> None:
        import pyarrow as pa

        rows: dict[str, Any] = {
            "image": _make_image_column([(s.image, f"{s.spec.key}.{self._image_format}") for s in samples]),
            "foreground": [s.spec.foreground for s in samples],
            "background": [s.spec.background for s in samples],
            "prompt": [s.spec.prompt for s in samples],
            "key": [s.spec.key for s in samples],
            "provenance": [s.provenance for s in samples],
        }
        # Only a published reject may lack values: it was planned but never made.
        for name in self._columns.labels:
            rows[name] = [s.labels.get(name) for s in samples]
        for name in self._columns.texts:
            rows[name] = [s.texts.get(name) for s in samples]
        for name in self._columns.images:
            rows[name] = _make_image_column([(s.images.get(name, b""), f"{s.spec.key}.{name}.png") for s in samples])
        table = pa.Table.from_pydict(rows, schema=self._schema)
        self._loaded_bytes += table.nbytes
        self._writer.write_table(table, row_group_size=len(samples))


def _make_image_column(rows: Sequence[tuple[bytes, str]]) -> pa.StructArray:
    """Return a column of images, bytes and path; null where there are no bytes.

    The bytes are joined here: given one by one, Arrow copies them more often and blocks the thread that writes the
    tar for longer.
    """
    import pyarrow as pa

    ends = array.array("i", itertools.accumulate((len(data) for data, _ in rows), initial=0))
    joined = pa.py_buffer(b"".join(data for data, _ in rows))
    data = pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(ends), joined])
    missing = pa.array([not data for data, _ in rows]) if not all(data for data, _ in rows) else None
    return pa.StructArray.from_arrays([data, pa.array([path for _, path in rows])], ["bytes", "path"], mask=missing)


# Reading


def _check_labels(row: dict[str, Any]) -> None:
    """Raise ValueError for a label that is not an integer."""
    for name in ("foreground", "background"):
        if name in row and not isinstance(row[name], int):
            raise ValueError(f"its column {name} contains {row[name]!r}, which is not a label")


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the given columns of a Parquet shard, row by row."""
    import pyarrow.parquet as pq

    check_regular(path)
    with explain_damage(path), pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for row in _read_group_rows(file, group, columns):
                _check_labels(row)
                yield row


def _read_group_rows(file: Any, group: int, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a row group of a `pyarrow.parquet.ParquetFile`, with a few in memory at a time.

    Raises:
        FileError: The row group would take many times more memory than it has bytes in the file.
    """
    metadata = file.metadata.row_group(group)
    chunks = [metadata.column(i) for i in range(metadata.num_columns)]
    if columns is not None:
        chunks = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
    stored = sum(chunk.total_compressed_size for chunk in chunks)
    inflated = sum(chunk.total_uncompressed_size for chunk in chunks)
    if inflated > MAX_INFLATED + MAX_RATIO * stored:
        raise FileError(f"row group {group}", f"its {stored:,} bytes expand to {inflated:,}, so it isn't read")
    # A value that all rows share is stored once but takes memory in each row; none is larger than its column.
    largest = max((chunk.total_uncompressed_size for chunk in chunks), default=1)
    rows = max(1, min(MAX_ROWS, MAX_IN_MEMORY // max(1, largest)))
    for batch in file.iter_batches(rows, row_groups=[group], columns=columns):
        yield from batch.to_pylist()


def from_row(row: dict[str, Any]) -> Stored:
    """Return the sample in a row of a Parquet shard."""
    further = {name: value for name, value in row.items() if name not in _COMMON}
    return Stored(
        row["key"], row["image"]["bytes"], row["prompt"], row["provenance"],
        labels={"foreground": row["foreground"], "background": row["background"],
                **{name: value for name, value in further.items() if isinstance(value, int)}},
        texts={name: value for name, value in further.items() if isinstance(value, str)},
        images={name: value["bytes"] for name, value in further.items() if isinstance(value, dict)},
    )  # fmt: skip


# Checking


def check_rows(
    path: Path, where: str, columns: Columns, planned: int, problems: ShardProblems
) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of a file that may be damaged, or None for an unreadable row; faults go to `problems`.

    Args:
        where: The file's path in the dataset.
        columns: Columns that it should have.
        planned: Upper limit of its rows.
    """
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if not _schema_fits(where, file.schema_arrow, columns, problems):
                return
            for group in range(file.num_row_groups):
                num_read = 0
                try:
                    for row in _read_group_rows(file, group):
                        yield row
                        num_read += 1
                except Exception as error:
                    problems.lines.append(f"{where}: row group {group} can't be read ({shorten_error(error)}).")
                    lost = min(file.metadata.row_group(group).num_rows, planned) - num_read
                    yield from itertools.repeat(None, max(0, min(lost, MAX_LOST)))
    except Exception as error:  # pyarrow raises many kinds
        problems.lines.append(f"{where}: it can't be read as Parquet ({shorten_error(error)}).")


def _schema_fits(where: str, schema: Any, columns: Columns, problems: ShardProblems) -> bool:
    """Whether the samples can be read; differing class names are a fault but don't prevent it."""
    from datasets import Features

    expected = columns.features()
    readable = schema.equals(expected.arrow_schema)
    if not readable:
        problems.lines.append(
            f"{where}: its columns are {join_names(_describe_types(schema))}; the dataset's are "
            f"{join_names(_describe_types(expected.arrow_schema))}."
        )
    elif Features.from_arrow_schema(schema) != expected:
        problems.lines.append(f"{where}: its class names differ from those in {INDEX}.")
    return readable


def _check_row(reading: Reading, row: dict[str, Any]) -> Stored | None:
    """Return the sample of a row; None if a column is empty."""
    key = str(row["key"])
    empty = [
        name for name, value in row.items() if value is None or (isinstance(value, dict) and value["bytes"] is None)
    ]
    if empty:
        reading.problems.add(reading.where, "a column is empty", key, join_names(empty))
        return None
    name = row["image"]["path"]
    if name is not None and name != f"{key}.{reading.image_format}":
        reading.problems.add(reading.where, "the image's file name doesn't match the key", key, name)
    return from_row(row)


def _describe_types(schema: Any) -> list[str]:
    return [f"{field.name} ({field.type})" for field in schema]
