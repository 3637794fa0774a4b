"""The scores that a scorer has given so far, so that a killed run goes on: one line of JSON per image, appended.

A journal belongs to one state of a scorer. Once all images have scores, they move to the scores file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from figureground.core.files import check_regular, safe_join
from figureground.shards.shard import PRIVATE

FOLDER = f"{PRIVATE}/verify"
"""Directory of the journals."""
_VERSION = 1


class ScoreJournal:
    """Scores of one scorer, by key and hash of the image.

    Args:
        directory: The dataset's directory.
        name: Name of the scorer.
        fingerprint: Hash of all that its scores depend on; a journal of another one is replaced.
        columns: Names of the values in each line.
    """

    def __init__(self, directory: Path, name: str, fingerprint: str, columns: Sequence[str]):
        self.path = safe_join(directory, f"{FOLDER}/{name}.jsonl")
        self._columns = list(columns)
        self._header = {
            "figureground": "verify", "version": _VERSION, "scorer": name, "fingerprint": fingerprint,
            "columns": self._columns,
        }  # fmt: skip
        self._file: IO[bytes] | None = None

    def read(self) -> dict[tuple[str, str], list[Any]]:
        """Return the values of each key and hash; a line that was cut off by a kill is removed from the file."""
        entries: dict[tuple[str, str], list[Any]] = {}
        if not self.path.exists():
            return entries
        check_regular(self.path)
        valid_bytes = 0
        with self.path.open("rb") as file:
            for n, line in enumerate(file):
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    entry = None
                if n == 0 and entry != self._header:
                    break
                if n:
                    if not isinstance(entry, list) or len(entry) != 2 + len(self._columns):
                        break
                    entries[entry[0], entry[1]] = entry[2:]
                valid_bytes += len(line)
        if valid_bytes < self.path.stat().st_size:
            with self.path.open("r+b") as file:
                file.truncate(valid_bytes)
        return entries

    def append(self, keys: Sequence[str], images: Sequence[str], values: Sequence[Sequence[Any]]) -> None:
        """Append lines and hand them to the operating system, so that they outlive this process.

        Args:
            keys, images: Key and hash of each image.
            values: By column, the values of all images.
        """
        file = self._open()
        lines = zip(keys, images, *values, strict=True)
        file.write("".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines).encode())
        file.flush()

    def remove(self) -> None:
        """Remove the file, and the directory if no other journal is in it."""
        self.__exit__(None, None, None)
        self.path.unlink(missing_ok=True)
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            if not self._file.tell():
                self._file.write(json.dumps(self._header, ensure_ascii=False).encode() + b"\n")
        return self._file

    def __enter__(self) -> ScoreJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
