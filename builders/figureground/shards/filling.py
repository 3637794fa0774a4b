"""Fills the shards of a dataset, each by one process, until all are finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from figureground.core import signals
from figureground.core.progress import Progress
from figureground.core.terminal import print_note
from figureground.shards.home import ClaimLost, home_of
from figureground.shards.markers import find_missing_shards
from figureground.shards.shard import Shard

SECONDS_BETWEEN_LOOKS = 0.5
"""Interval at which a process that waits for shards claimed by others checks whether they are finished."""

T = TypeVar("T")


def fill(out: Path, shards: Sequence[Shard], write: Callable[[Shard, Progress], None], show_progress: bool) -> None:
    """Write every unfinished shard that no other process has claimed; return when all are finished.

    A shard that another process has claimed is waited for, and taken over if that process dies. One that is written
    already, but not stored where the dataset is kept, is only stored there.

    Args:
        write: Writes a shard; it advances the bar by the shard's images (see `track_results`).
    """
    total = sum(shard.count for shard in shards)
    done = total - sum(shard.count for shard in find_missing_shards(out, shards))
    home = home_of(out)
    with Progress.stoppable(total, initial=done, unit="image", desc=home.title, show=show_progress) as bar:
        while unfinished := find_missing_shards(out, shards):
            home.refresh()
            for shard in find_missing_shards(out, unfinished):
                signals.check()
                with _skip_lost_claim(), home.claim(shard) as claimed:
                    if claimed and find_missing_shards(out, [shard]):
                        if (out / shard.path("marker")).exists():
                            bar.update(shard.count)
                        else:
                            write(shard, bar)
                        home.store_shard(shard)
            if find_missing_shards(out, unfinished):
                signals.check()
                time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def _skip_lost_claim() -> Iterator[None]:
    """Go on with other shards if the claim of one was lost."""
    try:
        yield
    except ClaimLost as error:
        print_note(error)


def track_results(results: Iterable[T], bar: Progress) -> Iterator[T]:
    """Yield a shard's samples and rejects, advancing the bar; stop at a signal."""
    for result in results:
        signals.check()
        yield result
        bar.update()
