"""Classifiers in ONNX files, run by onnxruntime: they judge images, but have neither gradients nor features.

Beside `NAME.onnx` may lie `NAME.json`, which says how images are prepared and outputs are read (`OnnxSettings`), and
`NAME.txt` with the classes, one a line in the order of the logits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from figureground.core.errors import FiguregroundError, join_names, suggest_or_list
from figureground.core.files import FileError, read_object, read_text
from figureground.core.seeding import make_generator
from figureground.core.shapes import Number, Optional, check_shape
from figureground.models.onnx_files import OnnxNetwork, Port, open_onnx
from figureground.vision.model_files import hash_files
from figureground.vision.preprocessing import FILTERS, IMAGENET_MEAN, IMAGENET_STD, Preprocessing

EDGE = 224
"""Edge of the input, in pixels, if neither file says one."""
MARGIN = 256 / 224
"""Shorter edge after resizing, as a multiple of the crop's: ImageNet's usual preprocessing."""
MAX_EDGE = 4096
OUTPUTS = ("logits", "probabilities")
_SHAPE = {
    "labels": Optional([str]), "resize": Optional((Number, None)), "crop": Optional(Number),
    "interpolation": Optional(str), "mean": Optional([Number]), "std": Optional([Number]), "channels": Optional(str),
    "output": Optional(str), "activation": Optional(str),
}  # fmt: skip


@dataclass(frozen=True)
class OnnxSettings:
    """Content of `NAME.json`: how images are prepared, and outputs read."""

    labels: tuple[str, ...] | None = None
    """Classes in the order of the logits; None takes `NAME.txt`."""
    resize: int | None = None
    """Shorter edge after resizing, in pixels; None is 256/224 of the crop. Equal to `crop` without a margin."""
    crop: int | None = None
    """Edge of the centre crop, in pixels: the network's input. None takes it from the file, or 224."""
    interpolation: str = "bilinear"
    """A name in `preprocessing.FILTERS`."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    """Mean and standard deviation of pixels in 0..1, by channel in the network's order."""
    channels: str = "RGB"
    """RGB or BGR."""
    output: str | None = None
    """Name of the output that is read; None takes the only one of the shape (images, classes)."""
    activation: str | None = None
    """`logits` or `probabilities`; None recognises probabilities by their sum of 1."""


class Parts(NamedTuple):
    """Parts of a `Classifier`."""

    network: OnnxLogits
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    """None if no file names them."""
    classes: int
    edge: int
    """Edge of the input, in pixels."""
    facts: dict[str, Any]


class OnnxLogits(nn.Module):
    """An ONNX classifier as a module: prepared pixels, float32 (n, 3, h, w), to logits, float32 (n, classes).

    It computes on the CPU, whatever device it is moved to, and its logits have no gradients.
    """

    def __init__(self, network: OnnxNetwork, output: str, last_axis: bool):
        super().__init__()
        self.onnx, self.output, self.last_axis = network, output, last_axis
        self.probabilities = False
        """Whether the network ends in a softmax, whose logarithm is then taken."""
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)
        """Tells on which device results are wanted."""

    def forward(self, pixels: Tensor) -> Tensor:
        port = self.onnx.inputs[0]
        inputs = pixels.detach().cpu().numpy().astype(port.dtype)
        inputs = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1) if self.last_axis else inputs)
        size = port.shape[0] or len(inputs)  # an export may have a fixed number of images
        outputs = [self._run(inputs[start : start + size], size) for start in range(0, len(inputs), size)]
        logits = torch.from_numpy(np.concatenate(outputs).astype(np.float32)).to(self.place.device)
        return logits.clamp(min=torch.finfo(logits.dtype).tiny).log() if self.probabilities else logits

    def _run(self, inputs: np.ndarray, size: int) -> np.ndarray:
        padded = (
            np.concatenate([inputs, np.repeat(inputs[-1:], size - len(inputs), 0)]) if len(inputs) < size else inputs
        )
        (outputs,) = self.onnx({self.onnx.inputs[0].name: padded}, [self.output])
        return outputs[: len(inputs)]


def open_parts(path: Path, what: str) -> Parts:
    """Open a classifier's ONNX file, with the files beside it.

    Args:
        what: Its name in errors, such as `classifier 'onnx:it.onnx'`.

    Raises:
        FiguregroundError: The file can't be opened, or is no image classifier (names its inputs and outputs); or a
            file beside it is damaged, names an unknown setting or has a value out of range (names file and field).
    """
    settings_path, labels_path = path.with_suffix(".json"), path.with_suffix(".txt")
    settings = read_settings(settings_path) if settings_path.exists() else OnnxSettings()
    labels = settings.labels
    if labels is None and labels_path.exists():
        labels = _read_labels(labels_path)
    onnx = open_onnx(path, what)
    last_axis, fixed = _read_input(onnx, what)
    if settings.crop is not None and fixed is not None and settings.crop != fixed:
        raise FiguregroundError(f"{settings_path}: crop: it is {settings.crop}, but the network takes {fixed} pixels.")
    edge = settings.crop or fixed or EDGE
    if settings.resize is not None and settings.resize < edge:
        raise FiguregroundError(
            f"{settings_path}: resize: it is {settings.resize}, less than the network's input, which has {edge} pixels."
        )
    resize = settings.resize or round(edge * MARGIN)
    network = OnnxLogits(onnx, _find_output(onnx, settings.output, what), last_axis)
    noise = torch.randn(2, 3, edge, edge, generator=make_generator(0))
    logits = network(noise)
    network.probabilities = (
        _are_probabilities(logits) if settings.activation is None else settings.activation == OUTPUTS[1]
    )
    preprocessing = Preprocessing(
        resize, None, settings.interpolation, (edge, edge), settings.mean, settings.std, settings.channels == "BGR"
    )
    facts = {"architecture": "ONNX", "robust": None, "sha256": _identify(onnx, (settings_path, labels_path))}
    return Parts(network, preprocessing, labels, logits.shape[1], edge, facts)


