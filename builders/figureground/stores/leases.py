"""Leases: claims of names, such as shards, in a store without locks.

A lease is an object that its owner keeps writing: `_figureground/leases/NAME/000001`. Whoever wants the name creates
the next number, which only one process can do. An observer takes a lease for stale when the object hasn't changed for
some seconds of the observer's own monotonic clock, so clocks never have to agree. The owner of the highest number
holds the name. A paused owner finds out from the listing that it has lost it, and leaves the store as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from figureground.shards.home import ClaimLost
from figureground.shards.shard import PRIVATE
from figureground.stores.faults import StoreError
from figureground.stores.store import ListedObject, Store

LEASES = f"{PRIVATE}/leases"
SECONDS = 60.0
"""Time without a change after which a lease is stale, seconds."""
MIN_SECONDS = 1.0
BEATS = 5
"""Heartbeats within that time."""


def _read_clocks() -> tuple[float, float]:
    """Return the time by the monotonic clock and by that of the machine, seconds."""
    return time.monotonic(), time.time()


@dataclass
class Lease:
    """A held name."""

    name: str
    number: int
    holder: dict[str, Any]
    """The holder, as written in the object."""
    beats: int = 0
    beat_at: tuple[float, float] = field(default_factory=_read_clocks)
    """When the last heartbeat arrived, by both clocks."""
    lost: bool = False
    writing: threading.Lock = field(default_factory=threading.Lock)
    """Held while a heartbeat is on its way, so that none arrives after the lease was given back."""

    @property
    def path(self) -> str:
        return f"{LEASES}/{self.name}/{self.number:06d}"

    def lost_error(self) -> ClaimLost:
        """Return the error for a lost lease."""
        return ClaimLost(
            f"{self.name.lstrip('.')} was taken over by another process, because this one had sent no heartbeat for "
            f"{self.holder['stale_after']:g} seconds. This process discards its work."
        )

    def silent_seconds(self) -> float:
        """Return the seconds since the last heartbeat; the monotonic clock may leave out the time in suspension."""
        return max(now - heartbeat for now, heartbeat in zip(_read_clocks(), self.beat_at, strict=True))

    def to_bytes(self) -> bytes:
        return (json.dumps({**self.holder, "beat": self.beats}) + "\n").encode()


@dataclass
class _Observation:
    """A lease's object as this process last saw it."""

    entry: ListedObject
    since: float
    """When this process first saw the object with this content; monotonic."""
    until: float
    """When this process last saw it so; monotonic."""
    at_start: bool = False
    """Whether it was there when this process first looked, so that a dead process of its directory may have left it."""
    content: dict[str, Any] | None = None
    """Its content, once it was read."""


