"""Mirrors: local copies of datasets at URLs, for commands that read. Only what has changed is fetched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError, read_object, replace_text, safe_join
from figureground.core.locks import lock
from figureground.core.progress import Progress
from figureground.shards.directory import belongs_to_dataset
from figureground.shards.progress import PLANNED
from figureground.shards.shard import JOURNAL, MARKERS, PRIVATE
from figureground.stores.leases import LEASES
from figureground.stores.remote import FAILED
from figureground.stores.scratch import cache_directory, name_url_in_errors
from figureground.stores.store import ListedObject, Store
from figureground.stores.urls import StoreUrl, parse

AT_ONCE = 8
"""Objects that are fetched at once."""
_NOT_FETCHED = (f"{LEASES}/", f"{JOURNAL}/", f"{FAILED}/", f"{PRIVATE}/probe-", PLANNED)
_DRAWN = ("preview.png", "report.html", "report")
"""Files that `show` draws into a mirror; they stay there, although the store doesn't have them."""


@contextlib.contextmanager
def local_copy(place: str | os.PathLike[str], show_progress: bool = True) -> Iterator[Path]:
    """Read a dataset: yield its directory or, for a URL, that of its mirror. Errors name the URL.

    Raises:
        StoreError: The store can't be read.
        FiguregroundError: There is nothing at the URL.
    """
    url = parse(os.fspath(place))
    if isinstance(url, Path):
        yield url
        return
    directory = directory_of(url)
    with lock(directory.with_name(".lock"), wait=True), name_url_in_errors(url, directory):
        update(url, directory, show_progress)
        yield directory


def directory_of(url: StoreUrl) -> Path:
    """The mirror of a URL in the user's cache; its last part is that of the URL."""
    return cache_directory() / "mirrors" / hashlib.sha256(str(url).encode()).hexdigest()[:12] / url.name


def update(url: StoreUrl, directory: Path, show_progress: bool = True) -> None:
    """Make a directory equal to the dataset at a URL.

    A file is fetched if its object has changed since, or if it was changed here. Data must arrive with the SHA-256 in
    their marker; if they don't twice, they are damaged in the store, which `check` reports.
    """
    store = Store(url)
    objects = {path: entry for path, entry in store.list("").items() if not path.startswith(_NOT_FETCHED)}
    if not objects:
        raise FiguregroundError(f"{url} holds no dataset: there is nothing at this URL. Give the URL of a build.")
    versions_file = directory.with_name("versions.json")
    known_versions = _read_versions(versions_file)
    for path in [path for path in _list_local_files(directory) if path not in objects]:
        (directory / path).unlink()
    stale = {
        path: entry
        for path, entry in objects.items()
        if not _is_current(known_versions.get(path), directory, path, entry)
    }
    marker_objects = {path: entry for path, entry in stale.items() if path.startswith(f"{MARKERS}/")}
    other_objects = {path: entry for path, entry in stale.items() if path not in marker_objects}
    total = sum(entry.size for entry in stale.values())
    hashes: dict[str, str] = {}

    def fetch(path: str) -> None:
        sha256 = store.fetch(path, safe_join(directory, path))
        if sha256 != hashes.get(path, sha256):
            store.fetch(path, safe_join(directory, path))
        bar.update(objects[path].size)

    try:
        with (
            Progress(total, unit="B", unit_scale=True, desc=f"fetching {url}", show=show_progress) as bar,
            ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as pool,
        ):
            list(pool.map(fetch, marker_objects))
            hashes |= _read_hashes(directory)
            list(pool.map(fetch, other_objects))
    finally:
        versions = {path: known_versions[path] for path in objects if path in known_versions and path not in stale}
        versions |= {
            path: version for path, entry in stale.items() if (version := _read_copy_version(directory, path, entry))
        }
        replace_text(versions_file, json.dumps(versions) + "\n")


def _is_current(known_version: list[Any] | None, directory: Path, path: str, entry: ListedObject) -> bool:
    """Whether the copy of an object is the one that was fetched from it."""
    return known_version is not None and known_version == _read_copy_version(directory, path, entry)


def _read_copy_version(directory: Path, path: str, entry: ListedObject) -> list[Any] | None:
    """Return what identifies an object and its copy; None if there is no whole copy."""
    with contextlib.suppress(OSError):
        status = safe_join(directory, path).stat()
        if status.st_size == entry.size:
            return [entry.version, entry.size, status.st_mtime_ns]
    return None


def _read_versions(path: Path) -> Mapping[str, Any]:
    with contextlib.suppress(OSError, FileError):
        return read_object(path)
    return {}


def _read_hashes(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each data file, by the markers that can be read."""
    hashes: dict[str, str] = {}
    for path in (directory / MARKERS).glob("[!.]*.json"):
        with contextlib.suppress(OSError, FileError, KeyError, TypeError, AttributeError):
            hashes |= {name: file["sha256"] for name, file in read_object(path)["files"].items()}
    return hashes


def _list_local_files(directory: Path) -> list[str]:
    files = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return [path.as_posix() for path in files if path.parts[0] not in _DRAWN and belongs_to_dataset(path.parts[0])]
