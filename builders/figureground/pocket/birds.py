"""Test-beds: small datasets of the drawn world in which each class is correlated with an attribute.

In `pocketbirds` the attribute is the scene, as in Waterbirds. In `pocketlooks` it is the look of a prop beside the
object, while the scene varies freely. A classifier trained on one learns to rely on the attribute. This becomes
visible in validation and test, where class and attribute are independent.

Run it with `python -m figureground.pocket.birds DIR --bed NAME`.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, RecipeError, join_names, suggest_or_list
from figureground.core.progress import Progress
from figureground.pocket import world
from figureground.pocket.world import Layout, Place
from figureground.recipe.table import Counts, largest_remainder
from figureground.sources.images import MASK_SUFFIX, encode

TABLE = "metadata.csv"

REACH = 1.2
"""Maximum extent of an object or a prop from its centre at any rotation, in radii."""
GAP = (-0.02, 0.03)
"""Range of the gap between object and prop, in shares of the image's edge."""
MIN_CENTER_Y = 0.36
"""Minimum y of an object's centre: objects stand below the upper part of the sky."""


class PlannedImage(NamedTuple):
    """Plan of one image."""

    split: str
    """train, validation or test."""
    y: int
    """The class, 0 or 1."""
    a: int
    """The attribute, 0 or 1."""
    i: int
    """Number within its group of the split, from 0."""


class PartNames(NamedTuple):
    """The names of an image's object, scene and prop."""

    foreground: str
    background: str
    prop: str | None
    """With its look, as in `gift:0`, if the attribute is a look; without if the look is random."""


