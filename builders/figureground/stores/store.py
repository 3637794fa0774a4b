"""The objects below a URL: a few requests, repeated after passing faults and counted, over any file system of fsspec.

A request that fails is repeated a few times. Once a store has taken an object, a build outlasts faults: it says that it
pauses, keeps trying, and goes on. Ctrl-C works meanwhile, because requests run in a thread of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from figureground.core import signals
from figureground.core.files import temporary_path
from figureground.core.terminal import print_note
from figureground.stores.faults import Fault, StoreError, classify_error, redact_error
from figureground.stores.urls import StoreUrl, check_installed

if TYPE_CHECKING:
    import fsspec

QUICK_TRIES = 4
"""Tries before a fault is reported."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Delay after the first try and the longest one, seconds; each is twice the one before."""
CREATES = ("s3", "s3a", "gs", "gcs")
"""Protocols whose file systems ask the server to create an object only if there is none: s3fs sends
`If-None-Match: *`, gcsfs `ifGenerationMatch=0`. Others look first and then write, which two writers can do at once."""
PART = 8 * 2**20
"""Size of the parts of a large object on S3, bytes."""

T = TypeVar("T")


@dataclass(frozen=True)
class ListedObject:
    """An object as a listing shows it."""

    size: int
    version: str
    """Changes whenever the object is written."""
    modified: float = 0.0
    """When it was written, by the store's clock, seconds since 1970."""


