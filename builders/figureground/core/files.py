"""Safely reads and writes files in untrusted directories.

A downloaded dataset can contain links to files elsewhere on this machine, FIFOs that block the reader, and small files
that take gigabytes to read. The functions here open only regular files, stay inside a directory if one is given, read
no more than a limit, and write by renaming, which replaces a link instead of following it.
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
from figureground.core.system import OPEN_NONBLOCKING

MAX_TEXT_BYTES = 16 * 2**20
"""Maximum size of user-written text such as a card or a licence, bytes."""
MAX_JSON_BYTES = 256 * 2**20
"""Maximum size of a JSON document, bytes. The index of ten million images takes about ten MiB."""
MAX_JSON_DEPTH = 100
"""Maximum nesting of a JSON document. Documents of this package need about ten levels."""

_CHUNK = 2**20
"""Bytes read at a time."""

LEADS_OUTSIDE = "a link leads out of the directory, and such links are never followed. Replace it with the file itself"

_NO_LINKS = {errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


class FileError(FiguregroundError, ValueError):
    """Raised for a file that is refused because of its place, type or size.

    Args:
        where: The file, or the place in it.
        reason: Problem and fix, without a full stop at the end.
    """

    def __init__(self, where: Path | str, reason: str):
        super().__init__(f"{printable(str(where))}: {reason}.")
        self.where = where
        self.reason = reason


class TooDeep(FileError):
    """Raised for JSON nested too deeply to process."""

    def __init__(self, where: Path | str, depth: int):
        super().__init__(where, f"its JSON is nested more than {depth} levels deep")


# Places of files


def safe_join(root: Path, name: str | PurePosixPath) -> Path:
    """Return `root / name` if that is inside `root`, whether or not the file exists.

    Links that stay inside are allowed. In a snapshot of the Hugging Face cache, links into the `blobs` of the same
    repository count as inside.

    Raises:
        FileError: The name is empty or absolute, contains `..`, or leads out of `root` through a link.
    """
    text = str(name)
    parts = PurePosixPath(text).parts
    if not parts or "\0" in text or ".." in parts or PurePosixPath(text).is_absolute():
        raise FileError(text or "''", f"a file must be named relative to {printable(str(root))}, without '..'")
    path = root / text
    if leads_outside(path, root):
        raise FileError(path, LEADS_OUTSIDE)
    return path


def leads_outside(path: Path, root: Path) -> bool:
    """Whether a path leads out of a directory once links are followed; link loops count as leaving."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # a link loop
        return True
    return not any(real == folder or folder in real.parents for folder in _allowed_folders(os.path.realpath(root)))


@lru_cache(maxsize=256)
def _allowed_folders(root: str) -> tuple[Path, ...]:
    """Return the directories allowed for files of `root`: itself and, for a Hub cache snapshot, its blobs."""
    real = Path(root)
    for folder in (real, *real.parents):
        repository_type, separator, _ = folder.parent.parent.name.partition("--")
        if folder.parent.name == "snapshots" and separator and repository_type in ("datasets", "models", "spaces"):
            return real, folder.parent.parent / "blobs"
    return (real,)


def find_unsafe_entries(root: Path, names: Collection[str] | None = None) -> Iterator[tuple[str, str]]:
    """Find entries below a directory that must not be opened: links that leave it, FIFOs, devices and sockets.

    Linked directories that stay inside are searched too; each directory is searched once.

    Args:
        root: The directory.
        names: Entries of `root` itself to search; default: all.

    Yields:
        The entry's name relative to `root`, in order, and what is wrong with it.
    """
    visited: set[tuple[int, int]] = set()
    pending: list[str] = [""]
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError:  # gone meanwhile, or unreadable: reported when it is opened
            continue
        subfolders = []
        for entry in entries:
            if not folder and names is not None and entry.name not in names:
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            problem, is_folder = _inspect_entry(entry, root)
            if problem:
                yield name, problem
            elif is_folder:
                subfolders.append(name)
        pending += reversed(subfolders)


def _inspect_entry(entry: os.DirEntry[str], root: Path) -> tuple[str | None, bool]:
    """Return the problem of an entry, if any, and whether it is a directory to search."""
    try:
        if not entry.is_symlink():
            if entry.is_file(follow_symlinks=False):
                return None, False
        elif leads_outside(Path(entry.path), root):
            return LEADS_OUTSIDE, False
        mode = entry.stat().st_mode
    except OSError:  # gone meanwhile, or a broken link
        return None, False
    if stat.S_ISDIR(mode):
        return None, True
    return (None if stat.S_ISREG(mode) else _describe_type(mode)), False


def _describe_type(mode: int) -> str:
    return f"it is {_KINDS.get(stat.S_IFMT(mode), 'no regular file')}, not a regular file, and isn't opened"


# Reading


def check_regular(path: Path, *, root: Path | None = None) -> os.stat_result:
    """Return the status of a regular file, before a library opens it by name.

    Raises:
        FileError: It is a FIFO, device, socket or directory, or is outside `root`.
        OSError: It doesn't exist or can't be accessed.
    """
    if root is not None and leads_outside(path, root):
        raise FileError(path, LEADS_OUTSIDE)
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise FileError(path, _describe_type(status.st_mode))
    return status


def open_regular(path: Path, *, root: Path | None = None) -> BufferedReader:
    """Open a regular file for reading; never blocks on a FIFO and never opens a device.

    Raises:
        FileError: See `check_regular`.
        OSError: It doesn't exist or can't be opened.
    """
    status = check_regular(path, root=root)
    # The file may have been replaced since the check; OPEN_NONBLOCKING keeps a FIFO from blocking even then.
    handle = os.open(path, os.O_RDONLY | OPEN_NONBLOCKING)
    try:
        if not os.path.samestat(status, os.fstat(handle)):
            raise FileError(path, "it was replaced while it was opened")
        return os.fdopen(handle, "rb")
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(handle)
        raise