@dataclass(frozen=True)
class Bed:
    """Two classes, two values of an attribute, and the parameters of the images.

    Raises:
        RecipeError: A name is unknown, a number is out of range, or object and prop don't fit side by side with these
            radii.
    """

    name: str
    """Name of the bed. Together with the seed, it determines the drawings."""
    objects: tuple[str, str]
    """The classes y, foregrounds of the world, in alphabetical order, which is that of their labels."""
    attributes: tuple[str, str]
    """Names of the attribute a, also in alphabetical order; the first is paired with the first object."""
    looks: tuple[str, str] | None = None
    """Two looks of one prop, as in `gift:0`, for the attributes. None if the attributes are scenes."""
    scenes: tuple[str, ...] = ()
    """The scenes if the attribute is a look: equally frequent, and independent of class and attribute."""
    prop_share: float = 0.6
    """Share of images with a prop of any look beside the object, if the attribute is the scene. 0.6 is the share in the
    pocket model's training images."""
    radius: tuple[float, float] = (0.16, 0.22)
    """Range of the object's radius, in shares of the image's edge."""
    prop_radius: tuple[float, float] = (0.135, 0.17)
    """Range of the prop's radius, in shares of the image's edge."""
    bias_aligned_share: float = 0.95
    """Share of training images that show an object with its own attribute; 0.5 is no bias."""
    train: int = 600
    """Number of training images."""
    validation: int = 1600
    """Number of validation images; all groups have the same size."""
    test: int = 4000
    """Number of test images; all groups have the same size."""

    def __post_init__(self) -> None:
        if self.looks is None:
            _refuse_unknown("attributes", self.attributes, world.BACKGROUNDS)
            if self.scenes:
                raise RecipeError("scenes", "they are the attribute here. Leave them out, or give looks.")
        else:
            looks = [f"{prop}:{look}" for prop in world.PROPS for look in range(world.LOOKS)]
            _refuse_unknown("looks", self.looks, looks)
            if len({look.partition(":")[0] for look in self.looks}) > 1:
                raise RecipeError("looks", f"{join_names(self.looks)} are looks of two props. Give two of one prop.")
            if not self.scenes:
                raise RecipeError("scenes", "name one or more, since the attribute is a look.")
            _refuse_unknown("scenes", self.scenes, world.BACKGROUNDS)
        _refuse_unknown("objects", self.objects, world.FOREGROUNDS)
        _refuse_unsorted("objects", self.objects)
        _refuse_unsorted("attributes", self.attributes)
        for name, share in (("prop_share", self.prop_share), ("bias_aligned_share", self.bias_aligned_share)):
            if not 0 <= share <= 1:
                raise RecipeError(name, f"{share} is not a number from 0 to 1.")
        for name, (low, high) in (("radius", self.radius), ("prop_radius", self.prop_radius)):
            if not 0 < low <= high:
                raise RecipeError(name, f"{low} to {high} is not a range above 0.")
        needed_width = (REACH + 1) * (self.radius[1] + self.prop_radius[1]) + GAP[1]
        if needed_width > 1 or 1 - REACH * self.radius[1] < MIN_CENTER_Y:
            raise RecipeError("radius", f"an object of {self.radius[1]} and a prop of {self.prop_radius[1]} don't fit "
                              "into an image side by side. Make one smaller.")  # fmt: skip

    def plan(self, train: int, validation: int, test: int, bias_aligned_share: float) -> Iterator[PlannedImage]:
        """Yield the images, split by split and group by group; the arguments are those of `write`."""
        splits = (("train", train, bias_aligned_share), ("validation", validation, 0.5), ("test", test, 0.5))
        for split, total, share in splits:
            for (y, a), count in np.ndenumerate(count_groups(total, share)):
                for i in range(count):
                    yield PlannedImage(split, y, a, i)

    def image_path(self, image: PlannedImage) -> str:
        """Return the image's path in the bed's directory, with `/`."""
        return f"{image.split}/{self.objects[image.y]}-{self.attributes[image.a]}-{image.i:05d}.png"

    def draw(self, image: PlannedImage, seed: int = 0, size: int = world.SIZE) -> world.Scene:
        """Draw an image with its own random generator, so that images are independent, and a larger split begins with
        the images of a smaller one.

        Args:
            seed: Seed of the dataset, 0 or more.
            size: Edge in pixels.
        """
        rng = self._make_generator(image, seed)
        parts = self._choose_parts(image, rng)
        return world.render(parts.foreground, parts.background, parts.prop, rng, size, self._lay_out(rng))

    def name_parts(self, image: PlannedImage, seed: int = 0) -> PartNames:
        """Return the names of the parts that `draw` shows with the same seed."""
        return self._choose_parts(image, self._make_generator(image, seed))

    def _make_generator(self, image: PlannedImage, seed: int) -> np.random.Generator:
        name, attribute = self.objects[image.y], self.attributes[image.a]
        return world.generator(f"{self.name} {image.split} {name} {attribute} {image.i}", seed)

    def _choose_parts(self, image: PlannedImage, rng: np.random.Generator) -> PartNames:
        name = self.objects[image.y]
        if self.looks is not None:
            return PartNames(name, str(rng.choice(self.scenes)), self.looks[image.a])
        prop = str(rng.choice(world.PROPS)) if rng.random() < self.prop_share else None
        return PartNames(name, self.attributes[image.a], prop)

    def _lay_out(self, rng: np.random.Generator) -> Layout:
        """Draw a layout with the object on one side and room for a prop on the other, both fully in view."""
        radius, prop_radius = float(rng.uniform(*self.radius)), float(rng.uniform(*self.prop_radius))
        gap = radius + prop_radius + float(rng.uniform(*GAP))
        x = float(rng.uniform(REACH * radius, 1 - REACH * prop_radius - gap))
        y = float(rng.uniform(MIN_CENTER_Y, 1 - REACH * radius))
        prop_center = x + gap, float(np.clip(y + rng.uniform(-0.2, 0.2), REACH * prop_radius, 1 - REACH * prop_radius))
        if rng.random() < 0.5:
            x, prop_center = 1 - x, (1 - prop_center[0], prop_center[1])
        return Layout(Place((x, y), radius), Place(prop_center, prop_radius))


