"""ResNet weights in torchvision's and Madry's names become transformers' ResNet, with the same logits."""

import argparse
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from figureground.core.errors import FiguregroundError
from figureground.vision.classifiers import open_classifier
from figureground.vision.robust_weights import read_weights


class Block(nn.Module):
    """A residual block by the names and the arithmetic of torchvision: the stride is in the 3 × 3 convolution."""

    def __init__(self, before, width, after, stride, bottleneck):
        super().__init__()
        shapes = [(before, width, 1), (width, width, 3), (width, after, 1)] if bottleneck else [
            (before, width, 3), (width, after, 3)
        ]  # fmt: skip
        strided = 1 if bottleneck else 0
        for i, (inner, outer, size) in enumerate(shapes):
            step = stride if i == strided else 1
            self.add_module(f"conv{i + 1}", nn.Conv2d(inner, outer, size, step, size // 2, bias=False))
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(outer))
        self.count = len(shapes)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < self.count else y
        return (y + (self.downsample(x) if self.downsample else x)).relu()


class ResNet(nn.Module):
    def __init__(self, depths=(1, 1, 1, 1), bottleneck=True, widening=1, base=4, classes=10):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, base, 7, 2, 3, bias=False), nn.BatchNorm2d(base)
        before = base
        for i, depth in enumerate(depths):
            width, after = base * 2**i, base * 2**i * (4 if bottleneck else 1)
            blocks = []
            for j in range(depth):
                stride = 2 if i and not j else 1
                blocks.append(Block(before, width * widening, after, stride, bottleneck))
                before = after
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return self.fc(x.mean((2, 3)))


def make(**options) -> ResNet:
    torch.manual_seed(0)
    network = ResNet(**options)
    for name, buffer in network.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return network.eval()


