"""Read-only access to a finished dataset that another one is made from, verified against its markers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, listed
from figureground.core.files import MOST_JSON, FileError, parse_json, read_object, read_text
from figureground.core.hashing import digest
from figureground.recipe import document as recipes
from figureground.recipe.sample import Reject, Spec
from figureground.shards.card import CardContext
from figureground.shards.index import INDEX, markers
from figureground.shards.reader import Stored, from_row, parquet_rows, read_parquet, read_tar, saved_index, tar_members
from figureground.shards.remaining import why_empty
from figureground.shards.writer import REASON, RECIPE, Columns, Dropped, Shard
from figureground.sources.images import content_hash


class Source:
    """A finished dataset.

    Args:
        directory: The dataset directory.
        name: Published name of the dataset; default: the directory's name.

    Raises:
        FiguregroundError: The dataset is missing, unfinished or empty, or its index and markers disagree.
    """

    def __init__(self, directory: Path, name: str | None = None):
        if not directory.is_dir():
            raise FiguregroundError(f"{directory}: no such directory; give that of a finished dataset.")
        self.directory = directory
        self.name = name or directory.resolve().name
        self.index = saved_index(directory)
        if problem := why_empty(self.index):
            raise FiguregroundError(f"{directory}: {problem} No samples can be taken from it.")
        self.columns = Columns.from_json(self.index["columns"])
        self.names: dict[str, Sequence[str]] = {
            "foreground": self.columns.foregrounds, "background": self.columns.backgrounds, **self.columns.labels,
        }  # fmt: skip
        """Class names of each label column."""
        self.formats: tuple[str, ...] = tuple(self.index["formats"])
        self.image_format: str = self.index["image_format"]
        self.facts = CardContext(**self.index["card"]["facts"])
        self.recipe: dict[str, Any] = self._read_recipe()
        self.version: int = recipes.format_of(self.recipe, str(directory / RECIPE))
        """Version of the format in which its images were drawn."""
        self._markers = markers(directory)
        listed_there = [shard["shard"] for shard in self.index["shards"]]
        odd = sorted(set(listed_there) ^ set(self._markers))
        if odd:
            raise FiguregroundError(
                f"{directory}: {INDEX} and the markers of shards disagree about {listed(odd, 3)}. "
                f"figureground check {directory} says what is wrong."
            )
        self.shards: tuple[Shard, ...] = tuple(Shard.of_marker(self._markers[name]) for name in listed_there)

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

    def told(self) -> dict[str, Any]:
        """Returns the lineage's entry for this dataset."""
        return {"name": self.name, "sha256": self.recipe["sha256"], "samples": self.samples}

    def identity(self) -> dict[str, Any]:
        """Returns what a copy depends on: the recipe and the bytes of all shards."""
        files = {
            name: file["sha256"] for marker in self._markers.values() for name, file in marker["files"].items()
        }  # fmt: skip
        return {"recipe": self.recipe["sha256"], "samples": self.samples, "shards": digest(files)}

    def marker(self, shard: Shard) -> dict[str, Any]:
        return self._markers[shard.name]

    # --- reading --------------------------------------------------------------------------------

    def verify(self, shard: Shard) -> None:
        """Compares a shard's files with its marker.

        Raises:
            FiguregroundError: A file is missing or has other bytes.
        """
        for name, file in self.marker(shard)["files"].items():
            path = self.directory / name
            if not path.is_file():
                trouble = "is gone"
            elif path.stat().st_size != file["bytes"]:
                trouble = f"has {path.stat().st_size:,} bytes instead of the {file['bytes']:,} recorded by the build"
            elif content_hash(path) != file["sha256"]:
                trouble = "is damaged: its SHA-256 differs from the one recorded by the build"
            else:
                continue
            raise FiguregroundError(
                f"{path} {trouble}. Nothing is taken from this shard. "
                f"figureground check {self.directory} lists all that is wrong."
            )

    @contextmanager
    def _explained(self, shard: Shard) -> Iterator[None]:
        """Names the damaged file if a shard can't be read."""
        try:
            yield
        except FileError:
            raise
        except Exception:
            self.verify(shard)
            raise

    def stored(self, shard: Shard, rows: Sequence[int] | None = None) -> Iterator[Stored]:
        """Yields the samples of a shard in order, or only those in `rows`."""
        read, kind = (read_parquet, "parquet") if "parquet" in self.formats else (read_tar, "webdataset")
        with self._explained(shard):
            yield from read(self.directory / shard.path(kind), rows)

    def rows(self, shard: Shard) -> Iterator[dict[str, Any]]:
        """Yields each sample's columns except images, in order; labels as numbers."""
        with self._explained(shard):
            yield from self._parquet_rows(shard) if "parquet" in self.formats else self._tar_rows(shard)

    def _parquet_rows(self, shard: Shard) -> Iterator[dict[str, Any]]:
        names = ["foreground", "background", "prompt", "key", "provenance"]
        names += [*self.columns.labels, *self.columns.texts]
        yield from parquet_rows(self.directory / shard.path("parquet"), names)

    def _tar_rows(self, shard: Shard) -> Iterator[dict[str, Any]]:
        labels, texts = ("foreground", "background", *self.columns.labels), ("prompt", *self.columns.texts)
        members = [*(f"{name}.cls" for name in labels), *(f"{name}.txt" for name in texts), "json"]
        for key, found in tar_members(self.directory / shard.path("webdataset"), members):
            yield {
                "key": key,
                "provenance": found["json"].decode(),
                **{name: int(found[f"{name}.cls"]) for name in labels},
                **{name: found[f"{name}.txt"].decode() for name in texts},
            }

    def rejects(self, shard: Shard, images: bool = False) -> Iterator[Reject]:
        """Yields the rejects of a shard, in order; with `images`, including their published images."""
        path = shard.path("rejects")
        if path not in self.marker(shard)["files"]:
            return
        published = self._published(shard) if images else {}
        with self._explained(shard):
            lines = read_text(self.directory / path, root=self.directory, most=MOST_JSON).splitlines()
        for line in lines:
            with self._explained(shard):
                said = parse_json(line, path)
                reject = Reject(Spec.from_json(said["spec"]), said["reason"])
            yield published.get(reject.spec.key, reject)

    def _published(self, shard: Shard) -> dict[str, Dropped]:
        path, found = shard.path("published_rejects"), {}
        if path in self.marker(shard)["files"]:
            with self._explained(shard):
                for row in parquet_rows(self.directory / path, [*self.columns.of_rejects().features()]):
                    reason = row.pop(REASON)
                    if row["image"]:
                        encoded = from_row(row).encoded()
                        found[row["key"]] = Dropped(encoded.spec, reason, encoded)
        return found


def made_from_others(directory: Path) -> bool:
    """Whether a dataset was made by `curate` or `merge`, so no method can rebuild it."""
    try:
        return read_object(directory / RECIPE, root=directory)["builder"] in recipes.COPIES
    except (OSError, ValueError, KeyError, TypeError):
        return False


def refuse_overlap(out: Path, directories: Sequence[Path]) -> None:
    """Refuses an output directory that lies inside one of its source datasets, or contains one.

    Raises:
        FiguregroundError: The directories overlap; names both.
    """
    there = out.resolve()
    for directory in directories:
        source = directory.resolve()
        if there == source or source in there.parents or there in source.parents:
            raise FiguregroundError(f"--out {out} and {directory} overlap. Give a separate directory.")
