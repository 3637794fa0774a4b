"""A labelled set of photographs that anyone may use: crops of those that scikit-image ships.

`chelsea`, a cat (Stefan van der Walt, CC0), and `coffee`, a cup (Rachel Michetti, CC0).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from figureground.recipe.sample import derive_seed

EDGE = 128


def write(folder: Path, train: int = 6, validation: int = 2) -> Path:
    """Write crops of `EDGE` px of the two photographs, of which the classes are `cat` and `cup`, without masks."""
    folder.mkdir(parents=True)
    lines = ["filename,split,y"]
    for name, whole in (("cat", skimage.data.chelsea()), ("cup", skimage.data.coffee())):
        image = Image.fromarray(whole)
        for i in range(train + validation):
            rng = np.random.default_rng(derive_seed(0, name, str(i)))
            side = int(rng.integers(200, min(image.size)))
            left, top = (int(rng.integers(0, size - side + 1)) for size in image.size)
            crop = image.crop((left, top, left + side, top + side)).resize((EDGE, EDGE))
            crop.save(folder / f"{name}-{i}.png")
            lines.append(f"{name}-{i}.png,{int(i >= train)},{name}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder
