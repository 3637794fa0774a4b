"""Reads shards sample by sample, with the same result for both formats."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError, check_regular, open_regular, parse_json, read_object
from figureground.recipe.sample import IMAGE_FORMATS, Guide, Spec
from figureground.shards.directory import refuse_strange
from figureground.shards.index_shape import INDEX, read_index
from figureground.shards.writer import Columns, Encoded

PROMPT = "prompt.txt"
MOST_MEMBER = 2**28
"""Largest tar member that is read, bytes. A PNG of 8,192 by 8,192 pixels is smaller."""
MOST_INFLATED, MOST_RATIO = 2**26, 4
"""Bytes of memory allowed for a row group, and additional bytes per byte in the file. Images hardly compress."""
MOST_ROWS, MOST_IN_MEMORY = 1000, 2**30
"""Maximum number and size, bytes, of the Parquet rows held in memory at a time."""
_OWN = ("foreground", "background", "prompt", "key", "provenance", "image")


@dataclass(frozen=True, slots=True)
class Stored:
    """A sample as stored in a shard: bytes and labels, not decoded."""

    key: str
    image: bytes
    """The encoded image."""
    prompt: str
    provenance: str
    """JSON, as written."""
    labels: dict[str, int]
    """`foreground`, `background`, and the further label columns."""
    texts: dict[str, str] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    """PNG, by column."""

    def spec(self) -> Spec:
        """Returns the Spec that the sample was made from, as far as its provenance records it."""
        said: dict[str, Any] = parse_json(self.provenance, f"{self.key}: its provenance")
        guide = Guide.from_json(said["guide"]) if said.get("guide") else None
        return Spec(
            self.key, said["split"], self.labels["foreground"], self.labels["background"],
            said.get("foreground_name", said["foreground"]), said.get("background_name", said["background"]),
            self.prompt, said.get("seed", 0), guide, (said.get("concept") or {}).get("name"),
        )  # fmt: skip

    def encoded(self) -> Encoded:
        """Returns the same sample, ready to be written again."""
        further = {name: label for name, label in self.labels.items() if name not in _OWN}
        return Encoded(self.spec(), self.image, self.provenance, further, self.texts, self.images)


def saved_index(directory: Path) -> dict[str, Any]:
    """Returns the contents of `_figureground/index.json`.

    Raises:
        FiguregroundError: It doesn't exist, because nothing was built or a build isn't finished; it can't be read; or
            it lacks a field that this release writes.
    """
    path = directory / INDEX
    refuse_strange(directory)
    try:
        if not {"columns", "formats", "image_format", "card"} <= set(read_object(path, root=directory)):
            raise FiguregroundError(
                f"{path} was written by an older release. Run the command that made the dataset again to rewrite it."
            )
        return read_index(directory)
    except FileNotFoundError:
        raise FiguregroundError(
            f"{directory} contains no finished dataset: {INDEX} is missing. Build one there, or finish the build with "
            "the command that began it."
        ) from None
    except (OSError, FileError) as error:
        why = error.reason if isinstance(error, FileError) else error.strerror or error
        raise FiguregroundError(f"{path} can't be used: {why}. Build again to rewrite it.") from None


def dataset_columns(directory: Path) -> Columns:
    """Returns the columns of a finished dataset.

    Raises:
        FiguregroundError: See `saved_index`.
    """
    return Columns.from_json(saved_index(directory)["columns"])


def read_parquet(path: Path, rows: Sequence[int] | None = None) -> Iterator[Stored]:
    """Yields the samples of a Parquet shard in order, or only those in `rows`; other row groups stay unread."""
    import pyarrow.parquet as pq

    check_regular(path)
    with damage_named(path), pq.ParquetFile(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            wanted = None if rows is None else {row - start for row in rows if start <= row < stop}
            if wanted is None or wanted:
                for place, row in enumerate(group_rows(file, group)):
                    if wanted is None or place in wanted:
                        _check_labels(row)
                        yield from_row(row)
            start = stop


def _check_labels(row: dict[str, Any]) -> None:
    """Raises ValueError for a label that is not an integer."""
    for name in ("foreground", "background"):
        if name in row and not isinstance(row[name], int):
            raise ValueError(f"its column {name} contains {row[name]!r}, which is not a label")


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turns errors from a damaged file, or one with other columns, into an error that names the file.

    Raises:
        FiguregroundError: The file can't be read.
    """
    import pyarrow as pa

    try:
        yield
    except FiguregroundError as error:
        raise FiguregroundError(f"{path}: {error}") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise FiguregroundError(
            f"{path} is damaged ({type(error).__name__}: {said}). figureground check {path.parent.parent} lists all "
            "problems. Restore the file from a copy, or delete its shard's marker and build again."
        ) from error


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields the given columns of a Parquet shard, row by row."""
    import pyarrow.parquet as pq

    check_regular(path)
    with damage_named(path), pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for row in group_rows(file, group, columns):
                _check_labels(row)
                yield row


def group_rows(file: Any, group: int, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yields the rows of a row group of a `pyarrow.parquet.ParquetFile`, with a few in memory at a time.

    Raises:
        FileError: The row group would take many times more memory than it has bytes in the file.
    """
    said = file.metadata.row_group(group)
    chunks = [said.column(i) for i in range(said.num_columns)]
    if columns is not None:
        chunks = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
    stored = sum(chunk.total_compressed_size for chunk in chunks)
    inflated = sum(chunk.total_uncompressed_size for chunk in chunks)
    if inflated > MOST_INFLATED + MOST_RATIO * stored:
        raise FileError(f"row group {group}", f"its {stored:,} bytes expand to {inflated:,}, so it isn't read")
    # A value that all rows share is stored once but takes memory in each row; none is larger than its column.
    largest = max((chunk.total_uncompressed_size for chunk in chunks), default=1)
    rows = max(1, min(MOST_ROWS, MOST_IN_MEMORY // max(1, largest)))
    for batch in file.iter_batches(rows, row_groups=[group], columns=columns):
        yield from batch.to_pylist()


def from_row(row: dict[str, Any]) -> Stored:
    """Returns the sample in a row of a Parquet shard."""
    rest = {name: value for name, value in row.items() if name not in _OWN}
    return Stored(
        row["key"], row["image"]["bytes"], row["prompt"], row["provenance"],
        labels={"foreground": row["foreground"], "background": row["background"],
                **{name: value for name, value in rest.items() if isinstance(value, int)}},
        texts={name: value for name, value in rest.items() if isinstance(value, str)},
        images={name: value["bytes"] for name, value in rest.items() if isinstance(value, dict)},
    )  # fmt: skip


def read_tar(path: Path, rows: Sequence[int] | None = None) -> Iterator[Stored]:
    """Yields the samples of a tar shard in order, or only those in `rows`."""
    wanted = None if rows is None else set(rows)
    for row, (key, members) in enumerate(tar_members(path)):
        if wanted is None or row in wanted:
            yield from_members(key, members)


class _Bounded:
    """File wrapper for `tarfile`, which otherwise reads as many bytes at once as a header claims.

    A sparse file can hold that many bytes, mostly holes, at little cost on disk.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_MEMBER:
            raise tarfile.ReadError(f"a header claims {size:,} bytes, so it isn't read")
        return self._file.read(size)


def tar_members(path: Path | BinaryIO, only: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields key and members of each sample: runs of members whose names are equal up to the first dot.

    Members are keyed by the rest of their names, such as `foreground.cls`. With `only`, others are skipped unread.

    Raises:
        FiguregroundError: A sample has two members of one name, or a member is sparse or larger than `MOST_MEMBER`.
        tarfile.TarError: The file ends within a member, or isn't a tar.
    """
    key: str | None = None
    members: dict[str, bytes] = {}
    with (
        contextlib.nullcontext(path) if not isinstance(path, Path) else open_regular(path) as opened,
        tarfile.open(fileobj=cast(Any, _Bounded(opened)), mode="r:") as tar,
    ):
        for member in tar:
            if not member.isfile():
                continue
            name, _, end = member.name.partition(".")
            if key is not None and name != key:
                yield key, members
                members = {}
            key = name
            if end in members:
                raise FiguregroundError(f"the member {member.name} occurs twice in one sample")
            if only is None or end in only:
                if member.issparse() or member.size > MOST_MEMBER:
                    raise FileError(member.name, f"it is a member of {member.size:,} bytes, so it isn't read")
                data = tar.extractfile(member)
                assert data is not None
                members[end] = data.read()
    if key is not None:
        yield key, members


def from_members(key: str, members: dict[str, bytes]) -> Stored:
    """Returns the sample that tar members from `tar_members` form.

    Raises:
        FiguregroundError: The image, the prompt or the JSON is missing.
    """
    image = next((members[name] for name in IMAGE_FORMATS if name in members), None)
    lacking = [name for name in (PROMPT, "json") if name not in members]
    if image is None or lacking:
        raise FiguregroundError(f"the sample {key} has no {lacking[0] if lacking else 'image'}")
    return Stored(
        key, image, members[PROMPT].decode(), members["json"].decode(),
        labels={name.removesuffix(".cls"): int(data) for name, data in members.items() if name.endswith(".cls")},
        texts={
            name.removesuffix(".txt"): data.decode()
            for name, data in members.items() if name.endswith(".txt") and name != PROMPT
        },
        images={name.removesuffix(".png"): data for name, data in members.items() if name.endswith(".png")},
    )  # fmt: skip