class Leases:
    """The leases that this process holds, and what it sees of others.

    Args:
        store: The store.
        scratch: Name of the directory in which this process works. A lease of the same directory is taken over at once:
            the caller holds its lock file there, so whoever had the lease has died.
        seconds: Time without a change after which a lease is stale.
    """

    def __init__(self, store: Store, scratch: str, seconds: float = SECONDS):
        self.store, self.scratch, self.seconds = store, scratch, seconds
        self.owner = f"{scratch}-{secrets.token_hex(6)}"
        self._heartbeat_store = store.background(max(self.seconds / 2, 5.0))
        self._release_store = store.background(5.0, tries=3)
        self._observations: dict[str, _Observation] = {}
        self._refreshed_at = float("-inf")
        self._held_leases: dict[str, Lease] = {}
        self._wake, self._closed = threading.Event(), False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    # --- seeing others --------------------------------------------------------------------------

    def refresh(self, age: float = 0.0) -> None:
        """List all leases, unless that was done within the last `age` seconds."""
        if time.monotonic() - self._refreshed_at <= age:
            return
        entries, now = self.store.list(LEASES), time.monotonic()
        self._observations = {path: self._observe(path, entry, now) for path, entry in entries.items()}
        self._refreshed_at = now

    def _observe(self, path: str, entry: ListedObject, now: float) -> _Observation:
        previous = self._observations.get(path)
        if previous is None:
            return _Observation(entry, now, now, at_start=self._refreshed_at == float("-inf"))
        return _Observation(
            entry, previous.since if previous.entry == entry else now, now, previous.at_start, previous.content
        )

    def _refresh_name(self, name: str) -> list[str]:
        """List the leases of one name; return their paths, the holder's last."""
        folder, now = f"{LEASES}/{name}", time.monotonic()
        entries = self.store.list(folder)
        for path in [path for path in self._observations if path.startswith(f"{folder}/") and path not in entries]:
            del self._observations[path]
        self._observations |= {path: self._observe(path, entry, now) for path, entry in entries.items()}
        return sorted(entries)

    def is_held(self, name: str) -> bool:
        """Whether another process held a name when leases were last listed, and didn't seem dead."""
        paths = sorted(path for path in self._observations if path.startswith(f"{LEASES}/{name}/"))
        return bool(paths) and not self._is_abandoned(paths[-1])

    def _is_abandoned(self, path: str) -> bool:
        """Whether a lease was left by a dead process: of this directory, or unchanged for too long."""
        observation = self._observations[path]
        waited = observation.until - observation.since  # what happened since the last listing isn't known
        if observation.content is None and (observation.at_start or waited >= self.seconds):
            observation.content = self._read(path)
        content = observation.content or {}
        owner_seconds = content.get("stale_after")
        patience = max(self.seconds, float(owner_seconds) if isinstance(owner_seconds, int | float) else 0.0)
        return content.get("scratch") == self.scratch or waited >= patience

    def _read(self, path: str) -> dict[str, Any]:
        with contextlib.suppress(ValueError, FileNotFoundError):
            content = json.loads(self.store.read(path))
            return content if isinstance(content, dict) else {}
        return {}

    def list_others(self) -> dict[str, dict[str, Any]]:
        """Return who holds which name, of other directories, as last listed; leases that seem dead are left out."""
        latest: dict[str, str] = {}
        for path in sorted(self._observations):
            latest[path.removeprefix(f"{LEASES}/").rpartition("/")[0]] = path
        return {
            name: self._observations[path].content or {}
            for name, path in latest.items()
            if not self._is_abandoned(path)
        }

    def entries(self, prefix: str) -> dict[str, ListedObject]:
        """Return the entries of the leases whose names begin with a prefix, as last listed."""
        return {
            path: observation.entry
            for path, observation in self._observations.items()
            if path.startswith(f"{LEASES}/{prefix}")
        }

    # --- holding --------------------------------------------------------------------------------

    def take(self, name: str) -> Lease | None:
        """Take a name, or return None if another process holds it. Hold the name's lock file in the scratch directory.

        Raises:
            StoreError: The store can't be used.
        """
        if self.is_held(name):
            self.refresh(self.seconds / BEATS)
            if self.is_held(name):
                return None
        paths = sorted(path for path in self._observations if path.startswith(f"{LEASES}/{name}/"))
        number = int(paths[-1].rpartition("/")[2]) + 1 if paths else 1
        holder = {
            "owner": self.owner, "scratch": self.scratch, "host": platform.node(), "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"), "stale_after": self.seconds,
        }  # fmt: skip
        lease = Lease(name, number, holder)
        if not self.store.create(lease.path, lease.to_bytes()):
            self._refresh_name(name)
            return None
        with self._lock:
            self._held_leases[name] = lease
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)
                self._thread.start()
        return lease

    @contextlib.contextmanager
    def hold(self, name: str, sleep: Callable[[float], None]) -> Iterator[Lease]:
        """Hold a name, after waiting for it if need be."""
        while (lease := self.take(name)) is None:
            sleep(min(2.0, self.seconds / BEATS))
            self._refresh_name(name)
        try:
            yield lease
        finally:
            self.release(lease)

    def check(self, lease: Lease) -> None:
        """Make sure that a lease is still held; called before each put.

        Raises:
            ClaimLost: Another process has taken over.
        """
        if not lease.lost:
            lease.lost = self._is_lost(lease, self._refresh_name(lease.name))
        if lease.lost:
            raise lease.lost_error()

    def _is_lost(self, lease: Lease, paths: list[str]) -> bool:
        """Whether the paths of a name show that another process has taken it over.

        Numbers begin again once a name was given back, so after a long silence the object's owner is read too.
        """
        if not paths or paths[-1] != lease.path:
            return True
        return lease.silent_seconds() > self.seconds and self._read(lease.path).get("owner") != self.owner

    def release(self, lease: Lease) -> None:
        """Give a name back: remove the object, and those of dead owners before. If that fails, it becomes stale."""
        with self._lock:
            self._held_leases.pop(lease.name, None)
        older = [
            path for path in self._observations if path.startswith(f"{LEASES}/{lease.name}/") and path < lease.path
        ]
        with lease.writing, contextlib.suppress(StoreError):
            if lease.silent_seconds() > self.seconds:
                lease.lost = lease.lost or self._is_lost(lease, self._refresh_name(lease.name))
            own = [] if lease.lost and self._read(lease.path).get("owner") != self.owner else [lease.path]
            self._drop(own if lease.lost else [*older, *own])

    def _drop(self, paths: list[str]) -> None:
        self._release_store.delete(paths)
        for path in paths:
            self._observations.pop(path, None)

    def sweep(self, sleep: Callable[[float], None]) -> None:
        """Remove the leases that dead owners left.

        Waits until each lease of another process is gone, has changed, or hasn't for so long that its owner is dead.

        Raises:
            StoreError: The store can't be used.
        """
        self.refresh()
        with self._lock:
            own = {lease.path for lease in self._held_leases.values()}
        unsure = {path: observation.entry for path, observation in self._observations.items() if path not in own}
        while True:
            self._drop([path for path in unsure if self._is_abandoned(path)])
            unsure = {
                path: entry
                for path, entry in unsure.items()
                if path in self._observations and self._observations[path].entry == entry
            }
            if not unsure:
                return
            sleep(min(2.0, self.seconds / BEATS))
            self.refresh()

    def close(self) -> None:
        """Stop the heartbeats; leases still held become stale."""
        self._closed = True
        self._wake.set()

    def _send_heartbeats(self) -> None:
        while not self._wake.wait(self.seconds / BEATS):
            with self._lock:
                leases = list(self._held_leases.values())
            for lease in leases:
                if not lease.lost:
                    with contextlib.suppress(StoreError):  # `check` finds out
                        self._send_heartbeat(lease)

    def _send_heartbeat(self, lease: Lease) -> None:
        if lease.silent_seconds() > self.seconds:  # this process was paused, or the network was cut
            lease.lost = self._is_lost(lease, sorted(self._heartbeat_store.list(f"{LEASES}/{lease.name}")))
            if lease.lost:
                return
        with lease.writing:
            with self._lock:
                if self._held_leases.get(lease.name) is not lease:
                    return
            lease.beats += 1
            self._heartbeat_store.put(lease.path, lease.to_bytes())
            lease.beat_at = _read_clocks()