def _refuse_unknown(field: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise RecipeError(field, f"there is no {name!r}{suggest_or_list(name, known)}")
    if len(set(names)) < len(names):
        raise RecipeError(field, f"{join_names(names)}: name each once.")


def _refuse_unsorted(field: str, names: Sequence[str]) -> None:
    """Raise RecipeError for unsorted names. Tables number names alphabetically; otherwise the paired groups wouldn't be
    on the diagonal when the table is read."""
    if list(names) != sorted(names):
        raise RecipeError(field, f"{join_names(names)} are not in alphabetical order.")


OBJECTS = ("mug", "umbrella")
"""The classes of pocketbirds. Of the world's ten objects, these two are the hardest to distinguish by colour, so their
shapes must be learned."""
SCENES = ("grass", "water")
"""The attributes of pocketbirds."""

_BEDS = (
    Bed("pocketbirds", OBJECTS, SCENES, bias_aligned_share=1 - 14 / 1200, train=1200),  # 14 images against the bias
    Bed(
        "pocketlooks", ("boat", "umbrella"), ("blue", "red"), ("gift:1", "gift:0"), bias_aligned_share=1 - 18 / 1320,
        train=1320, scenes=("grass", "road", "sand", "snow"), prop_radius=(0.18, 0.22),
    ),
)  # fmt: skip
BEDS: Mapping[str, Bed] = MappingProxyType({bed.name: bed for bed in _BEDS})
"""The test-beds by name."""


def find_bed(name: str) -> Bed:
    """Return a test-bed by name.

    Raises:
        RecipeError: The name is unknown.
    """
    if name not in BEDS:
        raise RecipeError("bed", f"there is no {name!r}{suggest_or_list(name, BEDS)}")
    return BEDS[name]


def count_groups(total: int, bias_aligned_share: float) -> Counts:
    """Return the number of images per group, int64 (objects, attributes), balanced by object; the sum is `total`."""
    weights = np.full((2, 2), (1 - bias_aligned_share) / 2)
    np.fill_diagonal(weights, bias_aligned_share / 2)
    return largest_remainder(weights.ravel(), total).reshape(2, 2)


def write(
    directory: Path | str,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    *,
    bed: str | Bed = "pocketbirds",
    bias_aligned_share: float | None = None,
    seed: int = 0,
    size: int = world.SIZE,
    show_progress: bool = True,
) -> Path:
    """Write images, the true mask of the object beside each, and finally the table `filename,split,y,a`.

    The same arguments give the same bytes. The same call restarts a stopped run.

    Args:
        directory: Output directory; it may exist.
        train: Number of training images, 0 or more; by default the bed's own.
        validation: Number of validation images, likewise; its groups have the same size.
        test: Number of test images, likewise.
        bed: Name of one of `BEDS`, or a custom bed.
        bias_aligned_share: Share of training images that show an object with its own attribute, 0 to 1; 0.5 is no bias.
            By default the bed's own.
        seed: Determines all images, 0 or more.
        size: Edge in pixels.

    Returns:
        The directory.

    Raises:
        FiguregroundError: The directory already holds a table.
        RecipeError: The bed is unknown, or a number is invalid.
    """
    directory, bed = Path(directory), find_bed(bed) if isinstance(bed, str) else bed
    sizes = (
        bed.train if train is None else train,
        bed.validation if validation is None else validation,
        bed.test if test is None else test,
    )
    share = bed.bias_aligned_share if bias_aligned_share is None else bias_aligned_share
    for name, value, minimum in zip(
        ("train", "validation", "test", "seed", "size"), (*sizes, seed, size), (0, 0, 0, 0, 8), strict=True
    ):
        if value < minimum:
            raise RecipeError(name, f"{value} is below {minimum}.")
    if not 0 <= share <= 1:
        raise RecipeError("bias_aligned_share", f"{share} is not a number from 0 to 1.")
    if (directory / TABLE).exists():
        raise FiguregroundError(f"{directory} holds a {TABLE} already. Give another directory.")
    images = list(bed.plan(*sizes, share))
    for folder in {image.split for image in images}:
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for image in Progress(len(images), iterable=images, desc=f"drawing {bed.name}", unit="image", show=show_progress):
        scene, path = bed.draw(image, seed, size), directory / bed.image_path(image)
        mask = Image.fromarray(np.where(np.asarray(scene.foreground) >= 128, 255, 0).astype(np.uint8))
        path.write_bytes(encode(scene.image, "png"))
        path.with_name(path.stem + MASK_SUFFIX).write_bytes(encode(mask, "png"))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / TABLE).write_bytes(_format_table(bed, images).encode())
    return directory


def _format_table(bed: Bed, images: Sequence[PlannedImage]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("filename", "split", "y", "a"))
    rows.writerows(
        (bed.image_path(image), image.split, bed.objects[image.y], bed.attributes[image.a]) for image in images
    )
    return text.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m figureground.pocket.birds", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory to write into")
    parser.add_argument("--bed", metavar="NAME", default="pocketbirds", help=f"{' or '.join(BEDS)} (%(default)s)")
    for name in ("train", "validation", "test"):
        defaults = ", ".join(f"{getattr(bed, name):,} for {bed.name}" for bed in BEDS.values())
        parser.add_argument(f"--{name}", type=int, help=f"images of the split ({defaults})")
    defaults = ", ".join(f"{bed.bias_aligned_share:g} for {bed.name}" for bed in BEDS.values())
    parser.add_argument(
        "--bias-aligned-share", type=float,
        help=f"share of training images that show an object with its own attribute; 0.5 is no bias ({defaults})",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="decides all images (%(default)s)")
    parser.add_argument("--size", type=int, default=world.SIZE, help="edge in pixels (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        print(write(**vars(options)))
    except FiguregroundError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
