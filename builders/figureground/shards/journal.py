"""The journal of an unfinished shard: its rendered batches, so that a stopped build renders only what lacks.

A record is a whole batch, because the bits of an image may depend on the others of its batch. Records are read back
only if they come from the same recipe, numerics and shard. The journal is removed as soon as the shard has its marker.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from figureground.core.files import FileError, open_regular, read_at_most, sync_directory
from figureground.recipe.document import FORMAT
from figureground.recipe.sample import Reject, Spec
from figureground.shards.record import Describe, Head, RecordError, pack, read_head, unpack
from figureground.shards.samples import Encoded
from figureground.shards.shard import JOURNAL, Shard

VERSION = 1
"""Version of the records; others are dropped."""
SUFFIX = ".journal"

Result = Encoded | Reject


def make_origin(shard: Shard, recipe: str, numerics: Mapping[str, Any], marked: bool = False) -> dict[str, Any]:
    """Return what batches must have in common to be used for one shard, JSON-able.

    Args:
        recipe: SHA-256 of the recipe.
        numerics: Numerics of the process that renders, such as `device` and `batch_size`.
        marked: Whether the images state that they are generated.
    """
    fields = {
        "journal": VERSION, "format": FORMAT, "shard": shard.name, "planned": shard.count, "recipe": recipe,
        "numerics": dict(numerics), **({"marked": True} if marked else {}),
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(fields))
    return plain


class Journal(ABC):
    """The rendered batches of one shard that isn't finished.

    `read` returns the batches that are there, `add` takes those that are rendered after them. Batches are put in a
    thread, one at a time, while the next one is rendered. Leaving the context waits for the last.

    A subclass defines where records are stored: `read_records`, `put` and `remove`.

    Args:
        origin: What the batches must come from; see `make_origin`.
        batches: The shard's planned images, in the batches in which an undisturbed build renders them.
    """

    def __init__(self, origin: Mapping[str, Any], batches: Sequence[Sequence[Spec]]):
        self.num_read = 0
        """Number of images in the batches that `read` has yielded, which were rendered earlier."""
        self._origin, self._batches = origin, batches
        self._num_stored = 0  # leading batches that are in the journal
        self._num_added = 0  # batches that were added whole
        self._items: list[Result | Future[Encoded]] = []  # of the next one
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.flush()
        except BaseException:
            if error is None:  # otherwise the error already raised is the one that matters
                raise
        finally:
            self._pool.shutdown()

    # --- what a subclass says -------------------------------------------------------------------

    @abstractmethod
    def read_records(self, number: int) -> Iterable[tuple[Head, bytes]]:
        """Return the whole records of a batch with this origin, several if several owners put one; none if none.

        A record whose images are damaged may be among them.
        """

    @abstractmethod
    def put(self, number: int, record: bytes) -> None:
        """Store a record durably; called in one thread, in order.

        Raises:
            OSError: It can't be stored. The build stops then.
        """

    @abstractmethod
    def remove(self) -> None:
        """Remove all records of the shard, whoever put them. Called when the shard has its marker."""

    # --- reading --------------------------------------------------------------------------------

    def read(self, describe: Describe) -> Iterator[list[Result]]:
        """Yield the leading batches that are there whole; a damaged one ends them, and is rendered again.

        Args:
            describe: Returns a Spec's sample as it would be written, without its images.
        """
        while self._num_stored < len(self._batches):
            batch = self._read_batch(self._num_stored, describe)
            if batch is None:
                return
            self._num_stored += 1
            self.num_read += len(batch)
            yield batch

    def missing_specs(self) -> list[Spec]:
        """Return the planned images after the batches that `read` has yielded."""
        return [spec for batch in self._batches[self._num_stored :] for spec in batch]

    def _read_batch(self, number: int, describe: Describe) -> list[Result] | None:
        for head, data in self.read_records(number):
            with contextlib.suppress(RecordError):
                return unpack(data, head, self._batches[number], describe)
        return None

    # --- writing --------------------------------------------------------------------------------

    def add(self, item: Result | Future[Encoded]) -> None:
        """Take the shard's next result, also those that `read` has yielded; put its batch when that is whole.

        Raises:
            OSError: The batch before it couldn't be put.
        """
        self._items.append(item)
        if len(self._items) < len(self._batches[self._num_added]):
            return
        if self._num_added >= self._num_stored:
            self.flush()
            self._pending = self._pool.submit(self._put, self._items)
        self._items, self._num_added = [], self._num_added + 1

    def check(self) -> None:
        """Raise the error of a batch that couldn't be put, without waiting; call it while the next one is rendered."""
        if self._pending is not None and self._pending.done():
            self.flush()

    def flush(self) -> None:
        """Wait for the batch that is being put.

        Raises:
            OSError: It couldn't be put.
        """
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _put(self, items: Sequence[Result | Future[Encoded]]) -> None:
        results = [item.result() if isinstance(item, Future) else item for item in items]
        self.put(self._num_stored, pack(self._origin, self._num_stored, results))
        self._num_stored += 1


