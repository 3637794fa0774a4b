"""Writes one shard whole or not at all: a tar and a Parquet file of the same samples, and then its marker.

A shard is rendered into privately named temporary files, which are synced and renamed; only then does a
marker, created exclusively, say that the shard is done, with counts and the SHA-256 of each file.
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
"""The column of published rejects that says why."""

FORMATS: tuple[str, ...] = ("parquet", "webdataset")
"""What a shard can be written as."""

PRIVATE = "_figureground"
"""The directory of everything that is not the data; `datasets` passes over names that begin with `_`."""

RECIPE = f"{PRIVATE}/recipe.json"

MARKERS = f"{PRIVATE}/shards"
"""Where markers lie, relative to the dataset directory."""

REJECTS = "_figureground/rejects"

PUBLISHED_REJECTS = "rejects"
"""Where rejects lie as Parquet files, in datasets that publish them."""

ROWS_PER_GROUP = 100
BYTES_PER_GROUP = 32 * 2**20
"""A row group ends at whichever comes first: reading one row from the Hub reads its whole group."""

ENCODERS = 2
"""Threads that encode images."""
AHEAD = 32
"""Images that may wait for their encoding or for their turn."""

CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}
"""Content-defined chunking of Parquet pages: sets that share images share storage on the Hub."""

INDEX_LOCK = "_figureground/.index.lock"
"""Held while the index and the card are written."""

SCORES = "_figureground/scores"
"""Where scores lie, a file each."""

STAGES_LOCK = "_figureground/.stages.lock"
"""Held while recipe and numerics are settled and stages are run."""

WORKING_LOCK = "_figureground/.working.lock"
"""Shared by all processes that render."""

_NAME = r"\w+(-e\d+)?-\d{5,}-of-\d{5,}"
_TEMPORARY = re.compile(
    rf"\.((?P<shard>{_NAME})\.(parquet|tar|jsonl|json)|index\.json|croissant\.json|attribution\.csv|README\.md|preview\.png|report\.html|(?P<settled>recipe\.json|numerics\.json|done\.json|(?i:licen[cs]e|notice|attribution|citation).*|.+\.(csv|parquet)))\.\d+-[0-9a-f]{{16}}\.tmp"
)
_LOCK = re.compile(rf"\.{_NAME}\.lock")


class ShardError(FiguregroundError, ValueError):
    """Samples that can't be written as asked, or files on disk that contradict each other."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One unit of work: the planned images of one file."""

    split: str
    index: int
    """Position within its split and part, from 0."""
    of: int
    """How many shards the split has in this part."""
    count: int
    """Planned images; each becomes a sample or a reject."""
    part: int = 0
    """0 for what was built first, n for what the n-th extension added."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w+", self.split, re.ASCII):
            raise ShardError(f"split {self.split!r}: a split's name consists of letters, digits and '_'.")
        if not 0 <= self.index < self.of:
            raise ShardError(f"split {self.split!r}: there is no shard {self.index} of {self.of}.")

    @classmethod
    def of_marker(cls, marker: Mapping[str, Any]) -> Shard:
        """The shard that a marker tells of."""
        return cls(marker["split"], marker["index"], marker["of"], marker["planned"], marker.get("part", 0))

    @property
    def name(self) -> str:
        part = f"-e{self.part}" if self.part else ""
        return f"{self.split}{part}-{self.index:05d}-of-{self.of:05d}"

    def path(self, kind: str) -> str:
        """Where the shard's file of a kind lies in the dataset directory.

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
    """A planned shard as the writer names it."""
    return Shard(planned.split, planned.index, planned.of, planned.count, planned.part)


