"""Scratch directories: where a build of a dataset at a URL works, and what it knows of the store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, UsageError
from figureground.core.files import read_object, replace_text
from figureground.core.terminal import print_note
from figureground.shards.home import Home, home_of, register
from figureground.shards.shard import PRIVATE
from figureground.stores.faults import StoreError
from figureground.stores.leases import MIN_SECONDS, SECONDS, Leases
from figureground.stores.remote import BUILDING, Remote
from figureground.stores.store import Store
from figureground.stores.urls import StoreUrl, parse

STORE = f"{PRIVATE}/.store.json"
"""File of a scratch directory: the URL that it belongs to, and how its builds use the store."""


def cache_directory() -> Path:
    """The user's cache directory of this package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "figureground"


def default_scratch(url: StoreUrl) -> Path:
    """The scratch directory of a URL in the user's cache."""
    return cache_directory() / "scratch" / f"{url.name}-{hashlib.sha256(str(url).encode()).hexdigest()[:12]}"


def url_of(directory: Path) -> StoreUrl | None:
    """Return the URL that a scratch directory belongs to, or None if it is none."""
    settings = _read_settings(directory)
    url = parse(str(settings["url"])) if settings else None
    return url if isinstance(url, StoreUrl) else None


def settings_of(directory: Path) -> tuple[StoreUrl | None, float]:
    """Return the URL of a scratch directory, or None, and the time after which its builds take a lease for dead."""
    return url_of(directory), float((_read_settings(directory) or {}).get("seconds", SECONDS))


def _read_settings(directory: Path) -> dict[str, Any] | None:
    try:
        return read_object(directory / STORE)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def open_scratch(
    url: StoreUrl, scratch: Path | None = None, *, seconds: float = SECONDS, coordinated: bool = False
) -> Iterator[Path]:
    """Build in a scratch directory whose dataset is kept at a URL.

    Args:
        url: Where the dataset is kept.
        scratch: The scratch directory; None for one in the user's cache.
        seconds: Time without a heartbeat after which a shard is taken over.
        coordinated: Whether one process hands out shards to all that build there, each to one only. Then a store that
            can't create objects only where there is none will do.

    Yields:
        The scratch directory. While it is open, `home_of` returns its `Remote`.

    Raises:
        UsageError: The directory is the scratch of another URL, or holds something else.
        StoreError: The store can't be used.
    """
    if not MIN_SECONDS <= seconds < math.inf:
        raise UsageError(f"--lease {seconds:g}: give {MIN_SECONDS:g} or more.")
    directory = scratch or default_scratch(url)
    settings = _read_settings(directory)
    if settings is None and directory.exists() and any(directory.iterdir()):
        raise UsageError(f"--scratch {directory} holds something else. Give a new directory.")
    if settings is not None and settings["url"] != str(url):
        raise UsageError(f"--scratch {directory} is the scratch of {settings['url']}. Give another directory.")
    store = Store(url)
    creates = store.probe(PRIVATE)
    settings = {
        "url": str(url), "scratch": (settings or {}).get("scratch") or secrets.token_hex(8),
        "creates": creates, "seconds": seconds,
    }  # fmt: skip
    replace_text(directory / STORE, json.dumps(settings, indent=2) + "\n")
    with _open_remote(directory, store, settings) as remote:
        exclusion = contextlib.nullcontext() if creates or coordinated else _exclude_other_builds(remote)
        with exclusion, name_url_in_errors(url, directory):
            remote.begin()
            yield directory


@contextlib.contextmanager
def join_build(directory: Path) -> Iterator[None]:
    """Join, from another process of the same machine, the build of a scratch directory; do nothing for any other."""
    settings = _read_settings(directory) if type(home_of(directory)) is Home else None
    if settings is None:
        yield
        return
    url = parse(str(settings["url"]))
    assert isinstance(url, StoreUrl)
    store = Store(url)
    store.waits_out_faults = True  # the process that started this one has put an object
    with _open_remote(directory, store, settings):
        yield


@contextlib.contextmanager
def _open_remote(directory: Path, store: Store, settings: Mapping[str, Any]) -> Iterator[Remote]:
    start = time.monotonic()
    leases = Leases(store, settings["scratch"], settings["seconds"])
    remote = Remote(directory, store, leases)
    try:
        with register(remote):
            yield remote
    finally:
        leases.close()
        seconds = max(time.monotonic() - start, 1.0)
        counts = ", ".join(f"{n:,} {kind}" for kind, n in sorted(store.requests.items()))
        total = store.requests.total()
        print_note(f"{store.url}: {total:,} requests of this process ({counts}), {total / seconds:.3g} a second.")


@contextlib.contextmanager
def name_url_in_errors(url: StoreUrl, directory: Path) -> Iterator[None]:
    """Let errors about the dataset name its URL instead of the scratch; those of the scratch's disk stay."""
    try:
        yield
    except FiguregroundError as error:
        if not isinstance(error.__cause__, OSError):
            error.args = (str(error).replace(str(directory), str(url)),)
        raise


@contextlib.contextmanager
def _exclude_other_builds(remote: Remote) -> Iterator[None]:
    """Refuse to build beside another build, in a store that can't keep two from writing the same object.

    Raises:
        StoreError: Another build is running there.
    """
    leases, name = remote.leases, f"{BUILDING}/{remote.leases.scratch}"
    leases.refresh()
    warned = False
    while any(other.startswith(BUILDING) and other != name for other in leases.list_others()):
        if not warned:
            warned = True
            print_note(
                f"{remote.title}: another build was working there; checking for {leases.seconds:g} s whether it still "
                "is."
            )
        earlier = leases.entries(BUILDING)
        remote.store.sleep(leases.seconds / 4)
        leases.refresh()
        if any(leases.entries(BUILDING).get(path, entry) != entry for path, entry in earlier.items()):
            raise StoreError(
                f"{remote.title}: another build is running there. This store can't create an object only if it is "
                "absent, so two builds could overwrite each other's files. Wait for the other build, run one build "
                "with several workers, or use a store that can (s3://, gs://)."
            )
    with leases.hold(name, remote.store.sleep):
        yield
