"""Check one shard: the bytes of its files, and every sample in them, in all formats side by side.

A file is hashed first and read only if its hash matches; the second read comes from the page cache. A tar is hashed
while its samples are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image

from figureground.checking import similar
from figureground.checking.wording import MAKE_READABLE, advise_rebuild
from figureground.core.errors import join_names
from figureground.core.files import MAX_TEXT_BYTES, FileError, open_regular, parse_json
from figureground.shards.columns import REASON, Columns
from figureground.shards.formats.format import Reading, load_formats
from figureground.shards.formats.parquet import check_rows
from figureground.shards.problems import ShardProblems, shorten_error
from figureground.shards.samples import Stored
from figureground.shards.shard import RECIPE, Shard
from figureground.sources import marks
from figureground.sources.images import open_stored, pixel_hash

PIL_FORMATS = {"jpg": "JPEG", "webp": "WEBP", "png": "PNG"}
"""Pillow's names of the image formats."""

_KEY = re.compile(r"(?P<split>\w+)-(?P<foreground>\d{4,})-(?P<background>\d{2,})-\d{5,}", re.ASCII)
_BLOCK = 2**20


@dataclass(frozen=True)
class Expected:
    """Expected properties of every shard of a dataset."""

    directory: Path
    columns: Columns | None
    """None if unknown: files are then hashed, but samples aren't read."""
    image_format: str
    size: int | None
    """Edge of the images in pixels, if the recipe sets it."""
    hash_images: bool
    """Whether to compute perceptual hashes."""
    marked: bool = False
    """Whether images must state that they are generated; see `sources.marks`."""


@dataclass
class ShardContents:
    """Contents of a shard, as read."""

    shard: Shard
    findings: list[str] = field(default_factory=list)
    num_read: int = 0
    """Number of samples readable in at least one format."""
    keys: np.ndarray = field(default_factory=lambda: _stack_digests([]))
    """Digest of the key of every sample and reject, in order: uint64 (n, 2)."""
    images: np.ndarray = field(default_factory=lambda: _stack_digests([]))
    """Digest of each image's pixels, or of its bytes if it can't be decoded, in order: uint64 (n, 2)."""
    hashes: np.ndarray = field(default_factory=lambda: similar.stack_hashes([]))
    """Perceptual hashes of the images; empty if not computed."""
    names: bytes = b""
    """The keys, one per line; a single bytes object takes the least memory."""
    sources: dict[str, str] = field(default_factory=dict)
    """Cut-outs, scenes and photographs: content hash to id."""

    def key(self, place: int) -> str:
        """Return the key of the sample or reject at a position."""
        return self.names.split(b"\n")[place].decode()


def check_shard(
    expected: Expected,
    shard: Shard,
    marker: Mapping[str, Any],
    progress: Callable[[int], None] = lambda samples: None,
    stop: threading.Event | None = None,
) -> ShardContents:
    """Read all files of a shard, hash them, and check and compare their samples.

    Args:
        expected: Expected properties of the samples.
        shard: The shard to check.
        marker: Contents of its marker.
        progress: Called with the number of samples just finished.
        stop: When set, the remaining samples are skipped.

    Returns:
        The shard's contents, with each fault as a line. No file content makes this raise.
    """
    return _ShardCheck(expected, shard, marker, progress, stop or threading.Event()).run()


