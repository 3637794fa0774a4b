"""Features of images by a feature network, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from figureground.core import signals
from figureground.core.errors import FiguregroundError, OutOfMemory, UsageError
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
    batches: list[np.ndarray] = []
    batch: list[tuple[str, Image.Image]] = []
    bar = Progress(total, unit="image", desc=title, show=show_progress)

    def flush() -> None:
        if batch:
            batches.append(_read_in_halves(network, [image for _, image in batch]))
            finite = np.isfinite(batches[-1]).all(axis=1)
            if not finite.all():
                raise FiguregroundError(
                    f"The feature network {network.name} returned non-finite features for "
                    f"{batch[int(np.argmin(finite))][0]}. Choose another with --features."
                )
            bar.update(len(batch))
            batch.clear()

    with signals.delay_to_checks(), bar:
        for item in images:
            batch.append(item)
            if len(batch) == batch_size:
                flush()
        flush()
    return np.concatenate(batches) if batches else np.empty((0, 0))


def _read_in_halves(network: Classifier, images: Sequence[Image.Image]) -> np.ndarray:
    import torch

    signals.check()
    try:
        with torch.inference_mode():
            return _read(network, images)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise OutOfMemory(
                f"The feature network {network.name} and one image of {images[0].width} × {images[0].height} px don't "
                "fit into the device's memory. Give --device cpu."
            ) from None
    torch.cuda.empty_cache()  # outside the handler, which would keep the batch's memory alive
    half = len(images) // 2
    return np.concatenate([_read_in_halves(network, images[:half]), _read_in_halves(network, images[half:])])


def _read(network: Classifier, images: Sequence[Image.Image]) -> np.ndarray:
    import torch

    if len({image.size for image in images}) == 1:
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        device = next(network.parameters()).device
        features = network(pixels.to(device).permute(0, 3, 1, 2).float() / 255).features
    else:
        features = network.read(images).features
    return np.asarray(features.float().cpu().numpy().astype(np.float64))