@dataclass(frozen=True)
class Columns:
    """What every sample of a dataset has, in this order, besides `prompt`, `key` and `provenance`.

    The values of `labels` and `texts` are read from a sample's provenance, under the same names.
    """

    foregrounds: Sequence[str]
    """Names of the foreground classes, in label order."""
    backgrounds: Sequence[str]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further ClassLabel columns, and the names of their classes; in provenance stands the name."""
    texts: Sequence[str] = ()
    """Further string columns."""
    guide: bool = False
    """Whether the image that generation started from is kept, as PNG."""
    mask: bool = False

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Columns:
        """The columns that `to_json` told of."""
        return cls(**saved)

    def to_json(self) -> dict[str, Any]:
        """All of it, for the index."""
        return {
            "foregrounds": list(self.foregrounds),
            "backgrounds": list(self.backgrounds),
            "labels": {name: list(names) for name, names in self.labels.items()},
            "texts": list(self.texts),
            "guide": self.guide,
            "mask": self.mask,
        }

    def features(self) -> Features:
        """The columns of the Parquet files, as `load_dataset` shows them."""
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
        """The members of the tars, as `load_dataset` shows them where there is no Parquet.

        `json` is left out: its type can't be declared in a way that older releases of datasets read.
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
        """The columns of published rejects: `reason` too.

        Raises:
            ShardError: The dataset has a column of that name.
        """
        if REASON in (*self.labels, *self.texts):
            raise ShardError(f"rejects can't be published: the dataset has a column {REASON!r} of its own.")
        return replace(self, texts=(*self.texts, REASON))

    @property
    def images(self) -> tuple[str, ...]:
        """The image columns beside `image`."""
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
    """A reject that there is an image of."""

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
    """Writes a shard from rendered samples, encoding images in threads beside whatever renders them.

    Args:
        directory: The dataset's directory.
        shard: Which shard; hold its `claim` meanwhile, where several processes may be at work.
        columns: What each sample has.
        results: One for every planned image, in the order in which they are to be written.
        provenance: How a sample came to be, JSON-able; key, split, prompt and the labels' names are added.
        formats: Some of `FORMATS`.
        image_format: `jpg`, `webp` or `png`.

    Returns:
        The marker, as written.

    Raises:
        ShardError: A result that doesn't belong here, fewer or more of them than planned, or a shard that
            is already done. Nothing is published then, nor when `results` raises.
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
    """Does what `write_shard` does from samples that are bytes already.

    `version` is that of the format in which they were drawn: a copy keeps it. With `publish_rejects`, rejects are
    written as a Parquet file too, with the images of those that are `Dropped`.
    """
    unknown = set(formats) - set(FORMATS)
    if unknown or not formats:
        raise ShardError(f"formats: {listed(unknown) or 'none'} given; choose some of {listed(FORMATS)}.")
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
                f"and {len(rejects)} rejects came; every planned image must end as one of them."
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
            return _theirs(directory, shard, files)  # where nobody can lock, two may render one shard
        for draft in drafts.values():
            draft.publish()
        for kind in {*FORMATS, "rejects", "published_rejects"} - set(drafts):
            # A build that was killed may have written this shard otherwise: without a marker it is litter.
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
    """A reject as it is published; of one without an image, what was planned."""
    if isinstance(reject, Dropped):
        return replace(reject.encoded, texts={**reject.encoded.texts, REASON: reject.reason})
    return Encoded(reject.spec, b"", _json(reject.spec.to_json(), reject.spec.key), texts={REASON: reject.reason})


def _theirs(directory: Path, shard: Shard, files: Mapping[str, Any]) -> dict[str, Any]:
    """The marker of a shard that another process finished meanwhile, which must be of the same bytes."""
    done: dict[str, Any] = read_object(directory / shard.path("marker"), root=directory)
    if done["files"] != files:
        raise ShardError(
            f"shard {shard.name}: another process wrote it at the same time, with other bytes. Delete its "
            f"marker {shard.path('marker')} and build again, so that it is rendered anew."
        )
    return done


def _refuse_done(directory: Path, shard: Shard) -> None:
    if (directory / shard.path("marker")).exists():
        raise ShardError(
            f"shard {shard.name} is already done, says {shard.path('marker')}; shards are never rewritten."
        )


# Encoding


def _encode_all(
    shard: Shard,
    columns: Columns,
    results: Iterable[Sample | Reject],
    provenance: Callable[[Sample], Mapping[str, Any]],
    image_format: str,
) -> Generator[Encoded | Reject, None, None]:
    """Encodes images a few ahead, in order; what is ready is handed on before more is asked for."""
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
        raise ShardError(f"{where}: a key holds no dots, slashes or blanks, for tar members are told apart by them.")
    for what, label, names in (
        ("foreground", spec.foreground, columns.foregrounds),
        ("background", spec.background, columns.backgrounds),
    ):
        if not 0 <= label < len(names):
            raise ShardError(f"{where}: {what} {label} is not a label from 0 to {len(names) - 1}.")


def _record(sample: Sample, columns: Columns, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a sample beside its pixels, the same in every format."""
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
            raise ShardError(
                f"key {key!r}: the dataset has a column {name!r}, but the sample comes without its {name}."
            )
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
        raise ShardError(f"key {key!r}: what is recorded of it can't be written as JSON: {error}.") from error


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
    """Writes row groups in a thread of its own, one behind the samples that come in."""

    def __init__(self, draft: _Draft, columns: Columns, image_format: str) -> None:
        self._columns = columns
        self._schema: pa.Schema = columns.features().arrow_schema
        self._image_format = image_format
        self._samples: list[Encoded] = []
        self._bytes = 0
        self.arrow_bytes = 0
        """Bytes of the samples once they are loaded."""
        images = ["image", *columns.images]
        short = ["foreground", "background", "prompt", "key", *columns.labels, *columns.texts]
        # Not the draft's own file: each write to it would wait for the thread in which Python is at work.
        self._file = pa.OSFile(str(draft.path), "wb")
        self._writer = pq.ParquetWriter(
            self._file,
            self._schema,
            # Images are compressed already; statistics of long columns would only swell the footer.
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
        # Only a published reject may lack something: it was planned and never made.
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
    """A column of images, bytes and path; null where there are no bytes.

    Their bytes are joined here: given them one by one, Arrow copies them more often, and longer holds up the thread
    that writes the tar.
    """
    ends = array.array("i", itertools.accumulate((len(data) for data, _ in rows), initial=0))
    joined = pa.py_buffer(b"".join(data for data, _ in rows))
    data = pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(ends), joined])
    missing = pa.array([not data for data, _ in rows]) if not all(data for data, _ in rows) else None
    return pa.StructArray.from_arrays([data, pa.array([path for _, path in rows])], ["bytes", "path"], mask=missing)


