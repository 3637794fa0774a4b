"""Drawn stand-ins for the photographs, horses and segmenter that `benchmarks/photographs.py` is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tiny_onnx import save_salient

from figureground.core.seeding import make_generator
from figureground.recipe.sample import derive_seed
from figureground.vision.classifiers import imagenet_nouns

SCENES = ("bakery", "desk", "library", "organ", "stove", "wardrobe", "alp", "barn", "castle", "dam", "hay", "valley")
SIZE = (260, 230)


def write(folder: Path) -> list[str]:
    """Write the inputs; return the benchmark's arguments that name them. Objects are red ellipses, as the ONNX network
    finds what is redder than green."""
    photographs, horses = folder / "given", folder / "horses"
    for each in (photographs, horses / "rgb", horses / "figure_ground"):
        each.mkdir(parents=True)
    ids = [next(alias for alias in aliases if alias[1:].isdigit()) for _, aliases in imagenet_nouns()]
    for label in (*range(160, 166), *range(270, 276)):
        _draw(f"photograph {label}")[0].save(photographs / f"{ids[label]}_animal{label}.JPEG", quality=95)
    for i, scene in enumerate(SCENES):
        _noise(f"scene {i}").save(photographs / f"{ids[500 + i]}_{scene}.JPEG", quality=95)
    for i in range(4):
        image, mask = _draw(f"horse {i}")
        image.save(horses / "rgb" / f"horse{i}.jpg", quality=95)
        mask.save(horses / "figure_ground" / f"horse{i}.jpg")
    network = save_salient(folder / "salient.onnx")
    return ["--photographs", str(photographs), "--horses", str(horses), "--segmenter", f"onnx:{network}"]


def _noise(name: str) -> Image.Image:
    """Greenish blots."""
    generator = make_generator(derive_seed(0, name))
    small = np.asarray(generator.initial_seed() % 200 + np.arange(48).reshape(4, 4, 3) * 3 % 50, np.uint8)
    small = small // np.array([3, 1, 2], np.uint8)
    return Image.fromarray(small.astype(np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)


def _draw(name: str) -> tuple[Image.Image, Image.Image]:
    """An object on blots, and its mask."""
    image, mask = _noise(name), Image.new("L", SIZE)
    x, y = (derive_seed(0, name, axis) % 60 for axis in ("x", "y"))
    box = (40 + x, 40 + y, 150 + x, 120 + y)
    ImageDraw.Draw(image).ellipse(box, (250, 20, 30))
    ImageDraw.Draw(mask).ellipse(box, 255)
    return image, mask
