"""SHA-256 of the images of a data set, remembered in the user's cache, so that unchanged files are hashed once."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from figureground.core.errors import FiguregroundError
from figureground.core.hashing import content_hash
from figureground.core.progress import Progress, is_main_process
from figureground.stores.scratch import cache_directory

FILE = "image-hashes.sqlite"
"""Name of the file in the cache directory. Its paths are bytes: a file's name need not be UTF-8."""
THREADS = 8
MIN_SECONDS = 1.0
"""Hashes that took less time aren't remembered."""
SETTLED_SECONDS = 2.0
"""A file that changed more recently isn't remembered: it could change again with the same time."""
_TABLE = "CREATE TABLE IF NOT EXISTS hashes (path BLOB PRIMARY KEY, state TEXT, sha256 TEXT)"
_WAIT_SECONDS = 10.0
_AT_ONCE = 500
"""Rows of a query; SQLite allows 999 variables."""


class State(NamedTuple):
    """What changes if a file is replaced."""

    size: int
    changed: int
    """Time of the last change, nanoseconds."""
    inode: int

    def to_text(self) -> str:
        """Return it as text: an inode may be too large for SQLite's integers."""
        return " ".join(map(str, self))


def hash_files(paths: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each file's bytes, in hexadecimal; an empty string if it can't be read.

    A file of the same path, size, time of change and inode as before isn't read again. If the cache can't be used, all
    files are read.
    """
    states = {str(path.absolute()): _find_state(path) for path in paths}
    known = _read_cache(states)
    missing = [name for name, state in states.items() if state is not None and name not in known]
    began = time.monotonic()
    hashes = {**known, **dict(_hash_all(missing))}
    if time.monotonic() - began >= MIN_SECONDS:
        _write_cache({name: (state, hashes[name]) for name in missing if (state := states[name]) and hashes[name]})
    return [hashes.get(str(path.absolute()), "") for path in paths]


def find_copies(paths: Sequence[Path], sizes: np.ndarray) -> np.ndarray:
    """Return the position of the first file with the same bytes as each file, int64 (n,).

    A file that has no copy before it, or that can't be read, has its own position.

    Args:
        sizes: int64 (n,): size of each file, bytes. Files whose size is unique aren't read.
    """
    first = np.arange(len(paths))
    _, size_index, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    candidates = np.flatnonzero(counts[size_index] > 1)
    first_by_hash: dict[str, int] = {}
    hashes = hash_files([paths[i] for i in candidates.tolist()])
    for i, file_hash in zip(candidates.tolist(), hashes, strict=True):
        if file_hash:
            first[i] = first_by_hash.setdefault(file_hash, i)
    return first


def _find_state(path: Path) -> State | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return State(status.st_size, status.st_mtime_ns, status.st_ino)


def _hash_all(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    if not names:
        return
    show = is_main_process()
    bar = Progress(len(names), show=show, desc="reading images", unit="image")
    with bar, ThreadPoolExecutor(THREADS) as threads:
        for name, sha256 in zip(names, threads.map(_hash, names), strict=True):
            bar.update()
            yield name, sha256


def _hash(name: str) -> str:
    try:
        return content_hash(name)
    except (OSError, FiguregroundError):
        return ""  # what uses the image says why it can't be read


@contextlib.contextmanager
def _open_cache() -> Iterator[sqlite3.Connection]:
    folder = cache_directory()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder / FILE, timeout=_WAIT_SECONDS)) as cache, cache:
        cache.execute(_TABLE)
        yield cache


def _read_cache(states: Mapping[str, State | None]) -> dict[str, str]:
    known: dict[str, str] = {}
    names = list(states)
    with contextlib.suppress(OSError, sqlite3.Error):
        if not (cache_directory() / FILE).exists():
            return known
    with contextlib.suppress(OSError, sqlite3.Error), _open_cache() as cache:
        for start in range(0, len(names), _AT_ONCE):
            some = [os.fsencode(name) for name in names[start : start + _AT_ONCE]]
            query = f"SELECT * FROM hashes WHERE path IN ({','.join('?' * len(some))})"
            for path, saved, sha256 in cache.execute(query, some):
                state = states[os.fsdecode(path)]
                if state is not None and state.to_text() == saved:
                    known[os.fsdecode(path)] = sha256
    return known


def _write_cache(entries: Mapping[str, tuple[State, str]]) -> None:
    limit = time.time_ns() - int(SETTLED_SECONDS * 1e9)
    rows = [
        (os.fsencode(name), state.to_text(), sha256)
        for name, (state, sha256) in entries.items()
        if state.changed < limit
    ]
    if rows:
        with contextlib.suppress(OSError, sqlite3.Error), _open_cache() as cache:
            cache.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", rows)
