"""Accuracy of the bundled segmenter: `python benchmarks/segment.py`.

Measures, on drawings with known masks and seeds not used in training, the intersection over union at probability 0.5,
averaged over images, and how often the segmenter finds an object that is absent.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image
from results import Row, make_parser, report

from figureground.pocket import birds, world
from figureground.pocket.segmenter import EMPTY_SHARE, draw
from figureground.vision.segmentation import Segmenter, open_segmenter

THRESHOLD = 0.5


class Case(NamedTuple):
    """A drawing, its content, and the true masks."""

    image: Image.Image
    parts: dict[str, tuple[str, np.ndarray]]
    """ClassEntry and mask, bool (height, width), by part, such as `prop`."""


def make_case(scene: world.Scene, foreground: str | None, prop: str | None, background: str | None) -> Case:
    parts = (("foreground", foreground, scene.foreground), ("prop", prop, scene.prop),
             ("scene", background, scene.background))  # fmt: skip
    return Case(scene.image, {part: (noun, np.asarray(mask) >= 128) for part, noun, mask in parts if noun})


def overlap(predicted: np.ndarray, true: np.ndarray) -> float:
    union = (predicted | true).sum()
    return float((predicted & true).sum() / union) if union else 1.0


def measure(name: str, segmenter: Segmenter, cases: Iterable[Case], seed: int = 0) -> list[Row]:
    """Return result rows for some drawings."""
    rng = np.random.default_rng(seed)
    overlaps: dict[str, list[float]] = {}
    alarms = []
    for case in cases:
        for part, (noun, true) in case.parts.items():
            if true.any():
                (probability,) = segmenter([case.image], [f"a photo of a {noun}"])
                overlaps.setdefault(part, []).append(overlap(probability > THRESHOLD, true))
        if "foreground" in case.parts:
            absent = str(rng.choice([label for label in world.FOREGROUNDS if label != case.parts["foreground"][0]]))
            (probability,) = segmenter([case.image], [f"a photo of a {absent}"])
            alarms.append(float((probability > THRESHOLD).mean() > EMPTY_SHARE))
    rows = [
        Row(f"{name}: IoU of the {part} ({len(values)})", float(np.mean(values)), "")
        for part, values in overlaps.items()
    ]
    rows.append(Row(f"{name}: an absent foreground is found ({len(alarms)})", 100 * float(np.mean(alarms)), "%"))
    return rows


def main() -> None:
    parser = make_parser(__doc__, "segment")
    parser.add_argument("--images", type=int, default=500, help="number of images per kind, a multiple of four")
    args = parser.parse_args()
    if args.quick:
        args.images = 12
    began = time.monotonic()
    segmenter = open_segmenter("pocket")
    rng = world.generator("benchmark segmenter")
    drawings = []
    for _ in range(args.images):
        scene, (foreground, prop, background) = draw(rng)
        drawings.append(make_case(scene, foreground, prop, background))
    biased = []
    bed = birds.BEDS["pocketbirds"]
    for image in bed.plan(0, args.images, 0, 0.5):
        scene = bed.draw(image)
        biased.append(Case(scene.image, {"foreground": (bed.objects[image.y], np.asarray(scene.foreground) >= 128)}))
    rows = [*measure("drawings", segmenter, drawings), *measure("pocketbirds", segmenter, biased)]
    report("segment", args, rows, {"images": args.images, "threshold": THRESHOLD, **segmenter.facts}, began)


if __name__ == "__main__":
    main()
