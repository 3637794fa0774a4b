"""Reads and writes files that somebody else may have prepared.

A dataset that was downloaded can hold links to files elsewhere on this machine, FIFOs that block whoever opens them,
and small files that cost gigabytes to read. The functions here open regular files only, stay inside a directory where
one is given, read no more than a limit, and write by renaming, which replaces a link instead of following it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Collection, Iterator
from functools import lru_cache
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import IO, Any

from figureground.core.errors import FiguregroundError, printable

MOST_TEXT = 16 * 2**20
"""Most bytes of a text that people write: a card, a licence."""
MOST_JSON = 256 * 2**20
"""Most bytes of a JSON document. The index of ten million images takes about ten MiB."""
MOST_DEPTH = 100
"""How deep lists and objects of a JSON document may be nested. Documents of this package need about ten levels."""

_CHUNK = 2**20
"""Bytes that are read at a time."""

LEAVES = "it is a link, or lies behind one, that leads out of the directory; such links are never followed"

_NO_LINKS = {errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


class FileError(FiguregroundError, ValueError):
    """A file that is not read or written, because of where it lies, what it is, or what it would cost.

    Args:
        where: The file, or the place in it.
        reason: What is wrong, and what to do, without a full stop at its end.
    """

    def __init__(self, where: Path | str, reason: str):
        super().__init__(f"{printable(str(where))}: {reason}.")
        self.where = where
        self.reason = reason


class TooDeep(FileError):
    """JSON that is nested so deeply that what reads it would fail."""

    def __init__(self, where: Path | str, depth: int):
        super().__init__(where, f"its JSON is nested more than {depth} levels deep")


# Where files lie


def inside(root: Path, name: str | PurePosixPath) -> Path:
    """Return `root / name` where that is a place inside `root`, whether or not there is a file.

    Links that stay inside are allowed. In a snapshot of the Hugging Face cache, links into the `blobs` of the same
    repository count as inside.

    Raises:
        FileError: The name is empty or absolute, contains `..`, or leads out of `root` through a link.
    """
    text = str(name)
    parts = PurePosixPath(text).parts
    if not parts or "\0" in text or ".." in parts or PurePosixPath(text).is_absolute():
        raise FileError(text or "''", f"a file is named by its place below {printable(str(root))}, without '..'")
    path = root / text
    if leaves(path, root):
        raise FileError(path, LEAVES)
    return path


def leaves(path: Path, root: Path) -> bool:
    """Whether a path leads out of a directory once links are followed; links that go round in a circle do."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # a circle of links
        return True
    return not any(real == bound or bound in real.parents for bound in _bounds(os.path.realpath(root)))


@lru_cache(maxsize=256)
def _bounds(root: str) -> tuple[Path, ...]:
    """The directories that files of `root` may lie in: itself and, of a snapshot in the Hub's cache, its blobs."""
    real = Path(root)
    for place in (real, *real.parents):
        kind, separator, _ = place.parent.parent.name.partition("--")
        if place.parent.name == "snapshots" and separator and kind in ("datasets", "models", "spaces"):
            return real, place.parent.parent / "blobs"
    return (real,)


def strange_entries(root: Path, names: Collection[str] | None = None) -> Iterator[tuple[str, str]]:
    """Find what must not be opened below a directory: links that leave it, FIFOs, devices and sockets.

    Linked directories that stay inside are searched like others, each directory once.

    Args:
        root: The directory.
        names: Which entries of `root` itself to search; all unless given.

    Yields:
        The entry's name relative to `root`, in order, and what is wrong with it.
    """
    seen: set[tuple[int, int]] = set()
    pending: list[str] = [""]
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError:  # gone meanwhile, or not ours to read: whoever opens it says so
            continue
        below = []
        for entry in entries:
            if not folder and names is not None and entry.name not in names:
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            problem, directory = _look(entry, root)
            if problem:
                yield name, problem
            elif directory:
                below.append(name)
        pending += reversed(below)


def _look(entry: os.DirEntry[str], root: Path) -> tuple[str | None, bool]:
    """What is wrong with an entry, and whether it is a directory to search."""
    try:
        if not entry.is_symlink():
            if entry.is_file(follow_symlinks=False):
                return None, False
        elif leaves(Path(entry.path), root):
            return LEAVES, False
        mode = entry.stat().st_mode
    except OSError:  # gone meanwhile, or a link to nothing
        return None, False
    if stat.S_ISDIR(mode):
        return None, True
    return (None if stat.S_ISREG(mode) else _not_regular(mode)), False


def _not_regular(mode: int) -> str:
    return f"it is {_KINDS.get(stat.S_IFMT(mode), 'no regular file')}, not a regular file, and isn't opened"


# Reading


def check_regular(path: Path, *, root: Path | None = None) -> os.stat_result:
    """Return the status of a regular file, before a library opens it by name.

    Raises:
        FileError: It is a FIFO, device, socket or directory, or lies outside `root`.
        OSError: There is none, or it can't be looked at.
    """
    if root is not None and leaves(path, root):
        raise FileError(path, LEAVES)
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise FileError(path, _not_regular(status.st_mode))
    return status


def open_regular(path: Path, *, root: Path | None = None) -> BufferedReader:
    """Open a regular file for reading; never waits for a FIFO and touches no device.

    Raises:
        FileError: As `check_regular`.
        OSError: There is none, or it can't be opened.
    """
    seen = check_regular(path, root=root)
    # What lies there may have been exchanged since: O_NONBLOCK keeps a FIFO from blocking even then.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not os.path.samestat(seen, os.fstat(handle)):
            raise FileError(path, "it was exchanged while it was opened")
        return os.fdopen(handle, "rb")
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(handle)
        raise


