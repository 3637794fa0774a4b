"""Finished datasets of a few small images, written as a build writes them, without any model."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image

from figureground.core.hashing import digest
from figureground.recipe.formats import DEFAULT_FORMATS
from figureground.recipe.sample import Guide, Reject, Sample, Spec, make_key
from figureground.shards.card_context import CardContext
from figureground.shards.columns import Columns
from figureground.shards.index import finish
from figureground.shards.shard import Shard
from figureground.shards.writer import write_shard

COLUMNS = Columns(("bird", "cat"), ("grass", "night", "snow"))
SHARDS = (Shard("train", 0, 2, 8), Shard("train", 1, 2, 8), Shard("validation", 0, 1, 6))


def make_dataset(
    directory: Path,
    *,
    columns: Columns = COLUMNS,
    shards=SHARDS,
    seed: int = 0,
    rejected=(),
    provenance=lambda sample: {},
    cutouts=lambda spec: f"{spec.foreground_name}/{spec.split}.png@{spec.split}{spec.foreground}",
    size: int = 16,
    formats=DEFAULT_FORMATS,
    image_format: str = "png",
    title: str = "Birds and cats",
) -> Path:
    """Write a dataset of noise, in which image i of a shard has the labels i modulo the numbers of classes."""

    def results(shard):
        for i in range(shard.count):
            n = shard.part * 1000 + shard.index * max(100, shard.count) + i
            foreground, background = i % len(columns.foregrounds), i % len(columns.backgrounds)
            spec = Spec(
                make_key(shard.split, foreground, background, n), shard.split, foreground, background,
                columns.foregrounds[foreground], columns.backgrounds[background], f"a photo, {n}", n,
            )  # fmt: skip
            guide = Guide("paste", cutouts(spec), f"t/t.png@t-{spec.split}", (1, 2, 9, 10), bool(i % 2))
            spec = dataclasses.replace(spec, guide=guide)
            split = sorted({shard.split for shard in shards}).index(shard.split)
            pixels = np.random.default_rng([seed, split, n]).integers(0, 255, (size, size, 3), dtype=np.uint8)
            image = Image.fromarray(pixels)
            if spec.key in rejected:
                yield Reject(spec, "flat")
            else:
                yield Sample(spec, image, image, image.convert("L"))

    def full_provenance(sample):
        spec = sample.spec
        guide = {"kind": "paste", "cutout": spec.guide.cutout, "template": spec.guide.template,
                 "box": list(spec.guide.box), "flip": spec.guide.flip}  # fmt: skip
        return {"seed": spec.seed, "strength": 0.5, "guide": guide, "foreground_name": spec.foreground_name,
                "background_name": spec.background_name, "note": None, **provenance(sample)}  # fmt: skip

    for shard in shards:
        write_shard(
            directory, shard, columns, results(shard), full_provenance, formats=formats, image_format=image_format
        )
    identity = {"seed": seed, "title": title}
    recipe = {"builder": "d3s", "config": "pocket", "identity": identity, "execution": {}, "content": {},
              "sha256": digest(identity)}  # fmt: skip
    (directory / "_figureground" / "recipe.json").write_text(json.dumps(recipe))
    facts = CardContext(title, "d3s", f"{title} of noise.", "@misc{noise}", {"device": "cpu"}, ("Nothing is in them.",))
    finish(directory, shards, columns, {"seed": seed}, facts, formats=formats, image_format=image_format)
    return directory
