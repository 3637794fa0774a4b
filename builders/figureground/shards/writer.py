"""Writes a shard atomically: a tar and a Parquet file with the same samples, then its marker.

A shard is rendered into privately named temporary files, which are synced and renamed. Only then is the marker
created, exclusively. It records that the shard is finished, with counts and the SHA-256 of each file.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import itertools
import json
import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from figureground.core.errors import FiguregroundError, listed
from figureground.core.files import (
    create_text,
    read_object,
    sync_directory,
    temporary,
)
from figureground.core.locks import lock, unlink_while_held
from figureground.recipe.document import FORMAT
from figureground.recipe.plan import PlannedShard
from figureground.recipe.sample import Reject, Sample, Spec
from figureground.sources.images import encode

if TYPE_CHECKING:
    from datasets import Features

REASON = "reason"
"""Column of published rejects that holds the reason for rejection."""

FORMATS: tuple[str, ...] = ("parquet", "webdataset")
"""Formats that a shard can be written in."""

PRIVATE = "_figureground"
"""Directory for everything except the data; `datasets` skips names that begin with `_`."""

RECIPE = f"{PRIVATE}/recipe.json"

MARKERS = f"{PRIVATE}/shards"
"""Directory of the markers, relative to the dataset directory."""

REJECTS = "_figureground/rejects"

PUBLISHED_REJECTS = "rejects"
"""Directory of rejects as Parquet files, in datasets that publish them."""

ROWS_PER_GROUP = 100
BYTES_PER_GROUP = 32 * 2**20
"""A row group ends at whichever limit comes first. Reading one row from the Hub reads its whole group."""

ENCODERS = 2
"""Threads that encode images."""
AHEAD = 32
"""Maximum number of images that wait to be encoded or written."""

CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}
"""Content-defined chunking of Parquet pages: datasets that share images share storage on the Hub."""

INDEX_LOCK = "_figureground/.index.lock"
"""Lock held while the index and the card are written."""

SCORES = "_figureground/scores"
"""Directory of scores, one file per score."""

STAGES_LOCK = "_figureground/.stages.lock"
"""Lock held while recipe and numerics are settled and stages are run."""

WORKING_LOCK = "_figureground/.working.lock"
"""Lock shared by all processes that render."""

_NAME = r"\w+(-e\d+)?-\d{5,}-of-\d{5,}"
_TEMPORARY = re.compile(
    rf"\.((?P<shard>{_NAME})\.(parquet|tar|jsonl|json)|index\.json|croissant\.json|attribution\.csv|README\.md|preview\.png|report\.html|(?P<settled>recipe\.json|numerics\.json|done\.json|(?i:licen[cs]e|notice|attribution|citation).*|.+\.(csv|parquet)))\.\d+-[0-9a-f]{{16}}\.tmp"
)
_LOCK = re.compile(rf"\.{_NAME}\.lock")


class ShardError(FiguregroundError, ValueError):
    """Raised for samples that can't be written as requested, and for files on disk that contradict each other."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Unit of work: the planned images of one file."""

    split: str
    index: int
    """Position within its split and part, from 0."""
    of: int
    """Number of shards of the split in this part."""
    count: int
    """Number of planned images; each becomes a sample or a reject."""
    part: int = 0
    """0 for the first build, n for the n-th extension."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w+", self.split, re.ASCII):
            raise ShardError(f"split {self.split!r}: a split's name consists of letters, digits and '_'.")
        if not 0 <= self.index < self.of:
            raise ShardError(f"split {self.split!r}: shard {self.index} of {self.of} doesn't exist.")

    @classmethod
    def of_marker(cls, marker: Mapping[str, Any]) -> Shard:
        """Returns the shard that a marker describes."""
        return cls(marker["split"], marker["index"], marker["of"], marker["planned"], marker.get("part", 0))

    @property
    def name(self) -> str:
        part = f"-e{self.part}" if self.part else ""
        return f"{self.split}{part}-{self.index:05d}-of-{self.of:05d}"

    def path(self, kind: str) -> str:
        """Returns the path of the shard's file of a kind, relative to the dataset directory.

        Kinds are `parquet`, `webdataset`, `marker`, `rejects`, and `published_rejects`.
        """
        return {
            "parquet": f"data/{self.name}.parquet",
            "webdataset": f"webdataset/{self.name}.tar",
            "marker": f"{MARKERS}/{self.name}.json",
            "rejects": f"{REJECTS}/{self.name}.jsonl",
            "published_rejects": f"{PUBLISHED_REJECTS}/{self.name}.parquet",
        }[kind]


def as_shard(planned: PlannedShard) -> Shard:
    """Converts a planned shard to a `Shard`."""
    return Shard(planned.split, planned.index, planned.of, planned.count, planned.part)


@dataclass(frozen=True)
class Columns:
    """Columns of a dataset, in this order, besides `prompt`, `key` and `provenance`.

    The values of `labels` and `texts` are read from a sample's provenance, under the same names.
    """

    foregrounds: Sequence[str]
    """Names of the foreground classes, in label order."""
    backgrounds: Sequence[str]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further ClassLabel columns, with the names of their classes; provenance holds the name."""
    texts: Sequence[str] = ()
    """Further string columns."""
    guide: bool = False
    """Whether the guide, the image that generation started from, is stored as PNG."""
    mask: bool = False

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Columns:
        """Restores the columns from the output of `to_json`."""
        return cls(**saved)

    def to_json(self) -> dict[str, Any]:
        """Returns all columns as JSON, for the index."""
        return {
            "foregrounds": list(self.foregrounds),
            "backgrounds": list(self.backgrounds),
            "labels": {name: list(names) for name, names in self.labels.items()},
            "texts": list(self.texts),
            "guide": self.guide,
            "mask": self.mask,
        }

    def features(self) -> Features:
        """Returns the columns of the Parquet files, as `load_dataset` shows them."""
        from datasets import ClassLabel, Features, Image, Value

        text = Value("string")
        return Features(
            {
                "image": Image(),
                "foreground": ClassLabel(names=list(self.foregrounds)),
                "background": ClassLabel(names=list(self.backgrounds)),
                "prompt": text,
                "key": text,
                "provenance": text,
                **{name: ClassLabel(names=list(names)) for name, names in self.labels.items()},
                **{name: text for name in self.texts},
                **{name: Image() for name in self.images},
            }
        )

    def tar_features(self, image_format: str) -> Features:
        """Returns the members of the tars, as `load_dataset` shows them for datasets without Parquet.

        `json` is left out because older releases of datasets can't read a declaration of its type.
        """
        from datasets import Features

        dotted = {
            "image": image_format,
            "prompt": "prompt.txt",
            "key": "__key__",
            **{name: f"{name}.cls" for name in ("foreground", "background", *self.labels)},
            **{name: f"{name}.txt" for name in self.texts},
            **{name: f"{name}.png" for name in self.images},
        }
        return Features({dotted[name]: feature for name, feature in self.features().items() if name in dotted})

    def of_rejects(self) -> Columns:
        """Returns the columns of published rejects, which include `reason`.

        Raises:
            ShardError: The dataset already has a column `reason`.
        """
        if REASON in (*self.labels, *self.texts):
            raise ShardError(f"rejects can't be published: the dataset already has a column {REASON!r}.")
        return replace(self, texts=(*self.texts, REASON))

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the image columns besides `image`."""
        return tuple(name for name, kept in (("guide", self.guide), ("mask", self.mask)) if kept)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as bytes, ready for any format."""

    spec: Spec
    image: bytes
    provenance: str
    """JSON."""
    labels: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    """PNG, by column."""