class _ShardCheck:
    """Check of one shard; collects what is read of it and its problems."""

    def __init__(
        self,
        expected: Expected,
        shard: Shard,
        marker: Mapping[str, Any],
        progress: Callable[[int], None],
        stop: threading.Event,
    ) -> None:
        self.expected, self.shard, self.marker = expected, shard, marker
        self.progress, self.stop = progress, stop
        self.problems = ShardProblems()
        self.contents = ShardContents(shard)
        self.formats = load_formats()
        self.paths = {kind: shard.path(kind) for kind in self.formats}
        self.cells: Counter[tuple[int, int]] = Counter()
        self.keys: list[str] = []
        self.images: list[bytes] = []
        self.hashes: list[bytes] = []

    def run(self) -> ShardContents:
        columns = self.expected.columns
        readable = [kind for kind, path in self.paths.items() if self._is_readable(path)]
        streams: dict[str, Iterator[Stored | None]] = {}
        with contextlib.ExitStack() as stack:
            hashing: dict[str, _HashingFile] = {}
            for kind in readable:
                if columns is None or not self.formats[kind].HASHED_WHILE_READ:
                    # A file with the wrong hash isn't read: damage could mislead or crash the library.
                    if not self._hash_matches(self.paths[kind]) or columns is None:
                        continue
                    file: BinaryIO = stack.enter_context(self._open(self.paths[kind]))
                else:
                    hashing[kind] = _HashingFile(stack.enter_context(self._open(self.paths[kind])))
                    file = cast(BinaryIO, hashing[kind])
                streams[kind] = self.formats[kind].check(self._make_reading(kind, file, columns))
            if columns is not None:
                self._read_samples(streams, columns)
            for kind, file_hash in hashing.items():
                if not self.stop.is_set():
                    self._compare_hash(self.paths[kind], file_hash.digest())
        reject_paths = (self.shard.path(kind) for kind in ("rejects", "published_rejects"))
        for name in sorted(set(self.marker["files"]) & set(reject_paths)):
            if self._is_readable(name) and self._hash_matches(name):
                self._check_rejects(name)
        names = [key.replace("\n", " ").encode("utf-8", "replace") for key in self.keys]
        self.contents.names = b"\n".join(names)
        self.contents.keys, self.contents.images = (
            _stack_digests([_hash_bytes(name) for name in names]),
            _stack_digests(self.images),
        )
        self.contents.hashes = similar.stack_hashes(self.hashes)
        self.contents.findings = self.problems.to_lines(advise_rebuild(self.shard))
        return self.contents

    def _make_reading(self, kind: str, file: BinaryIO, columns: Columns) -> Reading:
        return Reading(
            self.expected.directory / self.paths[kind], file, self.paths[kind], columns, self.expected.image_format,
            self.marker["planned"], self.problems,
        )  # fmt: skip

    # --- files ----------------------------------------------------------------------------------

    def _is_readable(self, path: str) -> bool:
        """Whether the marker lists a file and it can be opened; record a wrong size as a fault."""
        if path not in self.marker["files"]:
            return False
        try:
            with self._open(path) as file:
                size = os.fstat(file.fileno()).st_size
        except FileError as error:
            self.problems.lines.append(f"{path}: {error.reason}.")
            return False
        except FileNotFoundError:
            self.problems.lines.append(f"{path}: missing.")
            return False
        except OSError as error:
            self.problems.unreadable.append(f"{path}: it can't be read ({error.strerror}). {MAKE_READABLE}.")
            return False
        expected_size = self.marker["files"][path]["bytes"]
        if size != expected_size:
            self.problems.lines.append(f"{path}: it has {size:,} bytes; its marker says {expected_size:,}.")
        return True

    def _open(self, path: str) -> io.BufferedReader:
        return open_regular(self.expected.directory / path, root=self.expected.directory)

    def _hash_matches(self, path: str) -> bool:
        with self._open(path) as file:
            return self._compare_hash(path, hashlib.file_digest(file, "sha256").hexdigest())

    def _compare_hash(self, path: str, sha256: str) -> bool:
        if sha256 == self.marker["files"][path]["sha256"]:
            return True
        self.problems.lines.append(f"{path}: its SHA-256 differs from its marker's, so it was changed.")
        return False

    def _check_rejects(self, path: str) -> None:
        """Check rejects (lines or published) against the marker's counts; published images must decode."""
        if path.endswith(".jsonl"):
            self._check_reject_lines(path)
            return
        if self.expected.columns is None:
            return
        reasons: Counter[str] = Counter()
        columns = self.expected.columns.with_reason()
        for row in check_rows(self.expected.directory / path, path, columns, self.marker["planned"], self.problems):
            if row is not None:
                reasons[str(row.get(REASON))] += 1
                data = (row["image"] or {}).get("bytes")
                if data is not None:  # rejects that were planned but never generated have no image
                    self._decode(path, str(row["key"]), data, self.expected.image_format)
        self._compare_reasons(path, reasons)

    def _check_reject_lines(self, path: str) -> None:
        reasons: Counter[str] = Counter()
        with self._open(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_TEXT_BYTES), b""), 1):
                try:
                    reject = parse_json(line, path)
                    reasons[str(reject["reason"])] += 1
                    self.keys.append(str(reject["key"]))
                except (ValueError, KeyError, TypeError):
                    self.problems.lines.append(f"{path}, line {number}: key or reason is missing.")
        self._compare_reasons(path, reasons)

    def _compare_reasons(self, path: str, reasons: Mapping[str, int]) -> None:
        if dict(reasons) != self.marker["rejects"]:
            self.problems.lines.append(
                f"{path}: it holds {_format_counts(reasons)}; the marker says {_format_counts(self.marker['rejects'])}."
            )

    # --- samples --------------------------------------------------------------------------------

    def _read_samples(self, streams: Mapping[str, Iterator[Stored | None]], columns: Columns) -> None:
        """Read all formats side by side, sample by sample."""
        counts = dict.fromkeys(streams, 0)
        out_of_step: set[str] = set()
        done = 0
        for row in itertools.zip_longest(*streams.values(), fillvalue=_END):
            if self.stop.is_set():
                return
            samples = {name: stored for name, stored in zip(streams, row, strict=True) if isinstance(stored, Stored)}
            for kind, sample in zip(streams, row, strict=True):
                counts[kind] += sample is not _END
            first, *others = [kind for kind in samples if kind not in out_of_step] or [""]
            out_of_step.update(kind for kind in others if not self._compare_formats(first, kind, samples))
            if samples:
                self._check_samples(samples, columns)
            if (done := done + 1) % 50 == 0:
                self.progress(50)
        self.progress(done % 50)
        for kind, count in counts.items():
            if count != self.marker["samples"]:
                self.problems.lines.append(
                    f"{self.paths[kind]}: {count} samples are readable; its marker says {self.marker['samples']}."
                )
        expected_cells = Counter({(f, b): n for f, b, n in self.marker["cells"]})
        if self.contents.num_read == self.marker["samples"] and self.cells != expected_cells:
            differing = sorted(
                cell for cell in {*expected_cells, *self.cells} if expected_cells[cell] != self.cells[cell]
            )
            f, b = differing[0]
            self.problems.lines.append(
                f"{self.shard.path('marker')}: its cells don't match the data, which has {self.cells[f, b]} images of "
                f"foreground {f} on background {b}, not {expected_cells[f, b]} ({len(differing)} cells differ)."
            )

    def _compare_formats(self, one: str, other: str, samples: Mapping[str, Stored]) -> bool:
        """Compare a sample in two formats; return whether it has the same key in both."""
        sample, other_sample = samples[one], samples[other]
        if sample.key != other_sample.key:
            self.problems.lines.append(
                f"{self.paths[one]}: it has {sample.key} where {self.paths[other]} has {other_sample.key}; "
                "later samples weren't compared."
            )
            return False
        if sample == other_sample:
            return True
        where = f"{self.paths[one]} and {self.paths[other]}"
        for attribute in ("image", "prompt", "provenance"):
            if getattr(sample, attribute) != getattr(other_sample, attribute):
                self.problems.add(where, f"their {attribute} differs", sample.key)
        for mapping in ("labels", "texts", "images"):
            values, other_values = getattr(sample, mapping), getattr(other_sample, mapping)
            for name in sorted({*values, *other_values}):
                if values.get(name) != other_values.get(name):
                    detail = "" if mapping == "images" else f"{values.get(name)!r} and {other_values.get(name)!r}"
                    self.problems.add(where, f"their {name} differs", sample.key, detail)
        return True

    def _check_samples(self, samples: Mapping[str, Stored], columns: Columns) -> None:
        """Check a sample in each format, or once if all are equal."""
        first, *others = samples.values()
        all_equal = bool(others) and all(other == first for other in others)
        self.contents.num_read += 1
        self.cells[first.labels["foreground"], first.labels["background"]] += 1
        images = []
        for kind, sample in list(samples.items())[: 1 if all_equal else None]:
            where = self.shard.name if all_equal else self.paths[kind]
            self._check_labels(where, sample, columns)
            images.append(
                self._decode(
                    where, sample.key, sample.image, self.expected.image_format, self._find_expected_edge(sample)
                )
            )
            for name, data in sample.images.items():
                self._decode(where, f"{sample.key}.{name}", data, "png")
        image = images[0]
        if self.expected.marked and image is not None:
            self._check_mark(first, image)
        self.keys.append(first.key)
        self.images.append(_hash_bytes(first.image if image is None else pixel_hash(image).encode()))
        if self.expected.hash_images:
            # An undecodable image resembles no other, but needs an entry to keep positions aligned.
            placeholder = hashlib.sha256(first.key.encode()).digest()
            self.hashes.append(similar.hash_image(image) if image is not None else placeholder)

    def _check_mark(self, sample: Stored, image: Image.Image) -> None:
        """Check the digital source type that an image states."""
        source_type = marks.read_source_type(image)
        if source_type not in (marks.GENERATED, marks.COMPOSITE):
            problem = f"its image lacks the {marks.NAME} that {RECIPE} announces"
            self.problems.add(self.shard.name, problem, sample.key, source_type or "")

    def _find_expected_edge(self, sample: Stored) -> int | None:
        if self.expected.size is not None:
            return self.expected.size
        with contextlib.suppress(ValueError, AttributeError):
            size = parse_json(sample.provenance, sample.key).get("size")
            return size if isinstance(size, int) else None
        return None

    def _check_labels(self, where: str, sample: Stored, columns: Columns) -> None:
        """Check labels, texts, prompt and key against each other and against the provenance."""
        key, problem = sample.key, self.problems.add
        if not re.fullmatch(r"[^./\\\s]+", key):
            problem(where, "its key contains dots, slashes or whitespace", repr(key))
        names = columns.classes
        labels = {name: sample.labels[name] for name in names}
        for name, label in labels.items():
            if not 0 <= label < len(names[name]):
                problem(where, f"{name} isn't a label from 0 to {len(names[name]) - 1}", key, str(label))
        if (parts := _KEY.fullmatch(key)) is not None:
            for name in ("foreground", "background"):
                if int(parts[name]) != labels[name]:
                    problem(where, f"its {name} differs from its key", key, f"label {labels[name]}")
            if parts["split"] != self.shard.split:
                problem(where, "its key names another split", key)
        try:
            provenance = parse_json(sample.provenance, "provenance")
        except FileError as error:
            problem(where, "its provenance isn't JSON", key, shorten_error(error))
            return
        if not isinstance(provenance, dict):
            problem(where, "its provenance isn't a JSON object", key)
            return
        for name, value in (("key", key), ("split", self.shard.split), ("prompt", sample.prompt)):
            if provenance.get(name) != value:
                problem(where, f"its provenance names another {name}", key, f"{provenance.get(name)!r}")
        for name, label in labels.items():
            class_name = names[name][label] if 0 <= label < len(names[name]) else label
            if provenance.get(name) != class_name:
                detail = f"labelled {class_name!r}, provenance says {provenance.get(name)!r}"
                problem(where, f"its {name} differs from its provenance", key, detail)
        expected = {name: labels[name] for name in ("foreground", "background")}
        if provenance.get("labels", expected) != expected:
            problem(where, "its labels differ from its provenance", key, f"provenance says {provenance['labels']}")
        for name in columns.texts:
            if str(provenance.get(name)) != sample.texts[name]:
                problem(where, f"its {name} differs from its provenance", key)
        guide = provenance.get("guide")
        if isinstance(guide, dict):
            for part in ("cutout", "template"):
                if isinstance(id := guide.get(part), str) and "@" in id:
                    self.contents.sources.setdefault(id.rpartition("@")[2], id)

    def _decode(self, where: str, key: str, data: bytes, format: str, edge: int | None = None) -> Image.Image | None:
        """Decode the whole image; return None if that fails or the size is wrong."""
        try:
            image = open_stored(data)
            if image.format != PIL_FORMATS[format]:
                self.problems.add(where, f"its image isn't a {format}", key, str(image.format))
            if edge is not None and image.size != (edge, edge):
                size = "{} by {} pixels".format(*image.size)
                self.problems.add(where, f"its image isn't {edge} by {edge} pixels", key, size)
                return None
            if image.format == "PNG":
                image.verify()  # loading ignores the checksums of pixel data
                image = open_stored(data)
            image.load()
        except Exception as error:  # Pillow's decoders raise many kinds for damaged data
            self.problems.add(where, "its image can't be decoded", key, shorten_error(error))
            return None
        return image


_END = object()


class _HashingFile(io.RawIOBase):
    """File wrapper that computes the SHA-256 of the whole file while it is read, even with seeks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._hashed = 0

    def read(self, size: int | None = -1) -> bytes:
        start = self._file.tell()
        data = self._file.read(-1 if size is None else size)
        if start + len(data) > self._hashed:
            self._sha256.update(memoryview(data)[self._hashed - start :])
            self._hashed = start + len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and offset > self._hashed:
            self._hash_to(offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def digest(self) -> str:
        """Return the SHA-256 of the whole file, reading the unread rest."""
        self._hash_to(None)
        return self._sha256.hexdigest()

    def _hash_to(self, end: int | None) -> None:
        self._file.seek(self._hashed)
        while end is None or self._hashed < end:
            block = self._file.read(_BLOCK if end is None else min(_BLOCK, end - self._hashed))
            if not block:
                return
            self._sha256.update(block)
            self._hashed += len(block)


def _hash_bytes(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _stack_digests(digests: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint64).reshape(len(digests), 2)


def _format_counts(reasons: Mapping[str, int]) -> str:
    return join_names(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "none"