def read_at_most(file: IO[bytes], most: int) -> bytes:
    """Read a file to its end, or to `most` bytes.

    `file.read(most)` would reserve memory for all of `most`, however small the file is.
    """
    parts = []
    while most > 0 and (part := file.read(min(most, _CHUNK))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def read_bytes(path: Path, *, root: Path | None = None, most: int = MOST_TEXT) -> bytes:
    """Read a regular file whole.

    Args:
        path: The file.
        root: The directory that it must lie in once links are followed; anywhere unless given.
        most: The largest size in bytes that is read.

    Raises:
        FileError: It is no regular file, lies outside `root`, or is larger than `most`.
        OSError: There is none, or it can't be read.
    """
    with open_regular(path, root=root) as file:
        data = read_at_most(file, most + 1) if os.fstat(file.fileno()).st_size <= most else None
    if data is None or len(data) > most:
        raise FileError(path, f"it is larger than {_size(most)}, the most that is read of such a file")
    return data


def read_text(path: Path, *, root: Path | None = None, most: int = MOST_TEXT, encoding: str = "utf-8") -> str:
    """Read a text file whole, with `\\n` for every line break.

    Raises:
        FileError: As `read_bytes`, or it is no text in this encoding.
        OSError: As `read_bytes`.
    """
    data = read_bytes(path, root=root, most=most)
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        raise FileError(path, f"it is not written in {encoding.upper().removesuffix('-SIG')} ({error})") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, *, root: Path | None = None, most: int = MOST_JSON, depth: int = MOST_DEPTH) -> Any:
    """Read a JSON document.

    Raises:
        FileError: As `read_text`, or it is no JSON, or nested more than `depth` levels deep.
        OSError: As `read_bytes`.
    """
    return parse_json(read_text(path, root=root, most=most, encoding="utf-8-sig"), path, depth=depth)


def read_object(path: Path, *, root: Path | None = None, most: int = MOST_JSON) -> dict[str, Any]:
    """Read a JSON document that is an object.

    Raises:
        FileError: As `read_json`, or it is a list, a number or a text.
        OSError: As `read_bytes`.
    """
    value = read_json(path, root=root, most=most)
    if not isinstance(value, dict):
        raise FileError(path, "it holds no JSON object")
    return value


def parse_json(text: str | bytes, where: Path | str, *, depth: int = MOST_DEPTH) -> Any:
    """Parse JSON of bounded depth.

    Args:
        text: The document.
        where: What errors call it.
        depth: How many levels lists and objects may be nested.

    Raises:
        FileError: It is no JSON, or nested deeper.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise TooDeep(where, depth) from None
    except ValueError as error:
        raise FileError(where, f"it can't be read as JSON ({error})") from None
    # Shallow enough to be parsed is not shallow enough for what is done with it: comparing and writing recurse too.
    level = [value]
    for _ in range(depth):
        level = [
            each
            for some in level
            if isinstance(some, dict | list)
            for each in (some.values() if isinstance(some, dict) else some)
            if isinstance(each, dict | list)
        ]
        if not level:
            return value
    raise TooDeep(where, depth)


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.4g} {unit}"
    return f"{count} bytes"


# Writing


def temporary(final: Path) -> Path:
    """Return a name beside `final` that no other process uses, and that `datasets` doesn't read."""
    return final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp")


def replace_bytes(path: Path, data: bytes, *, root: Path | None = None) -> None:
    """Write a file so that readers see the old one or the new one, whole. A link at its place is replaced.

    Args:
        path: The file; its directory is made where it is missing.
        data: What it is to hold.
        root: The directory that it must stay in; a parent that leads out of it is refused.

    Raises:
        FileError: A parent leads out of `root`, or there is a directory at its place.
        OSError: It can't be written.
    """
    with _written(path, data, root) as draft:
        os.replace(draft, path)


def replace_text(path: Path, text: str, *, root: Path | None = None) -> None:
    """Write a text in UTF-8 as `replace_bytes` does."""
    replace_bytes(path, text.encode(), root=root)


def replace_changed(path: Path, text: str, *, root: Path | None = None) -> None:
    """Write a text as `replace_text` does, unless the file holds it already: its time of change then stays."""
    data = text.encode()
    with contextlib.suppress(OSError, FileError):
        if not path.is_symlink() and read_bytes(path, root=root, most=len(data)) == data:
            return
    replace_bytes(path, data, root=root)


def create_bytes(path: Path, data: bytes, *, root: Path | None = None) -> None:
    """Write a file that mustn't exist yet, so that readers see all of it or none.

    Raises:
        FileExistsError: There is something at its place, a link too; or another process was faster.
        FileError: As `replace_bytes`.
        OSError: It can't be written.
    """
    with _written(path, data, root) as draft:
        try:
            os.link(draft, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without hard links: exclusive still, though a reader may see it half written.
            with open(path, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def create_text(path: Path, text: str, *, root: Path | None = None) -> None:
    """Write a text in UTF-8 as `create_bytes` does."""
    create_bytes(path, text.encode(), root=root)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _written(path: Path, data: bytes, root: Path | None) -> Iterator[Path]:
    """A temporary file beside `path` that holds `data` durably; removed on exit, if it is still there."""
    if root is not None and leaves(path.parent, root):
        raise FileError(path, LEAVES)
    if path.is_dir() and not path.is_symlink():
        raise FileError(path, "there is a directory where a file is to be written; move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = temporary(path)
    try:
        with open(draft, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield draft
        sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)