@dataclass(frozen=True, slots=True)
class Dropped(Reject):
    """A reject that has an image."""

    encoded: Encoded


def write_shard(
    directory: Path,
    shard: Shard,
    columns: Columns,
    results: Iterable[Sample | Reject],
    provenance: Callable[[Sample], Mapping[str, Any]],
    *,
    formats: Sequence[str] = FORMATS,
    image_format: str = "jpg",
) -> dict[str, Any]:
    """Writes a shard from rendered samples, encoding images in threads while others are rendered.

    Args:
        directory: The dataset's directory.
        shard: The shard to write. Hold its `claim` meanwhile if several processes may write to this directory.
        columns: Columns of each sample.
        results: One result per planned image, in the order in which to write them.
        provenance: Returns a sample's provenance, JSON-able; key, split, prompt and label names are added.
        formats: A subset of `FORMATS`.
        image_format: `jpg`, `webp` or `png`.

    Returns:
        The marker, as written.

    Raises:
        ShardError: A result belongs to another shard, their number differs from the planned one, or the shard is
            already finished. Nothing is published then, nor when `results` raises.
    """
    encoded = _encode_all(shard, columns, results, provenance, image_format)
    with contextlib.closing(encoded):
        return write_encoded(directory, shard, columns, encoded, formats=formats, image_format=image_format)


