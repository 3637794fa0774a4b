"""Pixel attributions by Integrated Gradients (Sundararajan et al. 2017, arXiv 1703.01365).

The gradients of a class's logit are integrated along the straight path from an uninformative baseline to the image.
Multiplied by the change in pixels, they are attributions, which sum to the difference of the two logits.

The baseline is the image's own mean colour. It has the image's brightness, so the path stays near the classifier's
training distribution, and it rules out no colour in advance. A black baseline would attribute nothing to black pixels,
whether they show a bird's shadow side or the night; a blurred image nothing to large patches of colour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from figureground.core.errors import FiguregroundError
from figureground.core.extras import explain_missing
from figureground.vision.attention import check_targets
from figureground.vision.classifiers import Classifier
from figureground.vision.preprocessing import Preprocessing, to_pixels

STEPS = 32


class Shares(NamedTuple):
    """Shares of attribution and area inside the masks of n images."""

    attribution: np.ndarray
    """float64 (n,), 0 to 1: share of absolute attribution inside the mask; 0 where all attributions are 0."""
    area: np.ndarray
    """float64 (n,), 0 to 1: share of the classifier's input that the mask covers. Evenly spread attributions would
    have this share inside."""

    @property
    def ratio(self) -> np.ndarray:
        """float64 (n,), 0 or more: attribution divided by area; 1 if evenly spread, 0 if the mask is empty."""
        return np.divide(self.attribution, self.area, out=np.zeros_like(self.area), where=self.area > 0)


@torch.inference_mode(False)
def share_inside(
    classifier: Classifier,
    images: Sequence[Image.Image],
    masks: Sequence[np.ndarray],
    targets: Sequence[int],
    *,
    steps: int = STEPS,
    batch_size: int = 32,
    on_map: Callable[[int, np.ndarray], None] | None = None,
) -> Shares:
    """Compute the share of a class's attribution that lies inside a mask, by Integrated Gradients.

    Image, baseline and mask are resized and cropped alike. Attributions are computed on the network's input, in
    logits; their absolute values are summed over channels.

    Args:
        images: n RGB images of any sizes.
        masks: One per image, (height, width) of its own size: bool, or 0 to 1 for the share of a pixel inside.
        targets: Position of each image's class in the logits.
        steps: Number of gradients along the path (Gauss-Legendre quadrature).
        batch_size: Images along the path per forward pass.
        on_map: Called with each image's number and its attributions, float64 (h, w) of the network's input, 0 or more.

    Raises:
        FiguregroundError: A target is not a class, a setting is out of range, a mask doesn't match its image's size or
            has values outside 0 to 1, an attribution isn't finite, or captum isn't installed.
    """
    classifier.require_gradients()
    check_targets(classifier, images, targets)
    _check_settings(steps, batch_size)
    _check_masks(images, masks)
    attribution, area = np.zeros(len(images)), np.zeros(len(images))
    geometry = mask_geometry(classifier.preprocessing)
    for start in range(0, len(images), batch_size):
        rows = range(start, min(start + batch_size, len(images)))
        pixels = [to_pixels(images[i]) for i in rows]
        inputs = [classifier.prepare(image[None]) for image in pixels]
        baselines = [classifier.prepare(_mean_color(image)[None]) for image in pixels]
        same_shape = len({tensor.shape for tensor in inputs}) == 1
        for group in [rows] if same_shape else [range(i, i + 1) for i in rows]:
            part = slice(group.start - start, group.stop - start)
            signed = integrate(
                classifier,
                torch.cat(inputs[part]),
                torch.cat(baselines[part]),
                targets[group.start : group.stop],
                steps,
                batch_size,
                first=group.start,
            )
            for i, attributions in zip(group, signed.abs().sum(1).numpy(), strict=True):
                mask = (
                    geometry(torch.from_numpy(masks[i].astype(np.float32))[None, None])[0, 0]
                    .clamp(0, 1)
                    .double()
                    .numpy()
                )
                total = attributions.sum()
                attribution[i] = min(1.0, (attributions * mask).sum() / total) if total > 0 else 0.0
                area[i] = mask.mean()
                if on_map is not None:
                    on_map(i, attributions)
    return Shares(attribution, area)


def map_to_square(values: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Return a map of a network's input as a map of the square image that it was prepared from.

    Args:
        values: (h, w) of the input, from a square image.
        preprocessing: How the input was made. What it cropped away is 0 in the result.
    """
    if preprocessing.crop is None or preprocessing.size is None:
        return values
    size = preprocessing.size
    edges = (size, size) if isinstance(size, int) else size
    for axis, (edge, crop_edge) in enumerate(zip(edges, preprocessing.crop, strict=True)):
        n = values.shape[axis]
        margin = round(n * (edge / crop_edge - 1) / 2)
        if margin < 0:  # the crop is larger than the image, so the input has a border
            values = np.take(values, range(-margin, n + margin), axis)
        else:
            values = np.pad(values, [(margin, margin) if i == axis else (0, 0) for i in (0, 1)])
    return values


