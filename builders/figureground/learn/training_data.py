"""Images for training and evaluation: the splits of a dataset, with images of other datasets added to training."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural, suggest_or_list
from figureground.core.names import name_key
from figureground.core.numerics import usable_cores
from figureground.data.groups import GroupedImages
from figureground.data.images import Draw
from figureground.data.splits import SPLITS
from figureground.data.stores import FileStore, ShardStore
from figureground.data.summary import describe_empty_groups

UNKNOWN = -1
"""The attribute of an added image without one, or with one that the dataset doesn't have."""

CACHE_BYTES = 256 * 2**20
"""Total size of decoded images kept in memory; other images are decoded at each use."""
PREFETCH_BATCHES = 2
"""Number of batches decoded ahead."""
MAX_WORKERS = 8
"""Default maximum number of decoding threads."""


def default_workers() -> int:
    """Return the default number of decoding threads; it doesn't affect results."""
    return min(MAX_WORKERS, usable_cores())


@dataclass(eq=False)
class Album:
    """Random access to images, from several threads."""

    parts: Sequence[GroupedImages]
    """Datasets whose rows are concatenated."""
    _cache: dict[int, Image.Image] = field(default_factory=dict)
    _cached_bytes: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    @cached_property
    def _draws(self) -> list[Draw]:
        # Draws of files hold a path, draws of a dataset the encoded image: its shards are read once, in order.
        return [draw for part in self.parts for _, draw in part.read(np.arange(len(part)))]

    @cached_property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for part in self.parts for key in part.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def draw(self, row: int) -> Image.Image:
        """Return an image, RGB."""
        image = self._cache.get(row)
        if image is None:
            image = self._draws[row]()
            with self._lock:
                size = 3 * image.width * image.height
                if self._cached_bytes + size <= CACHE_BYTES and row not in self._cache:
                    self._cache[row] = image
                    self._cached_bytes += size
        return image

    def batches(
        self, batches: Sequence[np.ndarray], prepare: Callable[[Image.Image, int], np.ndarray], workers: int
    ) -> Iterator[list[np.ndarray]]:
        """Yield batches of prepared images, uint8 (3, h, w), decoded ahead by a few threads.

        Args:
            batches: Rows of each batch.
            prepare: Takes an image and its position among all requested images.
            workers: Number of threads; it doesn't affect results.

        Raises:
            FiguregroundError: An image can't be decoded.
        """
        position = 0
        with ThreadPoolExecutor(workers) as pool:
            queue: deque[list[Future[np.ndarray]]] = deque()
            try:
                for rows in batches:
                    jobs = [
                        pool.submit(self._prepare, row, prepare, position + i) for i, row in enumerate(rows.tolist())
                    ]
                    queue.append(jobs)
                    position += len(rows)
                    if len(queue) > PREFETCH_BATCHES:
                        yield [job.result() for job in queue.popleft()]
                while queue:
                    yield [job.result() for job in queue.popleft()]
            finally:
                for jobs in queue:
                    for job in jobs:
                        job.cancel()

    def _prepare(self, row: int, prepare: Callable[[Image.Image, int], np.ndarray], position: int) -> np.ndarray:
        return prepare(self.draw(row), position)


@dataclass(frozen=True, eq=False)
class Part:
    """A split, by row."""

    album: Album
    y: np.ndarray
    """int64 (n,): the class."""
    group: np.ndarray | None
    """int64 (n,): number of attributes · y + a; -1 if the attribute is unknown; None if the data have none."""
    objects: np.ndarray | None = None
    """int64 (n,): images with equal numbers show the same object; None if each image shows its own."""

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingData:
    """A dataset prepared for training."""

    name: str
    classes: tuple[str, ...]
    attributes: tuple[str, ...] | None
    group_names: tuple[str, ...]
    """Group names as in `GroupedImages`; the class names if the data have no attribute."""
    train: Part
    """Real images first, then added images."""
    added: np.ndarray
    """bool (n,): whether a training image was added."""
    validation: Part
    test: Part
    train_counts: np.ndarray
    """int64 (groups,): real training images of each group, or of each class."""
    content: dict[str, Any]
    """Identifies the images and labels, without paths."""
    notes: tuple[str, ...]


