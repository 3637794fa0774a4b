"""Labelled images that classifiers are shown: those of a finished dataset, or photographs in a folder a class."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, RecipeError, listed, nearest_or_all, printable
from figureground.core.files import parse_json
from figureground.core.names import RULE, describe_same, loosely, same_names, slug, slugs
from figureground.data.objects import as_number, is_matched, object_of, scene_of
from figureground.recipe.classes import read_nouns
from figureground.shards.finished import Source
from figureground.shards.index import INDEX
from figureground.shards.writer import RECIPE
from figureground.sources.images import UnreadableImage, list_folders, list_images, list_odd, open_stored, read_image

MOST_PIXELS = 1024
"""Edge that photographs are read at where their format allows it: more than any classifier looks at."""

SPURIOUS_FOR = "spurious_for"
"""The label column of datasets whose images show what fools a classifier into seeing a class."""
FEATURE = "feature"
"""The text column beside it: what those features are."""

Draw = Callable[[], Image.Image]
"""Decodes an image, RGB. Raises UnreadableImage."""


class Images(Protocol):
    """Images in a fixed order, each with a label."""

    @property
    def name(self) -> str:
        """What tables and errors call them; no path."""

    @property
    def keys(self) -> Sequence[str]:
        """Names of the images, each once."""

    @property
    def label(self) -> np.ndarray:
        """int64 (n,): position in the list of labels that they were opened with, -1 where it isn't there."""

    @property
    def objects(self) -> np.ndarray:
        """int64 (n,): equal numbers show one object, so that those images aren't independent."""

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Draw]]:
        """Those at certain rows, in order."""


class DatasetImages:
    """The samples of a finished dataset, those of all its shards in order.

    Args:
        directory: What `build`, `curate` or `merge` wrote.
        labels: The list of labels that positions refer to; the names of `column` unless said otherwise.
        wanted: Which of `labels` matter; samples of others have the label -1. All unless said otherwise.
        column: The label column; `spurious_for` where there is one, else `foreground`.
        splits: Only these; all unless said otherwise.

    Raises:
        FiguregroundError: No finished dataset, or a damaged one.
        RecipeError: A split that it doesn't have.
    """

    def __init__(
        self,
        directory: Path,
        labels: Sequence[str] | None = None,
        wanted: Sequence[str] | None = None,
        *,
        column: str | None = None,
        splits: Sequence[str] = (),
    ):
        self.source = Source(directory)
        self.name = self.source.name
        names = self.source.columns.labels
        self.column = column or (SPURIOUS_FOR if SPURIOUS_FOR in names else "foreground")
        there = list(dict.fromkeys(shard.split for shard in self.source.shards))
        for split in splits:
            if split not in there:
                raise RecipeError("--split", f"{self.name} has no split {split!r}{nearest_or_all(split, there)}")
        self._shards = [shard for shard in self.source.shards if not splits or shard.split in splits]
        self.splits = tuple(split for split in there if not splits or split in splits)
        """Names of the splits that are read."""
        own = list(self.source.names[self.column])
        self.labels: tuple[str, ...] = tuple(labels) if labels is not None else tuple(own)
        keys, columns, starts = [], [], [0]
        objects, scenes = [], []
        matched, own_keys = is_matched(self.source.recipe), self.source.recipe["sha256"]
        features: dict[int, str] = {}
        for shard in self._shards:
            place = self.splits.index(shard.split)
            for row in self.source.rows(shard):
                keys.append(row["key"])
                columns.append((row[self.column], row["foreground"], row["background"], place))
                provenance = _provenance(row, directory)
                name, scene = object_of(row["key"], provenance, matched), scene_of(provenance)
                objects.append(as_number(name if provenance.get("guide") else f"{own_keys}/{name}"))
                scenes.append(-1 if scene is None else as_number(scene))
                if FEATURE in row:
                    features.setdefault(row[self.column], row[FEATURE])
            starts.append(len(keys))
        if not keys:
            raise FiguregroundError(f"{directory} has no sample{f' in {listed(self.splits)}' if splits else ''}.")
        self.keys: list[str] = keys
        self.objects = np.array(objects, np.int64)
        self.scenes = np.array(scenes, np.int64)
        """int64 (n,): equal numbers were guided by one scene; -1 where there was none."""
        self._starts = np.array(starts)
        given, self.foreground, self.background, self.split = np.array(columns, np.int64).T
        to_labels = np.arange(len(own)) if labels is None else match(own, self.labels)
        if wanted is not None:
            to_labels[~np.isin(to_labels, [self.labels.index(name) for name in wanted])] = -1
        self.label = to_labels[given]
        self.features = {own[label]: features[label] for label in sorted(features)}
        """What the column `feature` says of each class."""
        self.unknown = sorted({own[label] for label in np.unique(given[self.label < 0])})
        """Classes of its own that aren't wanted."""

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Draw]]:
        wanted = np.sort(np.asarray(rows, np.int64))
        for shard, start, stop in zip(self._shards, self._starts[:-1], self._starts[1:], strict=True):
            inside = wanted[(wanted >= start) & (wanted < stop)]
            if len(inside):
                found = self.source.stored(shard, (inside - start).tolist())
                for row, stored in zip(inside.tolist(), found, strict=True):
                    yield row, functools.partial(_decode, stored.image, stored.key)


