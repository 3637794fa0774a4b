"""A finished dataset: the one way to open it and to read its samples, columns and rejects."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, join_names
from figureground.core.files import FileError, read_object
from figureground.core.hashing import digest
from figureground.recipe import document as recipes
from figureground.recipe.formats import FORMATS
from figureground.recipe.sample import Reject
from figureground.shards.card_context import CardContext
from figureground.shards.columns import Columns
from figureground.shards.directory import refuse_unsafe_entries
from figureground.shards.empty_splits import explain_empty
from figureground.shards.formats.format import TEXTS, sort_formats
from figureground.shards.index_shape import INDEX, read_index
from figureground.shards.markers import markers
from figureground.shards.reader import ShardReader
from figureground.shards.samples import Stored
from figureground.shards.shard import RECIPE, Shard


class FinishedDataset:
    """A finished dataset, for reading only. Its index and markers agree; a shard's bytes are compared by `verify`.

    Args:
        directory: The dataset directory.
        name: Published name of the dataset; default: the directory's name.

    Raises:
        FiguregroundError: The dataset is missing, unfinished or empty, or its index and markers disagree.
    """

    def __init__(self, directory: Path, name: str | None = None):
        if not directory.is_dir():
            raise FiguregroundError(f"{directory}: no such directory. Give the directory of a finished dataset.")
        self.directory = directory
        self.name = name or directory.resolve().name
        self.index = read_finished_index(directory)
        if problem := explain_empty(self.index):
            raise FiguregroundError(f"{directory}: {problem} No samples can be taken from it.")
        self.columns = Columns.from_json(self.index["columns"])
        self.names: dict[str, Sequence[str]] = self.columns.classes
        """Class names of each label column."""
        self.formats: tuple[str, ...] = tuple(self.index["formats"])
        self.image_format: str = self.index["image_format"]
        self.facts = CardContext(**self.index["card"]["facts"])
        self.recipe: dict[str, Any] = self._read_recipe()
        self.version: int = recipes.read_format(self.recipe, str(directory / RECIPE))
        """Version of the format in which its images were drawn."""
        self._markers = markers(directory)
        indexed = [shard["shard"] for shard in self.index["shards"]]
        differing = sorted(set(indexed) ^ set(self._markers))
        if differing:
            raise FiguregroundError(
                f"{directory} isn't finished: {INDEX} and the markers of shards disagree about "
                f"{join_names(differing, 3)}. Rerun the command that made it: it resumes. "
                f"figureground check {directory} says what is wrong."
            )
        self.shards: tuple[Shard, ...] = tuple(Shard.from_marker(self._markers[name]) for name in indexed)

    def _read_recipe(self) -> dict[str, Any]:
        try:
            recipe = read_object(self.directory / RECIPE, root=self.directory)
            recipe["sha256"]
        except (OSError, FileError, KeyError) as error:
            raise FiguregroundError(f"{self.directory / RECIPE} can't be read: {error}") from None
        return recipe

    @property
    def samples(self) -> int:
        return int(self.index["samples"])

    def lineage_entry(self) -> dict[str, Any]:
        """Return the lineage's entry for this dataset."""
        return {"name": self.name, "sha256": self.recipe["sha256"], "samples": self.samples}

    def identity(self) -> dict[str, Any]:
        """Return what a copy depends on: the recipe and the bytes of all shards."""
        files = {
            name: file["sha256"] for marker in self._markers.values() for name, file in marker["files"].items()
        }  # fmt: skip
        return {"recipe": self.recipe["sha256"], "samples": self.samples, "shards": digest(files)}

    def marker(self, shard: Shard) -> dict[str, Any]:
        return self._markers[shard.name]

    def reader(self, shard: Shard) -> ShardReader:
        """Return the reader of a shard, in the first of the dataset's formats."""
        return ShardReader(self.directory, self.marker(shard), FORMATS[sort_formats(self.formats)[0]]())

    def verify(self, shard: Shard) -> None:
        """Compare a shard's files with its marker.

        Raises:
            FiguregroundError: A file is missing or has other bytes.
        """
        self.reader(shard).verify()

    def stored(self, shard: Shard, rows: Collection[int] | None = None) -> Iterator[Stored]:
        """Yield the samples of a shard in order, or only those at the positions in `rows`."""
        return self.reader(shard).samples(rows)

    def rows(self, shard: Shard) -> Iterator[dict[str, Any]]:
        """Yield each sample's columns except images, in order; labels as numbers."""
        return self.reader(shard).columns_of(list(self.names), [*TEXTS, *self.columns.texts])

    def rejects(self, shard: Shard, images: bool = False) -> Iterator[Reject]:
        """Yield the rejects of a shard, in order; with `images`, including their published images."""
        return self.reader(shard).rejects(self.columns if images else None)


def read_finished_index(directory: Path) -> dict[str, Any]:
    """Return the contents of `_figureground/index.json`.

    Raises:
        FiguregroundError: It doesn't exist, because nothing was built or a build isn't finished; it can't be read; or
            it lacks a field that this release writes.
    """
    path = directory / INDEX
    refuse_unsafe_entries(directory)
    try:
        if not {"columns", "formats", "image_format", "card"} <= set(read_object(path, root=directory)):
            raise FiguregroundError(
                f"{path} was written by an older release. Run the command that made the dataset again to rewrite it."
            )
        return read_index(directory)
    except FileNotFoundError:
        raise FiguregroundError(
            f"{directory} contains no finished dataset: {INDEX} is missing. Build one there, or finish the build with "
            "the command that began it."
        ) from None
    except FileError as error:
        raise FiguregroundError(f"{path} can't be used: {error.reason}. Build again to rewrite it.") from None
    except OSError as error:
        raise FiguregroundError(f"{path} can't be read: {error.strerror or error}.") from None


def is_copy(directory: Path) -> bool:
    """Whether a dataset was made by `curate` or `merge`, so no method can rebuild it."""
    try:
        return read_object(directory / RECIPE, root=directory)["builder"] in recipes.COPIES
    except (OSError, ValueError, KeyError, TypeError):
        return False


def refuse_overlap(out: Path, directories: Sequence[Path]) -> None:
    """Refuse an output directory that lies inside one of its source datasets, or contains one.

    Raises:
        FiguregroundError: The directories overlap; names both.
    """
    target = out.resolve()
    for directory in directories:
        source = directory.resolve()
        if target == source or source in target.parents or target in source.parents:
            raise FiguregroundError(f"--out {out} and {directory} overlap. Give a separate directory.")
