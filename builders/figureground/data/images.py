"""Labelled images for classifiers: samples of a finished dataset, or photographs in one folder per class."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, RecipeError, join_names, printable, suggest_or_list
from figureground.core.files import parse_json
from figureground.core.names import RULE, describe_same_names, find_same_names
from figureground.data.content_hashes import find_copies
from figureground.data.label_matching import match_folders, match_labels
from figureground.data.objects import ObjectNames, hash_to_number, identify_scene
from figureground.shards.finished import FinishedDataset
from figureground.shards.index import INDEX
from figureground.shards.shard import RECIPE, Shard
from figureground.sources.images import (
    UnreadableImage,
    list_folders,
    list_images,
    list_non_files,
    open_stored,
    read_image,
)

MAX_EDGE = 1024
"""Edge, pixels, at which photographs are read if the format allows it: more than any classifier uses."""

SPURIOUS_FOR = "spurious_for"
"""Label column of datasets whose images show features that make a classifier predict a wrong class."""
FEATURE = "feature"
"""Text column that describes those features."""

Draw = Callable[[], Image.Image]
"""Decodes an image, RGB. Raises UnreadableImage."""

EDGE_SAMPLE = 25
"""Number of images that `find_typical_edge` looks at."""


class Images(Protocol):
    """Images in a fixed order, each with a label."""

    @property
    def name(self) -> str:
        """Name in tables and errors, not a path."""

    @property
    def keys(self) -> Sequence[str]:
        """Unique names of the images."""

    @property
    def label(self) -> np.ndarray:
        """int64 (n,): position in the list of labels that they were opened with; -1 for other labels."""

    @property
    def objects(self) -> np.ndarray:
        """int64 (n,): images with equal numbers show one object, so they aren't independent."""

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Draw]]:
        """Yield the images at the given rows, in order."""


def find_typical_edge(images: Images) -> int:
    """Return the median of the longer edges, pixels, of up to `EDGE_SAMPLE` images spread over all.

    Raises:
        FiguregroundError: One of them can't be decoded.
    """
    rows = np.unique(np.linspace(0, len(images.label) - 1, EDGE_SAMPLE).round().astype(np.int64))
    edges = sorted(max(draw().size) for _, draw in images.read(rows))
    return edges[len(edges) // 2]


@dataclass(frozen=True, eq=False, kw_only=True)
class DatasetImages:
    """The samples of a finished dataset, in the order of its shards. `open` reads one."""

    source: FinishedDataset
    column: str
    """The label column."""
    labels: tuple[str, ...]
    """Names that `label` refers to."""
    splits: tuple[str, ...]
    """Names of the selected splits."""
    keys: list[str]
    """Unique names of the samples."""
    label: np.ndarray
    """int64 (n,): position in `labels`; -1 for other labels."""
    split: np.ndarray
    """int64 (n,): position in `splits`."""
    foreground: np.ndarray
    """int64 (n,): the dataset's own label."""
    background: np.ndarray
    """int64 (n,): the dataset's own label."""
    objects: np.ndarray
    """int64 (n,): images with equal numbers show one object, so they aren't independent."""
    scenes: np.ndarray
    """int64 (n,): images with equal numbers were guided by one scene; -1 without a scene."""
    features: dict[str, str]
    """Value of the column `feature` by class."""
    unknown: list[str]
    """Classes of the dataset that aren't wanted."""
    _shards: Sequence[Shard]
    _starts: np.ndarray
    """int64 (shards + 1,): row of each shard's first sample, then the number of rows."""

    @classmethod
    def open(
        cls,
        directory: Path,
        labels: Sequence[str] | None = None,
        subset: Sequence[str] | None = None,
        *,
        column: str | None = None,
        splits: Sequence[str] = (),
    ) -> Self:
        """Read everything except the images.

        Args:
            directory: Output directory of `build`, `curate` or `merge`.
            labels: List of labels that positions refer to; default: the names of `column`.
            subset: Subset of `labels` to use; samples of others have the label -1. Default: all.
            column: The label column; default: `spurious_for` if it exists, else `foreground`.
            splits: Splits to read; default: all.

        Raises:
            FiguregroundError: The dataset is unfinished or damaged.
            RecipeError: A split doesn't exist.
        """
        source = FinishedDataset(directory)
        column = column or (SPURIOUS_FOR if SPURIOUS_FOR in source.columns.labels else "foreground")
        chosen_splits = _choose_splits(source, splits)
        shards = [shard for shard in source.shards if shard.split in chosen_splits]
        samples = _read_samples(source, shards, column)
        if not samples.keys:
            where = f" in {join_names(chosen_splits)}" if splits else ""
            raise FiguregroundError(f"{directory} has no sample{where}.")
        own_labels = list(source.names[column])
        label = _map_labels(own_labels, labels, subset)[samples.label]
        return cls(
            source=source,
            column=column,
            labels=tuple(own_labels if labels is None else labels),
            splits=chosen_splits,
            keys=samples.keys,
            label=label,
            split=np.array([chosen_splits.index(shard.split) for shard in shards], np.int64).repeat(samples.counts),
            foreground=samples.foreground,
            background=samples.background,
            objects=samples.objects,
            scenes=samples.scenes,
            features={own_labels[number]: samples.features[number] for number in sorted(samples.features)},
            unknown=sorted({own_labels[number] for number in np.unique(samples.label[label < 0])}),
            _shards=shards,
            _starts=np.cumsum([0, *samples.counts]),
        )

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.source.name

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Draw]]:
        """Yield the images at the given rows, in order."""
        positions = np.sort(np.asarray(rows, np.int64))
        for shard, start, stop in zip(self._shards, self._starts[:-1], self._starts[1:], strict=True):
            inside = positions[(positions >= start) & (positions < stop)]
            if len(inside):
                samples = self.source.stored(shard, (inside - start).tolist())
                for row, sample in zip(inside.tolist(), samples, strict=True):
                    yield row, functools.partial(_decode, sample.image, sample.key)


