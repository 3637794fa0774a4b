"""Batched predictions of a classifier for labelled images."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from figureground.core.batches import batched
from figureground.core.errors import FiguregroundError, plural
from figureground.core.prefetch import compute_ahead
from figureground.core.progress import Progress
from figureground.core.softmax import softmax
from figureground.data.images import Draw, FolderImages, Images
from figureground.evaluation.counterparts import Counterparts
from figureground.sources.images import UnreadableImage
from figureground.vision.classifiers import Classifier
from figureground.vision.reading import read_images

BATCH_SIZE = 64
"""Default images per batch; halved if memory doesn't suffice."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of a classifier for each image, in image order."""

    label: np.ndarray
    """int64 (n,): the images' labels; -1 for an unknown label."""
    judged: np.ndarray
    """bool (n,): whether the label has a counterpart and the image could be read."""
    predicted: np.ndarray
    """int64 (n,): the most likely class; -1 if not judged."""
    p: np.ndarray
    """float64 (n,): probability of the image's label, 0 to 1, summed over its corresponding classes; NaN if not
    judged."""
    correct: np.ndarray
    """bool (n,): whether the most likely class corresponds to the label."""
    objects: np.ndarray | None = None
    """int64 (n,): object ids; images with equal ids show one object. None if each image shows its own."""

    def objects_in(self, rows: np.ndarray) -> np.ndarray:
        """Return the objects of the selected images, int64 (m,); `rows` is bool (n,), or positions."""
        return (np.arange(len(self.label)) if self.objects is None else self.objects)[rows]

    def mask_of(self, k: int) -> np.ndarray:
        """Return the mask of a label's judged images, bool (n,)."""
        return self.judged & (self.label == k)


def predict(
    classifier: Classifier,
    images: Images,
    counterparts: Counterparts,
    *,
    batch_size: int = BATCH_SIZE,
    show_progress: bool = True,
) -> Predictions:
    """Run a classifier on all images whose label has a counterpart.

    Unreadable photographs are recorded in `images.unreadable` and left out.

    Args:
        classifier: Already on the device to use.
        images: Their labels are positions in `counterparts.labels`.

    Raises:
        FiguregroundError: An image of a dataset is damaged, no photograph can be read, or logits aren't finite.
        OutOfMemory: A single image doesn't fit into memory.
        Stopped: A signal requested a stop.
    """
    count = len(images.keys)
    defaults: dict[str, Any] = {"judged": False, "predicted": -1, "p": np.nan, "correct": False}
    arrays = {name: np.full(count, value) for name, value in defaults.items()}
    predictions = Predictions(images.label, **arrays, objects=images.objects)
    members = counterparts.membership()
    has_class = members.sum(axis=1) > 0
    rows = np.flatnonzero((images.label >= 0) & has_class[images.label])
    title = f"{classifier.name} on {images.name}"
    with Progress.stoppable(len(rows), unit="image", desc=title, show=show_progress) as bar:
        readable = _keep_readable(_decode_ahead(images.read(rows)), images)
        for batch in bar.track(batched(readable, batch_size), len):
            batch_rows = np.array([row for row, _ in batch])
            reading = read_images(classifier, [image for _, image in batch], f"The classifier {classifier.name}")
            logits = reading.logits.numpy().astype(np.float64)
            nonfinite = ~np.isfinite(logits).all(axis=1)
            if nonfinite.any():
                key = images.keys[batch_rows[nonfinite][0]]
                raise FiguregroundError(
                    f"The classifier {classifier.name} returned non-finite logits for {key}. Its weights are damaged."
                )
            p, is_own_class = softmax(logits), members[images.label[batch_rows]]
            predictions.predicted[batch_rows] = p.argmax(axis=1)
            predictions.p[batch_rows] = (p * is_own_class).sum(axis=1)
            predictions.correct[batch_rows] = is_own_class[
                np.arange(len(batch_rows)), predictions.predicted[batch_rows]
            ]
            predictions.judged[batch_rows] = True
    if len(rows) and not predictions.judged.any():
        first = next(iter(images.unreadable.items())) if isinstance(images, FolderImages) else ("", "")
        raise FiguregroundError(
            f"{images.name}: none of its {plural(len(rows), 'image')} can be read; the first is {': '.join(first)}."
        )
    return predictions


def _keep_readable(
    decoded: Iterable[tuple[int, Image.Image | UnreadableImage]], images: Images
) -> Iterator[tuple[int, Image.Image]]:
    """Yield the readable images; an unreadable one is recorded for a folder, and raised for a dataset."""
    for row, image in decoded:
        if not isinstance(image, UnreadableImage):
            yield row, image
        elif isinstance(images, FolderImages):
            images.skip(row, image)
        else:
            raise image


def _decode_ahead(draws: Iterable[tuple[int, Draw]]) -> Iterator[tuple[int, Image.Image | UnreadableImage]]:
    """Yield RGB images in order, decoded ahead by a few threads."""
    return compute_ahead((row, functools.partial(_draw_or_error, draw)) for row, draw in draws)


def _draw_or_error(draw: Draw) -> Image.Image | UnreadableImage:
    try:
        return draw()
    except UnreadableImage as error:
        return error
