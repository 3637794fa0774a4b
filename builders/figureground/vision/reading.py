"""Reading batches of images with a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from figureground.core.batches import run_in_halves
from figureground.vision.classifiers import Classifier, Reading


@torch.inference_mode()
def read_images(classifier: Classifier, images: Sequence[Image.Image], model: str) -> Reading:
    """Return a classifier's logits and features for a batch of images, float32 on the CPU.

    The batch is halved if memory doesn't suffice.

    Args:
        classifier: Already on the device to use.
        images: RGB, of any sizes; at least one.
        model: What runs, as an error names it, such as `The classifier resnet-50`.

    Raises:
        OutOfMemory: A single image doesn't fit into memory.
        Stopped: A signal requested a stop.
    """
    parts = run_in_halves(lambda rows: _read_batch(classifier, images[rows]), [image.size for image in images], model)
    return join_readings(parts)


def join_readings(parts: Sequence[Reading]) -> Reading:
    """Return the readings of successive images as one."""
    logits, features = zip(*parts, strict=True)
    return Reading(torch.cat(logits), torch.cat(features))


def to_cpu(reading: Reading) -> Reading:
    """Return a reading as float32 on the CPU."""
    return Reading(reading.logits.float().cpu(), reading.features.float().cpu())


def _read_batch(classifier: Classifier, images: Sequence[Image.Image]) -> Reading:
    if len({image.size for image in images}) > 1:
        return to_cpu(classifier.read(images))
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    device = next(classifier.parameters()).device
    return to_cpu(classifier(pixels.to(device).permute(0, 3, 1, 2).float() / 255))
