"""Finished datasets of the pocket world's drawings, with masks, made without a model, to plant faults in."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from figureground.core.hashing import digest
from figureground.pocket import world
from figureground.recipe.formats import DEFAULT_FORMATS
from figureground.recipe.sample import Guide, Sample, Spec, make_key
from figureground.shards.card_context import CardContext
from figureground.shards.columns import Columns
from figureground.shards.index import finish
from figureground.shards.shard import Shard
from figureground.shards.writer import write_shard

FOREGROUNDS = ("car", "cat", "mug")
BACKGROUNDS = ("grass", "sand", "snow")
"""Scenes whose light doesn't colour the object."""
SPLITS = {"train": 8, "validation": 3}
"""Images per cell."""


@dataclass(frozen=True)
class Drawn:
    """One drawing."""

    split: str
    foreground: str
    background: str
    number: int
    """Its number in its cell."""
    image: Image.Image
    mask: Image.Image

    @property
    def cutout(self) -> str:
        name = f"{self.foreground}/{self.background}-{self.number}.png"
        return f"{name}@{self.split}-{name}"


def as_drawn(drawn: Drawn) -> Image.Image:
    return drawn.image


def make_drawn(
    directory: Path,
    seed: int = 0,
    *,
    change: Callable[[Drawn], Image.Image] = as_drawn,
    cutout: Callable[[Drawn], str] = lambda drawn: drawn.cutout,
    scene: Callable[[Drawn], str] = lambda drawn: f"{drawn.background}/{drawn.number}.png@{drawn.cutout}",
    per_cell: Callable[[str, str, str], int] = lambda split, foreground, background: SPLITS[split],
    foregrounds: tuple[str, ...] = FOREGROUNDS,
    backgrounds: tuple[str, ...] = BACKGROUNDS,
    mask: bool = True,
    size: int = world.SIZE,
    splits: Mapping[str, int] = SPLITS,
    builder: str = "d3s",
) -> Path:
    """Write a dataset in which every image shows its own object in its own scene, and nothing else is to be learnt.

    Args:
        change: Returns what is stored instead of a drawing.
        cutout, scene: Return the id of what a drawing was made from.
        per_cell: Images of a split's cell.
    """
    columns = Columns(foregrounds, backgrounds, mask=mask)
    shards = []
    for split in splits:
        cells = [
            (f, b, i) for f in foregrounds for b in backgrounds for i in range(per_cell(split, f, b))
        ]  # fmt: skip
        samples = []
        for n, (f, b, i) in enumerate(cells):
            rng = world.generator(f"{split} {f} {b} {i}", seed)
            scene_drawn = world.render(f, b, None, rng, size)
            drawn = Drawn(split, f, b, i, scene_drawn.image, scene_drawn.foreground)
            at = foregrounds.index(f), backgrounds.index(b)
            guide = Guide("paste", cutout(drawn), scene(drawn), (0, 0, 9, 9), False)
            spec = Spec(make_key(split, *at, n), split, *at, f, b, f"a {f}", n, guide)
            samples.append(Sample(spec, change(drawn), None, drawn.mask))
        shard = Shard(split, 0, 1, len(samples))
        write_shard(directory, shard, columns, iter(samples), _said, formats=DEFAULT_FORMATS, image_format="png")
        shards.append(shard)
    identity = {"seed": seed, "title": directory.name}
    recipe = {"builder": builder, "config": "pocket", "identity": identity, "execution": {}, "content": {},
              "sha256": digest(identity)}  # fmt: skip
    (directory / "_figureground" / "recipe.json").write_text(json.dumps(recipe))
    facts = CardContext("Drawn", builder, "Drawings.", "@misc{drawn}", {"device": "cpu"})
    finish(directory, shards, columns, {"seed": seed}, facts, formats=DEFAULT_FORMATS, image_format="png")
    return directory


def _said(sample: Sample) -> dict:
    spec = sample.spec
    guide = {"kind": "paste", "cutout": spec.guide.cutout, "template": spec.guide.template,
             "box": list(spec.guide.box), "flip": spec.guide.flip}  # fmt: skip
    return {"seed": spec.seed, "strength": 0.5, "guide": guide, "foreground_name": spec.foreground_name,
            "background_name": spec.background_name}  # fmt: skip


def tinted(image: Image.Image, mask: Image.Image, color: tuple[int, int, int], amount: float = 0.2) -> Image.Image:
    """Return an image whose white part of a mask is tinted."""
    return Image.composite(Image.blend(image, Image.new("RGB", image.size, color), amount), image, mask)


def inverted(mask: Image.Image) -> Image.Image:
    return Image.fromarray(255 - np.asarray(mask))