def write_encoded(
    directory: Path,
    shard: Shard,
    columns: Columns,
    encoded: Iterable[Encoded | Reject],
    *,
    formats: Sequence[str] = FORMATS,
    image_format: str = "jpg",
    publish_rejects: bool = False,
    version: int = FORMAT,
) -> dict[str, Any]:
    """Writes a shard from encoded samples; otherwise the same as `write_shard`.

    `version` is the format version in which the images were drawn; a copy keeps it. With `publish_rejects`, rejects
    are also written as a Parquet file, with the images of those that are `Dropped`.
    """
    unknown = set(formats) - set(FORMATS)
    if unknown or not formats:
        raise ShardError(f"formats: {listed(unknown) or 'none'} given; choose from {listed(FORMATS)}.")
    _refuse_done(directory, shard)
    start = time.perf_counter()
    cells: Counter[tuple[int, int]] = Counter()
    keys: set[str] = set()
    rejects: list[Reject] = []
    with contextlib.ExitStack() as stack:
        drafts = {kind: stack.enter_context(_Draft(directory, shard, kind)) for kind in formats}
        writers = [stack.enter_context(_WRITERS[k](drafts[k], columns, image_format)) for k in formats]
        published: _Parquet | None = None
        for result in encoded:
            if result.spec.key in keys:
                raise ShardError(f"shard {shard.name}: two results have the key {result.spec.key!r}.")
            keys.add(result.spec.key)
            if isinstance(result, Reject):
                rejects.append(Reject(result.spec, result.reason))  # without the image
                if publish_rejects:
                    if published is None:
                        draft = stack.enter_context(_Draft(directory, shard, "published_rejects"))
                        drafts["published_rejects"] = draft
                        published = stack.enter_context(_Parquet(draft, columns.of_rejects(), image_format))
                    published.add(_published(result))
                continue
            for writer in writers:
                writer.add(result)
            cells[result.spec.foreground, result.spec.background] += 1
        if len(keys) != shard.count:
            raise ShardError(
                f"shard {shard.name}: {shard.count} images were planned, but {len(keys) - len(rejects)} samples "
                f"and {len(rejects)} rejects arrived; every planned image must become one or the other."
            )
        for writer in [*writers, *([published] if published else [])]:
            writer.close()
        if rejects:
            drafts["rejects"] = stack.enter_context(_Draft(directory, shard, "rejects"))
            for reject in rejects:
                line = {"key": reject.spec.key, "reason": reject.reason, "spec": reject.spec.to_json()}
                drafts["rejects"].file.write(_json(line, reject.spec.key).encode() + b"\n")
        with ThreadPoolExecutor(len(drafts), thread_name_prefix="finish") as pool:
            finished = pool.map(_Draft.finish, drafts.values())
            files = {shard.path(kind): facts for kind, facts in zip(drafts, finished, strict=True)}
        if (directory / shard.path("marker")).exists():
            return _theirs(directory, shard, files)  # without locks, two processes may render one shard
        for draft in drafts.values():
            draft.publish()
        for kind in {*FORMATS, "rejects", "published_rejects"} - set(drafts):
            # A killed build may have left files of this shard in other formats; without a marker they are garbage.
            (directory / shard.path(kind)).unlink(missing_ok=True)
    samples, seconds = len(keys) - len(rejects), time.perf_counter() - start
    parquet = [writer for writer in writers if isinstance(writer, _Parquet)]
    marker = {
        "format": version,
        "shard": shard.name,
        "split": shard.split,
        "index": shard.index,
        "of": shard.of,
        "part": shard.part,
        "planned": shard.count,
        "samples": samples,
        "rejects": dict(sorted(Counter(reject.reason for reject in rejects).items())),
        "cells": [[*cell, n] for cell, n in sorted(cells.items())],
        "files": files,
        **({"arrow_bytes": parquet[0].arrow_bytes} if parquet else {}),
        "seconds": round(seconds, 3),
        "images_per_second": round(samples / seconds, 3) if seconds else 0.0,
    }
    try:
        create_text(directory / shard.path("marker"), to_text(marker))
    except FileExistsError:
        return _theirs(directory, shard, files)
    return marker


