"""Claims of shards, the locks of a dataset directory, and what killed processes leave in it."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figureground.core.errors import describe_error
from figureground.core.files import read_object
from figureground.core.locks import is_held, lock, remove_held, unlink_while_held
from figureground.core.shapes import Count, Optional, check_shape
from figureground.core.system import OPEN_NO_LINK, OPEN_NONBLOCKING
from figureground.recipe.formats import FORMATS
from figureground.shards import journal
from figureground.shards.formats.format import list_folders
from figureground.shards.shard import JOURNAL, MARKERS, PRIVATE, PUBLISHED_REJECTS, REJECTS, SCORES, STAGES, Shard

INDEX_LOCK = f"{PRIVATE}/.index.lock"
"""Lock held while the index and the card are written."""

STAGES_LOCK = f"{PRIVATE}/.stages.lock"
"""Lock held while recipe and numerics are settled and stages are run."""

WORKING_LOCK = f"{PRIVATE}/.working.lock"
"""Lock shared by all processes that render."""

PARTS_LOCK = f"{PRIVATE}/.parts.lock"
"""Lock shared by all processes that run stages which don't need each other."""

MAX_LOCK_SIZE = 2**16
"""Maximum size of a lock file, bytes."""
MAX_REASON = 4000
"""Maximum length of the reason why a shard failed, characters."""

_HOLDER = {"host": str, "pid": Count, "since": str, "reason": Optional(str)}
_NAME = r"\w+(-e\d+)?-\d{5,}-of-\d{5,}"
_LOCK = re.compile(rf"\.{_NAME}\.lock")


@contextlib.contextmanager
def claim(directory: Path, shard: Shard) -> Iterator[bool]:
    """Try to claim a shard for this process, without waiting; yield whether that succeeded.

    The kernel releases the claim when the process ends, however it ends. On a file system without locks every
    claim succeeds: a shard may then be rendered twice, but its marker still has one owner.

    The lock file says which process holds the claim, or why the shard failed under it, for `read_holder`.
    """
    path = directory / MARKERS / f".{shard.name}.lock"
    with lock(path) as held:
        if not held:
            yield False
            return
        _write_holder(path)
        try:
            yield True
        except Exception as error:
            _write_holder(path, describe_error(error))
            raise
        except BaseException:  # a signal to stop
            _clear_holder(path)
            raise
        _clear_holder(path)


@contextlib.contextmanager
def claim_part(directory: Path, name: str) -> Iterator[bool]:
    """Try to claim a stage that doesn't need others, like `claim`; no lock file is left.

    Args:
        name: The stage's name, without `/`.
    """
    path = directory / PRIVATE / f".part-{name}.lock"
    with lock(path) as held:
        try:
            yield held
        finally:
            if held:
                remove_held(path)


def note_failure(directory: Path, shard: Shard, reason: str, host: str, pid: int) -> None:
    """Record why a shard failed, for `read_holder`, if the process that held it died without recording it.

    Nothing is written if another process holds the shard by now.

    Args:
        reason: What happened, for people.
        host, pid: The process that died.
    """
    path = directory / MARKERS / f".{shard.name}.lock"
    with lock(path) as held:
        if held:
            _write_holder(path, reason, host, pid)


def read_holder(path: Path, directory: Path) -> dict[str, Any] | None:
    """Return which process holds a claim, or why its shard failed.

    Args:
        path: The claim's lock file.
        directory: The dataset's directory.

    Returns:
        `host`, `pid`, `since` (UTC) and, if the shard failed, `reason`; None if nobody holds the claim: a process that
        was killed doesn't. On a file system without locks that can't be seen, so such a process still counts.
    """
    try:
        record = read_object(path, root=directory, max_bytes=MAX_LOCK_SIZE)
        check_shape(record, _HOLDER)
    except (OSError, ValueError):  # gone meanwhile, or being written
        return None
    holder = {name: record[name] for name in _HOLDER if record.get(name) is not None}
    return holder if "reason" in holder or is_held(path) else None


def _write_holder(path: Path, reason: str | None = None, host: str | None = None, pid: int | None = None) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    record = {"host": host or socket.gethostname(), "pid": pid or os.getpid(), "since": now}
    if reason is not None:
        record["reason"] = reason[:MAX_REASON]
    _overwrite(path, json.dumps(record).encode())


def _clear_holder(path: Path) -> None:
    _overwrite(path, b"")


def _overwrite(path: Path, data: bytes) -> None:
    """Replace a lock file's content in place, as a new file would be another lock. Nothing depends on its success."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | OPEN_NONBLOCKING | OPEN_NO_LINK)
        try:
            os.truncate(handle, 0)
            os.write(handle, data)
        finally:
            os.close(handle)


def clean_stale(directory: Path) -> list[Path]:
    """Remove temporary files and journals of finished shards that a killed build left behind; return their paths.

    Files that a process is still writing stay, and so do files of other programs. On a file system without locks
    nothing is removed, because files in use can't be recognised.
    """
    removed = [path for path, lock_path in find_stale(directory) if unlink_while_held(lock_path, path)]
    with contextlib.suppress(OSError):  # journals of unfinished shards stay
        (directory / JOURNAL).rmdir()
    return removed


def find_stale(directory: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files that `clean_stale` removes if nobody writes them, each with the lock that its writer holds."""
    stages = sorted(p for p in (directory / STAGES).glob("*") if p.is_dir())
    folder_names = ("", *list_folders(), PRIVATE, MARKERS, REJECTS, PUBLISHED_REJECTS, SCORES)
    temporary = _compile_temporary_names()
    for folder in [*(directory / name for name in folder_names), *stages]:
        for path in sorted(folder.glob(".*.tmp")):
            match = temporary.fullmatch(path.name)
            if not match:
                continue
            lock_path = STAGES_LOCK if match["settled"] else INDEX_LOCK
            if match["shard"]:
                lock_path = f"{MARKERS}/.{match['shard']}.lock"
            yield path, directory / lock_path
    for path in journal.list_files(directory):
        name = journal.parse_shard_name(path)
        if (directory / MARKERS / f"{name}.json").exists():
            yield path, directory / MARKERS / f".{name}.lock"


def remove_locks(directory: Path) -> None:
    """Remove the lock files that no process holds."""
    parts = (directory / PRIVATE).glob(".part-*.lock")
    for path in (*(directory / name for name in (STAGES_LOCK, WORKING_LOCK, PARTS_LOCK)), *parts):
        if path.exists():
            unlink_while_held(path, path)
    for path in (directory / MARKERS).glob(".*.lock"):
        if _LOCK.fullmatch(path.name):
            unlink_while_held(path, path)


def _compile_temporary_names() -> re.Pattern[str]:
    """Return a pattern of the names that temporary files of this package have."""
    suffixes = [".json", ".jsonl", ".parquet", *(kind.SUFFIX for _, kind in FORMATS.items())]
    return re.compile(
        rf"\.((?P<shard>{_NAME})({'|'.join(map(re.escape, suffixes))})|index\.json|croissant\.json"
        r"|attribution\.csv|README\.md|preview\.png|report\.html"
        r"|(?P<settled>recipe\.json|\.planned\.json|numerics\.json|done\.json"
        r"|(?i:licen[cs]e|notice|attribution|citation).*|.+\.(csv|parquet)))\.\d+-[0-9a-f]{16}\.tmp"
    )
