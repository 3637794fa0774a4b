"""Fills the shards of a dataset, each by one process, until all are finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from figureground.core import signals
from figureground.core.progress import Progress
from figureground.core.terminal import print_note
from figureground.shards.home import ClaimLost, home_of
from figureground.shards.markers import missing
from figureground.shards.shard import Shard

SECONDS_BETWEEN_LOOKS = 0.5
"""Interval at which a process that waits for shards claimed by others checks whether they are finished."""

T = TypeVar("T")


def fill(out: Path, shards: Sequence[Shard], write: Callable[[Shard, tqdm], None], show_progress: bool) -> None:
    """Write every unfinished shard that no other process has claimed; return when all are finished.

    A shard that another process has claimed is waited for, and taken over if that process dies. One that is written
    already, but isn't where the dataset is kept, is only brought there.

    Args:
        write: Writes a shard; it advances the bar by the shard's images (see `counted`).
    """
    total = sum(shard.count for shard in shards)
    done = total - sum(shard.count for shard in missing(out, shards))
    home = home_of(out)
    bar = Progress(total, initial=done, unit="image", desc=home.title, show=show_progress)
    with signals.delay_to_checks(), bar:
        while todo := missing(out, shards):
            home.look()
            for shard in missing(out, todo):
                signals.check()
                with _going_on(), home.claim(shard) as mine:
                    if mine and missing(out, [shard]):
                        if (out / shard.path("marker")).exists():
                            bar.update(shard.count)
                        else:
                            write(shard, bar)
                        home.keep(shard)
            if missing(out, todo):
                signals.check()
                time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def _going_on() -> Iterator[None]:
    """Go on with other shards if the claim of one was lost."""
    try:
        yield
    except ClaimLost as lost:
        print_note(lost)


def counted(results: Iterable[T], bar: tqdm) -> Iterator[T]:
    """Yield a shard's samples and rejects, advancing the bar; stop at a signal."""
    for result in results:
        signals.check()
        yield result
        bar.update()
