"""Passes over a dataset's images: perceptual hashes and boxes of all, then numbers and features of a part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from figureground.auditing.appearance import NUMBERS, measure_appearance
from figureground.auditing.features import read_features
from figureground.auditing.leaks import APPEARANCE, NETWORK, OBJECT, SURROUNDINGS, Region
from figureground.auditing.regions import (
    MAX_HOLE,
    Box,
    cover_object,
    cut_object,
    mask_outside,
    place_square,
    shrink_mask,
    square_side,
)
from figureground.auditing.samples import Samples
from figureground.checking import similar
from figureground.core import signals
from figureground.core.progress import Progress

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier


@dataclass(frozen=True)
class ImageScan:
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


def scan_images(samples: Samples, show_progress: bool = True) -> ImageScan:
    """Decode all images and masks once.

    Raises:
        FiguregroundError: An image or a mask is damaged; names the key.
        Stopped: A signal requested a stop.
    """
    hashes: list[bytes] | None = [] if similar.can_hash() else None
    boxes: list[Box | None] = []
    sizes = []
    count = len(samples.keys)
    with Progress.stoppable(count, unit="image", desc=f"reading {samples.name}", show=show_progress) as bar:
        for _, image, mask in bar.track(samples.decode(np.arange(count))):
            if hashes is not None:
                hashes.append(similar.hash_image(image))
            boxes.append(None if mask is None else Box.around(mask))
            sizes.append(image.size)
    return ImageScan(hashes, boxes, sizes)


@dataclass(frozen=True)
class Measurements:
    """Numbers and features of some images."""

    rows: np.ndarray
    """int64 (n,)."""
    whole_image: np.ndarray
    """float64 (n, 6): appearance of the whole image."""
    regions: tuple[Region, ...]
    """The two regions; empty without masks."""
    left_out: dict[str, int]
    """By region, the number of images that were left out: too small a region, or too large an object."""


def measure_images(
    samples: Samples,
    rows: np.ndarray,
    scan: ImageScan,
    network: Classifier | None,
    *,
    batch_size: int = 64,
    show_progress: bool = True,
) -> Measurements:
    """Describe images and, with masks, their regions.

    Args:
        rows: Images to describe.
        network: Feature network for the regions, on the device to use; None for none.
    """
    whole_image: dict[int, np.ndarray] = {}
    numbers: dict[str, dict[int, np.ndarray]] = {SURROUNDINGS: {}, OBJECT: {}}
    order: list[tuple[str, int]] = []

    def crop_regions() -> Iterator[tuple[str, Image.Image]]:
        for row, image, mask in samples.decode(rows):
            whole_image[row] = measure_appearance(image, np.ones((image.height, image.width), bool))
            box = scan.boxes[row]
            if mask is None or box is None:
                continue
            inside = shrink_mask(mask)
            if np.isfinite(values := measure_appearance(image, inside)).all():
                numbers[OBJECT][row] = values
                order.append((OBJECT, row))
                yield samples.keys[row], cut_object(image, inside, box)
            if box.side <= MAX_HOLE * min(image.size):
                square = place_square(box, square_side(scan.largest, image.size), image.size)
                if np.isfinite(values := measure_appearance(image, mask_outside(square, image.size))).all():
                    numbers[SURROUNDINGS][row] = values
                    order.append((SURROUNDINGS, row))
                    yield samples.keys[row], cover_object(image, square)

    if network is None or samples.why_no_masks:
        for _ in crop_regions():
            signals.check()
        features = None
    else:
        features = read_features(
            network, crop_regions(), 2 * len(rows), batch_size=batch_size, title=f"{network.name} on regions of images",
            show_progress=show_progress,
        )  # fmt: skip
    regions = []
    for name, own, other, labels in (
        (SURROUNDINGS, samples.foreground, samples.background, samples.foregrounds),
        (OBJECT, samples.background, samples.foreground, samples.backgrounds),
    ):
        usable = np.array(sorted(numbers[name]), np.int64)
        features_by_kind = {APPEARANCE: np.array([numbers[name][row] for row in usable]).reshape(-1, len(NUMBERS))}
        if features is not None:
            position = {row: i for i, (region_name, row) in enumerate(order) if region_name == name}
            features_by_kind[NETWORK] = features[[position[row] for row in usable]]
        regions.append(
            Region(
                name, usable, features_by_kind, own[usable], other[usable], labels, samples.objects[usable],
                samples.keys,
            )
        )  # fmt: skip
    measured_rows = np.array(sorted(whole_image), np.int64)
    has_masks = samples.why_no_masks is None
    return Measurements(
        measured_rows, np.array([whole_image[row] for row in measured_rows]), tuple(regions) if has_masks else (),
        {region.name: len(rows) - len(region.rows) for region in regions} if has_masks else {},
    )  # fmt: skip