def _published(reject: Reject) -> Encoded:
    """Returns a reject as it is published; one without an image holds its planned spec."""
    if isinstance(reject, Dropped):
        return replace(reject.encoded, texts={**reject.encoded.texts, REASON: reject.reason})
    return Encoded(reject.spec, b"", _json(reject.spec.to_json(), reject.spec.key), texts={REASON: reject.reason})


def _theirs(directory: Path, shard: Shard, files: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the marker of a shard that another process finished meanwhile; its files must have the same bytes."""
    done: dict[str, Any] = read_object(directory / shard.path("marker"), root=directory)
    if done["files"] != files:
        raise ShardError(
            f"shard {shard.name}: another process wrote it at the same time, with different bytes. Delete its "
            f"marker {shard.path('marker')} and build again to render it anew."
        )
    return done


def _refuse_done(directory: Path, shard: Shard) -> None:
    if (directory / shard.path("marker")).exists():
        raise ShardError(
            f"shard {shard.name} is already done according to {shard.path('marker')}; shards are never rewritten."
        )


# Encoding


def _encode_all(
    shard: Shard,
    columns: Columns,
    results: Iterable[Sample | Reject],
    provenance: Callable[[Sample], Mapping[str, Any]],
    image_format: str,
) -> Generator[Encoded | Reject, None, None]:
    """Encodes images in order, a few ahead; yields finished ones before requesting more."""
    waiting: deque[Future[Encoded] | Reject] = deque()
    with ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode") as pool:
        try:
            for result in results:
                _check(result.spec, shard, columns)
                if isinstance(result, Reject):
                    waiting.append(result)
                else:
                    record = _record(result, columns, provenance(result))
                    waiting.append(pool.submit(_encode, result, columns, record, image_format))
                while waiting and (len(waiting) > AHEAD or isinstance(waiting[0], Reject) or waiting[0].done()):
                    yield _settled(waiting.popleft())
            while waiting:
                yield _settled(waiting.popleft())
        finally:
            for item in waiting:
                if not isinstance(item, Reject):
                    item.cancel()


def _settled(item: Future[Encoded] | Reject) -> Encoded | Reject:
    return item if isinstance(item, Reject) else item.result()


def _check(spec: Spec, shard: Shard, columns: Columns) -> None:
    where = f"shard {shard.name}, key {spec.key!r}"
    if spec.split != shard.split:
        raise ShardError(f"{where}: the image belongs to the split {spec.split!r}.")
    if not re.fullmatch(r"[^./\\\s]+", spec.key):
        raise ShardError(f"{where}: a key must not contain dots, slashes or blanks, which separate tar members.")
    for what, label, names in (
        ("foreground", spec.foreground, columns.foregrounds),
        ("background", spec.background, columns.backgrounds),
    ):
        if not 0 <= label < len(names):
            raise ShardError(f"{where}: {what} {label} is not a label from 0 to {len(names) - 1}.")


def _record(sample: Sample, columns: Columns, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a sample's record, everything but its pixels, which is the same in every format."""
    spec = sample.spec
    missing = [name for name in (*columns.labels, *columns.texts) if name not in provenance]
    if missing:
        raise ShardError(f"key {spec.key!r}: its provenance lacks {listed(missing)}, which the dataset has as columns.")
    return {
        **provenance,
        "key": spec.key,
        "split": spec.split,
        "foreground": columns.foregrounds[spec.foreground],
        "background": columns.backgrounds[spec.background],
        "labels": {"foreground": spec.foreground, "background": spec.background},
        "prompt": spec.prompt,
    }


def _encode(sample: Sample, columns: Columns, record: dict[str, Any], image_format: str) -> Encoded:
    key = sample.spec.key
    labels = {}
    for name, names in columns.labels.items():
        if record[name] not in names:
            raise ShardError(f"key {key!r}: {record[name]!r} is no class of the column {name!r}.")
        labels[name] = list(names).index(record[name])
    images = {}
    for name in columns.images:
        image = sample.guide if name == "guide" else sample.mask
        if image is None:
            raise ShardError(f"key {key!r}: the dataset has a column {name!r}, but the sample has no {name}.")
        images[name] = encode(image, "png")
    return Encoded(
        spec=sample.spec,
        image=encode(sample.image, image_format),
        provenance=_json(record, key),
        labels=labels,
        texts={name: str(record[name]) for name in columns.texts},
        images=images,
    )


def _json(record: Mapping[str, Any], key: str) -> str:
    try:
        return json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ShardError(f"key {key!r}: its record can't be written as JSON: {error}.") from error


# Formats


class _Writer(Protocol):
    def __init__(self, draft: _Draft, columns: Columns, image_format: str) -> None: ...
    def __enter__(self) -> _Writer: ...
    def __exit__(self, *error: object) -> None: ...
    def add(self, sample: Encoded) -> None: ...
    def close(self) -> None: ...


class _Tar:
    """Writes `{key}.jpg`, `{key}.foreground.cls`, `{key}.prompt.txt`, `{key}.json` and so on."""

    def __init__(self, draft: _Draft, columns: Columns, image_format: str) -> None:
        from webdataset import TarWriter

        self._image_format = image_format
        # The default mtime is a float, which costs a kilobyte a member and makes bytes differ between runs.
        self._tar = TarWriter(draft.file, user="figureground", group="figureground", mtime=0, encoder=False)

    def __enter__(self) -> _Tar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, sample: Encoded) -> None:
        spec = sample.spec
        labels = {"foreground": spec.foreground, "background": spec.background, **sample.labels}
        self._tar.write(
            {
                "__key__": spec.key,
                self._image_format: sample.image,
                "prompt.txt": spec.prompt.encode(),
                "json": sample.provenance.encode(),
                **{f"{name}.cls": str(label).encode("ascii") for name, label in labels.items()},
                **{f"{name}.txt": text.encode() for name, text in sample.texts.items()},
                **{f"{name}.png": image for name, image in sample.images.items()},
            }
        )

    def close(self) -> None:
        self._tar.close()


