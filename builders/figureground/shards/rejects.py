"""Rejects of a shard: a line each with the planned image, and, if they are published, a Parquet file with images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from figureground.core.files import MAX_JSON_BYTES, parse_json, read_text
from figureground.recipe.sample import Reject, Spec
from figureground.shards.columns import REASON, Columns
from figureground.shards.drafts import Draft
from figureground.shards.encoding import to_json
from figureground.shards.samples import Dropped, Encoded
from figureground.shards.shard import Shard

if TYPE_CHECKING:
    from figureground.shards.formats.parquet import ParquetWriter


class RejectsWriter:
    """Writes the rejects of a shard into files that aren't visible yet, and counts them.

    Args:
        stack: Removes the files that weren't published.
        publish: Whether to write them as Parquet too, with the images of those that are `Dropped`.
    """

    def __init__(
        self, stack: ExitStack, directory: Path, shard: Shard, columns: Columns, image_format: str, publish: bool
    ) -> None:
        self._stack, self._directory, self._shard = stack, directory, shard
        self._columns, self._image_format, self._publish = columns, image_format, publish
        self._lines: list[str] = []
        self._published: ParquetWriter | None = None
        self.drafts: dict[str, Draft] = {}
        """Files by kind."""
        self.reasons: Counter[str] = Counter()

    def add(self, reject: Reject) -> None:
        spec = reject.spec
        self.reasons[reject.reason] += 1
        line = {"key": spec.key, "reason": reject.reason, "spec": spec.to_json()}
        self._lines.append(to_json(line, spec.key))
        if self._publish:
            if self._published is None:
                from figureground.shards.formats.parquet import ParquetWriter

                draft, columns = self._draft("published_rejects"), self._columns.with_reason()
                self._published = self._stack.enter_context(ParquetWriter(draft, columns, self._image_format))
            self._published.add(_encode_reject(reject))

    def close(self) -> None:
        """Write what is still held; without any reject, there is no file."""
        if self._published is not None:
            self._published.close()
        if self._lines:
            file = self._draft("rejects").file
            for line in self._lines:
                file.write(line.encode() + b"\n")

    def _draft(self, kind: str) -> Draft:
        self.drafts[kind] = self._stack.enter_context(Draft(self._directory, self._shard, kind))
        return self.drafts[kind]


def _encode_reject(reject: Reject) -> Encoded:
    """Return a reject as it is published; one without an image holds its planned spec."""
    if isinstance(reject, Dropped):
        return replace(reject.encoded, texts={**reject.encoded.texts, REASON: reject.reason})
    return Encoded(reject.spec, b"", to_json(reject.spec.to_json(), reject.spec.key), texts={REASON: reject.reason})


def read_rejects(directory: Path, shard: Shard) -> Iterator[Reject]:
    """Yield the rejects of a shard, in order, without images."""
    path = shard.path("rejects")
    text = read_text(directory / path, root=directory, max_bytes=MAX_JSON_BYTES)
    for line in filter(None, text.split("\n")):  # not `splitlines`: names of files may hold other line separators
        fields = parse_json(line, path)
        yield Reject(Spec.from_json(fields["spec"]), fields["reason"])


def read_published(directory: Path, shard: Shard, columns: Columns) -> Iterator[Dropped]:
    """Yield the published rejects of a shard that have an image, in order.

    Args:
        columns: Columns of the dataset.
    """
    from figureground.shards.formats.parquet import from_row, read_rows

    for row in read_rows(directory / shard.path("published_rejects"), columns.with_reason().names):
        reason = row.pop(REASON)
        if row["image"]:
            encoded = from_row(row).encoded()
            yield Dropped(encoded.spec, reason, encoded)