@dataclass(frozen=True)
class _Location:
    """A record in a file."""

    path: Path
    offset: int
    head: Head


class FileJournal(Journal):
    """A journal in files beside the shard: each process appends to one of its own.

    So the records of two processes never mix, not even on a file system without locks, where both may hold the shard.
    Files that don't begin with a record of this origin are removed.

    Args:
        directory: The dataset's directory.
        shard: The shard; hold its claim.
        origin, batches: See `Journal`.
    """

    def __init__(
        self, directory: Path, shard: Shard, origin: Mapping[str, Any], batches: Sequence[Sequence[Spec]]
    ) -> None:
        super().__init__(origin, batches)
        self._directory, self._shard = directory, shard
        self._file: IO[bytes] | None = None
        self._locations: dict[int, list[_Location]] = {}
        for path in list_files(directory, shard.name):
            locations = list(_locate_records(directory, path))
            if not locations or locations[0].head.origin != origin:
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            for location in locations:
                if location.head.origin == origin:
                    self._locations.setdefault(location.head.number, []).append(location)

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.close()

    def read_records(self, number: int) -> Iterator[tuple[Head, bytes]]:
        for location in self._locations.get(number, ()):
            with contextlib.suppress(OSError, FileError), open_regular(location.path, root=self._directory) as file:
                file.seek(location.offset)
                data = read_at_most(file, location.head.size)
                if len(data) == location.head.size:
                    yield location.head, data

    def put(self, number: int, record: bytes) -> None:
        if self._file is None:
            self._file = _create_file(self._directory / JOURNAL, self._shard)
        offset = self._file.tell()
        try:
            self._file.write(record)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # frees the space, which may be what is missing
                os.truncate(self._file.fileno(), offset)
            raise

    def remove(self) -> None:
        try:
            remove_files(self._directory, self._shard.name)
        except PermissionError:  # Windows can't remove an open file
            self.flush()
            if self._file is not None:
                self._file.close()
            remove_files(self._directory, self._shard.name)


def list_files(directory: Path, shard: str = "") -> list[Path]:
    """Return the files of a shard's journal in a dataset directory, sorted; of all shards if none is named."""
    name_pattern = re.escape(shard) if shard else r"[\w-]+"
    pattern = re.compile(rf"{name_pattern}\.\d+-[0-9a-f]{{16}}{re.escape(SUFFIX)}")
    try:
        return sorted(path for path in (directory / JOURNAL).iterdir() if pattern.fullmatch(path.name))
    except OSError:
        return []


def remove_files(directory: Path, shard: str = "") -> None:
    """Remove the files of a shard's journal, or of all, and the folder if it is empty then."""
    for path in list_files(directory, shard):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another shard has a journal, or there never was one
        (directory / JOURNAL).rmdir()


def parse_shard_name(path: Path) -> str:
    """Return the name of the shard that a journal's file belongs to."""
    return path.name.partition(".")[0]


def count_rendered(directory: Path) -> tuple[int, int]:
    """Return how many images the journals in a dataset directory hold, and how many of them aren't rejects."""
    images: dict[str, bool] = {}
    for path in list_files(directory):
        for location in _locate_records(directory, path):
            images |= {result["key"]: "reason" not in result for result in location.head.results}
    return len(images), sum(images.values())


def _create_file(folder: Path, shard: Shard) -> IO[bytes]:
    """Create a file that no other process has. Another process may remove the folder while it is empty."""
    for attempt in range(10):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = (folder / f"{shard.name}.{os.getpid()}-{secrets.token_hex(8)}{SUFFIX}").open("xb")
        except FileNotFoundError:
            if attempt == 9:
                raise
            continue
        sync_directory(folder)
        return file
    raise AssertionError


def _locate_records(directory: Path, path: Path) -> Iterator[_Location]:
    """Yield the records of a file up to the first that isn't whole."""
    with contextlib.suppress(OSError, FileError, RecordError), open_regular(path, root=directory) as file:
        size, offset = os.fstat(file.fileno()).st_size, 0
        while offset < size:
            file.seek(offset)
            head = read_head(file, size - offset)
            yield _Location(path, offset, head)
            offset += head.size
