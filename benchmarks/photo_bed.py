"""A small dataset like Waterbirds: dogs and other mammals, cut out of their photographs, indoors and outdoors.

95 % of the training images follow the pairing of dogs with indoor scenes; validation and test are balanced. No object
and no scene is in two splits. The cut-outs passed `photo_inputs.explain_unusable` and were then inspected by eye.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from photo_inputs import Photograph, explain_unusable, make_alpha
from PIL import Image

from figureground.recipe.sample import derive_seed

CLASSES, SCENES = ("dog", "other mammal"), ("indoors", "outdoors")
DOGS = range(151, 269)
MAMMALS = (*range(269, 300), *range(330, 389))
"""ImageNet's positions: wolves to meerkats, and hares to pandas, without insects."""
INDOORS = (
    "bakery", "barber_chair", "bathtub", "bookcase", "chiffonier", "china_cabinet", "crib", "desk", "dining_table",
    "entertainment_center", "four-poster", "home_theater", "library", "medicine_chest", "microwave", "organ",
    "refrigerator", "restaurant", "rocking_chair", "sliding_door", "stove", "studio_couch", "television",
    "toilet_seat", "toyshop", "wardrobe", "washbasin", "window_shade",
)  # fmt: skip
OUTDOORS = (
    "alp", "barn", "bell_cote", "boathouse", "breakwater", "castle", "cliff", "cliff_dwelling", "dam", "dock",
    "geyser", "hay", "lakeside", "megalith", "mosque", "mountain_tent", "palace", "park_bench", "plow", "promontory",
    "rapeseed", "seashore", "steel_arch_bridge", "stone_wall", "stupa", "valley", "viaduct", "volcano",
)  # fmt: skip
"""Photographs of these classes show scenes without mammals; they were inspected by eye."""
EXCLUDED = {
    "toy_terrier": "a hand", "bloodhound": "a person", "Italian_greyhound": "no head", "Lhasa": "a person",
    "Kerry_blue_terrier": "persons", "German_short-haired_pointer": "only a muzzle", "Sussex_spaniel": "hands",
    "Old_English_sheepdog": "a person", "Great_Pyrenees": "persons", "Pomeranian": "a hand",
    "miniature_poodle": "a person", "ice_bear": "no whole animal", "siamang": "ropes", "proboscis_monkey": "cut",
    "capuchin": "cut",
}  # fmt: skip
"""Cut-outs that passed the gates and were rejected by eye, and why."""
SHARES = (0.45, 0.2, 0.35)
"""Shares of objects and scenes in train, validation and test."""
ALIGNED = 0.95
EDGE = 160
LENGTH = (0.45, 0.75)
"""Longer edge of an object, as a share of the image's."""


def choose_objects(
    photographs: Sequence[Photograph], probabilities: Mapping[str, np.ndarray]
) -> list[list[Photograph]]:
    """Return the photographs whose objects are used, by class."""

    def usable(photograph: Photograph) -> bool:
        return (
            photograph.name.partition("_")[2] not in EXCLUDED
            and explain_unusable(probabilities[photograph.name]) is None
        )

    return [
        [photograph for photograph in photographs if photograph.label in labels and usable(photograph)]
        for labels in (DOGS, MAMMALS)
    ]


def choose_scenes(photographs: Sequence[Photograph]) -> list[list[Photograph]]:
    """Return the photographs of scenes, by scene."""
    by_name = {photograph.name.partition("_")[2]: photograph for photograph in photographs}
    return [[by_name[name] for name in names if name in by_name] for names in (INDOORS, OUTDOORS)]


def write(
    folder: Path, objects: Sequence[Sequence[Photograph]], probabilities: Mapping[str, np.ndarray],
    scenes: Sequence[Sequence[Photograph]], per_class: int, per_cell: Sequence[int], aligned: float = ALIGNED,
) -> Path:  # fmt: skip
    """Write the images, their masks and `metadata.csv`, unless they exist; return the folder.

    Args:
        aligned: Share of the training images that follow the pairing; 0.5 leaves no bias.
        per_class: Training images of each class.
        per_cell: Images of each class and scene in validation and test.
    """
    table = folder / "metadata.csv"
    if table.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    object_splits = [_split(group, f"objects {i}") for i, group in enumerate(objects)]
    scene_splits = [_split(group, f"scenes {i}") for i, group in enumerate(scenes)]
    rows = [("filename", "split", "y", "a")]
    num_against = round(per_class * (1 - aligned))
    for split in range(3):
        for y in range(2):
            counts = (per_class - num_against, num_against) if y == 0 else (num_against, per_class - num_against)
            for a in range(2):
                for i in range(counts[a] if split == 0 else per_cell[split - 1]):
                    name = f"{split}-{y}-{a}-{i:04d}"
                    _draw(folder / name, object_splits[y][split], probabilities, scene_splits[a][split], i)
                    rows.append((f"{name}.png", str(split), CLASSES[y], SCENES[a]))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def _split(photographs: Sequence[Photograph], name: str) -> list[list[Photograph]]:
    """Divide photographs into train, validation and test, at random."""
    order = np.random.default_rng(derive_seed(0, "photographs", name)).permutation(len(photographs))
    ends = [0, *np.rint(np.cumsum(SHARES) * len(order)).astype(int)]
    return [[photographs[k] for k in order[ends[i] : ends[i + 1]]] for i in range(3)]


def _draw(
    stem_path: Path, objects: Sequence[Photograph], probabilities: Mapping[str, np.ndarray],
    scenes: Sequence[Photograph], number: int,
) -> None:  # fmt: skip
    """Write an image and its mask; objects are used equally often, scenes at random."""
    rng = np.random.default_rng(derive_seed(0, "photographs", stem_path.name))
    photograph, scene = objects[number % len(objects)], scenes[int(rng.integers(len(scenes)))].read()
    side = int(min(scene.size) * rng.uniform(0.8, 1))
    left, top = (int(rng.integers(0, size - side + 1)) for size in scene.size)
    image = scene.crop((left, top, left + side, top + side)).resize((EDGE, EDGE), Image.Resampling.LANCZOS)
    alpha = make_alpha(probabilities[photograph.name])
    cutout = photograph.read()
    cutout.putalpha(alpha)
    cutout = cutout.crop(alpha.getbbox())
    longer_edge = EDGE * rng.uniform(*LENGTH)
    width, height = (max(1, round(length * longer_edge / max(cutout.size))) for length in cutout.size)
    small = cutout.resize((width, height), Image.Resampling.LANCZOS)
    x = int(rng.integers(0, EDGE - width + 1))
    y = int((EDGE - height) * rng.uniform(0.6, 1))
    if rng.random() < 0.5:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image.paste(small, (x, y), small)
    mask = Image.new("L", image.size)
    mask.paste(small.getchannel("A").point(lambda value: 255 if value >= 128 else 0), (x, y))
    image.save(stem_path.with_suffix(".png"))
    mask.save(stem_path.with_suffix(".mask.png"))
