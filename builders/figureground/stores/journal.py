"""The journal of an unfinished shard in a store: each rendered batch is an object, which whoever takes over reads."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from figureground.recipe.sample import Spec
from figureground.shards.journal import Journal
from figureground.shards.record import Head, RecordError, read_head
from figureground.shards.shard import JOURNAL, Shard
from figureground.stores.leases import Lease
from figureground.stores.store import Store


class StoreJournal(Journal):
    """The journal of a shard below `_figureground/journal/SHARD/OWNER/`, with a folder for each owner in turn.

    Args:
        store: The store.
        lease: The shard's lease.
        shard, origin, batches: See `Journal`.
    """

    def __init__(
        self, store: Store, lease: Lease, shard: Shard, origin: Mapping[str, Any], batches: Sequence[Sequence[Spec]]
    ):
        super().__init__(origin, batches)
        self._store, self._lease = store, lease
        self._folder = f"{JOURNAL}/{shard.name}"
        self._objects = sorted(store.list(self._folder))

    def read_records(self, number: int) -> Iterator[tuple[Head, bytes]]:
        for path in self._objects:
            if not path.endswith(f"/{number:06d}"):
                continue
            with contextlib.suppress(RecordError, FileNotFoundError):
                data = self._store.read(path)
                head = read_head(io.BytesIO(data), len(data))
                if head.origin == self._origin and head.number == number and head.size == len(data):
                    yield head, data

    def put(self, number: int, record: bytes) -> None:
        """Create the object of a batch.

        Raises:
            ClaimLost: Another process has taken the shard over.
            StoreError: The store can't be used.
        """
        self.check_lease()
        self._store.create(f"{self._folder}/{self._lease.holder['owner']}/{number:06d}", record)

    def check(self) -> None:
        self.check_lease()
        super().check()

    def check_lease(self) -> None:
        """Raise ClaimLost if the heartbeat has found that the shard was taken over."""
        if self._lease.lost:
            raise self._lease.lost_error()

    def remove(self) -> None:
        """Do nothing: the objects are removed once the store has the marker; see `Remote.store_shard`."""
