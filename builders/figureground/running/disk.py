"""Restores a directory after a build that failed before its first shard."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from figureground.core.locks import has_locks, lock, remove_held
from figureground.running.reporting import MARK
from figureground.shards import index, journal
from figureground.shards.claims import PARTS_LOCK, STAGES_LOCK, WORKING_LOCK, clean_stale, remove_locks
from figureground.shards.formats.format import list_folders
from figureground.shards.progress import forget_plan
from figureground.shards.shard import MARKERS, NUMERICS, PRIVATE, PUBLISHED_REJECTS, RECIPE, REJECTS, STAGES
from figureground.shards.stages import has_work


def has_shards(out: Path) -> bool:
    """Whether a shard is marked as finished, even if its marker is unreadable."""
    return any((out / MARKERS).glob("[!.]*.json"))


def has_rendered(out: Path) -> bool:
    """Whether a shard, or a rendered batch of one, is kept."""
    return has_shards(out) or journal.count_rendered(out)[0] > 0


def list_existing(out: Path) -> frozenset[Path]:
    """Return all paths in a dataset's private directory before a build; empty if the dataset has shards."""
    private = out / PRIVATE
    return frozenset() if has_shards(out) or not private.is_dir() else frozenset([private, *private.rglob("*")])


def withdraw(out: Path, created: Path | None, existing: Collection[Path] = (), failed: bool = True) -> None:
    """Remove the files of a build that failed early, so that the directory can be used again.

    Nothing is removed if a shard, rendered images of one, an index or results of a stage exist, or another process is
    working there. That isn't known on a file system without locks, so nothing is removed there either.

    Args:
        out: The dataset's directory.
        created: The topmost directory that the build created, or None.
        existing: Paths that existed before the build: `list_existing`.
        failed: Whether it failed by itself, rather than was stopped. Then rejects alone are no reason to keep it.
    """
    private = out / PRIVATE
    with contextlib.suppress(OSError):
        stages = out / STAGES
        if not private.is_dir() or not has_locks(private):
            return
        with (
            lock(out / STAGES_LOCK) as stages_idle,
            lock(out / WORKING_LOCK) as workers_idle,
            lock(out / PARTS_LOCK) as parts_idle,
        ):
            # Checked under the locks: another process may just have finished its first shard.
            if (
                not (stages_idle and workers_idle and parts_idle)
                or has_shards(out)
                or has_work(stages)
                or (out / index.INDEX).exists()
            ):
                return
            rendered, samples = journal.count_rendered(out)
            if samples if failed else rendered:
                return
            _remove_new(stages, existing)
            journal.remove_files(out)
            for name in (NUMERICS, RECIPE, MARK):
                if out / name not in existing:
                    (out / name).unlink(missing_ok=True)
            forget_plan(out)
            clean_stale(out)
            for name in (WORKING_LOCK, PARTS_LOCK, STAGES_LOCK):
                remove_held(out / name)
        remove_locks(out)
        for name in (REJECTS, PUBLISHED_REJECTS, MARKERS, *list_folders(), private.name):
            if out / name not in existing:
                with contextlib.suppress(FileNotFoundError):
                    (out / name).rmdir()
        for folder in (out, *out.parents) if created is not None else ():
            folder.rmdir()
            if folder == created:
                break


def _remove_new(folder: Path, existing: Collection[Path]) -> None:
    """Remove a folder and its contents, except for paths that existed before."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            _remove_new(path, existing)
        elif path not in existing:
            path.unlink()
    if folder not in existing and not any(folder.iterdir()):
        folder.rmdir()
