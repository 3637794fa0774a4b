"""Differentiable preprocessing of a classifier on tensors: resize, crop, normalise."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from figureground.core.errors import FiguregroundError
from figureground.models.opening import open_part

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pixels in 0..1, by channel: red, green, blue."""


def _cubic(x: Tensor) -> Tensor:
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, far)


FILTERS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "box": (0.5, torch.ones_like),
    "bilinear": (1.0, lambda x: 1 - x),
    "hamming": (1.0, lambda x: torch.sinc(x) * (0.54 + 0.46 * torch.cos(math.pi * x))),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, lambda x: torch.sinc(x) * torch.sinc(x / 3)),
}
"""Pillow's filters: the support of each, in source pixels, and its weight at a distance x ≥ 0 within it."""
OVERSHOOTING = ("bicubic", "lanczos")
"""Filters with negative weights, whose results may leave 0..1, which 8-bit images can't."""
_BY_NUMBER = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's filter numbers, as used in `preprocessor_config.json`."""


@dataclass(frozen=True)
class Preprocessing:
    """Resizes, crops around the centre and normalises, like an image processor of transformers or timm.

    The computation is Pillow's, but on floats: each row of the result is a weighted sum of rows. So resizing is two
    matrix products, differentiable, deterministic on every device, and the same for training and evaluation. It differs
    from a processor's result for the same 8-bit image by Pillow's intermediate rounding to 8 bits. (For non-square
    images, newer versions of Pillow resize the columns first in some cases; the effect is visible only on noise.)
    """

    size: tuple[int, int] | int | None
    """Height and width after resizing, or only the shorter edge; None doesn't resize."""
    longest: int | None
    """Maximum of the longer edge, if `size` is the shorter edge."""
    filter: str
    """A name from `FILTERS`."""
    crop: tuple[int, int] | None
    """Height and width of the centre crop; a smaller image is padded with black."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Mean and standard deviation of pixels in 0..1, by channel, in the network's channel order."""
    flip_channels: bool = False
    """Whether the network's channel order is blue, green, red."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Convert pixels (n, 3, h, w), float in 0..1, to the network's input, (n, 3, h', w')."""
        height, width = pixels.shape[-2:]
        to_height, to_width = self.target_size(height, width)
        if (to_height, to_width) != (height, width):
            rows = resize_matrix(height, to_height, self.filter).to(pixels)
            columns = resize_matrix(width, to_width, self.filter).to(pixels)
            if self.crop:  # skip pixels that will be cropped
                rows, columns = _center_rows(rows, self.crop[0]), _center_rows(columns, self.crop[1])
            pixels = self._clamp(pixels @ columns.T)
            pixels = self._clamp(rows @ pixels)
        if self.crop:
            pixels = _center_crop(pixels, self.crop)
        if self.flip_channels:
            pixels = pixels.flip(1)
        return (pixels - pixels.new_tensor(self.mean)[:, None, None]) / pixels.new_tensor(self.std)[:, None, None]

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size or (height, width)
        short, long = min(height, width), max(height, width)
        target: float = self.size
        if self.longest is not None and long / short * target > self.longest:
            target = self.longest * short / long
        edges = (round(target), int(target * long / short))
        return edges if height <= width else edges[::-1]

    def _clamp(self, pixels: Tensor) -> Tensor:
        return pixels.clamp(0, 1) if self.filter in OVERSHOOTING else pixels


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)  # a tensor made in inference mode could not be used in training later
def resize_matrix(size: int, target: int, filter: str) -> Tensor:
    """Return the weights for resizing a line of `size` to `target` pixels: float32 (target, size), rows sum to 1.

    As in Pillow's resize, the filter is stretched by the scale factor when shrinking, which gives antialiasing.
    """
    scale = size / target
    centers = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    support, kernel = FILTERS[filter]
    stretch = max(scale, 1.0)
    first = (centers - support * stretch + 0.5).long().clamp(min=0)[:, None]
    last = (centers + support * stretch + 0.5).long().clamp(max=size)[:, None]
    pixels = torch.arange(size)
    distances = ((pixels + 0.5 - centers[:, None]) / stretch).abs()
    inside = (pixels >= first) & (pixels < last) & (distances <= support)
    weights = torch.where(inside, kernel(distances), 0.0)
    return (weights / weights.sum(1, keepdim=True)).float()