class _Parquet:
    """Writes row groups in its own thread, one group behind the incoming samples."""

    def __init__(self, draft: _Draft, columns: Columns, image_format: str) -> None:
        self._columns = columns
        self._schema: pa.Schema = columns.features().arrow_schema
        self._image_format = image_format
        self._samples: list[Encoded] = []
        self._bytes = 0
        self.arrow_bytes = 0
        """Size of the samples once loaded, bytes."""
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

    def __enter__(self) -> _Parquet:
        return self

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
        self._settle()
        self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        self._settle()
        self._writing = self._thread.submit(self._write, self._samples)
        self._samples, self._bytes = [], 0

    def _settle(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _write(self, samples: list[Encoded]) -> None:
        rows: dict[str, Any] = {
            "image": _images([(s.image, f"{s.spec.key}.{self._image_format}") for s in samples]),
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
            rows[name] = _images([(s.images.get(name, b""), f"{s.spec.key}.{name}.png") for s in samples])
        table = pa.Table.from_pydict(rows, schema=self._schema)
        self.arrow_bytes += table.nbytes
        self._writer.write_table(table, row_group_size=len(samples))


def _images(rows: Sequence[tuple[bytes, str]]) -> pa.StructArray:
    """Returns a column of images, bytes and path; null where there are no bytes.

    The bytes are joined here: given one by one, Arrow copies them more often and blocks the thread that writes the
    tar for longer.
    """
    ends = array.array("i", itertools.accumulate((len(data) for data, _ in rows), initial=0))
    joined = pa.py_buffer(b"".join(data for data, _ in rows))
    data = pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(ends), joined])
    missing = pa.array([not data for data, _ in rows]) if not all(data for data, _ in rows) else None
    return pa.StructArray.from_arrays([data, pa.array([path for _, path in rows])], ["bytes", "path"], mask=missing)


