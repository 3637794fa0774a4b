"""Errors of a given classifier on training images, and what it reads in images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from figureground.core.batches import run_in_halves
from figureground.core.errors import FiguregroundError, join_names
from figureground.core.progress import Progress
from figureground.data.groups import GroupedImages
from figureground.learn.errors import Errors
from figureground.learn.inference import BATCH_SIZE, as_array, softmax
from figureground.learn.training_data import Album, default_workers
from figureground.vision.classifiers import Classifier, Reading
from figureground.vision.reading import join_readings, to_cpu


def find_classifier_errors(
    groups: GroupedImages,
    classifier: Classifier,
    classes: Sequence[str],
    *,
    show_progress: bool = True,
) -> Errors:
    """Predict all training images with a given classifier.

    Args:
        classifier: On the device to use.
        classes: The classifier's names for the classes of `groups`, in their order, such as `groups.classes`.

    Raises:
        FiguregroundError: The classifier's classes differ; an image can't be decoded, or logits aren't finite.
        OutOfMemory: A single image doesn't fit into memory.
        Stopped: A signal requested a stop.
    """
    if len(classes) != len(groups.classes):
        raise FiguregroundError(
            f"{groups.name} has {len(groups.classes):,} classes ({join_names(groups.classes, 5)}), but "
            f"{len(classes):,} names are given ({join_names(classes, 5)})."
        )
    order = match_classes(classifier, classes)
    train = groups.of_split(0)
    logits, _ = run_classifier(classifier, train, show_progress=show_progress)
    probability = softmax(logits.numpy())[:, order]
    fold = np.zeros(len(train), np.int64)
    return Errors(train.keys, train.y, probability.argmax(axis=1), probability, fold, ())


def match_classes(classifier: Classifier, classes: Sequence[str]) -> list[int]:
    """Return the position of each class in the logits, matching identical names first.

    Raises:
        FiguregroundError: The classifier's classes differ.
    """
    order = classifier.positions(classes)
    if order is None:
        raise FiguregroundError(
            f"The classifier {classifier.name} has {len(classifier.labels):,} classes "
            f"({join_names(classifier.labels, 5)}), but the data have {len(classes):,} ({join_names(classes, 5)}): "
            "determining "
            "errors requires the same class names. Rename its labels (id2label in its config.json), or train a "
            "classifier on the data."
        )
    return order


@torch.inference_mode()
def run_classifier(classifier: Classifier, images: GroupedImages, *, show_progress: bool = True) -> Reading:
    """Return a classifier's logits and features for images, in order, float32 on the CPU.

    A batch is halved if memory doesn't suffice.

    Raises:
        FiguregroundError: An image can't be decoded, or an output isn't finite.
        OutOfMemory: A single image doesn't fit into memory.
        Stopped: A signal requested a stop.
    """
    n, album = len(images), Album([images])
    batch_rows = [np.arange(i, min(i + BATCH_SIZE, n)) for i in range(0, n, BATCH_SIZE)]
    parts = [Reading(torch.empty(0, len(classifier.labels)), torch.empty(0, classifier.weight.shape[1]))]
    batches = album.batches(batch_rows, as_array, default_workers())
    title = f"{classifier.name} on {images.name}"
    with Progress.stoppable(n, unit="image", desc=title, show=show_progress) as bar:
        for batch in bar.track(batches, len):
            parts += _read_batch(classifier, batch)
    reading = join_readings(parts)
    non_finite = ~(reading.logits.isfinite().all(1) & reading.features.isfinite().all(1))
    if non_finite.any():
        raise FiguregroundError(
            f"The classifier {classifier.name} returned non-finite numbers for "
            f"{images.keys[int(non_finite.nonzero()[0])]}. Its weights are damaged."
        )
    return reading


def _read_batch(classifier: Classifier, batch: Sequence[np.ndarray]) -> list[Reading]:
    """Return the readings of images, uint8 (3, h, w) each: one for images of equal size, else one for each image."""
    device = next(classifier.parameters()).device

    def read(rows: slice) -> list[Reading]:
        images = batch[rows]
        same_size = len({pixels.shape for pixels in images}) == 1
        chunks = [images] if same_size else [[pixels] for pixels in images]
        return [to_cpu(classifier(torch.from_numpy(np.stack(chunk)).to(device).float() / 255)) for chunk in chunks]

    sizes = [(pixels.shape[2], pixels.shape[1]) for pixels in batch]
    return [reading for part in run_in_halves(read, sizes, f"The classifier {classifier.name}") for reading in part]
