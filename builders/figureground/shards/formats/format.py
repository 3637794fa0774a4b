"""A format that shards are written in: what each must say and do, and how one is chosen among several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Self

from figureground.core.errors import join_names
from figureground.recipe.formats import FORMATS
from figureground.shards.problems import ShardProblems, shorten_error

if TYPE_CHECKING:
    import pyarrow as pa

    from figureground.shards.columns import Columns
    from figureground.shards.drafts import Draft
    from figureground.shards.samples import Encoded, Stored

TEXTS = ("prompt", "key", "provenance")
"""Columns of text that every dataset has."""


class Writer(ABC):
    """Writes the samples of one shard into a file that isn't visible yet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def add(self, sample: Encoded) -> None:
        """Write a sample. The order is that of the shard."""

    @abstractmethod
    def close(self) -> None:
        """Write whatever is still held. Called once when all samples are there, and again on the way out.

        The same samples must give the same bytes at any time and on any machine.
        """

    def facts(self) -> dict[str, Any]:
        """Return what the shard's marker says besides counts and files; asked after `close`."""
        return {}


@dataclass(frozen=True)
class Reading:
    """A shard's file that `figureground check` reads."""

    path: Path
    file: BinaryIO
    """The same file, opened."""
    where: str
    """Its path in the dataset, for `problems`."""
    columns: Columns
    image_format: str
    """`jpg`, `webp` or `png`."""
    planned: int
    """Number of samples and rejects that the marker counts."""
    problems: ShardProblems


class Format(ABC):
    """A format of shards: one file a shard, with images as they are encoded, labels, texts and provenance.

    `write` and `read` are all that a format needs. Class variables say who can't use a dataset in this format alone:
    `load_dataset` and a push, Croissant's readers, `download_and_prepare`, and published rejects.
    """

    NAME: ClassVar[str]
    """Its name in recipes and on the command line."""
    TITLE: ClassVar[str]
    """Its name in texts."""
    FOLDER: ClassVar[str]
    """Directory of its files in a dataset, which no other format has."""
    SUFFIX: ClassVar[str]
    """Suffix of its files, with the dot."""
    MIME: ClassVar[str]
    """Media type of its files, for Croissant."""

    LOADABLE: ClassVar[bool] = False
    """Whether `load_dataset` reads it, so that a dataset may be pushed in it alone."""
    COLUMNAR: ClassVar[bool] = False
    """Whether its files are tables with the dataset's columns, under their own names: Croissant describes these, and
    `download_and_prepare` takes `tables`."""
    PUBLISHES_REJECTS: ClassVar[bool] = False
    """Whether published rejects, which are Parquet, can be a config beside it. `load_dataset` reads all configs of a
    dataset in one format."""
    IN_SHARDLISTS: ClassVar[bool] = False
    """Whether `wids.ShardListDataset` reads it, so that the index lists its files for it."""
    NEEDS: ClassVar[tuple[str, ...]] = ()
    """Modules that are imported when it is written or read, and may not be installed."""
    HASHED_WHILE_READ: ClassVar[bool] = False
    """Whether `check` reads the file once from start to end, and hashes it meanwhile. Otherwise a file is hashed first,
    and isn't read if it was changed, as damage may mislead or crash a library."""

    # --- writing and reading --------------------------------------------------------------------

    @abstractmethod
    def write(self, draft: Draft, columns: Columns, image_format: str) -> Writer:
        """Return the writer of a shard's file.

        Args:
            draft: The file to write, by its `file` or its `path`.
            columns: Columns of each sample.
            image_format: `jpg`, `webp` or `png`.
        """

    @abstractmethod
    def read(self, path: Path, rows: Collection[int] | None = None) -> Iterator[Stored]:
        """Yield the samples of a shard in order, or only those at the positions in `rows`."""

    def columns_of(
        self, path: Path, labels: Sequence[str] = ("foreground", "background"), texts: Sequence[str] = TEXTS
    ) -> Iterator[dict[str, Any]]:
        """Yield columns of each sample, in order, without images.

        Args:
            labels: Label columns; the values are whole numbers.
            texts: Text columns.
        """
        for stored in self.read(path):
            stored_texts = {"prompt": stored.prompt, "key": stored.key, "provenance": stored.provenance, **stored.texts}
            yield {**{name: stored.labels[name] for name in labels}, **{name: stored_texts[name] for name in texts}}

    def schema(self, path: Path) -> Columns | None:
        """Return the columns with the names of the classes; None if its files don't say.

        Raises:
            FiguregroundError: The file can't be read.
        """
        return None

    def tables(self, path: Path) -> Iterator[pa.Table]:
        """Yield a columnar shard as Arrow tables of a few samples."""
        raise NotImplementedError(f"{self.NAME} is not columnar")

    def check(self, reading: Reading) -> Iterator[Stored | None]:
        """Yield the samples of a file that may be damaged, None for one that can't be read; raise nothing.

        Faults go to `reading.problems`. Each sample's key, labels, texts and images are checked afterwards.
        """
        try:
            for stored in self.read(reading.path):
                if mismatched := _find_mismatched_columns(stored, reading.columns):
                    reading.problems.add(
                        reading.where, "its columns don't match the dataset", stored.key, join_names(mismatched)
                    )
                yield None if mismatched else stored
        except Exception as error:  # whatever a damaged file makes a library raise
            reading.problems.lines.append(f"{reading.where}: it can't be read to its end ({shorten_error(error)}).")

    # --- the card -------------------------------------------------------------------------------

    def names(self, columns: Columns, image_format: str) -> dict[str, str]:
        """Return the names that `load_dataset` gives to the columns that it reads, by the dataset's own name."""
        return {name: name for name in columns.names}

    def note(self) -> str:
        """Markdown for the card of a dataset that is loaded in this format; empty for none."""
        return ""

    def section(self, columns: Columns, image_format: str, split: str, files: Sequence[str]) -> str:
        """Markdown for the card of each dataset in this format, such as another way to load it; empty for none.

        Args:
            split: The first split that has samples.
            files: Its files in this format, as paths in the dataset.
        """
        return ""