def mask_geometry(preprocessing: Preprocessing) -> Preprocessing:
    """Return the geometric part of preprocessing, for masks (n, 1, h, w), 0 to 1. Each pixel of the result holds the
    share of its area that is inside. Padding is outside."""
    return dataclasses.replace(preprocessing, filter="box", mean=(0.0,), std=(1.0,), flip_channels=False)


def _mean_color(pixels: Tensor) -> Tensor:
    return pixels.mean((1, 2), keepdim=True).expand_as(pixels)


def integrate(
    classifier: Classifier, inputs: Tensor, baselines: Tensor, targets: Sequence[int], steps: int, batch_size: int, *,
    first: int = 0,
) -> Tensor:  # fmt: skip
    """Compute signed attributions of the network's input.

    Args:
        inputs: (n, 3, h, w), preprocessed, at most `batch_size` of them.
        baselines: The baselines, of the same shape.
        targets: n positions in the logits.
        first: Number of the first image, for errors.

    Returns:
        float64 (n, 3, h, w), on the CPU; for each image they sum to about its logit minus the baseline's.

    Raises:
        FiguregroundError: An attribution isn't finite, or captum isn't installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise explain_missing("captum", "attribution", error) from error
    target_tensor = torch.tensor([int(target) for target in targets], device=inputs.device)
    with torch.enable_grad():
        signed = IntegratedGradients(lambda pixels: classifier.read_prepared(pixels).logits).attribute(
            inputs, baselines, target=target_tensor, n_steps=steps, internal_batch_size=batch_size
        )
    signed = signed.detach().cpu().double()
    for i, attributions in enumerate(signed):
        if not torch.isfinite(attributions).all():
            raise FiguregroundError(
                f"attribution: classifier {classifier.name!r}, image {first + i}, class "
                f"{classifier.labels[targets[i]]!r}: attributions hold NaN or infinity. Check the classifier's "
                "weights."
            )
    return signed


def _check_settings(steps: int, batch_size: int) -> None:
    if steps < 1:
        raise FiguregroundError(f"steps: {steps} is out of range; give 1 or more, such as {STEPS}.")
    if batch_size < 1:
        raise FiguregroundError(f"batch_size: {batch_size} is out of range; give 1 or more.")


def _check_masks(images: Sequence[Image.Image], masks: Sequence[np.ndarray]) -> None:
    if len(masks) != len(images):
        raise FiguregroundError(f"masks: {len(masks)} for {len(images)} images; give one per image.")
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if mask.shape != (image.height, image.width):
            raise FiguregroundError(
                f"masks: mask {i} has shape {mask.shape}, but its image is {image.height}×{image.width} (height×width)."
            )
        if not (np.isfinite(mask).all() and (mask >= 0).all() and (mask <= 1).all()):
            raise FiguregroundError(f"masks: mask {i} has values outside 0 to 1; divide a mask of 0 to 255 by 255.")
