"""Which pixels a classifier's answer comes from: Integrated Gradients (Sundararajan et al. 2017, arXiv 1703.01365).

On the straight way from a baseline, an image that says nothing, to the image, the gradients of a class's logit are
integrated; times what has changed, they are attributions, which sum to the difference of the two logits.

The baseline is the image's own mean colour. It has the image's brightness, so that the way from it stays near to
what the classifier knows, and is blind to no colour beforehand: to black pixels a black one would attribute nothing,
whatever they show, be it a bird's shadow side or the night; and to large patches of colour a blurred image nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from figureground.core.errors import FiguregroundError
from figureground.vision.attention import check_targets
from figureground.vision.classifiers import Classifier
from figureground.vision.preprocessing import Preprocessing, to_pixels

STEPS = 32


class Shares(NamedTuple):
    """Of n images, how much lies inside masks."""

    attribution: np.ndarray
    """float64 (n,), 0 to 1: the share of absolute attribution inside the mask; 0 where nothing is attributed."""
    area: np.ndarray
    """float64 (n,), 0 to 1: the share of what the classifier sees that the mask covers, which is what attributions
    spread evenly would have inside."""

    @property
    def ratio(self) -> np.ndarray:
        """float64 (n,), 0 or more: attribution by area; 1 where it is spread evenly, 0 where the mask is empty."""
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
) -> Shares:
    """The share of what decides about a class that lies inside a mask, by Integrated Gradients.

    Image, baseline and mask are resized and cropped alike, and attributions are taken of what the network sees:
    absolute, in logits, and summed over channels.

    Args:
        images: RGB, of any sizes, n of them.
        masks: For each image (height, width) of its own size, bool, or 0 to 1 for how much of a pixel is inside.
        targets: For each the class's position in the logits.
        steps: Gradients that are taken on the way (Gauss-Legendre quadrature).
        batch_size: Images on the way that go through the network together.

    Raises:
        FiguregroundError: A target is none of a class, a setting is out of range, a mask isn't its image's or has
            values outside 0 to 1, an attribution isn't finite, or captum isn't installed.
    """
    check_targets(classifier, images, targets)
    _check_settings(steps, batch_size)
    _check_masks(images, masks)
    attribution, area = np.zeros(len(images)), np.zeros(len(images))
    geometry = mask_geometry(classifier.preprocessing)
    for start in range(0, len(images), batch_size):
        rows = range(start, min(start + batch_size, len(images)))
        pixels = [to_pixels(images[i]) for i in rows]
        seen = [classifier._prepare(each[None]) for each in pixels]
        begin = [classifier._prepare(_mean_color(each)[None]) for each in pixels]
        alike = len({each.shape for each in seen}) == 1
        for group in [rows] if alike else [range(i, i + 1) for i in rows]:
            part = slice(group.start - start, group.stop - start)
            signed = integrate(
                classifier,
                torch.cat(seen[part]),
                torch.cat(begin[part]),
                targets[group.start : group.stop],
                steps,
                batch_size,
                first=group.start,
            )
            for i, each in zip(group, signed.abs().sum(1).numpy(), strict=True):
                mask = (
                    geometry(torch.from_numpy(masks[i].astype(np.float32))[None, None])[0, 0]
                    .clamp(0, 1)
                    .double()
                    .numpy()
                )
                total = each.sum()
                attribution[i] = min(1.0, (each * mask).sum() / total) if total > 0 else 0.0
                area[i] = mask.mean()
    return Shares(attribution, area)


def mask_geometry(preprocessing: Preprocessing) -> Preprocessing:
    """What preprocessing does to the place of things, for masks (n, 1, h, w), 0 to 1: each pixel of the result holds
    the share of its area that is inside. What is padded is outside."""
    return dataclasses.replace(preprocessing, filter="box", mean=(0.0,), std=(1.0,), flip_channels=False)


def _mean_color(pixels: Tensor) -> Tensor:
    return pixels.mean((1, 2), keepdim=True).expand_as(pixels)


def integrate(
    classifier: Classifier, given: Tensor, begin: Tensor, targets: Sequence[int], steps: int, batch_size: int, *,
    first: int = 0,
) -> Tensor:  # fmt: skip
    """Attributions, with their signs, of what is given to the classifier's network.

    Args:
        given: (n, 3, h, w), preprocessed, at most `batch_size` of them.
        begin: The baselines, of the same shape.
        targets: n positions in the logits.
        first: The number of the first image, for errors.

    Returns:
        float64 (n, 3, h, w), on the CPU; for each image they sum to about the logit less the baseline's.

    Raises:
        FiguregroundError: An attribution isn't finite, or captum isn't installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise FiguregroundError(
            "attribution needs captum: pip install 'figureground[mitigate]' "
            f"({(str(error).splitlines() or ['not found'])[0]})."
        ) from error
    wanted = torch.tensor([int(target) for target in targets], device=given.device)
    with torch.enable_grad():
        signed = IntegratedGradients(lambda pixels: classifier._read(pixels).logits).attribute(
            given, begin, target=wanted, n_steps=steps, internal_batch_size=batch_size
        )
    signed = signed.detach().double().cpu()
    for i, each in enumerate(signed):
        if not torch.isfinite(each).all():
            raise FiguregroundError(
                f"attribution: classifier {classifier.name!r}, image {first + i}, class "
                f"{classifier.labels[targets[i]]!r}: attributions hold NaN or infinity. Look at the classifier's "
                "weights."
            )
    return signed


def _check_settings(steps: int, batch_size: int) -> None:
    if steps < 1:
        raise FiguregroundError(f"steps: {steps} is out of range; it is 1 or more, such as {STEPS}.")
    if batch_size < 1:
        raise FiguregroundError(f"batch_size: {batch_size} is out of range; it is 1 or more.")


def _check_masks(images: Sequence[Image.Image], masks: Sequence[np.ndarray]) -> None:
    if len(masks) != len(images):
        raise FiguregroundError(f"masks: there are {len(masks)} for {len(images)} images; give one for each.")
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if mask.shape != (image.height, image.width):
            raise FiguregroundError(
                f"masks: mask {i} has shape {mask.shape}, and its image {image.height}×{image.width} (height×width)."
            )
        if not (np.isfinite(mask).all() and (mask >= 0).all() and (mask <= 1).all()):
            raise FiguregroundError(f"masks: mask {i} has values outside 0 to 1; divide one of 0 to 255 by 255.")
