"""Files of a shard that aren't visible yet."""

from __future__ import annotations

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from figureground.core.files import sync_directory, temporary_path
from figureground.shards.shard import Shard


class Draft:
    """A file of a shard that isn't visible yet; removed on exit unless it was published."""

    def __init__(self, directory: Path, shard: Shard, kind: str) -> None:
        self._final = directory / shard.path(kind)
        self._final.parent.mkdir(parents=True, exist_ok=True)
        self.path = temporary_path(self._final)
        """Path until the file is published."""
        self.file = self.path.open("xb", buffering=2**20)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *error: object) -> None:
        # On a full disk closing fails too; the error already raised is the one that matters.
        with contextlib.suppress(OSError):
            self.file.close()
        self.path.unlink(missing_ok=True)

    def finish(self) -> dict[str, Any]:
        """Make the bytes durable; return their count and SHA-256."""
        self.file.flush()
        with ThreadPoolExecutor(1, thread_name_prefix="sync") as pool:
            synced = pool.submit(os.fsync, self.file.fileno())
            # Read back while the disk syncs: hashing during the write would slow the writer.
            with self.path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            synced.result()
        return {"bytes": self.path.stat().st_size, "sha256": sha256}

    def publish(self) -> None:
        self.file.close()  # Windows can't rename an open file
        os.replace(self.path, self._final)
        sync_directory(self._final.parent)