def gather(data: GroupedImages, add: Sequence[GroupedImages] = ()) -> TrainingData:
    """Combine a dataset with datasets that are added to its training split.

    Classes and attributes are matched by name, ignoring case and `_`. Only the training splits of added datasets are
    used. An attribute that the dataset doesn't have counts as unknown.

    Raises:
        FiguregroundError: A split is missing, training has only one class, or an added dataset has a class that the
            dataset doesn't have, has two classes with the same name, is the dataset itself, or has an image
            file with the bytes of one of its validation or test images.
    """
    train, validation, test = (data.of_split(split) for split in range(3))
    labels_present = np.unique(train.y)
    if len(labels_present) < 2:
        raise FiguregroundError(
            f"{data.name}: all its training images are of one class, {data.classes[labels_present[0]]!r}. Training "
            "requires at least two."
        )
    hashes = [hash_images(part) for part in (train, validation, test)]
    held_out = hashes[1] | hashes[2]
    notes = [*describe_empty_groups(data), *_note_copies(data, hashes)]
    parts, labels, attributes = [train], [train.y], [train.a]
    for added in add:
        if added.fingerprint == data.fingerprint:
            raise RecipeError("add", f"{added.name} is the dataset itself.")
        part = added.of_split(0)
        if num_leaked := len(held_out & hash_images(part)):
            raise RecipeError(
                "add",
                f"{plural(num_leaked, 'training image')} of {added.name} are also validation or test images of "
                f"{data.name}, so its accuracy would be measured on images seen in training. Remove them.",
            )
        if len(part) < len(added):
            notes.append(
                f"Of {added.name}, {plural(len(part), 'training image')} are added; "
                f"{plural(len(added) - len(part), 'image')} of other splits are left out."
            )
        notes += _note_shared_sources(part, validation, test)
        parts.append(part)
        labels.append(_match_classes(part, data))
        attributes.append(_match_attributes(part, data))
    y = np.concatenate(labels)
    real = np.arange(len(y)) < len(train)
    group = None
    if data.attributes is not None:
        a = np.concatenate([
            np.full(len(part), UNKNOWN) if a is None else a for part, a in zip(parts, attributes, strict=True)
        ])  # fmt: skip
        group = np.where(a == UNKNOWN, UNKNOWN, len(data.attributes) * y + a)
    return TrainingData(
        name=data.name, classes=data.classes, attributes=data.attributes, group_names=data.group_names,
        train=Part(Album(parts), y, group), added=~real, validation=_make_part(validation), test=_make_part(test),
        train_counts=data.counts(0).ravel(),
        content={"data": data.fingerprint, "add": [added.fingerprint for added in add]}, notes=tuple(notes),
    )  # fmt: skip


def _note_copies(data: GroupedImages, hashes: Sequence[set[str]]) -> Iterator[str]:
    """Yield a note on validation or test images with the bytes of a training image.

    Args:
        hashes: By split, the output of `hash_images`.
    """
    for number in (1, 2):
        if num_copies := len(hashes[0] & hashes[number]):
            yield (
                f"{plural(num_copies, 'training image')} of {data.name} {'is' if num_copies == 1 else 'are'} also in "
                f"{SPLITS[number]} under other names, so accuracy there is partly measured on images seen in "
                "training. Remove them from one of the two."
            )


def _note_shared_sources(added: GroupedImages, *held_out: GroupedImages) -> Iterator[str]:
    """Yield a note if added training images show a cut-out or scene of validation or test images.

    Only datasets of this package record these; `merge` refuses such datasets.

    Args:
        held_out: Validation and test images of the dataset.
    """
    shared = _find_sources(added) & set().union(*map(_find_sources, held_out))
    if count := len(shared):
        yield (
            f"Training images of {added.name} show {plural(count, 'source')} (cut-outs or scenes) of validation or "
            f"test images of {held_out[0].name}, so accuracy there is partly measured on objects or scenes seen in "
            "training. Build both datasets with separate directories for each split."
        )


def _find_sources(part: GroupedImages) -> set[int]:
    """Return the numbers of the cut-outs and scenes that images show; none for images in files."""
    if not isinstance(part.store, ShardStore):
        return set()
    images = part.store.images
    return set(images.objects[part.rows].tolist()) | set(images.scenes[part.rows].tolist()) - {-1}


def hash_images(part: GroupedImages) -> set[str]:
    """Return the SHA-256 of each image file; none for images in shards."""
    return set(part.store.content(part.rows)["images"]) - {""} if isinstance(part.store, FileStore) else set()


def _make_part(part: GroupedImages) -> Part:
    return Part(Album([part]), part.y, None if part.attributes is None else part.group, part.objects)


def _match_classes(part: GroupedImages, data: GroupedImages) -> np.ndarray:
    """Return the dataset's label of each added image, int64 (n,)."""
    labels = {name_key(name): label for label, name in enumerate(data.classes)}
    label_map = np.full(len(part.classes), UNKNOWN)
    names_by_label: dict[int, str] = {}
    for label in np.unique(part.y).tolist():
        name = part.classes[label]
        if name_key(name) not in labels:
            raise RecipeError(
                "add",
                f"{part.name} has images of {name!r}, which is not a class of {data.name}"
                f"{suggest_or_list(name, data.classes)} Use the class names of {data.name}.",
            )
        label_map[label] = labels[name_key(name)]
        if label_map[label] in names_by_label:
            raise RecipeError(
                "add",
                f"{part.name} has two classes with the same name, {names_by_label[label_map[label]]!r} and {name!r}.",
            )
        names_by_label[int(label_map[label])] = name
    return label_map[part.y]


def _match_attributes(part: GroupedImages, data: GroupedImages) -> np.ndarray | None:
    if part.attributes is None or part.a is None or data.attributes is None:
        return None
    indices = {name_key(name): a for a, name in enumerate(data.attributes)}
    return np.array([indices.get(name_key(name), UNKNOWN) for name in part.attributes], np.int64)[part.a]


def refuse_unknown_groups(training_data: TrainingData, method: str) -> None:
    """Raise FiguregroundError if added images have no group, for a method that uses groups."""
    group = training_data.train.group
    if group is None or not (group == UNKNOWN).any():
        return
    unknown = np.flatnonzero(group == UNKNOWN)
    names = join_names((training_data.train.album.keys[row] for row in unknown), 2)
    raise FiguregroundError(
        f"{method} uses groups, and {plural(len(unknown), 'added image')} have none, such as {names}: their attribute "
        f"is none of {join_names(training_data.attributes or ())}. Add images with an attribute, or choose erm or jtt."
    )
