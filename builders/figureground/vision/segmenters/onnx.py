"""Salient-object networks as ONNX files, such as U²-Net (Qin et al. 2020, arXiv 2005.09007) in rembg's exports.

They find whatever stands out in an image and read no phrase. Images are prepared as rembg prepares them for U²-Net:
resized to the network's square, divided by their largest value, and normalised with ImageNet's mean and deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError
from figureground.models.need import Need
from figureground.models.needs import missing_onnx, refuse_absent_onnx
from figureground.models.onnx_files import OnnxNetwork, Port, fingerprint_onnx, open_onnx
from figureground.models.segmenter_files import SegmenterKind

EDGE = 320
"""Size of the input if the network leaves it open."""
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
"""ImageNet's mean and standard deviation of pixels in 0..1: red, green, blue."""
MIN_PEAK = 0.5
"""Smallest highest probability of an image in which something stands out. Below it, the output is not stretched to
0..1, which would turn noise into an object."""
BOUND = 1e-3
"""Tolerance for outputs in 0..1; those beyond it are taken as logits."""


class OnnxKind(SegmenterKind):
    """`onnx:FILE`."""

    KIND: ClassVar[str] = "onnx"
    READS_PHRASES: ClassVar[bool] = False

    def contents(self, rest: str) -> list[str]:
        return [fingerprint_onnx(_parse_path(rest))]

    def refuse_absent(self, field: str, rest: str) -> None:
        refuse_absent_onnx(field, rest)

    def needs(self, field: str, rest: str) -> list[Need]:
        return missing_onnx(field, rest)

    def open(self, rest: str, device: Any) -> SalientNetwork:
        what = f"segmenter 'onnx:{_parse_path(rest).name}'"
        return SalientNetwork(open_onnx(_parse_path(rest), what, device=str(device)), what)


class SalientNetwork:
    """A `vision.segmentation.Segmenter` that finds whatever stands out; phrases don't matter.

    Args:
        network: Takes one image, float32 (1, 3, height, width), and gives first a map, (1, 1, h, w) or (1, h, w), of
            probabilities or logits. Further outputs, such as U²-Net's coarser maps, are ignored.

    Raises:
        FiguregroundError: The network has other inputs or outputs.
    """

    def __init__(self, network: OnnxNetwork, what: str):
        self._network, self._what = network, what
        self.name = f"{OnnxKind.KIND}:{network.path.name}"
        self.facts: dict[str, Any] = {"name": self.name, "sha256": network.sha256}
        if len(network.inputs) != 1 or not _is_image(network.inputs[0]) or not _is_map(network.outputs[:1]):
            raise self._make_error()
        height, width = network.inputs[0].shape[2:]
        self._size = (width or EDGE, height or EDGE)

    def __call__(self, images: Sequence[Image.Image], phrases: Sequence[str]) -> list[np.ndarray]:
        return [self._segment(image) for image, _ in zip(images, phrases, strict=True)]

    def _segment(self, image: Image.Image) -> np.ndarray:
        (outputs,) = self._network({self._network.inputs[0].name: prepare(image, self._size)}, [self._output.name])
        if outputs.dtype.kind != "f" or outputs.ndim not in (3, 4) or any(size != 1 for size in outputs.shape[:-2]):
            raise self._make_error()
        values = outputs.reshape(outputs.shape[-2:]).astype(np.float32)
        if not np.isfinite(values).all():
            raise FiguregroundError(f"{self._what} gives NaN or infinity: the file is damaged. Download it again.")
        probability = Image.fromarray(to_probability(values)).resize(image.size, Image.Resampling.LANCZOS)
        return np.clip(np.asarray(probability), 0, 1)

    @property
    def _output(self) -> Port:
        return self._network.outputs[0]

    def _make_error(self) -> FiguregroundError:
        return FiguregroundError(
            f"{self._what} isn't a segmenter: it {self._network.describe()}. A salient-object network takes one "
            "image, 1 × 3 × height × width, and gives a map, 1 × 1 × height × width."
        )


def prepare(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Return the input for an image, float32 (1, 3, height, width).

    Args:
        size: Width and height.
    """
    small = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), np.float32)
    pixels = (small / np.float32(max(small.max(), 1e-6)) - MEAN) / STD
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def to_probability(values: np.ndarray) -> np.ndarray:
    """Return a network's output as probabilities, float32; logits go through a sigmoid.

    If something stands out, they are stretched so that the lowest is 0 and the highest 1, as rembg does.
    """
    if values.min() < -BOUND or values.max() > 1 + BOUND:
        values = 0.5 * (1 + np.tanh(0.5 * values))  # the sigmoid, without overflow
    low, high = float(values.min()), float(values.max())
    if high < MIN_PEAK or high == low:
        return values.astype(np.float32)
    return ((values - low) / (high - low)).astype(np.float32)


def _is_image(port: Port) -> bool:
    return port.dtype == "float32" and len(port.shape) == 4 and port.shape[0] in (1, None) and port.shape[1] == 3


def _is_map(ports: Sequence[Port]) -> bool:
    """Whether the first output may be a map; sizes that vary are checked when there is one."""
    if not ports or ports[0].dtype != "float32":
        return False
    shape = ports[0].shape
    return not shape or (len(shape) in (3, 4) and all(size in (1, None) for size in shape[:-2]))


def _parse_path(rest: str) -> Path:
    if not rest.strip():
        raise FiguregroundError("segmenter 'onnx:': name the file, as in 'onnx:u2netp.onnx'.")
    return Path(rest).expanduser()
