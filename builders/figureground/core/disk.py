"""Explanations of disk errors."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from figureground.core.errors import FiguregroundError

_RERUN = "run the same command again"

_FULL_DISK = {
    errno.ENOSPC: f"No space left on the disk of {{out}}. Free some space and {_RERUN}.",
    errno.EDQUOT: f"Your quota on the disk of {{out}} is used up. Free some space and {_RERUN}.",
    errno.EFBIG: f"A file in {{out}} would be larger than this system allows (see ulimit -f). Raise the limit and "
    f"{_RERUN}, or build in a new directory with a smaller --set shard_size=….",
}
_WRONG_PATH = {
    errno.EROFS: "{path} can't be written: its file system is read-only. Give a directory where you may write.",
    errno.EACCES: "{path}: permission denied. Change its permissions, or give another directory.",
    errno.EPERM: "{path}: the system doesn't permit writing there. Give a directory where you may write.",
    errno.ENOTDIR: "{path} can't be created: a part of it is a file, not a directory. Give another directory.",
    errno.EEXIST: "{path} can't be created: a part of it is a file, not a directory. Give another directory.",
    errno.ENAMETOOLONG: "{path}: the name is too long for its file system. Give a shorter one.",
    errno.ELOOP: "{path}: its links form a loop. Give another directory.",
}
_FAILING_DISK = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT)


def explain_disk_error(error: OSError, out: Path) -> str | None:
    """Explain an error of the disk of `out`, and the fix; return None for any other error."""
    number = error.errno
    path = Path(str(error.filename)) if error.filename is not None else None
    if path is not None and path != out and out not in path.parents and path not in out.parents:
        return None
    if number in _FULL_DISK:
        return _FULL_DISK[number].format(out=out)
    if number in _FAILING_DISK:
        return f"The disk of {out} fails: {error.strerror}. Once it works again, {_RERUN}."
    if number in _WRONG_PATH and path is not None:
        return _WRONG_PATH[number].format(path=path if out in path.parents and os.path.isdir(out) else out)
    return None


@contextlib.contextmanager
def explained(out: Path) -> Iterator[None]:
    """Explain errors of the disk of `out` that are raised within.

    Raises:
        FiguregroundError: Such an error, with its fix.
    """
    try:
        yield
    except OSError as error:
        if problem := explain_disk_error(error, out):
            raise FiguregroundError(problem) from error
        raise


def find_first_missing(path: Path) -> Path | None:
    """Return the topmost missing directory on the way to `path`; None if `path` exists."""
    missing = None
    for parent in (path, *path.parents):
        if parent.exists() or parent.is_symlink():
            break
        missing = parent
    return missing