def read_at_most(file: IO[bytes], limit: int) -> bytes:
    """Read a file to its end, but at most `limit` bytes.

    `file.read(limit)` would allocate `limit` bytes, however small the file is.
    """
    parts = []
    while limit > 0 and (part := file.read(min(limit, _CHUNK))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def read_bytes(path: Path, *, root: Path | None = None, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Read a whole regular file.

    Args:
        path: The file.
        root: The directory that must contain it once links are followed; default: no restriction.
        max_bytes: The maximum size, bytes.

    Raises:
        FileError: It is not a regular file, is outside `root`, or is larger than `max_bytes`.
        OSError: It doesn't exist or can't be read.
    """
    with open_regular(path, root=root) as file:
        data = read_at_most(file, max_bytes + 1) if os.fstat(file.fileno()).st_size <= max_bytes else None
    if data is None or len(data) > max_bytes:
        raise FileError(path, f"it is larger than {_format_size(max_bytes)}, the limit for such a file")
    return data


def read_text(path: Path, *, root: Path | None = None, max_bytes: int = MAX_TEXT_BYTES, encoding: str = "utf-8") -> str:
    """Read a whole text file, with `\\n` for every line break.

    Raises:
        FileError: See `read_bytes`; or it is not text in this encoding.
        OSError: See `read_bytes`.
    """
    data = read_bytes(path, root=root, max_bytes=max_bytes)
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        raise FileError(path, f"it is not written in {encoding.upper().removesuffix('-SIG')} ({error})") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, *, root: Path | None = None, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON document.

    Raises:
        FileError: See `read_text`; or it is not JSON, or nested more than `MAX_JSON_DEPTH` levels deep.
        OSError: See `read_bytes`.
    """
    return parse_json(read_text(path, root=root, max_bytes=max_bytes, encoding="utf-8-sig"), path)


def read_object(path: Path, *, root: Path | None = None, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON document that must be an object.

    Raises:
        FileError: See `read_json`; or it is not an object.
        OSError: See `read_bytes`.
    """
    value = read_json(path, root=root, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise FileError(path, "it is not a JSON object")
    return value


def parse_json(text: str | bytes, where: Path | str) -> Any:
    """Parse JSON of bounded depth.

    Args:
        text: The document.
        where: Its name in errors.

    Raises:
        FileError: It is not JSON, or nested more than `MAX_JSON_DEPTH` levels deep.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise TooDeep(where, MAX_JSON_DEPTH) from None
    except ValueError as error:
        raise FileError(where, f"it can't be read as JSON ({error})") from None
    # JSON that can be parsed may still be too deep to process: comparing and writing recurse too.
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            child
            for container in level
            if isinstance(container, dict | list)
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
        if not level:
            return value
    raise TooDeep(where, MAX_JSON_DEPTH)


def _format_size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.4g} {unit}"
    return f"{count} bytes"


# Writing


def temporary_path(final: Path) -> Path:
    """Return a path next to `final` that no other process uses and that `datasets` doesn't read."""
    return final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp")


def replace_bytes(path: Path, data: bytes, *, root: Path | None = None) -> None:
    """Write a file atomically: readers see the whole old or new file. A link at `path` is replaced.

    Args:
        path: The file; its directory is created if missing.
        data: The new content.
        root: The directory that it must stay in; a parent that leads out of it is refused.

    Raises:
        FileError: A parent leads out of `root`, or `path` is a directory.
        OSError: It can't be written.
    """
    with _write_draft(path, data, root) as draft:
        os.replace(draft, path)


def replace_text(path: Path, text: str, *, root: Path | None = None) -> None:
    """Write a text in UTF-8 like `replace_bytes`."""
    replace_bytes(path, text.encode(), root=root)


def replace_if_changed(path: Path, text: str, *, root: Path | None = None) -> None:
    """Write a text like `replace_text`, unless the file already contains it; then its modification time stays."""
    data = text.encode()
    with contextlib.suppress(OSError, FileError):
        if not path.is_symlink() and read_bytes(path, root=root, max_bytes=len(data)) == data:
            return
    replace_bytes(path, data, root=root)


def create_bytes(path: Path, data: bytes, *, root: Path | None = None) -> None:
    """Atomically write a file that must not exist yet.

    Raises:
        FileExistsError: `path` exists, even as a link; or another process was faster.
        FileError: See `replace_bytes`.
        OSError: It can't be written.
    """
    with _write_draft(path, data, root) as draft:
        try:
            os.link(draft, path)
        except (OSError, AttributeError) as error:  # AttributeError: a system without hard links
            if isinstance(error, OSError) and error.errno not in _NO_LINKS:
                raise
            # Without hard links this is still exclusive, but a reader may see a partial file.
            with open(path, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def create_text(path: Path, text: str, *, root: Path | None = None) -> None:
    """Write a text in UTF-8 like `create_bytes`."""
    create_bytes(path, text.encode(), root=root)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Windows opens no directory, and keeps their names by itself."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _write_draft(path: Path, data: bytes, root: Path | None) -> Iterator[Path]:
    """Yield a synced temporary file with `data` next to `path`; remove it on exit if it still exists."""
    if root is not None and leads_outside(path.parent, root):
        raise FileError(path, LEADS_OUTSIDE)
    if path.is_dir() and not path.is_symlink():
        raise FileError(path, "it is a directory, but a file is to be written there; move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = temporary_path(path)
    try:
        with open(draft, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield draft
        sync_directory(path.parent)
    finally:
        draft.unlink(missing_ok=True)
