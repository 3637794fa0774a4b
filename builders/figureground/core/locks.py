"""Lock files, held by the kernel while a process lives, so that a killed process blocks no other."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from figureground.core.files import FileError
from figureground.core.system import OPEN_NO_LINK, OPEN_NONBLOCKING, lock_file


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = False, shared: bool = False) -> Iterator[bool]:
    """Hold a lock file, exclusive or shared, and create it if missing; yield whether it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = _open(path)
        try:
            held = lock_file(handle, wait=wait, shared=shared)
            # The previous holder may have removed the file; then no other process sees this lock.
            if held and not _same_file(handle, path):
                continue
            yield held is not False
            return
        finally:
            os.close(handle)


def is_held(path: Path) -> bool:
    """Return whether a process holds a lock file, as far as can be seen: True if the file system has no locks.

    Nothing is created or changed. For a moment, a process that tries to take the lock without waiting may not get it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | OPEN_NONBLOCKING | OPEN_NO_LINK)
    except FileNotFoundError:
        return False
    try:
        return lock_file(handle, wait=False, shared=True) is not True
    finally:
        os.close(handle)


def has_locks(folder: Path) -> bool:
    """Return whether a file system has locks; True if no file can be made there to find out.

    Args:
        folder: A directory, or a path of which only the upper part exists.
    """
    existing = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), None)
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=existing) as file:
        return lock_file(file.fileno(), wait=False) is not None
    return True


def unlink_while_held(path: Path, target: Path) -> bool:
    """Remove `target` if the lock `path` is free, and also the lock file if this call created it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new, remains = not path.exists(), False
    handle = _open(path)
    try:
        if lock_file(handle, wait=False) is not True or not _same_file(handle, path):
            return False
        if target != path:
            target.unlink(missing_ok=True)
        if is_new or target == path:
            remains = not remove_held(path)
    finally:
        os.close(handle)
    if remains:
        remove_held(path)
    return True


def remove_held(path: Path) -> bool:
    """Remove a lock file that this process holds, if the system permits it; Windows removes no open file."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        return False
    return True


def _open(path: Path) -> int:
    """Open a lock file; links aren't followed, because that could create a file elsewhere."""
    try:
        if not OPEN_NO_LINK and path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        return os.open(path, os.O_RDWR | os.O_CREAT | OPEN_NONBLOCKING | OPEN_NO_LINK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileError(path, "this lock file is a link. Remove it") from None
        raise


def _same_file(handle: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False
