"""Draws the pocket world's cut-outs, templates and photographs as image files, like those that a user would provide.

Run it with `python -m figureground.pocket.templates --out templates/pocket`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from figureground.pocket import world
from figureground.sources.images import encode

LICENSE = "Drawn by figureground; CC0-1.0 (https://creativecommons.org/publicdomain/zero/1.0/).\n"


def draw_templates(out: Path, cutouts: int, backgrounds: int, photographs: int, size: int = world.SIZE) -> None:
    """Write `cutouts/<class>/*.png` (RGBA), `backgrounds/<background>/*.png` and
    `photographs/<class>/<background>/*.png` (RGB), named `bird-00.png` and so on.

    Every image has its own random generator, so larger counts don't change the first images.

    Args:
        out: Output directory.
        cutouts: Number of cut-outs per foreground class.
        backgrounds: Number of images per background.
        photographs: Number of photographs per class and background.
        size: Edge in pixels.
    """
    for name in world.FOREGROUNDS:
        for i in range(cutouts):
            rng = world.generator(f"templates cutouts {name}", i)
            _write(out / "cutouts" / name, name, i, world.cutout(name, rng, size))
    for name in world.BACKGROUNDS:
        for i in range(backgrounds):
            rng = world.generator(f"templates backgrounds {name}", i)
            _write(out / "backgrounds" / name, name, i, world.render(None, name, None, rng, size).image)
    for name in world.FOREGROUNDS:
        for scene in world.BACKGROUNDS:
            for i in range(photographs):
                rng = world.generator(f"templates photographs {name} {scene}", i)
                image = world.render(name, scene, None, rng, size).image
                _write(out / "photographs" / name / scene, f"{name}-{scene}", i, image)
    (out / "LICENSE").write_text(LICENSE, encoding="utf-8")


def _write(directory: Path, name: str, i: int, image: Image.Image) -> None:
    path = directory / f"{name}-{i:02d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image, "png"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m figureground.pocket.templates", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory to write into")
    parser.add_argument("--cutouts", type=int, default=15, help="for each foreground class (%(default)s)")
    parser.add_argument("--backgrounds", type=int, default=15, help="for each background (%(default)s)")
    parser.add_argument("--photographs", type=int, default=3, help="for each class on each background (%(default)s)")
    parser.add_argument("--size", type=int, default=world.SIZE, help="edge in pixels (%(default)s)")
    options = parser.parse_args(arguments)
    draw_templates(options.out, options.cutouts, options.backgrounds, options.photographs, options.size)


if __name__ == "__main__":
    main()
