"""Reports a build's progress from the markers of finished shards, so that it doesn't matter who renders them."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from figureground.core.files import read_json, replace_text
from figureground.shards.markers import missing
from figureground.shards.shard import PRIVATE, Shard
from figureground.tracking.reporting import Report, begin

SECONDS_BETWEEN_LOOKS = 5.0
"""Interval at which markers are looked for."""
MARK = f"{PRIVATE}/tracking.json"
"""File that names the run that a resumed build continues; removed when the build is done."""


@contextmanager
def reported(out: Path, shards: Sequence[Shard]) -> Iterator[None]:
    """Report finished shards while they are rendered, from a thread of this process."""
    report = begin("build", {"images": sum(shard.count for shard in shards), "shards": len(shards)}, _read_mark(out))
    if not report.active:
        yield
        return
    _write_mark(out, report)
    watch = _Watch(out, shards, report)
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            watch.look()

    thread = threading.Thread(target=look, name="reporting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        watch.look()
    with suppress(OSError):
        (out / MARK).unlink(missing_ok=True)


class _Watch:
    """Facts about finished shards."""

    def __init__(self, out: Path, shards: Sequence[Shard], report: Report):
        self._out, self._report = out, report
        self._shards = len(shards)
        self._waiting = list(shards)
        self._images, self._rejects = 0, Counter[str]()
        self._began = time.monotonic()
        self._collect()
        self._earlier = self._done

    @property
    def _done(self) -> int:
        """Number of planned images that are drawn or rejected."""
        return self._images + self._rejects.total()

    def look(self) -> None:
        """Report what was finished since the last look."""
        before = len(self._waiting)
        self._collect()
        if len(self._waiting) == before:
            return
        seconds = time.monotonic() - self._began
        values = {
            "build/shards": self._shards - len(self._waiting), "build/images": self._images,
            "build/images_per_second": (self._done - self._earlier) / max(seconds, 1e-9),
            "build/rejects": self._rejects.total(),
            **{f"build/rejects/{reason}": count for reason, count in sorted(self._rejects.items())},
        }  # fmt: skip
        self._report.log(values, self._done)

    def _collect(self) -> None:
        """Read the markers that are new."""
        absent = set(missing(self._out, self._waiting))
        for shard in [each for each in self._waiting if each not in absent]:
            with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged marker is reported by the build
                marker = read_json(self._out / shard.path("marker"), root=self._out)
                rejects = Counter[str](marker["rejects"])
                self._images += int(marker["samples"])
                self._rejects += rejects
                self._waiting.remove(shard)


def _read_mark(out: Path) -> dict[str, str] | None:
    with suppress(OSError, ValueError):
        mark = read_json(out / MARK, root=out)
        if isinstance(mark, dict) and {"tracker", "id", "name", "group"} <= set(mark):
            return mark
    return None


def _write_mark(out: Path, report: Report) -> None:
    with suppress(OSError):  # then a resumed build begins another run
        replace_text(out / MARK, json.dumps(report.mark) + "\n")
