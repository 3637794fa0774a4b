"""What can be wrong with the disk that a build writes to, in words, and how a directory is left as it was found."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Collection
from pathlib import Path

from figureground.shards import index, writer
from figureground.stages import has_work

AGAIN = "give the same command again"

_FULL = {
    errno.ENOSPC: f"No space left on the disk of {{out}}. Free some space and {AGAIN}.",
    errno.EDQUOT: f"Your quota on the disk of {{out}} is used up. Free some space and {AGAIN}.",
    errno.EFBIG: f"A file in {{out}} would be larger than this system allows (see ulimit -f). Raise the limit and "
    f"{AGAIN}, or build in a new directory with a smaller --set shard_size=….",
}
_PLACE = {
    errno.EROFS: "{path} can't be written: its file system is read-only. Give a directory where you may write.",
    errno.EACCES: "{path}: permission denied. Give a directory where you may write.",
    errno.EPERM: "{path}: the system doesn't permit to write there. Give a directory where you may write.",
    errno.ENOTDIR: "{path} can't be made: a part of it is a file, not a directory. Give another directory.",
    errno.EEXIST: "{path} can't be made: a part of it is a file, not a directory. Give another directory.",
    errno.ENAMETOOLONG: "{path}: the name is too long for its file system. Give a shorter one.",
    errno.ELOOP: "{path}: its links lead round in a circle. Give another directory.",
}
_FAILING = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT)


def explain(error: OSError, out: Path) -> str | None:
    """What is wrong, where, and what to do; None when it isn't about the disk of `out`."""
    number = error.errno
    path = Path(str(error.filename)) if error.filename is not None else None
    if path is not None and path != out and out not in path.parents and path not in out.parents:
        return None
    if number in _FULL:
        return _FULL[number].format(out=out)
    if number in _FAILING:
        return f"The disk of {out} fails: {error.strerror}. When it works again, {AGAIN}."
    if number in _PLACE and path is not None:
        return _PLACE[number].format(path=path if out in path.parents and out.is_dir() else out)
    return None


def first_missing(path: Path) -> Path | None:
    """The uppermost directory that would have to be made for `path` to be there; None when it is."""
    missing = None
    for each in (path, *path.parents):
        if each.exists() or each.is_symlink():
            break
        missing = each
    return missing


def has_shards(out: Path) -> bool:
    """Whether a shard is marked as done, be its marker readable or not."""
    return any((out / writer.MARKERS).glob("[!.]*.json"))


def already_there(out: Path) -> frozenset[Path]:
    """All files and folders in a dataset's private directory before a build; none of a dataset that has shards."""
    private = out / writer.PRIVATE
    return frozenset() if has_shards(out) or not private.is_dir() else frozenset([private, *private.rglob("*")])


def withdraw(out: Path, made: Path | None, before: Collection[Path] = ()) -> None:
    """Removes what a build that failed at once has put into a directory, so that it can be given again.

    Nothing is removed when there is a shard, an index or work done in a stage, or another process is at work there.

    Args:
        out: The dataset's directory.
        made: The uppermost directory that the build made, or None.
        before: What was there before the build and isn't its own: `already_there`.
    """
    private = out / writer.MARKERS.split("/")[0]
    with contextlib.suppress(OSError):
        stages = private / "stages"
        if not private.is_dir():
            return
        with writer.lock(out / writer.STAGES_LOCK) as alone, writer.lock(out / writer.WORKING_LOCK) as idle:
            # Looked at under the locks: another process may have finished its first shard just now.
            if not (alone and idle) or has_shards(out) or has_work(stages) or (out / index.INDEX).exists():
                return
            _remove_new(stages, before)
            for name in ("numerics.json", "recipe.json"):
                if private / name not in before:
                    (private / name).unlink(missing_ok=True)
            writer.clean_stale(out)
            for name in (writer.WORKING_LOCK, writer.STAGES_LOCK):
                (out / name).unlink(missing_ok=True)
        writer.remove_locks(out)
        for name in (writer.REJECTS, writer.PUBLISHED_REJECTS, writer.MARKERS, "data", "webdataset", private.name):
            if out / name not in before:
                with contextlib.suppress(FileNotFoundError):
                    (out / name).rmdir()
        for folder in (out, *out.parents) if made is not None else ():
            folder.rmdir()
            if folder == made:
                break


def _remove_new(folder: Path, before: Collection[Path]) -> None:
    """Removes a folder with all that is in it, except what was there before."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            _remove_new(path, before)
        elif path not in before:
            path.unlink()
    if folder not in before and not any(folder.iterdir()):
        folder.rmdir()