def _provenance(row: Mapping[str, Any], directory: Path) -> Mapping[str, Any]:
    """How a sample was made; its guide is a mapping or None."""
    try:
        provenance = parse_json(row["provenance"], "provenance")
        guide = provenance.get("guide")
    except (ValueError, TypeError, AttributeError) as error:
        raise FiguregroundError(
            f"{directory}: the provenance of {printable(str(row['key']))} isn't a JSON object ({error}). "
            f"figureground check {directory} lists all that is wrong."
        ) from None
    return {**provenance, "guide": guide if isinstance(guide, Mapping) else None}


def _decode(data: bytes, key: str) -> Image.Image:
    try:
        return open_stored(data).convert("RGB")
    except Exception as error:  # Pillow's decoders let through whatever damage leads to
        raise FiguregroundError(
            f"{key}: its image can't be decoded ({type(error).__name__}: {error}). figureground check says more."
        ) from error


class FolderImages:
    """Photographs in one folder a class: `<directory>/<class>/*`.

    Folders are named as a label or one of its comma-separated synonyms (capitals and `_` for a space don't matter), by
    the WordNet id of an ImageNet class, or as those of Spurious ImageNet, `…_…_{class}_…_{component}`. A dataset that
    has one label alone may have its images in `directory` itself. Files that aren't images are passed over.

    Args:
        directory: Where they lie.
        labels: Names that positions refer to.
        wanted: Which of the labels matter, for errors and for images without a folder; all unless said otherwise.

    Raises:
        FiguregroundError: No such directory, or no folder of a label in it, or no image in those.
    """

    def __init__(self, directory: Path, labels: Sequence[str], wanted: Sequence[str] | None = None):
        if not directory.is_dir():
            raise FiguregroundError(f"{directory}: there is no such directory.")
        self.name = directory.resolve().name
        self.labels = tuple(labels)
        wanted = list(labels if wanted is None else wanted)
        folders = list_folders(directory)
        if same := same_names(folder.name for folder in folders):
            raise FiguregroundError(f"{directory}: folders {describe_same(same)}. {RULE}: keep one folder of each.")
        found = _match_folders([folder.name for folder in folders], self.labels, wanted)
        chosen = {folder: found[folder.name] for folder in folders if folder.name in found}
        self.unknown = [folder.name for folder in folders if folder not in chosen]
        """Folders that are those of no label."""
        if not chosen and len(wanted) == 1 and list_images(directory):
            chosen = {directory: self.labels.index(wanted[0])}
        if not chosen:
            there = listed([folder.name for folder in folders], 5) if folders else "none at all"
            raise FiguregroundError(
                f"{directory} has no folder that is named as a class of the dataset. Its folders: {there}; the "
                f"classes: {listed(wanted, 5)}."
            )
        self._paths: list[Path] = []
        self.unreadable: dict[str, str] = {}
        """Files that can't be read as images, as `folder/name`, and why; grows while they are read."""
        label: list[int] = []
        for folder, position in chosen.items():
            images = list_images(folder)
            self._paths += images
            label += [position] * len(images)
            self.unreadable |= {_shown(path): reason for path, reason in list_odd(folder)}
        if not self._paths:
            raise FiguregroundError(f"{directory}: there is no image in the folders of {listed(wanted, 3)}.")
        self.keys: list[str] = [_shown(path) for path in self._paths]
        self.label = np.array(label, np.int64)
        self.objects = np.array([as_number(f"{directory.resolve()}/{key}") for key in self.keys], np.int64)

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Draw]]:
        for row in np.sort(np.asarray(rows, np.int64)).tolist():
            yield row, functools.partial(read_image, self._paths[row], max_edge=MOST_PIXELS)

    def skip(self, row: int, error: UnreadableImage) -> None:
        """Takes note of an image that couldn't be read."""
        self.unreadable[self.keys[row]] = error.reason


