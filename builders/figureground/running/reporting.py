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
from figureground.shards.markers import find_missing_shards
from figureground.shards.shard import PRIVATE, Shard
from figureground.tracking.reporting import RunReport, begin

SECONDS_BETWEEN_LOOKS = 5.0
"""Interval at which markers are looked for."""
MARK = f"{PRIVATE}/tracking.json"
"""File that names the run that a resumed build continues; removed when the build is done."""


@contextmanager
def report_progress(out: Path, shards: Sequence[Shard]) -> Iterator[None]:
    """Report finished shards while they are rendered, from a thread of this process."""
    report = begin("build", {"images": sum(shard.count for shard in shards), "shards": len(shards)}, _read_mark(out))
    if not report.active:
        yield
        return
    _write_mark(out, report)
    reporter = _ProgressReporter(out, shards, report)
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            reporter.report_new()

    thread = threading.Thread(target=poll, name="reporting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        reporter.report_new()
    with suppress(OSError):
        (out / MARK).unlink(missing_ok=True)


class _ProgressReporter:
    """Facts about finished shards."""

    def __init__(self, out: Path, shards: Sequence[Shard], report: RunReport):
        self._out, self._report = out, report
        self._shards = len(shards)
        self._pending = list(shards)
        self._images, self._rejects = 0, Counter[str]()
        self._num_rendered = 0
        self._start_time = time.monotonic()
        self._read_new_markers()
        self._num_rendered = 0  # since the start

    @property
    def _num_finished(self) -> int:
        """Number of planned images that are drawn or rejected."""
        return self._images + self._rejects.total()

    def report_new(self) -> None:
        """Report what was finished since the last look."""
        pending_before = len(self._pending)
        self._read_new_markers()
        if len(self._pending) == pending_before:
            return
        seconds = time.monotonic() - self._start_time
        values = {
            "build/shards": self._shards - len(self._pending), "build/images": self._images,
            "build/images_per_second": self._num_rendered / max(seconds, 1e-9),
            "build/rejects": self._rejects.total(),
            **{f"build/rejects/{reason}": count for reason, count in sorted(self._rejects.items())},
        }  # fmt: skip
        self._report.log(values, self._num_finished)

    def _read_new_markers(self) -> None:
        """Read the markers that are new."""
        unfinished = set(find_missing_shards(self._out, self._pending))
        for shard in [shard for shard in self._pending if shard not in unfinished]:
            with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged marker is reported by the build
                marker = read_json(self._out / shard.path("marker"), root=self._out)
                rejects, rendered = Counter[str](marker["rejects"]), int(marker.get("rendered", marker["planned"]))
                self._images += int(marker["samples"])
                self._rejects += rejects
                self._num_rendered += rendered
                self._pending.remove(shard)


def _read_mark(out: Path) -> dict[str, str] | None:
    with suppress(OSError, ValueError):
        mark = read_json(out / MARK, root=out)
        if isinstance(mark, dict) and {"tracker", "id", "name", "group"} <= set(mark):
            return mark
    return None


def _write_mark(out: Path, report: RunReport) -> None:
    with suppress(OSError):  # then a resumed build begins another run
        replace_text(out / MARK, json.dumps(report.mark) + "\n")