_WRITERS: dict[str, type[_Writer]] = {"parquet": _Parquet, "webdataset": _Tar}


# Files


class _Draft:
    """A file of a shard that isn't visible yet; removed on exit unless it was published."""

    def __init__(self, directory: Path, shard: Shard, kind: str) -> None:
        self._final = directory / shard.path(kind)
        self._final.parent.mkdir(parents=True, exist_ok=True)
        self.path = temporary(self._final)
        """Path until the file is published."""
        self.file = self.path.open("xb", buffering=2**20)

    def __enter__(self) -> _Draft:
        return self

    def __exit__(self, *error: object) -> None:
        # On a full disk closing fails too; the error already raised is the one that matters.
        with contextlib.suppress(OSError):
            self.file.close()
        self.path.unlink(missing_ok=True)

    def finish(self) -> dict[str, Any]:
        """Makes the bytes durable; returns their count and SHA-256."""
        self.file.flush()
        with ThreadPoolExecutor(1, thread_name_prefix="sync") as pool:
            synced = pool.submit(os.fsync, self.file.fileno())
            # Read back while the disk syncs: hashing during the write would slow the writer.
            with self.path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            synced.result()
        return {"bytes": self.path.stat().st_size, "sha256": sha256}

    def publish(self) -> None:
        os.replace(self.path, self._final)
        sync_directory(self._final.parent)


def to_text(document: Mapping[str, Any]) -> str:
    """Returns a document as JSON with one line per key, so that people can read it too."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


# Locks


@contextlib.contextmanager
def claim(directory: Path, shard: Shard) -> Iterator[bool]:
    """Tries to claim a shard for this process, without waiting; yields whether that succeeded.

    The kernel releases the claim when the process ends, however it ends. On a file system without locks every
    claim succeeds: a shard may then be rendered twice, but its marker still has one owner.
    """
    with lock(directory / MARKERS / f".{shard.name}.lock") as held:
        yield held


def clean_stale(directory: Path) -> list[Path]:
    """Removes temporary files that a killed build left behind; returns the removed paths.

    Files that a process is still writing stay, and so do files of other programs. On a file system without locks
    nothing is removed, because files in use can't be recognised.
    """
    removed = []
    stages = sorted(p for p in (directory / "_figureground" / "stages").glob("*") if p.is_dir())
    folders = [
        directory / f for f in ("", "data", "webdataset", "_figureground", MARKERS, REJECTS, PUBLISHED_REJECTS, SCORES)
    ]
    for folder in [*folders, *stages]:
        for path in sorted(folder.glob(".*.tmp")):
            match = _TEMPORARY.fullmatch(path.name)
            if not match:
                continue
            held_by = STAGES_LOCK if match["settled"] else INDEX_LOCK
            if match["shard"]:
                held_by = f"{MARKERS}/.{match['shard']}.lock"
            if unlink_while_held(directory / held_by, path):
                removed.append(path)
    return removed


def remove_locks(directory: Path) -> None:
    """Removes the lock files that no process holds."""
    for name in (STAGES_LOCK, WORKING_LOCK):
        if (directory / name).exists():
            unlink_while_held(directory / name, directory / name)
    for path in (directory / MARKERS).glob(".*.lock"):
        if _LOCK.fullmatch(path.name):
            unlink_while_held(path, path)
