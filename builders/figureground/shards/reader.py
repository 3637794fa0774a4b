"""Reads a finished shard, sample by sample, with the same result for each format."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError
from figureground.core.hashing import content_hash
from figureground.recipe.sample import Reject
from figureground.shards.columns import Columns
from figureground.shards.formats.format import TEXTS, Format
from figureground.shards.problems import shorten_error
from figureground.shards.rejects import read_published, read_rejects
from figureground.shards.samples import Stored
from figureground.shards.shard import Shard


@dataclass(frozen=True)
class ShardReader:
    """A finished shard. It needs no index, so a shard of an unfinished dataset can be read too.

    An error while reading says first whether the file has the bytes that the build recorded.
    """

    directory: Path
    """The dataset's directory."""
    marker: Mapping[str, Any]
    format: Format
    """The format that is read."""

    @cached_property
    def shard(self) -> Shard:
        return Shard.from_marker(self.marker)

    @cached_property
    def path(self) -> Path:
        """The file that is read."""
        return self.directory / self.shard.path(self.format.NAME)

    def verify(self) -> None:
        """Compare all files of the shard with its marker.

        Raises:
            FiguregroundError: A file is missing or has other bytes.
        """
        for name, file in self.marker["files"].items():
            path = self.directory / name
            if not path.is_file():
                problem = "is gone"
            elif path.stat().st_size != file["bytes"]:
                problem = f"has {path.stat().st_size:,} bytes instead of the {file['bytes']:,} recorded by the build"
            elif content_hash(path) != file["sha256"]:
                problem = "is damaged: its SHA-256 differs from the one recorded by the build"
            else:
                continue
            raise FiguregroundError(
                f"{path} {problem}. Nothing is taken from this shard. "
                f"figureground check {self.directory} lists all that is wrong."
            )

    @contextmanager
    def _explain_errors(self, path: Path) -> Iterator[None]:
        """Name the damaged file if the shard can't be read.

        Raises:
            FiguregroundError: Whatever a library raised.
        """
        try:
            yield
        except FileError:
            raise
        except Exception as error:
            self.verify()
            if isinstance(error, FiguregroundError):
                raise
            raise FiguregroundError(
                f"{path} can't be read ({type(error).__name__}: {shorten_error(error)}). figureground check "
                f"{self.directory} lists all that is wrong."
            ) from error

    def schema(self) -> Columns | None:
        """Return the columns and the names of classes that the file records; None if its format records none."""
        with self._explain_errors(self.path):
            return self.format.schema(self.path)

    def samples(self, rows: Collection[int] | None = None) -> Iterator[Stored]:
        """Yield the samples in order, or only those at the positions in `rows`."""
        with self._explain_errors(self.path):
            yield from self.format.read(self.path, rows)

    def columns_of(
        self, labels: Sequence[str] = ("foreground", "background"), texts: Sequence[str] = TEXTS
    ) -> Iterator[dict[str, Any]]:
        """Yield columns of each sample, in order: labels as numbers, texts, no images."""
        with self._explain_errors(self.path):
            yield from self.format.columns_of(self.path, labels, texts)

    def rejects(self, published: Columns | None = None) -> Iterator[Reject]:
        """Yield the rejects in order.

        Args:
            published: Columns of the dataset, to yield published rejects with their images; None yields none with them.
        """
        shard, files = self.shard, self.marker["files"]
        if shard.path("rejects") not in files:
            return
        with self._explain_errors(self.directory / shard.path("rejects")):
            with_images = published is not None and shard.path("published_rejects") in files
            with_image = read_published(self.directory, shard, published) if published and with_images else ()
            dropped_by_key = {reject.spec.key: reject for reject in with_image}
            for reject in read_rejects(self.directory, shard):
                yield dropped_by_key.get(reject.spec.key, reject)
