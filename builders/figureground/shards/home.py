"""State shared by processes that build one dataset: claims of shards, and news of shards that others have finished.

A dataset directory that all processes reach is its own home. For a dataset in an object store, the home is a
`stores.remote.Remote`, and the directory is the scratch of one machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.core.locks import lock
from figureground.recipe.sample import Spec
from figureground.shards.claims import STAGES_LOCK, WORKING_LOCK, claim, claim_part
from figureground.shards.journal import FileJournal, Journal, count_rendered
from figureground.shards.markers import markers
from figureground.shards.shard import Shard


class ClaimLost(FiguregroundError):
    """Raised when another process has taken over a shard, because this one seemed dead."""


class Home:
    """The home of a dataset whose directory all processes reach.

    Args:
        directory: The dataset's directory.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    @property
    def title(self) -> str:
        """Name of the dataset in messages: its directory or its URL."""
        return str(self.directory)

    def refresh(self, now: bool = False) -> None:
        """Find out which shards others have finished; afterwards, `markers.find_missing_shards` knows them.

        Args:
            now: Whether to look although that was done a moment ago.
        """

    @contextlib.contextmanager
    def claim(self, shard: Shard) -> Iterator[bool]:
        """Try to claim a shard for this process, without waiting; yields whether that succeeded."""
        with claim(self.directory, shard) as claimed:
            yield claimed

    def journal(self, shard: Shard, origin: Mapping[str, Any], batches: Sequence[Sequence[Spec]]) -> Journal:
        """Return the journal of a claimed shard; see `shards.journal`."""
        return FileJournal(self.directory, shard, origin, batches)

    def count_rendered(self) -> int:
        """Return how many images, or batches, of unfinished shards are kept; call it within `settling`."""
        return count_rendered(self.directory)[0]

    def store_shard(self, shard: Shard) -> None:
        """Store a claimed shard, whose files and marker are in the directory, where the dataset is kept.

        Raises:
            ClaimLost: The claim was lost meanwhile, and the work is thrown away.
            ShardError: Other bytes are kept there under its names.
        """

    @contextlib.contextmanager
    def settling(self) -> Iterator[None]:
        """Let no other process settle recipe and numerics or run stages within the context; waits for its turn."""
        with lock(self.directory / STAGES_LOCK, wait=True):
            yield

    @contextlib.contextmanager
    def claim_part(self, name: str) -> Iterator[bool]:
        """Try to claim a stage that doesn't need others, without waiting; finished ones lie in the directory then."""
        with claim_part(self.directory, name) as claimed:
            yield claimed

    def store_stage(self, name: str) -> None:
        """Store a stage that has just finished where the dataset is kept; called within `settling`."""

    def has_started(self) -> bool:
        """Whether a shard is finished or a process is rendering one; call it within `settling`."""
        # The lock comes first: between the two checks the last worker could finish a shard and exit.
        with lock(self.directory / WORKING_LOCK) as exclusive:
            return not exclusive or bool(markers(self.directory))

    def is_alone(self) -> bool:
        """Whether no process in another directory is rendering; call it within `settling`."""
        return True

    def is_deserted(self) -> bool:
        """Whether those who settled the numerics elsewhere seem to have died before their first shard.

        Called within `settling`, for numerics that differ; it may wait.
        """
        return False

    @contextlib.contextmanager
    def describing(self, images: bool) -> Iterator[bool]:
        """Have all markers in the directory, so that index and card can be written, and keep these afterwards.

        Args:
            images: Whether the images are needed too.

        Yields:
            Whether they are to be written; False if another process has, and they lie in the directory.
        """
        yield True

    def withdraw(self) -> None:
        """Remove what a build that failed before its first shard has left elsewhere than in the directory."""


_HOMES: dict[Path, Home] = {}


def home_of(directory: Path) -> Home:
    """Return the home of the dataset in a directory; the directory itself unless another is registered."""
    return _HOMES.get(directory.absolute()) or Home(directory)


@contextlib.contextmanager
def register(home: Home) -> Iterator[None]:
    """Make `home_of` return this home for its directory."""
    path = home.directory.absolute()
    previous = _HOMES.get(path)
    _HOMES[path] = home
    try:
        yield
    finally:
        del _HOMES[path]
        if previous is not None:
            _HOMES[path] = previous
