"""Claims of shards, the locks of a dataset directory, and what killed processes leave in it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from figureground.core.locks import lock, unlink_while_held
from figureground.recipe.formats import FORMATS
from figureground.shards import journal
from figureground.shards.formats.format import folders
from figureground.shards.shard import JOURNAL, MARKERS, PRIVATE, PUBLISHED_REJECTS, REJECTS, SCORES, Shard

INDEX_LOCK = f"{PRIVATE}/.index.lock"
"""Lock held while the index and the card are written."""

STAGES_LOCK = f"{PRIVATE}/.stages.lock"
"""Lock held while recipe and numerics are settled and stages are run."""

WORKING_LOCK = f"{PRIVATE}/.working.lock"
"""Lock shared by all processes that render."""

_NAME = r"\w+(-e\d+)?-\d{5,}-of-\d{5,}"
_LOCK = re.compile(rf"\.{_NAME}\.lock")


@contextlib.contextmanager
def claim(directory: Path, shard: Shard) -> Iterator[bool]:
    """Tries to claim a shard for this process, without waiting; yields whether that succeeded.

    The kernel releases the claim when the process ends, however it ends. On a file system without locks every
    claim succeeds: a shard may then be rendered twice, but its marker still has one owner.
    """
    with lock(directory / MARKERS / f".{shard.name}.lock") as held:
        yield held


def clean_stale(directory: Path) -> list[Path]:
    """Removes temporary files and journals of finished shards that a killed build left behind; returns their paths.

    Files that a process is still writing stay, and so do files of other programs. On a file system without locks
    nothing is removed, because files in use can't be recognised.
    """
    removed = []
    stages = sorted(p for p in (directory / PRIVATE / "stages").glob("*") if p.is_dir())
    own = ("", *folders(), PRIVATE, MARKERS, REJECTS, PUBLISHED_REJECTS, SCORES)
    temporary = _temporary()
    for folder in [*(directory / name for name in own), *stages]:
        for path in sorted(folder.glob(".*.tmp")):
            match = temporary.fullmatch(path.name)
            if not match:
                continue
            held_by = STAGES_LOCK if match["settled"] else INDEX_LOCK
            if match["shard"]:
                held_by = f"{MARKERS}/.{match['shard']}.lock"
            if unlink_while_held(directory / held_by, path):
                removed.append(path)
    for path in journal.files_of(directory):
        name = journal.shard_of(path)
        done = (directory / MARKERS / f"{name}.json").exists()
        if done and unlink_while_held(directory / MARKERS / f".{name}.lock", path):
            removed.append(path)
    with contextlib.suppress(OSError):  # journals of unfinished shards stay
        (directory / JOURNAL).rmdir()
    return removed


def remove_locks(directory: Path) -> None:
    """Removes the lock files that no process holds."""
    for name in (STAGES_LOCK, WORKING_LOCK):
        if (directory / name).exists():
            unlink_while_held(directory / name, directory / name)
    for path in (directory / MARKERS).glob(".*.lock"):
        if _LOCK.fullmatch(path.name):
            unlink_while_held(path, path)


def _temporary() -> re.Pattern[str]:
    """Returns a pattern of the names that temporary files of this package have."""
    suffixes = [".json", ".jsonl", ".parquet", *(kind.SUFFIX for _, kind in FORMATS.items())]
    return re.compile(
        rf"\.((?P<shard>{_NAME})({'|'.join(map(re.escape, suffixes))})|index\.json|croissant\.json|attribution\.csv"
        r"|README\.md|preview\.png|report\.html|(?P<settled>recipe\.json|numerics\.json|done\.json"
        r"|(?i:licen[cs]e|notice|attribution|citation).*|.+\.(csv|parquet)))\.\d+-[0-9a-f]{16}\.tmp"
    )