def _find_mismatched_columns(stored: Stored, columns: Columns) -> list[str]:
    """Return the columns that a sample lacks, has in addition, or has of another type."""
    expected = {
        **dict.fromkeys((*TEXTS, *columns.texts), str),
        **dict.fromkeys(("foreground", "background", *columns.labels), int),
        **dict.fromkeys(("image", *columns.images), bytes),
    }
    common = {"key": stored.key, "prompt": stored.prompt, "provenance": stored.provenance, "image": stored.image}
    actual = {**common, **stored.labels, **stored.texts, **stored.images}
    return sorted(name for name in {*expected, *actual} if type(actual.get(name)) is not expected.get(name))


def load_formats() -> dict[str, Format]:
    """Return all formats by name, this package's first; those that can't be imported are left out."""
    return {name: kind() for name, kind in FORMATS.items()}


def sort_formats(names: Collection[str]) -> list[str]:
    """Return the names of known formats in the registry's order."""
    return [name for name in FORMATS.names() if name in names]


def find_loadable(names: Collection[str]) -> Format | None:
    """Return the format in which `load_dataset` reads a dataset that has several; None if it reads none of them."""
    return next((FORMATS[name]() for name in sort_formats(names) if FORMATS[name].LOADABLE), None)


def find_columnar(names: Collection[str]) -> Format | None:
    """Return the first columnar format of several; None if there is none."""
    return next((FORMATS[name]() for name in sort_formats(names) if FORMATS[name].COLUMNAR), None)


def list_folders() -> list[str]:
    """Return the directories that hold shards of any format."""
    return [kind.FOLDER for _, kind in FORMATS.items()]