class Store:
    """The objects below a URL. Paths are relative to it.

    Args:
        url: The place.
        tries: Tries of a request before a fault is reported; None for `QUICK_TRIES`.
        check: Called while a request is waited for; it raises to give up.
        limit: Seconds after which a request is given up; None for no limit.

    Raises:
        UsageError: The package of the URL's protocol is missing.
    """

    def __init__(
        self, url: StoreUrl, *, tries: int | None = None, check: Callable[[], None] | None = signals.check,
        limit: float | None = None,
    ):  # fmt: skip
        check_installed(url)
        self.url = url
        self.requests: Counter[str] = Counter()
        """Requests so far, by kind."""
        self.waits_out_faults = False
        """Whether faults are waited for: set once the store has taken an object."""
        self._tries, self._check, self._limit = tries or QUICK_TRIES, check, limit
        self._system: fsspec.AbstractFileSystem | None = None

    def background(self, limit: float, tries: int = 1) -> Store:
        """Return the same store for heartbeats and last requests: a few tries, which end after `limit` seconds each."""
        store = Store(self.url, tries=tries, check=None, limit=limit)
        store.requests = self.requests
        return store

    # --- requests -------------------------------------------------------------------------------

    def list(self, folder: str) -> dict[str, ListedObject]:
        """Return all objects below a folder by path, also in its folders; empty if there are none."""
        prefix = f"{folder}/" if folder else ""
        entries = self._list_prefix(f"{self._full_path(folder)}/", folder)
        return {name: entry for name, entry in entries.items() if name.startswith(prefix)}

    def entry(self, path: str) -> ListedObject | None:
        """Return an object's entry, or None if there is none."""
        return self._list_prefix(self._full_path(path), path).get(path)

    def _list_prefix(self, start: str, label: str) -> dict[str, ListedObject]:
        """List the objects whose places begin so; on stores that don't list by prefix, only those at or below it.

        Args:
            start: Bucket and beginning of the path.
            label: The place as errors name it.
        """
        folder, _, rest = start.rstrip("/").rpartition("/")
        if start.endswith("/"):
            rest += "/"

        def call() -> dict[str, Any]:
            file_system = self._file_system()
            file_system.invalidate_cache()
            if self.url.protocol in CREATES:  # one request, even if there are no objects
                return dict(file_system.find(folder, prefix=rest, detail=True))
            return dict(file_system.find(start.rstrip("/"), detail=True))

        try:
            objects = self._request("list", label, call)
        except FileNotFoundError:
            return {}
        below = len(self.url.path) + 1
        return {str(path).lstrip("/")[below:]: _make_entry(facts) for path, facts in objects.items()}

    def read(self, path: str) -> bytes:
        """Return an object's bytes.

        Raises:
            FileNotFoundError: There is none.
        """
        return bytes(self._request("get", path, lambda: self._file_system().cat_file(self._full_path(path))))

    def read_or_none(self, path: str) -> bytes | None:
        """Return an object's bytes, or None if there is none."""
        with contextlib.suppress(FileNotFoundError):
            return self.read(path)
        return None

    def fetch(self, path: str, to: Path) -> str:
        """Copy an object to a file, whole or not at all; return the SHA-256 of what arrived.

        Raises:
            FileNotFoundError: There is none.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        draft = temporary_path(to)
        try:
            self._request("get", path, lambda: self._file_system().get_file(self._full_path(path), str(draft)))
            with draft.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            draft.replace(to)
        finally:
            draft.unlink(missing_ok=True)
        return sha256

    def put(self, path: str, data: bytes | Path) -> None:
        """Write an object, in place of one that is there."""
        self._request("put", path, lambda: self._write(path, data, {}))

    def create(self, path: str, data: bytes | Path) -> bool:
        """Write an object that must not exist yet.

        A lost answer may have created it, so an object that is there is compared.

        Returns:
            Whether the object now holds these bytes; False if it holds others.
        """
        mode = {"mode": "create"}
        absent = False
        try:
            self._request("put", path, lambda: self._write(path, data, mode))
            return True
        except FileExistsError:
            pass
        except FileNotFoundError:
            # S3 forgets an upload in parts once it is completed: the answer to the first try was lost.
            absent = True
        if self.holds(path, data):
            return True
        if absent:
            raise StoreError(f"{self.url}/{path} can't be written: {Fault.NO_BUCKET.value}.")
        return False

    def holds(self, path: str, data: bytes | Path) -> bool:
        """Whether an object has these bytes."""
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        entry = self.entry(path)
        if entry is None or entry.size != size:
            return False
        with contextlib.suppress(FileNotFoundError):
            if isinstance(data, bytes):
                return self.read(path) == data
            draft = temporary_path(data)
            try:
                with data.open("rb") as file:
                    return self.fetch(path, draft) == hashlib.file_digest(file, "sha256").hexdigest()
            finally:
                draft.unlink(missing_ok=True)
        return False

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects; those that are gone already don't matter."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self._delete(path)

    def _delete(self, path: str) -> None:
        self._request("delete", path, lambda: self._file_system().rm_file(self._full_path(path)))

    def probe(self, folder: str) -> bool:
        """Write a small object and delete it; return whether the store creates objects only where there is none.

        Raises:
            StoreError: It can't be written; says why.
        """
        path = f"{folder}/probe-{secrets.token_hex(8)}"
        creates = self.url.protocol in CREATES
        try:
            self._request("put", path, lambda: self._write(path, b"1", {"mode": "create"} if creates else {}))
        except FileNotFoundError:
            raise StoreError(f"{self.url} can't be written: {Fault.NO_BUCKET.value}, {self.url.bucket}.") from None
        except StoreError as error:
            if not creates or error.fault is not Fault.OTHER:
                raise
            creates = False  # the store may refuse the condition
            self.put(path, b"1")
        self.waits_out_faults = True
        try:
            if creates:
                creates = not self._overwrites(path)
        finally:
            self.delete([path])
        return creates

    def _overwrites(self, path: str) -> bool:
        try:
            self._request("put", path, lambda: self._write(path, b"2", {"mode": "create"}))
        except FileExistsError:
            return self.read(path) != b"1"
        return True

    # --- trying again ---------------------------------------------------------------------------

    def _write(self, path: str, data: bytes | Path, mode: Mapping[str, str]) -> None:
        file_system, place = self._file_system(), self._full_path(path)
        if isinstance(data, bytes):
            file_system.pipe_file(place, data, **mode)
        else:
            parts = {"chunksize": PART, "max_concurrency": 4} if self.url.protocol in ("s3", "s3a") else {}
            file_system.put_file(str(data), place, **parts, **mode)

    def _request(self, kind: str, path: str, call: Callable[[], T]) -> T:
        """Make a request until it succeeds or can't; a fault that may pass is waited for if `waits_out_faults`.

        Raises:
            FileNotFoundError: There is no such object.
            FileExistsError: There is one already.
            StoreError: Any other fault.
        """
        delay, paused, tries = FIRST_DELAY, False, 0
        while True:
            tries += 1
            self.requests[kind] += 1
            result, error = self._run_in_thread(call)
            if error is None:
                if paused:
                    print_note(f"{self.url} answers again; the work continues.")
                return cast("T", result)
            fault = classify_error(error)
            if fault is Fault.ABSENT:
                raise FileNotFoundError(f"{self.url}/{path}") from None
            if fault is Fault.EXISTS:
                raise FileExistsError(f"{self.url}/{path}") from None
            is_refused = fault in (Fault.CREDENTIALS, Fault.DENIED)
            if fault not in (Fault.PASSING, Fault.CREDENTIALS, Fault.DENIED) or not (
                self.waits_out_faults or (fault is Fault.PASSING and tries < self._tries)
            ):
                raise StoreError(self._explain(kind, path, fault, error), fault) from None
            if not paused and (is_refused or tries >= self._tries):
                paused = True
                condition = "credentials have been renewed" if is_refused else "the store answers again"
                print_note(
                    f"{self.url}: {fault.value} ({redact_error(error)}). The work pauses, and continues once "
                    f"{condition}. Ctrl-C stops it; the same command resumes."
                )
            if is_refused:
                self._system = None  # a new one reads the credentials again
            self.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)

    def _explain(self, kind: str, path: str, fault: Fault, error: BaseException) -> str:
        action = {"put": "be written", "delete": "be deleted", "list": "be listed"}.get(kind, "be read")
        advice = {
            Fault.NO_BUCKET: f"Create the bucket {self.url.bucket}, or correct its name.",
            Fault.CREDENTIALS: "Renew them, or set them as the store's own tools need them, and repeat the command.",
            Fault.DENIED: "Ask its owner for the right to list, read, write and delete objects there.",
            Fault.PASSING: "Run the same command again later.",
        }.get(fault, "")
        return f"{self.url}/{path} can't {action}: {fault.value} ({redact_error(error)}). {advice}".strip()

    def _run_in_thread(self, call: Callable[[], T]) -> tuple[T | None, Exception | None]:
        """Run a request in a thread, so that `check` can give it up; then the request may still arrive.

        Returns:
            What it returned, or its error. This isn't raised here: an error that the caller is handling would become
            part of its chain, by which `classify_error` tells errors apart.
        """
        answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                answers.put((call(), None))
            except Exception as error:
                answers.put((None, error))

        threading.Thread(target=run, name="store", daemon=True).start()
        deadline = None if self._limit is None else time.monotonic() + self._limit
        while True:
            with contextlib.suppress(queue.Empty):
                return answers.get(timeout=0.1)
            if self._check is not None:
                self._check()
            if deadline is not None and time.monotonic() > deadline:
                return None, TimeoutError(f"no answer in {self._limit:g} seconds")

    def sleep(self, seconds: float) -> None:
        """Wait; `check` can end it."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._check is not None:
                self._check()
            time.sleep(min(left, 0.1))

    # --- the file system ------------------------------------------------------------------------

    def _full_path(self, path: str) -> str:
        return f"{self.url.path}/{path}" if path else self.url.path

    def _file_system(self) -> fsspec.AbstractFileSystem:
        if self._system is None:
            self._system = _open_file_system(self.url.protocol)
        return self._system


def _open_file_system(protocol: str) -> fsspec.AbstractFileSystem:
    """Open a file system of fsspec that caches nothing and leaves repeating to `Store`."""
    import fsspec
    from fsspec.config import conf

    options: dict[str, Any] = {"skip_instance_cache": True}
    if protocol in ("s3", "s3a"):
        once = {"retries": {"mode": "standard", "total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 60}
        options["config_kwargs"] = {**once, **conf.get(protocol, {}).get("config_kwargs", {})}
    if protocol != "hf":
        options["use_listings_cache"] = False
    file_system = fsspec.filesystem(protocol, **options)
    if protocol in ("s3", "s3a"):
        file_system.retries = 1
    return file_system


def _make_entry(facts: Mapping[str, Any]) -> ListedObject:
    names = ("ETag", "etag", "generation", "xet_hash", "version_id", "md5Hash", "LastModified", "mtime", "uploaded_at")
    version = " ".join(str(facts[name]) for name in names if facts.get(name))
    modified_at = next((facts[name] for name in ("LastModified", "mtime", "uploaded_at") if facts.get(name)), None)
    modified = modified_at.timestamp() if isinstance(modified_at, datetime) else 0.0
    return ListedObject(int(facts.get("size") or 0), version, modified)
