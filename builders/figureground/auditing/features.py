"""Features of images by a feature network, in batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from figureground.core.batches import batched
from figureground.core.errors import FiguregroundError, UsageError
from figureground.core.progress import Progress

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier

POCKET = "pocket"
POCKET_EDGE = 96
"""Longest edge of images for which the bundled network is the default."""


def choose_network(name: str | None, size: tuple[int, int]) -> str:
    """Return the name of the feature network: the given one, or the bundled one for small images.

    Raises:
        UsageError: None is given, and the images are too large for the bundled one.
    """
    if name is None and max(size) > POCKET_EDGE:
        raise UsageError(
            f"--features: name a feature network, such as microsoft/resnet-50. The bundled one is for images of up to "
            f"{POCKET_EDGE} px, and these have {size[0]} × {size[1]} px."
        )
    return POCKET if name is None else name


def read_features(
    network: Classifier,
    images: Iterable[tuple[str, Image.Image]],
    total: int,
    *,
    batch_size: int = 64,
    title: str = "features",
    show_progress: bool = True,
) -> np.ndarray:
    """Return features of images, float64 (n, d), in order.

    Args:
        network: Already on the device to use.
        images: Name, for errors, and RGB image.
        total: Number of images, for the progress bar.
        batch_size: Images per batch; halved if memory doesn't suffice.
        title: Title of the progress bar.

    Raises:
        FiguregroundError: Features aren't finite, or the network has none.
        OutOfMemory: A single image doesn't fit into memory.
        Stopped: A signal requested a stop.
    """
    network.require_features()
    from figureground.vision.reading import read_images

    parts: list[np.ndarray] = []
    with Progress.stoppable(total, unit="image", desc=title, show=show_progress) as bar:
        for batch in bar.track(batched(images, batch_size), len):
            reading = read_images(network, [image for _, image in batch], f"The feature network {network.name}")
            parts.append(reading.features.numpy().astype(np.float64))
            finite = np.isfinite(parts[-1]).all(axis=1)
            if not finite.all():
                raise FiguregroundError(
                    f"The feature network {network.name} returned non-finite features for "
                    f"{batch[int(np.argmin(finite))][0]}. Choose another with --features."
                )
    return np.concatenate(parts) if parts else np.empty((0, 0))
