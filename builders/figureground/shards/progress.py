"""How far a build is, read from the dataset's directory while others write there. Needs no torch.

A claim's lock file says who holds the shard (`claims.claim`), and `PLANNED` how many shards there will be.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError, read_object, replace_if_changed
from figureground.core.shapes import Count, MapOf, check_shape
from figureground.shards.claims import read_holder
from figureground.shards.index_shape import read_index
from figureground.shards.markers import read_marker
from figureground.shards.shard import MARKERS, PRIVATE, RECIPE, Shard

PLANNED = f"{PRIVATE}/.planned.json"
"""File with the number of shards and images of each split while a build is unfinished."""
SECONDS_RECENT = 600.0
"""Age of the shards by which the present speed is measured, before the last finished one, seconds."""

_SHAPE = {"splits": MapOf({"shards": Count, "images": Count})}
_CLAIM = re.compile(r"\.(?P<shard>(?P<split>\w+?)(-e\d+)?-\d{5,}-of-\d{5,})\.lock")


def record_plan(directory: Path, shards: Iterable[Shard]) -> None:
    """Write down how many shards and images are planned, for `Watch`."""
    splits: dict[str, dict[str, int]] = {}
    for shard in shards:
        counts = splits.setdefault(shard.split, {"shards": 0, "images": 0})
        counts["shards"] += 1
        counts["images"] += shard.count
    replace_if_changed(directory / PLANNED, json.dumps({"splits": splits}, indent=1) + "\n")


def forget_plan(directory: Path) -> None:
    """Remove what `record_plan` wrote: the index of a finished dataset has these numbers too."""
    (directory / PLANNED).unlink(missing_ok=True)


def is_unfinished(directory: Path) -> bool:
    """Whether a build was begun and hasn't written its index."""
    return (directory / PLANNED).exists()


@dataclass(frozen=True)
class Claim:
    """A shard that a process holds, or that failed."""

    shard: str
    split: str
    host: str
    pid: int
    since: str
    """UTC, ISO 8601: when it was claimed, or when it failed, by the clock of that host."""
    reason: str | None = None
    """Why it failed; None while it is held."""


@dataclass
class SplitProgress:
    """Counts of a split. `images` of finished shards are samples and rejects."""

    shards: int
    images: int
    shards_done: int = 0
    images_done: int = 0
    samples: int = 0


@dataclass
class BuildProgress:
    """How far a build is."""

    splits: dict[str, SplitProgress]
    planned: bool
    """Whether the number of planned shards is known; otherwise only the finished ones are counted."""
    finished: bool
    """Whether every shard and the index are written."""
    working: list[Claim] = field(default_factory=list)
    failed: list[Claim] = field(default_factory=list)
    recent_rate: float | None = None
    """Present speed, images per second: that of the shards of the last minutes, times the shards in work; None if no
    shard is in work or finished."""
    total_rate: float | None = None
    """Images per second over the time in which shards were rendered, without pauses; None before the first shard."""

    def total(self, name: str) -> int:
        """Return the sum of a count over the splits."""
        return sum(getattr(split, name) for split in self.splits.values())

    @property
    def seconds_left(self) -> float | None:
        """Time until all images are rendered at the present speed, seconds; None if it isn't known."""
        left = self.total("images") - self.total("images_done")
        if not left and self.planned:
            return 0.0
        return left / self.recent_rate if self.recent_rate and self.planned else None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        sums = {name: self.total(name) for name in SplitProgress.__dataclass_fields__}
        return {
            "finished": self.finished, "planned": self.planned, **sums,
            "splits": {name: vars(split) for name, split in self.splits.items()},
            "working": [_claim_to_json(claim) for claim in self.working],
            "failed": [_claim_to_json(claim) for claim in self.failed],
            "images_per_second": {"recent": _round(self.recent_rate), "total": _round(self.total_rate)},
            "seconds_left": _round(self.seconds_left),
        }  # fmt: skip


def _claim_to_json(claim: Claim) -> dict[str, Any]:
    fields = {name: getattr(claim, name) for name in Claim.__dataclass_fields__}
    return {name: value for name, value in fields.items() if value is not None}