class _Samples(NamedTuple):
    """The columns of samples, without images."""

    keys: list[str]
    label: np.ndarray
    """int64 (n,): the dataset's own number of the value of the label column."""
    foreground: np.ndarray
    background: np.ndarray
    objects: np.ndarray
    scenes: np.ndarray
    features: dict[int, str]
    """Value of the column `feature` by label."""
    counts: list[int]
    """Number of samples of each shard."""


def _choose_splits(source: FinishedDataset, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the wanted splits in the dataset's order; all if none are named.

    Raises:
        RecipeError: A split doesn't exist.
    """
    available = list(dict.fromkeys(shard.split for shard in source.shards))
    for split in wanted:
        if split not in available:
            raise RecipeError("--split", f"{source.name} has no split {split!r}{suggest_or_list(split, available)}")
    return tuple(split for split in available if not wanted or split in wanted)


def _read_samples(source: FinishedDataset, shards: Sequence[Shard], column: str) -> _Samples:
    keys: list[str] = []
    labels: list[tuple[int, int, int]] = []
    objects: list[int] = []
    scenes: list[int] = []
    features: dict[int, str] = {}
    counts: list[int] = []
    names = ObjectNames(source.recipe)
    for shard in shards:
        before = len(keys)
        for row in source.rows(shard):
            keys.append(row["key"])
            labels.append((row[column], row["foreground"], row["background"]))
            provenance = _provenance(row, source.directory)
            scene = identify_scene(provenance)
            objects.append(hash_to_number(names.identify(row["key"], provenance)))
            scenes.append(-1 if scene is None else hash_to_number(scene))
            if FEATURE in row:
                features.setdefault(row[column], row[FEATURE])
        counts.append(len(keys) - before)
    label, foreground, background = np.array(labels, np.int64).reshape(-1, 3).T
    return _Samples(
        keys, label, foreground, background, np.array(objects, np.int64), np.array(scenes, np.int64), features, counts
    )


def _map_labels(own_labels: Sequence[str], labels: Sequence[str] | None, subset: Sequence[str] | None) -> np.ndarray:
    """Return the position in `labels` of each of the dataset's own labels, int64 (own labels,); -1 if not wanted."""
    if labels is None:
        labels, positions = own_labels, np.arange(len(own_labels))
    else:
        positions = match_labels(own_labels, labels)
    if subset is not None:
        positions[~np.isin(positions, [list(labels).index(name) for name in subset])] = -1
    return positions


def _provenance(row: Mapping[str, Any], directory: Path) -> Mapping[str, Any]:
    """Return a sample's provenance; its guide is a mapping or None."""
    try:
        provenance = parse_json(row["provenance"], "provenance")
        guide = provenance.get("guide")
    except (ValueError, TypeError, AttributeError) as error:
        raise FiguregroundError(
            f"{directory}: the provenance of {printable(str(row['key']))} isn't a JSON object ({error}). "
            f"figureground check {directory} lists all problems."
        ) from None
    return {**provenance, "guide": guide if isinstance(guide, Mapping) else None}


def _decode(data: bytes, key: str) -> Image.Image:
    try:
        return open_stored(data).convert("RGB")
    except Exception as error:  # Pillow's decoders can raise any exception for damaged data
        raise FiguregroundError(
            f"{key}: its image can't be decoded ({type(error).__name__}: {error}). figureground check gives details."
        ) from error


class FolderImages:
    """Photographs in one folder per class: `<directory>/<class>/*`.

    Folders are named by a label or one of its comma-separated synonyms (case, and `_` for a space, don't matter), by
    the WordNet id of an ImageNet class, or like those of Spurious ImageNet, `…_…_{class}_…_{component}`. With a single
    label, the images may be in `directory` itself. Files that aren't images are skipped.

    Args:
        directory: Directory of the class folders.
        labels: Names that positions refer to.
        subset: Subset of the labels to use, for errors and for images without a folder; default: all.

    Raises:
        FiguregroundError: The directory is missing, has no folder for a label, or those folders contain no image.
    """

    def __init__(self, directory: Path, labels: Sequence[str], subset: Sequence[str] | None = None):
        if not directory.is_dir():
            raise FiguregroundError(f"{directory}: no such directory.")
        self.name = directory.resolve().name
        self.labels = tuple(labels)
        subset = list(labels if subset is None else subset)
        folders = list_folders(directory)
        if same := find_same_names(folder.name for folder in folders):
            raise FiguregroundError(
                f"{directory}: folders {describe_same_names(same)}. {RULE}: keep one folder of each."
            )
        label_of_folder = match_folders([folder.name for folder in folders], self.labels, subset)
        selected = {folder: label_of_folder[folder.name] for folder in folders if folder.name in label_of_folder}
        self.unknown = [folder.name for folder in folders if folder not in selected]
        """Folders that belong to no label."""
        if not selected and len(subset) == 1 and list_images(directory):
            selected = {directory: self.labels.index(subset[0])}
        if not selected:
            existing = join_names([folder.name for folder in folders], 5) if folders else "none at all"
            raise FiguregroundError(
                f"{directory} has no folder named like a class of the dataset. Its folders: {existing}; the "
                f"classes: {join_names(subset, 5)}."
            )
        self._paths: list[Path] = []
        self.unreadable: dict[str, str] = {}
        """Unreadable files, as `folder/name`, with reasons; grows during reading."""
        label: list[int] = []
        for folder, position in selected.items():
            images = list_images(folder)
            self._paths += images
            label += [position] * len(images)
            self.unreadable |= {_display_name(path): reason for path, reason in list_non_files(folder)}
        if not self._paths:
            raise FiguregroundError(f"{directory}: the folders of {join_names(subset, 3)} contain no image.")
        self.keys: list[str] = [_display_name(path) for path in self._paths]
        self.label = np.array(label, np.int64)
        self._directory = directory.resolve()

    @functools.cached_property
    def objects(self) -> np.ndarray:
        """int64 (n,): equal only for files with the same bytes, since nothing else is known of photographs."""
        # A file that has vanished since gets a size of its own.
        sizes = [path.stat().st_size if path.is_file() else -1 - i for i, path in enumerate(self._paths)]
        first = find_copies(self._paths, np.array(sizes, np.int64)).tolist()
        return np.array([hash_to_number(f"{self._directory}/{self.keys[row]}") for row in first], np.int64)

    @property
    def paths(self) -> Sequence[Path]:
        """Files of the images."""
        return self._paths

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[int, Draw]]:
        for row in np.sort(np.asarray(rows, np.int64)).tolist():
            yield row, functools.partial(read_image, self._paths[row], max_edge=MAX_EDGE)

    def skip(self, row: int, error: UnreadableImage) -> None:
        """Record an image that couldn't be read."""
        self.unreadable[self.keys[row]] = error.reason


def _display_name(path: Path) -> str:
    return f"{printable(path.parent.name)}/{printable(path.name)}"


def open_images(
    directory: Path, labels: Sequence[str], subset: Sequence[str], column: str | None = "foreground"
) -> DatasetImages | FolderImages:
    """Open a finished dataset, or photographs in one folder per class.

    Args:
        labels: Names that positions refer to.
        subset: Subset of the labels to use.
        column: Label column of a dataset; None for the default of `DatasetImages.open`.

    Raises:
        FiguregroundError: See `DatasetImages.open` and `FolderImages`; or a dataset has none of the `subset` labels.
    """
    if not (directory / INDEX).exists():
        if (directory / RECIPE).exists():
            raise FiguregroundError(f"{directory} isn't finished: run the command that builds it again.")
        return FolderImages(directory, labels, subset)
    images = DatasetImages.open(directory, labels, subset, column=column)
    if not (images.label >= 0).any():
        raise FiguregroundError(
            f"{directory} has none of the dataset's classes. Its classes: {join_names(images.unknown, 5)}; the "
            f"dataset's classes: {join_names(subset, 5)}."
        )
    return images
