"""Passes over a dataset's images: perceptual hashes and boxes of all, then numbers and features of a part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from figureground.auditing.appearance import NUMBERS, appearance
from figureground.auditing.features import read_features
from figureground.auditing.leaks import APPEARANCE, NETWORK, OBJECT, SURROUNDINGS, Region
from figureground.auditing.regions import (
    MOST_HOLE,
    Box,
    box_of,
    hole,
    inner,
    object_alone,
    outside,
    side_for,
    surroundings_alone,
)
from figureground.auditing.samples import Samples
from figureground.checking import similar
from figureground.core import signals
from figureground.core.progress import Progress

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier


@dataclass(frozen=True)
class Look:
    """Result of one pass over all images."""

    hashes: list[bytes] | None
    """Perceptual hash of each image; None if imagehash isn't installed."""
    boxes: list[Box | None]
    """Bounding box of each image's object; None without a mask, or with an empty one."""
    sizes: list[tuple[int, int]]
    """Width and height."""

    @property
    def largest(self) -> float:
        """Longest side of any object's box, relative to the shorter edge of its image."""
        pairs = zip(self.boxes, self.sizes, strict=True)
        return max((box.side / min(size) for box, size in pairs if box is not None), default=0.0)


def look(samples: Samples, show_progress: bool = True) -> Look:
    """Decode all images and masks once.

    Raises:
        FiguregroundError: An image or a mask is damaged; names the key.
        Stopped: A signal requested a stop.
    """
    hashes: list[bytes] | None = [] if similar.can_look() else None
    boxes: list[Box | None] = []
    sizes = []
    bar = Progress(len(samples.keys), unit="image", desc=f"reading {samples.name}", show=show_progress)
    with signals.at_checks(), bar:
        for _, image, mask in samples.decoded(np.arange(len(samples.keys))):
            signals.check()
            if hashes is not None:
                hashes.append(similar.look(image))
            boxes.append(None if mask is None else box_of(mask))
            sizes.append(image.size)
            bar.update()
    return Look(hashes, boxes, sizes)


@dataclass(frozen=True)
class Measured:
    """Numbers and features of some images."""

    rows: np.ndarray
    """int64 (n,)."""
    whole: np.ndarray
    """float64 (n, 6): appearance of the whole image."""
    regions: tuple[Region, ...]
    """The two regions; empty without masks."""
    without: dict[str, int]
    """By region, the number of images that were left out: too small a region, or too large an object."""


def measure(
    samples: Samples,
    rows: np.ndarray,
    looked: Look,
    network: Classifier | None,
    *,
    batch_size: int = 64,
    show_progress: bool = True,
) -> Measured:
    """Describe images and, with masks, their regions.

    Args:
        rows: Images to describe.
        network: Feature network for the regions, on the device to use; None for none.
    """
    whole: dict[int, np.ndarray] = {}
    numbers: dict[str, dict[int, np.ndarray]] = {SURROUNDINGS: {}, OBJECT: {}}
    order: list[tuple[str, int]] = []

    def regions() -> Iterator[tuple[str, Image.Image]]:
        for row, image, mask in samples.decoded(rows):
            whole[row] = appearance(image, np.ones((image.height, image.width), bool))
            box = looked.boxes[row]
            if mask is None or box is None:
                continue
            inside = inner(mask)
            if np.isfinite(said := appearance(image, inside)).all():
                numbers[OBJECT][row] = said
                order.append((OBJECT, row))
                yield samples.keys[row], object_alone(image, inside, box)
            if box.side <= MOST_HOLE * min(image.size):
                covered = hole(box, side_for(looked.largest, image.size), image.size)
                if np.isfinite(said := appearance(image, outside(covered, image.size))).all():
                    numbers[SURROUNDINGS][row] = said
                    order.append((SURROUNDINGS, row))
                    yield samples.keys[row], surroundings_alone(image, covered)

    if network is None or samples.why_no_masks:
        for _ in regions():
            signals.check()
        features = None
    else:
        features = read_features(
            network, regions(), 2 * len(rows), batch_size=batch_size, what=f"{network.name} on regions of images",
            show_progress=show_progress,
        )  # fmt: skip
    found = []
    for name, own, other, labels in (
        (SURROUNDINGS, samples.foreground, samples.background, samples.foregrounds),
        (OBJECT, samples.background, samples.foreground, samples.backgrounds),
    ):
        there = np.array(sorted(numbers[name]), np.int64)
        described = {APPEARANCE: np.array([numbers[name][row] for row in there]).reshape(-1, len(NUMBERS))}
        if features is not None:
            at = {row: i for i, (what, row) in enumerate(order) if what == name}
            described[NETWORK] = features[[at[row] for row in there]]
        found.append(
            Region(name, there, described, own[there], other[there], labels, samples.objects[there], samples.keys)
        )
    kept = np.array(sorted(whole), np.int64)
    has_masks = samples.why_no_masks is None
    return Measured(
        kept, np.array([whole[row] for row in kept]), tuple(found) if has_masks else (),
        {region.name: len(rows) - len(region.rows) for region in found} if has_masks else {},
    )  # fmt: skip