def _center_rows(rows: Tensor, count: int) -> Tensor:
    """Return the `count` rows around the centre, or all rows if there are fewer."""
    first = max(0, (len(rows) - count) // 2)
    return rows[first : first + count]


def _center_crop(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop around the centre; missing pixels are black, with the odd pixel at the top or left."""
    height, width = pixels.shape[-2:]
    missing = [max(0, size[0] - height), max(0, size[1] - width)]
    if any(missing):
        top, left = (-(-n // 2) for n in missing)
        pixels = F.pad(pixels, (left, missing[1] - left, top, missing[0] - top))
        height, width = pixels.shape[-2:]
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return pixels[..., top : top + size[0], left : left + size[1]]


def to_pixels(image: Image.Image) -> Tensor:
    """Return an image as a tensor, float32 (3, h, w) in 0..1."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def imagenet_preprocessing(
    mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> Preprocessing:
    """Return the standard ImageNet preprocessing: shorter edge to 256, bilinear, and a centre crop of 224 × 224."""
    return Preprocessing(256, None, "bilinear", (224, 224), mean, std)


def read_preprocessing(folder: Path, name: str) -> Preprocessing:
    """Read a transformers directory's `preprocessor_config.json`; missing settings get the processor's defaults.

    Args:
        name: The classifier's name, for errors.

    Raises:
        FiguregroundError: The file is missing, damaged, or has unsupported settings.
    """
    from transformers import AutoImageProcessor

    if not (folder / "preprocessor_config.json").is_file():
        raise FiguregroundError(
            f"classifier {name!r} has no preprocessor_config.json, which describes how to resize and normalise images. "
            "Write the one used in training: "
            "ViTImageProcessorPil(size=…, image_mean=…, image_std=…).save_pretrained(folder)."
        )
    try:
        processor = open_part(AutoImageProcessor, folder, f"classifier {name!r}", backend="pil")
        return _convert_processor(processor)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"classifier {name!r}: its preprocessor_config.json can't be used: {first}") from error


def _convert_processor(processor: Any) -> Preprocessing:
    kind = type(processor).__name__.removesuffix("Pil").removesuffix("Fast").removesuffix("ImageProcessor")

    def setting(name: str, default: Any = None) -> Any:
        value = getattr(processor, name, None)
        return default if value is None else value

    if setting("do_pad", False):
        raise ValueError("it pads images (do_pad), which isn't supported")
    size, longest, crop = None, None, None
    if setting("do_center_crop", False):
        edges = _read_edges(setting("crop_size"))
        crop = (edges["height"], edges["width"])
    if setting("do_resize", False):
        edges = _read_edges(setting("size"))
        size, crop = _convert_size(kind, edges, setting("crop_pct"), crop)
        longest = edges.get("longest_edge")
    # Pixels are in 0..1, but processors expect 0..255: (255 × factor × pixel − offset − mean) / std.
    scale = 255 * float(setting("rescale_factor", 1 / 255)) if setting("do_rescale", False) else 255.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if setting("do_normalize", False) and kind != "MobileViT":  # MobileViT's processor ignores the setting
        mean, std = _read_channels(setting("image_mean")), _read_channels(setting("image_std"))
    offset = 0.0
    if kind == "EfficientNet":
        offset = float(bool(setting("rescale_offset", False)))
        if setting("include_top", False):  # EfficientNet's processor divides by the deviation twice
            std = tuple(s * t for s, t in zip(std, _read_channels(setting("image_std")), strict=True))
    filter = _BY_NUMBER.get(int(setting("resample", 2)))
    if filter is None:
        raise ValueError("it resizes to the nearest pixel (resample 0), which has no gradients")
    return Preprocessing(
        size,
        longest,
        filter,
        crop,
        tuple((m + offset) / scale for m in mean),
        tuple(s / scale for s in std),
        kind == "MobileViT" and bool(setting("do_flip_channel_order", False)),
    )


def _convert_size(
    kind: str, edges: dict[str, int], crop_pct: float | None, crop: tuple[int, int] | None
) -> tuple[tuple[int, int] | int, tuple[int, int] | None]:
    """Return a processor's target size and crop; some processors use the size as the crop's."""
    edge = edges.get("shortest_edge")
    size = (edges["height"], edges["width"]) if "height" in edges and "width" in edges else None
    if edge is not None:
        if kind == "ConvNext":
            return ((edge, edge), crop) if edge >= 384 else (int(edge / (crop_pct or 224 / 256)), crop or (edge, edge))
        if kind == "PoolFormer":
            return int(edge / (crop_pct or 1)), crop
        return int(256 / 224 * edge) if kind == "Levit" else edge, crop
    if size is None or kind == "ConvNext":
        raise ValueError(f"its size is {json.dumps(edges)}, without shortest_edge, or height and width")
    if kind == "PoolFormer" and crop_pct:
        larger = (int(size[0] / crop_pct), int(size[1] / crop_pct))
        return larger[0] if size[0] == size[1] else larger, crop
    return size, crop


def _read_edges(size: Any) -> dict[str, int]:
    """Return a processor's size as a mapping, without entries that are None."""
    if size is None:
        raise ValueError("it resizes or crops but gives no size")
    return {name: int(value) for name, value in dict(size).items() if value is not None}


def _read_channels(value: Any) -> tuple[float, ...]:
    values = (float(value),) * 3 if isinstance(value, int | float) else tuple(float(v) for v in value)
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ValueError(f"image_mean and image_std must have three channels, not {value!r}")
    return values


def read_timm(settings: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing described by timm's `resolve_model_data_config`.

    Raises:
        FiguregroundError: The crop mode or interpolation isn't supported.
    """
    _, height, width = settings["input_size"]
    share = float(settings.get("crop_pct") or 0.875)
    mode = settings.get("crop_mode") or "center"
    target = (math.floor(height / share), math.floor(width / share))
    if mode not in ("center", "squash"):
        raise FiguregroundError(f"its crop_mode is {mode!r}; supported are 'center' and 'squash'.")
    filter = settings.get("interpolation", "bilinear")
    if filter not in FILTERS:
        raise FiguregroundError(f"its interpolation is {filter!r}; supported are {', '.join(FILTERS)}.")
    size = target if mode == "squash" or height != width else target[0]
    return Preprocessing(size, None, filter, (height, width), tuple(settings["mean"]), tuple(settings["std"]))
