"""Reading images with a trained network: logits, predictions, and the accuracies that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from figureground.core import signals
from figureground.core.errors import FiguregroundError
from figureground.learn.accuracy import accuracy_by_group, worst_group_accuracy
from figureground.learn.backbones import Backbone
from figureground.learn.training_data import Part

BATCH_SIZE = 64
"""Batch size for evaluation."""


def as_array(image: Image.Image, position: int) -> np.ndarray:
    """Return an image as uint8 (3, h, w). The position isn't used: `Album.batches` passes it to each such function."""
    return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def prepare_images(backbone: Backbone, images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Return the network's input for images that may differ in size."""
    if len({image.shape for image in images}) == 1:
        return backbone.prepare(torch.from_numpy(np.stack(images)), device)
    return torch.cat([backbone.prepare(torch.from_numpy(image)[None], device) for image in images])


Forward = Callable[[Tensor], Tensor]
"""Maps the network's input, (n, 3, h, w), to (n, d)."""


@torch.inference_mode()
def run_network(
    backbone: Backbone, part: Part, device: torch.device, workers: int, forward: Forward | None = None
) -> np.ndarray:
    """Run a network on images without augmentation, in evaluation mode; the network stays in that mode.

    Args:
        forward: Function to evaluate; by default the logits.

    Returns:
        float32 (n, classes), or the output of `forward`.

    Raises:
        FiguregroundError: An output isn't finite, or an image can't be decoded.
    """
    backbone.network.to(device).eval()
    batch_rows = [np.arange(i, min(i + BATCH_SIZE, len(part))) for i in range(0, len(part), BATCH_SIZE)]
    batches = []
    for images in part.album.batches(batch_rows, as_array, workers):
        signals.check()
        pixels = prepare_images(backbone, images, device)
        batches.append((forward or backbone.logits)(pixels).float().cpu().numpy())
    outputs = np.concatenate(batches)
    if not np.isfinite(outputs).all():
        raise FiguregroundError("The network's outputs are no longer finite. Lower --learning-rate.")
    return outputs


def predict(backbone: Backbone, part: Part, device: torch.device, workers: int) -> np.ndarray:
    """Return the most likely class of each image, int64 (n,)."""
    return run_network(backbone, part, device, workers).argmax(axis=1)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Compute the softmax in float64, so that probabilities near 1 stay distinct."""
    return torch.from_numpy(logits).double().softmax(1).numpy()


def mean_cross_entropy(logits: np.ndarray, y: np.ndarray) -> float:
    """Return the mean cross-entropy, in nats.

    Args:
        logits: float32 (n, classes).
        y: int64 (n,), the true classes.
    """
    return float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(y)))


def score_predictions(predicted: np.ndarray, part: Part, groups: int) -> tuple[float, float]:
    """Return the average accuracy, and that of the worst group (or class, if there are no groups)."""
    correct = predicted == part.y
    labels = part.y if part.group is None else part.group
    return float(correct.mean()), worst_group_accuracy(accuracy_by_group(correct, labels, groups))
