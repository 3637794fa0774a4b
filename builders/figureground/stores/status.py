"""The progress of a build at a URL, read from a local copy of its small files and from its leases."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from figureground.core.errors import FiguregroundError
from figureground.core.files import parse_json, replace_bytes, safe_join
from figureground.shards.index_shape import INDEX
from figureground.shards.progress import PLANNED, BuildProgress, Claim, Watch
from figureground.shards.shard import MARKERS, RECIPE
from figureground.stores.leases import LEASES
from figureground.stores.mirror import directory_of
from figureground.stores.remote import FAILED
from figureground.stores.store import Store
from figureground.stores.urls import StoreUrl


class StoreWatch(Watch):
    """Reads the progress of a build at a URL again and again; each marker is fetched once.

    Args:
        url: Where the dataset is kept.

    Raises:
        StoreError: The store can't be read.
    """

    def __init__(self, url: StoreUrl):
        self._store = Store(url)
        self._versions: dict[str, str] = {}
        self._current_claims: list[Claim] = []
        # It holds recipe, index and plan if there are any, and the markers, whose files have the times of the store.
        directory = directory_of(url).with_name("status")
        self._update(directory)
        super().__init__(directory)

    def read(self) -> BuildProgress:
        """Return the progress now; see `Watch.read`.

        Raises:
            StoreError: The store can't be read.
        """
        self._current_claims = self._update(self.directory)
        return super().read()

    def _read_claims(self) -> Iterator[Claim]:
        yield from self._current_claims

    def _update(self, directory: Path) -> list[Claim]:
        """Bring the directory up to date; return the shards in work and those that failed.

        A lease whose owner died without recording a failure is listed until another process takes its shard over.

        Raises:
            FiguregroundError: There is no dataset.
        """
        leases = self._store.list(LEASES)
        markers = self._store.list(MARKERS)
        for marker in (directory / MARKERS).glob("*.json"):
            if f"{MARKERS}/{marker.name}" not in markers:
                marker.unlink()
        for name, entry in markers.items():
            if self._versions.get(name) != entry.version:
                local = safe_join(directory, name)
                replace_bytes(local, self._store.read(name))
                os.utime(local, (entry.modified, entry.modified))
                self._versions[name] = entry.version
        for name in (RECIPE, INDEX, PLANNED):
            self._copy(directory, name)
        if not (directory / RECIPE).exists() and not markers:
            raise FiguregroundError(f"{self._store.url} holds no dataset: {RECIPE} is missing. Build one there first.")
        latest: dict[str, str] = {}
        for path in sorted(leases):
            name = path.split("/")[2]
            if not name.startswith(".") and f"{MARKERS}/{name}.json" not in markers:
                latest[name] = path
        claims = [self._read_claim(name, path) for name, path in latest.items()]
        for path in self._store.list(FAILED):
            name = path.rpartition("/")[2]
            if name not in latest and f"{MARKERS}/{name}.json" not in markers:
                claims.append(self._read_claim(name, path))
        return [claim for claim in claims if claim is not None]

    def _copy(self, directory: Path, name: str) -> None:
        path, data = directory / name, self._store.read_or_none(name)
        if data is None:
            path.unlink(missing_ok=True)
        else:
            replace_bytes(path, data)

    def _read_claim(self, shard: str, path: str) -> Claim | None:
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            record = parse_json(self._store.read(path), path)
            return Claim(
                shard,
                shard.split("-")[0],
                str(record["host"]),
                int(record["pid"]),
                str(record["since"]),
                record.get("reason"),
            )
        return None
