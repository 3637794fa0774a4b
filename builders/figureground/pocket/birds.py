"""pocketbirds: a data set of the picture-book world in which objects come with scenes, as in Waterbirds birds do.

Mugs mostly stand on grass, umbrellas mostly in water. A classifier that is trained on them comes to look at the scene;
in validation and test, where object and scene are independent, that shows. Of ten objects these two are the hardest to
tell apart by their colours, so that their shapes must be learnt, and they are drawn a little smaller than the world
draws its objects, so that the scene is the easier thing to see.

Run it with `python -m figureground.pocket.birds DIR`.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from figureground.errors import FiguregroundError, RecipeError
from figureground.images import MASK_SUFFIX, encode
from figureground.pocket import world
from figureground.pocket.world import Layout, Place
from figureground.table import Counts, largest_remainder

OBJECTS = ("mug", "umbrella")
"""The classes y, in label order."""
SCENES = ("grass", "water")
"""The attributes a; the first scene comes with the first object."""

TRAIN, VALIDATION, TEST = 600, 400, 800
"""Pictures a split. Of three times as many in training, a classifier learns the shapes in spite of the scenes."""
PAIRED_SHARE = 0.95
"""Share of training pictures that show an object in its own scene, as in Waterbirds."""
PROP_SHARE = 0.6
"""Share of pictures with a prop beside the object: as of those that the pocket model learnt from."""

RADIUS = (0.16, 0.22)
"""Of the object, from and to, in shares of the picture's edge."""
PROP_RADIUS = (0.135, 0.17)

TABLE = "metadata.csv"


class Bird(NamedTuple):
    """One picture, by name, before it is drawn."""

    split: str
    y: int
    a: int
    i: int
    """Number in its group of the split."""

    @property
    def file(self) -> str:
        """Where it lies."""
        return f"{self.split}/{OBJECTS[self.y]}-{SCENES[self.a]}-{self.i:05d}.png"


def counts(total: int, paired_share: float) -> Counts:
    """Pictures a group, int64 (objects, scenes), as many of each object as can be; they add up to `total`."""
    weights = np.full((2, 2), (1 - paired_share) / 2)
    np.fill_diagonal(weights, paired_share / 2)
    return largest_remainder(weights.ravel(), total).reshape(2, 2)


def plan(train: int, validation: int, test: int, paired_share: float) -> Iterator[Bird]:
    """What `write` draws, split by split and group by group."""
    for split, total, share in (("train", train, paired_share), ("validation", validation, 0.5), ("test", test, 0.5)):
        for (y, a), count in np.ndenumerate(counts(total, share)):
            for i in range(count):
                yield Bird(split, y, a, i)


def draw(bird: Bird, seed: int = 0, size: int = world.SIZE) -> world.Scene:
    """Draws a picture from a generator of its own, so that no two share anything, and more leave the first as they are.

    Args:
        bird: What it shows.
        seed: Of the data set, from 0.
        size: Edge in pixels.
    """
    rng = world.generator(f"pocketbirds {bird.split} {OBJECTS[bird.y]} {SCENES[bird.a]} {bird.i}", seed)
    prop = str(rng.choice(world.PROPS)) if rng.random() < PROP_SHARE else None
    return world.render(OBJECTS[bird.y], SCENES[bird.a], prop, rng, size, _lay_out(rng))


def _lay_out(rng: np.random.Generator) -> Layout:
    """The object on one side, wholly in view, with room for a prop on the other."""
    radius, small = float(rng.uniform(*RADIUS)), float(rng.uniform(*PROP_RADIUS))
    gap = radius + small + float(rng.uniform(-0.02, 0.03))
    x, y = float(rng.uniform(radius, 1 - small - gap)), float(rng.uniform(0.36, 0.98 - radius))
    beside = x + gap, float(np.clip(y + rng.uniform(-0.2, 0.2), small, 1 - small))
    if rng.random() < 0.5:
        x, beside = 1 - x, (1 - beside[0], beside[1])
    return Layout(Place((x, y), radius), Place(beside, small))


def write(
    directory: Path | str,
    train: int = TRAIN,
    validation: int = VALIDATION,
    test: int = TEST,
    *,
    paired_share: float = PAIRED_SHARE,
    seed: int = 0,
    size: int = world.SIZE,
    show_progress: bool = True,
) -> Path:
    """Writes pictures, the true mask of the object beside each, and at last the table `filename,split,y,a`.

    The same arguments give the same bytes. A run that was stopped is begun again with the same call.

    Args:
        directory: Where to; it may exist.
        train: Pictures of the split, 0 or more; likewise the others, in which the groups are of one size.
        paired_share: Share of training pictures that show an object in its own scene, 0 to 1; 0.5 is no bias.
        seed: Decides all pictures, 0 or more.
        size: Edge in pixels.

    Returns:
        The directory.

    Raises:
        FiguregroundError: It holds a table already.
        RecipeError: A number that can't be used.
    """
    directory = Path(directory)
    for name, value, least in (
        ("train", train, 0), ("validation", validation, 0), ("test", test, 0), ("seed", seed, 0), ("size", size, 8),
    ):  # fmt: skip
        if value < least:
            raise RecipeError(name, f"{value} is below {least}.")
    if not 0 <= paired_share <= 1:
        raise RecipeError("paired_share", f"{paired_share} is not a number from 0 to 1.")
    if (directory / TABLE).exists():
        raise FiguregroundError(f"{directory} holds a {TABLE} already. Give another directory.")
    birds = list(plan(train, validation, test, paired_share))
    for folder in {bird.split for bird in birds}:
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for bird in tqdm(birds, "drawing pocketbirds", unit="image", disable=None if show_progress else True):
        scene, path = draw(bird, seed, size), directory / bird.file
        mask = Image.fromarray(np.where(np.asarray(scene.foreground) >= 128, 255, 0).astype(np.uint8))
        path.write_bytes(encode(scene.picture, "png"))
        path.with_name(path.stem + MASK_SUFFIX).write_bytes(encode(mask, "png"))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / TABLE).write_bytes(_table(birds).encode())
    return directory


def _table(birds: Sequence[Bird]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("filename", "split", "y", "a"))
    rows.writerows((bird.file, bird.split, OBJECTS[bird.y], SCENES[bird.a]) for bird in birds)
    return text.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m figureground.pocket.birds", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory to write into")
    for name, default in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        parser.add_argument(f"--{name}", type=int, default=default, help="pictures of the split (%(default)s)")
    parser.add_argument(
        "--paired-share", type=float, default=PAIRED_SHARE,
        help="share of training pictures that show an object in its own scene (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="decides all pictures (%(default)s)")
    parser.add_argument("--size", type=int, default=world.SIZE, help="edge in pixels (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        print(write(**vars(options)))
    except FiguregroundError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
