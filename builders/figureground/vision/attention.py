"""Grad-CAM++ attention maps of a classifier (Chattopadhay et al. 2018, arXiv 1710.11063), and masks made from them.

The paper uses the class score Y = exp(S) for a logit S, so second and third derivatives with respect to the features A
are powers of the first, g = ∂S/∂A. Then α = g² / (2g² + ΣA·g³) at every position and channel, a channel's weight is
w = Σ α · ReLU(∂Y/∂A), and the map is ReLU(Σ w·A). The factor exp(S) is constant within an image and cancels when maps
are scaled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from figureground.core.errors import FiguregroundError, join_names
from figureground.core.seeding import make_generator
from figureground.vision.classifiers import Classifier
from figureground.vision.preprocessing import Preprocessing, to_pixels

SHARES = tuple(round(0.05 * i, 2) for i in range(1, 13))
"""Area shares that `mask_by_knee` tries."""
MAX_PREFIX = 8
"""Maximum number of tokens before the patch tokens, such as the class token and registers."""
MIN_EDGE = 6
"""Minimum number of cells along a map's edge, where there is a choice; ImageNet networks have 7 or more."""
_ATTENTION_MODULE = re.compile("attn|attention", re.IGNORECASE)


class Layer(NamedTuple):
    """A module whose output has spatial positions."""

    name: str
    """Dotted name in the network."""
    layout: str
    """`channels first`, (n, c, h, w); `channels last`, (n, h, w, c); or `tokens`, (n, t + h·w, c)."""
    grid: tuple[int, int]
    """h and w."""

    def positions(self, output: Tensor) -> Tensor:
        """Return the module's output as (n, c, h, w), without tokens that represent no patch."""
        if self.layout == "channels first":
            return output
        if self.layout == "channels last":
            return output.permute(0, 3, 1, 2)
        height, width = self.grid
        return output[:, -height * width :].transpose(1, 2).unflatten(2, self.grid)


def find_layer(network: nn.Module, size: tuple[int, int]) -> Layer:
    """Find the layer at which attention is read: the last executed layer with more than one position whose output at
    those positions affects the logits.

    This is the last feature map before pooling. In networks that read only a class token it is the `layernorm_before`
    (`norm1`) of the last block, because later patch outputs don't affect the logits. Modules within attention are
    skipped, as their rows are heads and windows. If the map has fewer than `MIN_EDGE` cells along an edge, as in
    networks for small images, it is too coarse to localise. Then the last layer with enough cells through which all
    information reaches the logits is taken, if one exists.

    Args:
        network: Takes pixels (n, 3, h, w), returns logits or an object with a `logits` attribute.
        size: Height and width of the input.

    Raises:
        FiguregroundError: No layer qualifies.
    """
    trace = _trace(network, size)
    candidates = [
        candidate
        for candidate in trace.outputs
        if candidate[1].requires_grad and not _ATTENTION_MODULE.search(candidate[0].name)
    ]
    gradients = trace.gradients([output for _, output in candidates]) if candidates else ()
    relevant = [
        candidate
        for candidate, gradient in zip(candidates, gradients, strict=True)
        if gradient is not None and candidate[0].positions(gradient).any()
    ]
    if not relevant:
        raise FiguregroundError(
            "attention: the network has no layer with a feature map or patch tokens that affect the logits; give a "
            "classifier that has one."
        )
    last = relevant[-1][0]
    if min(last.grid) < MIN_EDGE:
        for layer, output in reversed(relevant):
            if min(layer.grid) >= MIN_EDGE and trace.is_bottleneck(output):
                return layer
    return last


