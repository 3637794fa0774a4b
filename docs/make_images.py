"""Draws methods.png for the README from datasets of three methods: `python docs/make_images.py SPURIOUS SCGS DDB DATA`.

The one in docs was made from

    figureground build spurious --set 'classes=[bird, boat]' --set per_cell=2 --out spurious
    python -m figureground.pocket.birds birds
    figureground build scgs --data birds --set per_class=8 --out scgs
    figureground build ddb --data birds --set sources=8 --set per_source=1 --out ddb
    python docs/make_images.py spurious scgs ddb birds
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import load_dataset
from PIL import Image

from figureground.shards.stages import COPIES
from figureground.sources.images import list_images

OUT = Path(__file__).with_name("methods.png")
EDGE, GAP = 112, 6
ACROSS = 8
"""Images a row: two groups of four."""
Row = Sequence[Image.Image]


def learned(directory: Path) -> Row:
    """For each of two classes, a reference of its spurious feature, and three generated images."""
    stages = directory / "_figureground" / "stages" / COPIES
    found: list[Image.Image] = []
    for split, rows in list(load_dataset(str(directory)).items())[:2]:
        found += [Image.open(list_images(stages / split)[0]), *rows[:: max(1, len(rows) // 3)]["image"][:3]]
    return found


def repainted(directory: Path, data: Path) -> Row:
    """Four times a source image and what was made of it, spread over the classes."""
    rows = load_dataset(str(directory), split="train")
    picked = rows.select(range(0, len(rows), max(1, len(rows) // 4))).select(range(4))
    return [image for row in picked for image in (Image.open(data / row["source"]), row["image"])]


def main(arguments: Sequence[str]) -> None:
    """Draw the three rows below each other, with a wider gap in the middle."""
    spurious, scgs, ddb, data = map(Path, arguments)
    rows = [learned(spurious), repainted(scgs, data), repainted(ddb, data)]
    step = EDGE + GAP
    sheet = Image.new("RGB", (ACROSS * step + GAP, len(rows) * step - GAP), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            left = x * step + (2 * GAP if x >= ACROSS // 2 else 0)
            sheet.paste(image.convert("RGB").resize((EDGE, EDGE), Image.Resampling.NEAREST), (left, y * step))
    sheet.save(OUT, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
