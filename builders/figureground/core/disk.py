"""Explanations of disk errors."""

from __future__ import annotations

import errno
from pathlib import Path

AGAIN = "run the same command again"

_FULL = {
    errno.ENOSPC: f"No space left on the disk of {{out}}. Free some space and {AGAIN}.",
    errno.EDQUOT: f"Your quota on the disk of {{out}} is used up. Free some space and {AGAIN}.",
    errno.EFBIG: f"A file in {{out}} would be larger than this system allows (see ulimit -f). Raise the limit and "
    f"{AGAIN}, or build in a new directory with a smaller --set shard_size=….",
}
_PLACE = {
    errno.EROFS: "{path} can't be written: its file system is read-only. Give a directory where you may write.",
    errno.EACCES: "{path}: permission denied. Give a directory where you may write.",
    errno.EPERM: "{path}: the system doesn't permit writing there. Give a directory where you may write.",
    errno.ENOTDIR: "{path} can't be created: a part of it is a file, not a directory. Give another directory.",
    errno.EEXIST: "{path} can't be created: a part of it is a file, not a directory. Give another directory.",
    errno.ENAMETOOLONG: "{path}: the name is too long for its file system. Give a shorter one.",
    errno.ELOOP: "{path}: its links form a loop. Give another directory.",
}
_FAILING = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT)


def explain(error: OSError, out: Path) -> str | None:
    """Explain an error of the disk of `out`, and the fix; return None for any other error."""
    number = error.errno
    path = Path(str(error.filename)) if error.filename is not None else None
    if path is not None and path != out and out not in path.parents and path not in out.parents:
        return None
    if number in _FULL:
        return _FULL[number].format(out=out)
    if number in _FAILING:
        return f"The disk of {out} fails: {error.strerror}. Once it works again, {AGAIN}."
    if number in _PLACE and path is not None:
        return _PLACE[number].format(path=path if out in path.parents and out.is_dir() else out)
    return None


def first_missing(path: Path) -> Path | None:
    """Return the topmost missing directory on the way to `path`; None if `path` exists."""
    missing = None
    for each in (path, *path.parents):
        if each.exists() or each.is_symlink():
            break
        missing = each
    return missing