class _Trace(NamedTuple):
    """Record of a network's forward pass on two images of noise."""

    noise: Tensor
    outputs: list[tuple[Layer, Tensor]]
    """All outputs with spatial positions, in the order of execution."""
    total: Tensor
    """Sum of the logits with random weights, because some networks' logits have a constant plain sum."""

    def gradients(self, outputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(self.total, outputs, allow_unused=True, retain_graph=True)

    def is_bottleneck(self, output: Tensor) -> bool:
        """Whether the logits depend on the images only through this output."""
        hook = output.register_hook(torch.zeros_like)
        try:
            (rest,) = self.gradients([self.noise])
        finally:
            hook.remove()
        return rest is None or not rest.any()


@torch.enable_grad()
def _trace(network: nn.Module, size: tuple[int, int]) -> _Trace:
    outputs: list[tuple[Layer, Tensor]] = []
    patches: list[tuple[int, int]] = []

    def record(name: str, module: nn.Module, output: Tensor | None) -> None:
        layer = None if output is None or len(output) != 2 else _read_layout(name, module, output, size, patches)
        if layer is not None and output is not None:
            if layer.layout != "tokens" and not _ATTENTION_MODULE.search(name):
                patches.append(layer.grid)
            outputs.append((layer, output))

    hooks = [
        module.register_forward_hook(lambda m, _, out, name=name: record(name, m, _take_tensor(out)))
        for name, module in network.named_modules()
    ]
    generator = make_generator(0)
    noise = torch.randn(2, 3, *size, generator=generator).to(next(network.parameters())).requires_grad_()
    try:
        out = network(noise)
    finally:
        for hook in hooks:
            hook.remove()
    logits = out if isinstance(out, Tensor) else out.logits
    return _Trace(noise, outputs, (logits * torch.rand(logits.shape, generator=generator).to(logits)).sum())


def _take_tensor(output: object) -> Tensor | None:
    if isinstance(output, tuple) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _read_layout(
    name: str, module: nn.Module, output: Tensor, size: tuple[int, int], patches: Sequence[tuple[int, int]]
) -> Layer | None:
    """Return an output's layout, or None if it has at most one position.

    Args:
        size: Height and width of the input, whose shape a grid of positions has.
        patches: Grids of earlier feature maps.
    """
    if output.ndim == 4:
        # These two act on the last axis; their subclasses may not.
        last = type(module) in (nn.LayerNorm, nn.Linear) or (
            _has_shape(output.shape[1:3], size) and not _has_shape(output.shape[2:], size)
        )
        height, width = output.shape[1:3] if last else output.shape[2:]
        if height * width > 1:
            return Layer(name, "channels last" if last else "channels first", (height, width))
    if output.ndim == 3 and patches and output.shape[2] > 1:
        height, width = patches[-1]
        while height * width > output.shape[1]:  # tokens are merged two by two
            height, width = -(-height // 2), -(-width // 2)
        if 1 < height * width >= output.shape[1] - MAX_PREFIX:
            return Layer(name, "tokens", (height, width))
    return None


def _has_shape(grid: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether a grid has the aspect ratio of a size, except for rounding to whole cells."""
    return abs(grid[0] * size[1] - grid[1] * size[0]) <= max(size)


@torch.inference_mode(False)
def compute_attention(
    classifier: Classifier,
    images: Sequence[Image.Image],
    targets: Sequence[int],
    batch_size: int = 32,
) -> list[np.ndarray]:
    """Compute Grad-CAM++ maps: how much each region of an image supports a class.

    The paper's features are rectified, so ΣA ≥ 0. A negative sum, which a layer norm's channel may have, is set to 0,
    as α would otherwise have poles.

    Args:
        images: n RGB images of any sizes.
        targets: Position of each image's class in the logits.
        batch_size: Images per forward pass, if preprocessing gives them the same size.

    Returns:
        One map per image, float32 (height, width) of the image's own size, 0 to 1, scaled by its maximum. It is 0
        where the classifier crops the image, and 0 everywhere if no region supports the class.

    Raises:
        FiguregroundError: A target is not a class, no layer qualifies, or a map isn't finite.
    """
    classifier.require_gradients()
    check_targets(classifier, images, targets)
    if batch_size < 1:
        raise FiguregroundError(f"attention: batch_size is {batch_size}; it must be 1 or more.")
    maps: list[np.ndarray] = []
    layers: dict[tuple[int, int], Layer] = {}
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        prepared = [classifier.prepare(to_pixels(image)[None]) for image in batch]
        groups = [torch.cat(prepared)] if len({pixels.shape for pixels in prepared}) == 1 else prepared
        for pixels in groups:
            size = (pixels.shape[2], pixels.shape[3])
            if size not in layers:
                layers[size] = _find_layer_of(classifier, size)
            batch_targets = torch.tensor([int(target) for target in targets[len(maps) : len(maps) + len(pixels)]])
            for attention_map in _compute_maps(classifier, pixels, batch_targets, layers[size]):
                i = len(maps)
                if not torch.isfinite(attention_map).all():
                    raise FiguregroundError(
                        f"attention: classifier {classifier.name!r}, image {i}, class "
                        f"{classifier.labels[targets[i]]!r}: the map at layer {layers[size].name!r} holds NaN or "
                        "infinity. Check the classifier's weights."
                    )
                maps.append(_scale(_map_back(attention_map, size, images[i], classifier.preprocessing)))
    return maps


def _find_layer_of(classifier: Classifier, size: tuple[int, int]) -> Layer:
    try:
        return find_layer(classifier.network, size)
    except FiguregroundError as error:
        raise FiguregroundError(f"classifier {classifier.name!r}: {error}") from None


def check_targets(classifier: Classifier, images: Sequence[Image.Image], targets: Sequence[int]) -> None:
    """Check that there is one valid class per image.

    Raises:
        FiguregroundError: The numbers of targets and images differ, or a target is not a class.
    """
    if len(images) != len(targets):
        raise FiguregroundError(f"targets: {len(targets)} for {len(images)} images; give one per image.")
    for i, target in enumerate(targets):
        if not 0 <= target < len(classifier.labels):
            raise FiguregroundError(
                f"targets: {target} (image {i}) is not a class of classifier {classifier.name!r}, which has "
                f"{len(classifier.labels)}, counted from 0."
            )


@torch.enable_grad()
def _compute_maps(classifier: Classifier, prepared: Tensor, targets: Tensor, layer: Layer) -> Tensor:
    """Return unscaled maps for preprocessed pixels, float64 (n, h, w) on the layer's grid, on the CPU."""
    outputs: list[Tensor] = []

    def record(_: nn.Module, __: object, output: object) -> None:
        tensor = _take_tensor(output)
        if tensor is not None:
            outputs.append(tensor)

    hook = classifier.network.get_submodule(layer.name).register_forward_hook(record)
    try:
        logits = classifier.read_prepared(prepared.detach().requires_grad_()).logits
    finally:
        hook.remove()
    scores = logits.gather(1, targets.to(logits.device)[:, None])
    (gradient,) = torch.autograd.grad(scores.sum(), outputs[-1], allow_unused=True)
    if gradient is None:
        raise FiguregroundError(f"attention: the output of layer {layer.name!r} doesn't affect the logits.")
    return _weight_features(
        layer.positions(outputs[-1].detach()).cpu().double(), layer.positions(gradient).cpu().double()
    )


def _weight_features(features: Tensor, gradient: Tensor) -> Tensor:
    """Return the Grad-CAM++ map (n, h, w) for features A and g = ∂S/∂A, both (n, c, h, w), without exp(S)."""
    positive = F.relu(gradient)
    sums = features.sum((2, 3), keepdim=True).clamp(min=0)
    alpha = 1 / (2 + sums * positive)  # the paper's α divided by g²; where g ≤ 0, its factor is 0
    weights = (alpha * positive).sum((2, 3), keepdim=True)
    return F.relu((weights * features).sum(1))


def _map_back(attention: Tensor, size: tuple[int, int], image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Map attention (h, w) from the network's input back to the image's own pixels, float64.

    Args:
        size: Height and width of the network's input, in pixels.
    """
    resized = preprocessing.target_size(image.height, image.width)
    down = _make_interpolation(attention.shape[0], size[0], resized[0], image.height)
    across = _make_interpolation(attention.shape[1], size[1], resized[1], image.width)
    return down @ attention.numpy() @ across.T


def _make_interpolation(cells: int, cropped: int, resized: int, pixels: int) -> np.ndarray:
    """Return interpolation weights from a line of cells to the image's pixels.

    Args:
        cropped: Pixels of the line that the network sees, and the cells cover.
        resized: Pixels of the line after resizing, from which `cropped` were cut around the centre.

    Returns:
        float64 (pixels, cells): linear between cell centres, and 0 where the image was cropped.
    """
    centers = (np.arange(pixels) + 0.5) * resized / pixels - (resized - cropped) // 2
    positions = np.clip(centers * cells / cropped - 0.5, 0, cells - 1)
    low = np.minimum(positions.astype(int), max(cells - 2, 0))
    weights = np.zeros((pixels, cells))
    rows = np.arange(pixels)
    weights[rows, low] = 1 - (positions - low)
    weights[rows, np.minimum(low + 1, cells - 1)] += positions - low
    weights[(centers <= 0) | (centers >= cropped)] = 0
    return weights


def _scale(attention: np.ndarray) -> np.ndarray:
    peak = attention.max()
    return (attention / peak if peak > 0 else np.zeros_like(attention)).astype(np.float32)


# Masks


def mask_by_quantile(attention: np.ndarray, quantile: float) -> np.ndarray:
    """Return the mask of pixels above a quantile of the map.

    Pixels equal to the quantile aren't in the mask. So it never covers the whole image, and of n pixels it has at most
    (1 - quantile) · n, rounded up. It is empty if more pixels than that share the maximum.

    Args:
        attention: (h, w), finite.
        quantile: From 0 to below 1.

    Returns:
        bool (h, w).

    Raises:
        FiguregroundError: The map is invalid, or the quantile is out of range.
    """
    _check_map(attention)
    if not 0 <= quantile < 1:
        raise FiguregroundError(f"quantile: {quantile} is out of range; give a number from 0 to below 1, such as 0.8.")
    # An interpolated quantile could be rounded up to the next pixel's value, which would then not be above it.
    return attention > np.quantile(attention, quantile, method="lower")


def mask_by_knee(
    classifier: Classifier,
    image: Image.Image,
    target: int,
    attention: np.ndarray,
    shares: Sequence[float] = SHARES,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask of the most attended pixels, up to the share beyond which hiding more hardly raises the loss.

    For each share, the most attended pixels get the image's mean colour, and the cross-entropy of the class is
    measured. That curve is made monotone (running maximum) and scaled to 0..1 on both axes. Its knee is the point
    furthest above the chord from the first to the last point (Kneedle, Satopää et al. 2011). If no point is above the
    chord, the loss still rises faster at the end, and the largest share is taken. Among equally attended pixels, the
    upper left come first; pixels with zero attention are never hidden.

    Args:
        image: RGB.
        target: The class's position in the logits.
        attention: Map of the image's own size (height, width), finite, as `compute_attention` returns it.
        shares: Ascending, above 0 and at most 1.

    Returns:
        The mask, bool (height, width), empty if hiding doesn't raise the loss; and the curve, float64
        (1 + shares, 2), with the hidden share and the loss in nats, before it is made monotone. Its first row is
        the whole image.

    Raises:
        FiguregroundError: The map's size isn't the image's, the target is not a class, or the shares aren't ascending.
    """
    check_targets(classifier, [image], [target])
    _check_map(attention)
    if attention.shape != (image.height, image.width):
        raise FiguregroundError(
            f"attention: the map is {attention.shape[0]}×{attention.shape[1]}, but the image is "
            f"{image.height}×{image.width} (height×width)."
        )
    if not shares or shares[-1] > 1 or not all(a < b for a, b in pairwise((0.0, *shares))):
        raise FiguregroundError(f"shares: {join_names(shares)}; give ascending numbers above 0 and at most 1.")
    pixels = to_pixels(image)
    mean = pixels.mean((1, 2), keepdim=True)
    order = np.argsort(-attention, axis=None, kind="stable")
    order = order[: np.count_nonzero(attention > 0)]
    masks = [np.zeros(attention.shape, bool)]
    for share in shares:
        mask = np.zeros(attention.size, bool)
        mask[order[: max(1, round(share * attention.size))]] = True
        masks.append(mask.reshape(attention.shape))
    with torch.no_grad():
        hidden = [classifier.prepare(torch.where(torch.from_numpy(mask), mean, pixels)[None]) for mask in masks]
        logits = classifier.read_prepared(torch.cat(hidden)).logits.cpu().double()
    loss = F.cross_entropy(logits, torch.full((len(masks),), target), reduction="none").numpy()
    curve = np.stack([np.array([0.0, *shares]), loss], 1)
    return masks[find_knee(curve)], curve


def find_knee(curve: np.ndarray) -> int:
    """Return the row of a curve's knee as `mask_by_knee` defines it; 0 if the curve never rises.

    Args:
        curve: float64 (m, 2), the first column ascending.

    Raises:
        FiguregroundError: A loss isn't finite.
    """
    if not np.isfinite(curve).all():
        raise FiguregroundError("attention: the masked-loss curve holds NaN or infinity; check the classifier.")
    share, loss = curve[:, 0], np.maximum.accumulate(curve[:, 1])
    if loss[-1] <= loss[0]:
        return 0
    above = (loss - loss[0]) / (loss[-1] - loss[0]) - (share - share[0]) / (share[-1] - share[0])
    return int(above.argmax()) if above.max() > 1e-9 else len(curve) - 1


def _check_map(attention: np.ndarray) -> None:
    if attention.ndim != 2 or not attention.size or not np.isfinite(attention).all():
        raise FiguregroundError(
            f"attention: a map must be (height, width) of finite numbers; this one has shape {attention.shape}"
            f"{'' if np.isfinite(attention).all() else ' and holds NaN or infinity'}."
        )
