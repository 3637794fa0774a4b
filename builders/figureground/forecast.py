"""What a build would make, said before it is made: counts, dependence, size and work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from figureground.errors import counted
from figureground.table import Counts, cramers_v, paired_share

if TYPE_CHECKING:
    from figureground.builder import Builder
    from figureground.plan import Plan

BYTES_PER_PIXEL = {"jpg": 0.7, "webp": 0.4, "png": 1.8}
"""About what an image format needs; measured on pictures of diffusion models."""
MOST_ROWS = 24
"""Classes whose counts are printed one by one."""


def forecast(builder: Builder, images_per_second: float | None = None) -> str:
    """The text that `figureground plan` prints.

    Args:
        images_per_second: Speed of the machine that will build, for the hours; None leaves them out.
    """
    builder.check_size()
    config, plan = builder.config, builder.plan()
    shards, totals = plan.shards(), plan.totals()
    images = sum(totals.values())
    lines = [
        f"{builder.METHOD}, config {config.name}: {images:,} images of {config.size} px in "
        f"{counted(len(shards), 'shard')}, {len(plan.foregrounds)} foregrounds × {len(plan.backgrounds)} backgrounds"
    ]
    lines += builder.plan_counts(plan)
    evaluations = images * builder.denoiser_steps() * (2 if config.guidance_scale > 1 else 1)
    size = images * config.size**2 * BYTES_PER_PIXEL[config.image_format] * len(config.formats)
    lines += ["", f"about {human_bytes(size)} as {' and '.join(config.formats)}; {evaluations:,} denoiser evaluations"]
    if images_per_second:
        lines.append(f"{images / images_per_second / 3600:.1f} hours of drawing at {images_per_second:g} images/s")
    lines += [*builder.checkpoint_notes(), *builder.plan_notes()]
    return "\n".join(lines)


def counts_by_split(builder: Builder, plan: Plan) -> list[str]:
    """Each split's counts of foregrounds on backgrounds, and how much these depend on each other."""
    lines = []
    for split, images in plan.totals().items():
        counts = plan.cells(split)
        paired = builder.pairings.get(split)
        share = f", {paired_share(counts, paired):.1%} in paired cells" if paired is not None else ""
        lines += ["", f"{split}: {images:,} images, Cramér's V {cramers_v(counts):.3f}{share}"]
        lines += draw_counts(counts, plan.foregrounds, plan.backgrounds)
    return lines


def draw_counts(counts: Counts, foregrounds: Sequence[str], backgrounds: Sequence[str]) -> list[str]:
    """The table of counts; of many classes, each background's total and range."""
    width = [max(7, len(name) + 1) for name in backgrounds]
    many = len(foregrounds) > MOST_ROWS
    labels = ["all classes", "least", "most"] if many else list(foregrounds)
    rows = np.stack([counts.sum(0), counts.min(0), counts.max(0)]) if many else counts
    left = max(len(name) for name in labels) + 2
    head = " " * left + "".join(f"{name:>{w}}" for name, w in zip(backgrounds, width, strict=True))
    body = [
        f"  {label:<{left - 2}}" + "".join(f"{n:>{w},}" for n, w in zip(row, width, strict=True))
        for label, row in zip(labels, rows, strict=True)
    ]
    return [head, *body]


def human_bytes(size: float) -> str:
    """A number of bytes as people say it."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