def _round(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


class _Timing(NamedTuple):
    """When a finished shard was rendered."""

    end: float
    """Time of its marker's file, seconds since 1970."""
    seconds: float
    images: int
    """Images rendered in this time; the journal may have had others."""


class Watch:
    """Reads the progress of one dataset again and again; each marker is read once.

    Args:
        directory: The dataset's directory.

    Raises:
        FiguregroundError: It isn't a dataset's directory.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._markers: dict[str, dict[str, Any]] = {}
        if not directory.is_dir():
            raise FiguregroundError(f"{directory}: no such directory. Give the directory of a dataset.")
        if not (directory / RECIPE).exists():
            raise FiguregroundError(f"{directory} holds no dataset: {RECIPE} is missing. Build one there first.")

    def read(self) -> BuildProgress:
        """Return the progress now.

        Raises:
            ShardError: A marker can't be read.
            FileError: The index can't be read.
        """
        claims = list(self._read_claims())  # before the markers: a shard may be finished in between
        self._read_markers()
        splits, planned, indexed = self._read_plan()
        for marker in self._markers.values():
            split = splits.setdefault(marker["split"], SplitProgress(0, 0))
            split.shards_done += 1
            split.images_done += marker["planned"]
            split.samples += marker["samples"]
        if not planned:
            for split in splits.values():
                split.shards, split.images = split.shards_done, split.images_done
        claims = [claim for claim in claims if claim.shard not in self._markers]
        working = [claim for claim in claims if claim.reason is None]
        complete = planned and all(split.shards_done >= split.shards for split in splits.values())
        return BuildProgress(
            splits, planned, complete and indexed, working, [claim for claim in claims if claim.reason is not None],
            _measure_recent_rate(self._list_timings(), len(working)), _measure_total_rate(self._list_timings()),
        )  # fmt: skip

    def _read_plan(self) -> tuple[dict[str, SplitProgress], bool, bool]:
        """Return planned shards and images by split, whether they are known, and whether the index has them all."""
        with contextlib.suppress(OSError):
            try:
                plan = read_object(self.directory / PLANNED, root=self.directory)
                check_shape(plan, _SHAPE)
            except FileError:
                raise
            except ValueError as error:
                raise FileError(self.directory / PLANNED, f"{error}. Delete it") from None
            return {name: SplitProgress(**each) for name, each in plan["splits"].items()}, True, False
        with contextlib.suppress(OSError):
            splits = read_index(self.directory)["splits"]
            return {n: SplitProgress(each["shards"], each["planned"]) for n, each in splits.items()}, True, True
        return {}, False, False

    def _read_markers(self) -> None:
        present = set()
        for path in (self.directory / MARKERS).glob("[!.]*.json"):
            present.add(path.stem)
            if path.stem not in self._markers:
                self._markers[path.stem] = {**read_marker(self.directory, path), "ended": path.stat().st_mtime}
        for name in set(self._markers) - present:
            del self._markers[name]

    def _read_claims(self) -> Iterator[Claim]:
        for path in sorted((self.directory / MARKERS).glob(".*.lock")):
            match = _CLAIM.fullmatch(path.name)
            holder = read_holder(path, self.directory) if match else None
            if match and holder:
                yield Claim(match["shard"], match["split"], **holder)

    def _list_timings(self) -> list[_Timing]:
        """Return the timings of finished shards, in order of their ends."""
        timed = [marker for marker in self._markers.values() if isinstance(marker.get("seconds"), int | float)]
        return sorted(
            _Timing(marker["ended"], float(marker["seconds"]), marker.get("rendered", marker["planned"]))
            for marker in timed
        )


def _measure_recent_rate(timings: Sequence[_Timing], working: int) -> float | None:
    """Return images per second of the shards in work, if they go on like those finished in the last minutes."""
    if not timings or not working:
        return None
    recent = [timing for timing in timings if timing.end > timings[-1].end - SECONDS_RECENT]
    recent = recent if len(recent) >= working else list(timings[-working:])
    seconds = sum(timing.seconds for timing in recent)
    return working * sum(timing.images for timing in recent) / seconds if seconds else None


def _measure_total_rate(timings: Sequence[_Timing]) -> float | None:
    """Return images per second over the union of the times in which shards were rendered."""
    busy, reached = 0.0, float("-inf")
    for start, end in sorted((timing.end - timing.seconds, timing.end) for timing in timings):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return sum(timing.images for timing in timings) / busy if busy else None