def read_settings(path: Path) -> OnnxSettings:
    """Read the settings beside an ONNX file.

    Raises:
        FiguregroundError: The file is damaged, names an unknown setting, or has a value out of range.
    """
    try:
        entries = read_object(path)
    except (OSError, FileError) as error:
        raise FiguregroundError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    known = [field.name for field in dataclasses.fields(OnnxSettings)]
    for name in entries:
        if name not in known:
            raise FiguregroundError(f"{path}: there is no setting {name!r}{suggest_or_list(name, known)}")
    try:
        check_shape(entries, _SHAPE)
        _check_values(entries)
    except ValueError as error:
        raise FiguregroundError(f"{path}: {error}.") from None
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()
    }
    return OnnxSettings(**fields)


def _check_values(entries: Mapping[str, Any]) -> None:
    for name in ("resize", "crop"):
        value = entries.get(name)
        if value is not None and not (isinstance(value, int) and 1 <= value <= MAX_EDGE):
            raise ValueError(f"{name} is {value!r}; give a whole number of pixels, from 1 to {MAX_EDGE:,}")
    if (entries.get("resize") or MAX_EDGE) < (entries.get("crop") or 0):
        raise ValueError(f"resize is {entries['resize']}, less than crop, which is {entries['crop']}")
    for name in ("mean", "std"):
        value = entries.get(name, (1.0,) * 3)
        if len(value) != 3 or not all(map(math.isfinite, value)) or (name == "std" and min(value) <= 0):
            raise ValueError(f"{name} is {value!r}; give three numbers, by channel, for pixels in 0 to 1")
    choices = {"interpolation": tuple(FILTERS), "channels": ("RGB", "BGR"), "activation": OUTPUTS}
    for name, allowed in choices.items():
        if entries.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{name} is {entries[name]!r}; give {join_names(allowed)}")


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except (OSError, ValueError) as error:
        raise FiguregroundError(f"{path} can't be read: {error}") from None
    while lines and not lines[-1]:
        lines.pop()
    if not lines or not all(lines):
        raise FiguregroundError(f"{path}: line {lines.index('') + 1 if lines else 1} is empty; give one class a line.")
    return tuple(lines)


def _read_input(network: OnnxNetwork, what: str) -> tuple[bool, int | None]:
    """Return whether the channels are the last axis, and the edge of the input if it is fixed.

    Raises:
        FiguregroundError: The network doesn't take images of three channels.
    """
    shape = network.inputs[0].shape if len(network.inputs) == 1 else ()
    takes = len(shape) == 4 and network.inputs[0].dtype in ("float16", "float32")
    if not takes or (3 not in shape[1::2] and shape[1] is not None):
        raise FiguregroundError(
            f"{what} isn't an image classifier: it {network.describe()}. It needs one input, float32 (images, 3, "
            "height, width) or (images, height, width, 3)."
        )
    last_axis = shape[1] != 3 and shape[3] == 3
    height, width = shape[1:3] if last_axis else shape[2:]
    if height != width:
        raise FiguregroundError(f"{what} takes {height} × {width} pixels; only square inputs are supported.")
    return last_axis, height


def _find_output(network: OnnxNetwork, name: str | None, what: str) -> str:
    """Return the name of the output with the logits.

    Raises:
        FiguregroundError: There is none, or several could be.
    """
    candidates = [port.name for port in network.outputs if _may_be_logits(port)]
    matches = candidates if name is None else [candidate for candidate in candidates if candidate == name]
    if len(matches) == 1:
        return matches[0]
    if name is None and candidates:
        raise FiguregroundError(
            f"{what} has several outputs that may be logits: {join_names(candidates)}. Name one: output."
        )
    raise FiguregroundError(
        f"{what} isn't an image classifier: it {network.describe()}. It needs "
        f"{'an output' if name is None else f'the output {name!r}'}, float32 (images, classes)."
    )


def _may_be_logits(port: Port) -> bool:
    return len(port.shape) == 2 and port.dtype in ("float16", "float32")


def _are_probabilities(outputs: Tensor) -> bool:
    """Whether outputs (n, classes) are probabilities."""
    return bool((outputs >= 0).all() and (outputs.sum(1) - 1).abs().max() < 1e-3)


def _identify(network: OnnxNetwork, other_files: tuple[Path, ...]) -> str:
    """Return the SHA-256 of everything that affects the classifier's output."""
    return hashlib.sha256(f"{network.sha256}\n{hash_files(other_files)}".encode()).hexdigest()
