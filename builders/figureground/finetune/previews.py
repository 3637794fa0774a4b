"""Preview images of a fine-tuning's progress, with the same prompts and seeds each time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.render import Renderer, Sampling, refuse_guide
from figureground.recipe.sample import Sample, Spec, derive_seed

PREVIEWS = "previews"


def draw_preview(
    checkpoint: Checkpoint,
    sampling: Sampling,
    prompts: Sequence[str],
    seed: int,
    path: Path,
    between_steps: Callable[[], None],
) -> None:
    """Draw a row per prompt, with one batch of images each; images that can't be drawn stay black."""
    edge, columns = sampling.size, sampling.batch_size
    page = Image.new("RGB", (columns * edge, len(prompts) * edge), "black")
    renderer = Renderer(checkpoint, sampling, refuse_guide, between_steps)
    for row, prompt in enumerate(prompts):
        specs = [
            Spec(f"preview-{i}", "preview", 0, 0, "", "", prompt, derive_seed(seed, "preview", str(i)))
            for i in range(columns)
        ]
        for column, result in enumerate(renderer.render(specs)):
            if isinstance(result, Sample):
                page.paste(result.image, (column * edge, row * edge))
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    try:
        page.save(draft, format="PNG")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
