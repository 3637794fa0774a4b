"""Lock files, held by the kernel while a process lives, so that a killed process blocks no other."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from figureground.core.files import FileError

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = False, shared: bool = False) -> Iterator[bool]:
    """Holds a lock file, exclusive or shared, and creates it if missing; yields whether it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = _open(path)
        try:
            held = _take(handle, wait=wait, shared=shared)
            # The previous holder may have removed the file; then no other process sees this lock.
            if held and not _same_file(handle, path):
                continue
            yield held is not False
            return
        finally:
            os.close(handle)


def is_held(path: Path) -> bool:
    """Returns whether a process holds a lock file, as far as can be seen: True if the file system has no locks.

    Nothing is created or changed. For a moment, a process that tries to take the lock without waiting may not get it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        return _take(handle, wait=False, shared=True) is not True
    finally:
        os.close(handle)


def has_locks(folder: Path) -> bool:
    """Returns whether a file system has locks; True if no file can be made there to find out.

    Args:
        folder: A directory, or a path of which only the upper part exists.
    """
    there = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), None)
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=there) as file:
        return _take(file.fileno(), wait=False) is not None
    return True


def unlink_while_held(path: Path, target: Path) -> bool:
    """Removes `target` if the lock `path` is free, and also the lock file if this call created it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    handle = _open(path)
    try:
        if _take(handle, wait=False) is not True or not _same_file(handle, path):
            return False
        target.unlink(missing_ok=True)
        if new:
            path.unlink(missing_ok=True)
        return True
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    """Opens a lock file; links aren't followed, because that could create a file elsewhere."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileError(path, "this lock file is a link. Remove it") from None
        raise


def _take(handle: int, *, wait: bool, shared: bool = False) -> bool | None:
    """Returns whether the lock was taken; None if the file system has no locks."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _same_file(handle: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False
