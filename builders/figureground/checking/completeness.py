"""Which shards a dataset should have, by its markers and its index, and which of them have no marker."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from figureground.shards.shard import Shard, ShardError

_SHARD_NAME = re.compile(r"(?P<split>\w+?)(-e(?P<part>\d{1,18}))?-(?P<index>\d{5,18})-of-(?P<of>\d{5,18})", re.ASCII)


@dataclass(frozen=True)
class Completeness:
    """Shards that a dataset should have.

    A marker may claim millions of shards, so missing ones are counted, and listed only one after the other.
    """

    runs: Mapping[tuple[str, int], tuple[int, frozenset[int]]]
    """By split and part: the expected number of shards, and the indices of those with a marker."""
    contradictory: Mapping[tuple[str, int], list[int]]
    """By split and part: the numbers of shards that its markers expect, ascending, if they disagree."""
    unplaced: frozenset[str]
    """Names of shards that the index lists and that belong to no run."""

    @property
    def total(self) -> int:
        """Number of expected shards."""
        return sum(count for count, _ in self.runs.values()) + len(self.unplaced)

    @property
    def num_missing(self) -> int:
        """Number of expected shards without a marker."""
        return self.total - sum(len(present) for _, present in self.runs.values())

    def is_missing(self, name: str) -> bool:
        """Whether a name is that of an expected shard without a marker."""
        shard = _parse_shard_name(name)
        if shard is None or not _is_in_run(shard, self.runs):
            return name in self.unplaced
        return shard.index not in self.runs[shard.split, shard.part][1]

    def iterate_missing(self) -> Iterator[str]:
        """Yield the names of expected shards without a marker, lazily: first those of each run, in order."""
        for (split, part), (count, present) in sorted(self.runs.items()):
            yield from (Shard(split, i, count, 0, part).name for i in range(count) if i not in present)
        yield from sorted(self.unplaced)


def find_completeness(shards: Collection[Shard], listed: Collection[str]) -> Completeness:
    """Return which shards a dataset should have: each split and part has all from 0 to n-1.

    Args:
        shards: The shards with a marker.
        listed: Names of the shards that the index lists, valid or not.
    """
    by_run: dict[tuple[str, int], list[Shard]] = {}
    for shard in shards:
        by_run.setdefault((shard.split, shard.part), []).append(shard)
    counts = {key: sorted({shard.of for shard in run}) for key, run in by_run.items()}
    runs = {
        key: (counts[key][0], frozenset(shard.index for shard in run))
        for key, run in by_run.items()
        if len(counts[key]) == 1
    }
    placed = {name for name in listed if (parsed := _parse_shard_name(name)) and _is_in_run(parsed, runs)}
    unplaced = frozenset(listed) - placed - {shard.name for shard in shards}
    return Completeness(runs, {key: found for key, found in counts.items() if len(found) > 1}, unplaced)


def _is_in_run(shard: Shard, runs: Mapping[tuple[str, int], tuple[int, frozenset[int]]]) -> bool:
    return (shard.split, shard.part) in runs and runs[shard.split, shard.part][0] == shard.of


def _parse_shard_name(name: str) -> Shard | None:
    """Parse a shard's name into a Shard with count 0; return None if it isn't one."""
    match = _SHARD_NAME.fullmatch(name)
    try:
        return match and Shard(match["split"], int(match["index"]), int(match["of"]), 0, int(match["part"] or 0))
    except ShardError:
        return None