def as_madry(weights: dict) -> dict:
    """Names of a checkpoint of the robustness library: an attacker holds the same network and normaliser again."""
    mean, std = torch.tensor([0.1, 0.2, 0.3])[:, None, None], torch.tensor([0.4, 0.5, 0.6])[:, None, None]
    wrapped = {"module.normalizer.new_mean": mean, "module.normalizer.new_std": std}
    wrapped |= {f"module.model.{name}": tensor for name, tensor in weights.items()}
    wrapped |= {"module.attacker.normalize.new_mean": mean, "module.attacker.normalize.new_std": std}
    return wrapped | {f"module.attacker.model.{name}": tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("options", "architecture"),
    [
        ({"depths": (2, 2, 2, 2), "bottleneck": False}, "resnet18"),
        ({"depths": (3, 4, 6, 3), "bottleneck": False}, "resnet34"),
        ({"depths": (3, 4, 6, 3)}, "resnet50"),
        ({"depths": (3, 4, 6, 3), "widening": 2}, "wide_resnet50_2"),
        ({"depths": (3, 4, 6, 3), "widening": 4}, "wide_resnet50_4"),
        ({"depths": (3, 4, 23, 3)}, "resnet101"),
        ({}, "resnet of 1-1-1-1 blocks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_logits_are_those_of_the_original(tmp_path, options, architecture):
    network = make(**options)
    save_file(network.state_dict(), tmp_path / "it.safetensors")
    read = read_weights(tmp_path / "it.safetensors")
    assert read.architecture == architecture
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(read.network.eval()(pixels).logits, network(pixels), atol=1e-4)


WRAPPINGS = {
    "plain": lambda weights: weights,
    "model.": lambda weights: {f"model.{name}": w for name, w in weights.items()},
    "in a state_dict": lambda weights: {"epoch": 3, "state_dict": {f"module.{n}": w for n, w in weights.items()}},
    "in a model": lambda weights: {"model": as_madry(weights), "epoch": 90, "prec1": 57.9},
    "behind a normaliser": lambda weights: {
        "0.mean": torch.tensor([0.1, 0.2, 0.3]), "0.std": torch.tensor([0.4, 0.5, 0.6]),
        **{f"1.{name}": w for name, w in weights.items()},
    },
}  # fmt: skip


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_wrapped_weights_are_found_with_their_normaliser(tmp_path, wrapping, suffix):
    network = make()
    path = tmp_path / f"robust{suffix}"
    torch.save(WRAPPINGS[wrapping](network.state_dict()), path)
    read = read_weights(path)
    with torch.no_grad():
        pixels = torch.rand(1, 3, 64, 64)
        assert torch.allclose(read.network.eval()(pixels).logits, network(pixels), atol=1e-4)
    own = "model" in wrapping.split() or "normaliser" in wrapping
    assert read.mean == pytest.approx((0.1, 0.2, 0.3) if own else (0.485, 0.456, 0.406))
    assert read.std == pytest.approx((0.4, 0.5, 0.6) if own else (0.229, 0.224, 0.225))


def test_a_thousand_logits_are_imagenets_classes_and_others_are_numbered(tmp_path):
    save_file(make(classes=1000).state_dict(), tmp_path / "imagenet.safetensors")
    opened = open_classifier(str(tmp_path / "imagenet.safetensors"))
    assert opened.index("hummingbird") == 94
    assert opened.index("great_white_shark") == 2
    assert opened.index("n01833805") == 94
    assert opened.facts["architecture"] == "resnet of 1-1-1-1 blocks"
    assert opened.facts["robust"] is None
    with pytest.raises(FiguregroundError, match="WordNet id"):
        opened.index("crane")
    assert (opened.index("crane (n02012849)"), opened.index("n03126707")) == (134, 517)
    save_file(make(classes=7).state_dict(), tmp_path / "seven.safetensors")
    assert open_classifier(str(tmp_path / "seven.safetensors")).labels == tuple("0123456")


def test_half_precision_weights_open_in_full(tmp_path):
    halved = {n: t.half() if t.is_floating_point() else t for n, t in make().state_dict().items()}
    save_file(halved, tmp_path / "h.safetensors")
    opened = open_classifier(str(tmp_path / "h.safetensors"))
    assert {p.dtype for p in opened.parameters()} == {torch.float32}
    assert torch.isfinite(opened(torch.rand(1, 3, 50, 50)).logits).all()


def test_a_pickle_is_refused_and_the_lines_that_convert_it_work(tmp_path):
    network = make()
    torch.save({"model": as_madry(network.state_dict()), "args": argparse.Namespace(eps=3)}, tmp_path / "madry.pt")
    with pytest.raises(FiguregroundError, match="pickle of more than tensors") as refused:
        read_weights(tmp_path / "madry.pt")
    lines = [line.strip() for line in str(refused.value).splitlines() if line.startswith("    ")]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, check=True, timeout=100)
    read = read_weights(tmp_path / "madry.safetensors")
    assert read.mean == pytest.approx((0.1, 0.2, 0.3))
    with torch.no_grad():
        pixels = torch.rand(1, 3, 64, 64)
        assert torch.allclose(read.network.eval()(pixels).logits, network(pixels), atol=1e-4)


def changed(weights: dict, change: str) -> object:
    if change == "one is missing":
        return {name: w for name, w in weights.items() if name != "layer2.0.bn1.weight"}
    if change == "the stem is missing":
        return {name: w for name, w in weights.items() if name != "conv1.weight"}
    if change == "one is of another shape":
        return {**weights, "layer3.0.conv2.weight": torch.zeros(3, 3, 3, 3)}
    if change == "a small first convolution":
        return {**weights, "conv1.weight": torch.zeros(4, 3, 3, 3)}
    if change == "groups":
        return {**weights, "layer1.0.conv2.weight": torch.zeros(4, 2, 3, 3)}
    if change == "transformers' names":
        return {"resnet.embedder.embedder.convolution.weight": torch.zeros(4)}
    if change == "no names":
        return [torch.zeros(3)]
    return {**weights, "fc.bias": torch.full((10,), float("nan"))}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("one is missing", "not a ResNet that transformers supports: .*layers.0.layer.0.normalization.weight"),
        ("the stem is missing", "holds no ResNet with torchvision's names"),
        ("one is of another shape", "not a ResNet that transformers supports"),
        ("a small first convolution", "first convolution is 3 × 3"),
        ("groups", "ResNeXt"),
        ("transformers' names", "give the directory"),
        ("no names", "holds no named weights"),
        ("NaN", "NaN or infinity"),
    ],
)
def test_other_weights_are_refused(tmp_path, change, words):
    torch.save(changed(make().state_dict(), change), tmp_path / "odd.pt")
    with pytest.raises(FiguregroundError, match=words) as refused:
        open_classifier(str(tmp_path / "odd.pt"))
    assert "odd.pt" in str(refused.value)


@pytest.mark.parametrize("held", [bytes(range(256)) * 4, b"<!doctype html>", b""], ids=["noise", "a page", "nothing"])
def test_what_is_no_file_of_weights_is_not_called_a_pickle(tmp_path, held):
    (tmp_path / "junk.pt").write_bytes(held)
    with pytest.raises(FiguregroundError, match=r"junk\.pt is not a weights file: it (wasn't|is empty)") as refused:
        open_classifier(str(tmp_path / "junk.pt"))
    assert "pickle" not in str(refused.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["as torch saves today", "as it did long ago"])
def test_both_kinds_of_files_that_torch_has_saved_open(tmp_path, zipped):
    torch.save(make().state_dict(), tmp_path / "it.pt", _use_new_zipfile_serialization=zipped)
    assert read_weights(tmp_path / "it.pt").classes == 10


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_damaged_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pt":
        torch.save(make().state_dict(), path)
    else:
        save_file(make().state_dict(), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(FiguregroundError, match=f"cut{suffix} doesn't open"):
        open_classifier(str(path))
    path.write_bytes(pickle.dumps([1], 2)[:-1])
    with pytest.raises(FiguregroundError, match=f"cut{suffix}"):
        open_classifier(str(path))
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FiguregroundError, match="git lfs pull"):
        open_classifier(str(path))