def _shown(path: Path) -> str:
    return f"{printable(path.parent.name)}/{printable(path.name)}"


def open_images(
    directory: Path, labels: Sequence[str], wanted: Sequence[str], column: str | None = "foreground"
) -> DatasetImages | FolderImages:
    """Opens a finished dataset, or photographs in one folder a class.

    Args:
        labels: Names that positions refer to.
        wanted: Which of them matter.
        column: What the class is in a dataset; None as in `DatasetImages`.

    Raises:
        FiguregroundError: As `DatasetImages` and `FolderImages`; or a dataset that shows none of `wanted`.
    """
    if not (directory / INDEX).exists():
        if (directory / RECIPE).exists():
            raise FiguregroundError(f"{directory} isn't finished: give the command that builds it again.")
        return FolderImages(directory, labels, wanted)
    images = DatasetImages(directory, labels, wanted, column=column)
    if not (images.label >= 0).any():
        raise FiguregroundError(
            f"{directory} has none of the classes of the dataset. Its classes: {listed(images.unknown, 5)}; those "
            f"of the dataset: {listed(wanted, 5)}."
        )
    return images


# Names


def match(names: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """For each name the position of the label that goes by it, int (names,); -1 where there is none."""
    known = _positions(labels)
    return np.array([next((known[n] for n in synonyms(name) if n in known), -1) for name in names], np.int64)


def synonyms(label: str) -> list[str]:
    """What a label goes by, loosely: itself first, then each part between commas, as ImageNet's labels have them."""
    return list(dict.fromkeys(loosely(part) for part in [label, *label.split(",")] if part.strip()))


def _positions(labels: Sequence[str]) -> dict[str, int]:
    """Label by what it goes by; whole names first, and no synonym that two labels share."""
    known: dict[str, int] = {}
    shared = Counter(name for label in labels for name in synonyms(label))
    for position, label in enumerate(labels):
        known.setdefault(loosely(label), position)
    for position, label in enumerate(labels):
        for name in synonyms(label):
            if shared[name] == 1:
                known.setdefault(name, position)
    return known


def _match_folders(names: Sequence[str], labels: Sequence[str], wanted: Sequence[str]) -> Mapping[str, int]:
    """Folder name to label. A label has one folder or several; a folder is that of one label."""
    found = dict(zip(names, match(names, labels).tolist(), strict=True))
    lacking = [name for name, position in found.items() if position < 0]
    if lacking:
        known = _imagenet_folders(labels)
        by_slug = {each: labels.index(label) for label, each in slugs(labels).items()}
        for name in lacking:
            found[name] = next((k[n] for k, n in ((by_slug, slug(name)), (known, name), (known, _class_number(name)))
                                if n in k), -1)  # fmt: skip
    needed = {labels.index(name) for name in wanted}
    return {name: position for name, position in found.items() if position in needed}


def _imagenet_folders(labels: Sequence[str]) -> dict[str, int]:
    """Labels by the WordNet ids and by the numbers of ImageNet's classes."""
    nouns = read_nouns("classes", "imagenet", "classes", "imagenet")
    known: dict[str, int] = {}
    for number, position in enumerate(match([noun.name for noun in nouns], labels).tolist()):
        if position >= 0:
            known |= dict.fromkeys([str(number), *nouns[number].aliases], position)
    return known


def _class_number(folder: str) -> str:
    """The class in a folder's name of Spurious ImageNet: `…_…_{class}_…_{component}`; empty in others."""
    found = re.fullmatch(r"[^_]+_[^_]+_(\d+)_(.*_)?\d+", folder)
    return str(int(found[1])) if found else ""
