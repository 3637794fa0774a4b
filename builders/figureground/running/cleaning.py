"""Frees what a dataset keeps of its build: stages such as fine-tuned concepts, journals, and drafts of killed builds.

Shards, markers, scores, people's answers, index, card and recipe are never touched, nor anything outside the dataset,
such as a directory of concepts that several datasets share. Copies of references stay, because people's answers and the
report refer to them.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from figureground.core.errors import FiguregroundError, join_names, plural
from figureground.core.locks import has_locks, lock
from figureground.recipe.document import read_saved_recipe
from figureground.shards import journal
from figureground.shards.claims import (
    PARTS_LOCK,
    STAGES_LOCK,
    WORKING_LOCK,
    clean_stale,
    find_stale,
    remove_locks,
)
from figureground.shards.directory import refuse_unsafe_entries
from figureground.shards.index import INDEX
from figureground.shards.progress import is_unfinished
from figureground.shards.shard import JOURNAL, PRIVATE, RECIPE, STAGES
from figureground.shards.stages import COPIES, DONE
from figureground.stores.scratch import url_of


@dataclass(frozen=True)
class Cleanup:
    """Bytes that were freed, or would be."""

    stages: dict[str, int]
    """Bytes of each stage, by name."""
    journals: int
    """Bytes of the rendered images of unfinished shards."""
    images: int
    """Number of those images; the next build renders them again."""
    drafts: int
    """Bytes of files that killed processes left."""
    unfinished: bool
    """Whether the dataset lacks shards or its index."""

    @property
    def bytes(self) -> int:
        """Bytes in all."""
        return sum(self.stages.values()) + self.journals + self.drafts

    def describe_cost(self) -> list[str]:
        """Return what the next build of an unfinished dataset would do again, in words."""
        images = [plural(self.images, "rendered image")] if self.images else []
        return [*images, *(f"the stage {name}" for name in self.stages)]


def clean(directory: Path, *, dry_run: bool = False, unfinished: bool = False) -> Cleanup:
    """Remove a dataset's stages, journals and drafts.

    Stages that consist of a few facts stay: the card is written from them.

    Args:
        directory: The dataset.
        dry_run: Whether to remove nothing, and only say what would be.
        unfinished: Whether an unfinished build may be cleaned, which then repeats work.

    Raises:
        FiguregroundError: It is no dataset, or the scratch of one at a URL; a build is running there, or that can't be
            seen; or it is unfinished and would lose work.
    """
    read_saved_recipe(directory / RECIPE)
    refuse_unsafe_entries(directory)
    if (url := url_of(directory)) is not None:
        raise FiguregroundError(
            f"{directory} is the scratch directory of builds of {url} on this machine. Remove it once no build is "
            "running; it doesn't hold the dataset."
        )
    if not has_locks(directory / PRIVATE):
        raise FiguregroundError(
            f"{directory} is on a file system without locks, so it can't be detected whether a build is running. Once "
            f"none is, remove {directory / STAGES} and {directory / JOURNAL} yourself."
        )
    with _exclude_builds(directory):
        cleanup = _measure(directory)
        if cleanup.unfinished and cleanup.describe_cost() and not unfinished and not dry_run:
            raise FiguregroundError(
                f"{directory} isn't finished: the next build would have to make "
                f"{join_names(cleanup.describe_cost(), 8)} again. Finish it first, or give --unfinished."
            )
        if not dry_run:
            for name in cleanup.stages:
                shutil.rmtree(directory / STAGES / name)
            if cleanup.unfinished:
                journal.remove_files(directory)
    if not dry_run:
        clean_stale(directory)
        remove_locks(directory)
    return cleanup


@contextlib.contextmanager
def _exclude_builds(directory: Path) -> Iterator[None]:
    """Keep builds from starting within the context.

    Raises:
        FiguregroundError: One is running.
    """
    with contextlib.ExitStack() as stack:
        acquired = [stack.enter_context(lock(directory / name)) for name in (STAGES_LOCK, WORKING_LOCK, PARTS_LOCK)]
        if not all(acquired):
            raise FiguregroundError(
                f"A build is running in {directory}; figureground status {directory} says how far it is. Wait for it, "
                "or stop it."
            )
        yield


def _measure(directory: Path) -> Cleanup:
    stages = {
        path.name: size
        for path in sorted(_list_folders(directory / STAGES))
        if path.name != COPIES and (size := _count_bytes(path)) and not _has_only_marker(path)
    }
    finished = not is_unfinished(directory) and (directory / INDEX).exists()
    files = journal.list_files(directory)
    stage_folders = [directory / STAGES / name for name in stages]
    drafts = [path for path, _ in find_stale(directory) if path.parent not in stage_folders]
    return Cleanup(
        stages,
        0 if finished else sum(path.lstat().st_size for path in files),
        0 if finished else journal.count_rendered(directory)[0],
        sum(path.lstat().st_size for path in drafts if finished or path not in files),
        not finished,
    )


def _list_folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()] if folder.is_dir() else []


def _has_only_marker(stage: Path) -> bool:
    """Whether a stage's marker is all that it left."""
    return [path.name for path in stage.iterdir()] == [DONE]


def _count_bytes(folder: Path) -> int:
    """Return the bytes of the files below a folder; links count as nothing and aren't followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