_WRITERS: dict[str, type[_Writer]] = {"parquet": _Parquet, "webdataset": _Tar}


# Files


class _Draft:
    """A file of a shard while nobody may see it; removed on exit, unless it was published."""

    def __init__(self, directory: Path, shard: Shard, kind: str) -> None:
        self._final = directory / shard.path(kind)
        self._final.parent.mkdir(parents=True, exist_ok=True)
        self.path = temporary(self._final)
        """Where it lies until it is published."""
        self.file = self.path.open("xb", buffering=2**20)

    def __enter__(self) -> _Draft:
        return self

    def __exit__(self, *error: object) -> None:
        # On a full disk closing fails too; what matters is the error that is under way.
        with contextlib.suppress(OSError):
            self.file.close()
        self.path.unlink(missing_ok=True)

    def finish(self) -> dict[str, Any]:
        """Makes the bytes durable; returns their number and SHA-256."""
        self.file.flush()
        with ThreadPoolExecutor(1, thread_name_prefix="sync") as pool:
            synced = pool.submit(os.fsync, self.file.fileno())
            # Read back, while the disk is at work: hashing what is being written would slow its writer.
            with self.path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            synced.result()
        return {"bytes": self.path.stat().st_size, "sha256": sha256}

    def publish(self) -> None:
        os.replace(self.path, self._final)
        sync_directory(self._final.parent)


def to_text(document: Mapping[str, Any]) -> str:
    """JSON for machines that people can look into: one line a key."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


# Locks


@contextlib.contextmanager
def claim(directory: Path, shard: Shard) -> Iterator[bool]:
    """Tries to take a shard for this process; yields whether that worked, without waiting.

    The kernel lets go of it when the process ends, however it ends. On a file system without locks every
    claim works: a shard may then be rendered twice, and the marker still has one owner.
    """
    with lock(directory / MARKERS / f".{shard.name}.lock") as held:
        yield held


def clean_stale(directory: Path) -> list[Path]:
    """Removes temporary files that a killed build left; returns what it removed.

    What a process is writing stays, and so does everything that isn't ours. Where the file system has no
    locks nothing is removed, for nobody can tell.
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
