"""Images of one colour, datasets of them, and classifiers that know colours: what these answer is known for sure."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_classifiers import make_classifier
from transformers import AutoModelForImageClassification

from figureground.core.hashing import digest
from figureground.recipe.formats import DEFAULT_FORMATS
from figureground.recipe.sample import Sample, Spec, make_key
from figureground.shards.card_context import CardContext
from figureground.shards.columns import Columns
from figureground.shards.index import finish
from figureground.shards.shard import Shard
from figureground.shards.writer import write_shard
from figureground.vision.classifiers import open_classifier

COLOURS = {"bird": (200, 40, 40), "cat": (40, 60, 200), "mug": (60, 190, 60)}
"""Colours by class, as a classifier sees them."""


def image(name: str, seed: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """An image in the colour of a class, a little lighter or darker."""
    shade = np.random.default_rng([seed, len(name)]).integers(-15, 16)
    return Image.new("RGB", size, tuple(int(c + shade) for c in COLOURS[name]))


def make_coloured_classifier(out: Path, labels: dict[str, str] | None = None) -> Path:
    """A ResNet that is sure of colours: its last layer is fitted to the colours of all classes.

    Args:
        labels: What it calls the classes, by colour; their own names unless said otherwise.
    """
    colours = labels or {name: name for name in COLOURS}
    folder = make_classifier(out, labels=dict(enumerate(colours.values())))
    images = [(i, image(name, seed)) for i, name in enumerate(colours) for seed in range(12)]
    with torch.no_grad():
        features = open_classifier(str(folder)).read([shown for _, shown in images]).features.double()
    targets = 12 * torch.nn.functional.one_hot(torch.tensor([i for i, _ in images])).double()
    solved = torch.linalg.lstsq(
        torch.cat([features, torch.ones(len(features), 1)], 1), targets, driver="gelsd"
    ).solution
    network = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        network.classifier[1].weight.copy_(solved[:-1].T)
        network.classifier[1].bias.copy_(solved[-1])
    network.save_pretrained(folder)
    return folder


Drawn = tuple[str, str, str, int, str]
"""Split, foreground, background, number in its cell, and the class whose colour is drawn."""


def make_coloured(
    directory: Path,
    drawn: list[Drawn],
    *,
    formats: tuple[str, ...] = DEFAULT_FORMATS,
    labels: dict[str, list[str]] | None = None,
    provenance=lambda sample: {},
    texts: tuple[str, ...] = (),
    builder: str = "d3s",
    config: str = "pocket",
    **identity: object,
) -> Path:
    """Write a finished dataset, two samples a shard."""
    foregrounds, backgrounds = (tuple(dict.fromkeys(some[axis] for some in drawn)) for axis in (1, 2))
    columns = Columns(foregrounds, backgrounds, labels or {}, texts)
    shards = []
    for split in dict.fromkeys(some[0] for some in drawn):
        ours = [some for some in drawn if some[0] == split]
        for index in range(-(-len(ours) // 2)):
            part = ours[2 * index : 2 * index + 2]
            shard = Shard(split, index, -(-len(ours) // 2), len(part))
            write_shard(
                directory, shard, columns, _samples(part, columns),
                lambda sample: {"seed": sample.spec.seed, **provenance(sample)}, formats=formats, image_format="png",
            )  # fmt: skip
            shards.append(shard)
    recipe = {
        "builder": builder, "config": config, "identity": identity, "execution": {}, "content": {},
        "sha256": digest({"builder": builder, **identity}),
    }  # fmt: skip
    (directory / "_figureground" / "recipe.json").write_text(json.dumps(recipe))
    facts = CardContext("Colours", builder, "Colours.", "@misc{colours}")
    finish(directory, shards, columns, identity, facts, formats=formats, image_format="png")
    return directory


def _samples(drawn: list[Drawn], columns: Columns):
    for split, foreground, background, i, colour in drawn:
        f, b = columns.foregrounds.index(foreground), columns.backgrounds.index(background)
        yield Sample(Spec(make_key(split, f, b, i), split, f, b, foreground, background, "", i), image(colour, i))


def make_folders(directory: Path, counts: dict[str, int], colours: dict[str, str] | None = None) -> Path:
    """Photographs in one folder a class, in the colour of the class or another's."""
    for name, count in counts.items():
        (directory / name).mkdir(parents=True)
        for i in range(count):
            image((colours or {}).get(name, name), i, (40, 30 + i)).save(directory / name / f"{i}.png")
    return directory
