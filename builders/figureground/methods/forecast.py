"""Forecast of a build: counts, correlation of the labels, size and work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.core.columns import pad, text_width
from figureground.core.errors import FiguregroundError, UsageError, counted
from figureground.core.text import human_time
from figureground.recipe.table import Counts, bias_aligned_share, cramers_v
from figureground.running.runner import open_runner

if TYPE_CHECKING:
    from figureground.methods.base import Method
    from figureground.models.needs import Need
    from figureground.recipe.plan import Plan

BYTES_PER_PIXEL = {"jpg": 0.7, "webp": 0.4, "png": 1.8}
"""Approximate bytes per pixel of the image formats, measured on images of diffusion models."""
MOST_ROWS = 24
"""Classes whose counts are printed one by one."""


def plan(method: Method, images_per_second: float | None = None) -> dict[str, Any]:
    """Forecast a build, as `figureground plan --json` prints it. Needs no weights.

    Args:
        method: The method with its settings, such as `D3S("pocket")`.
        images_per_second: Speed of the machine that will build, above 0; None leaves `seconds` None.

    Returns:
        A dict in which `method` and `config` are names, `images`, `size` (pixels) and `shards` are numbers,
        `foregrounds` and `backgrounds` list the labels, and `formats` the formats of the shards. `splits` maps each
        split to `images`, `counts` (images per cell: rows are foregrounds, columns backgrounds), `cramers_v`
        (0 to 1) and `bias_aligned_share` (0 to 1, None without a pairing). `bytes`, `denoiser_evaluations` and
        `seconds` estimate size and work. `notes` lists warnings and remarks. `to_build` lists requirements that this
        machine lacks, each with `field`, `what`, `command` (None if no single command helps) and `bytes` (None if
        unknown).

    Raises:
        UsageError: No machine can build the recipe as given.
    """
    needs = _checked(method)
    config, planned = method.config, method.plan()
    images = sum(planned.totals().values())
    calls = method.denoiser_steps() + (config.scheduler == "pndm")  # pndm takes its second step twice
    splits = {}
    for split, count in planned.totals().items():
        cells, paired = planned.cells(split), method.pairings.get(split)
        splits[split] = {
            "images": count, "cramers_v": round(cramers_v(cells), 6), "counts": cells.tolist(),
            "bias_aligned_share": None if paired is None else round(bias_aligned_share(cells, paired), 6),
        }  # fmt: skip
    return {
        "method": method.METHOD, "config": config.name, "images": images, "size": config.size,
        "shards": len(planned.shards()), "foregrounds": list(planned.foregrounds),
        "backgrounds": list(planned.backgrounds),
        "splits": splits, "formats": list(config.formats),
        "bytes": round(images * config.size**2 * BYTES_PER_PIXEL[config.image_format] * len(config.formats)),
        "denoiser_evaluations": images * calls * (2 if config.guidance_scale > 1 else 1),
        "seconds": None if images_per_second is None else images / images_per_second,
        "notes": [*method.checkpoint_notes(), *method.plan_notes()], "to_build": [need.to_json() for need in needs],
    }  # fmt: skip


def _checked(method: Method) -> list[Need]:
    """Return a build's missing requirements; raise every error as UsageError, as no work has been started."""
    try:
        method.check_size()
        needs = method.needs()
        method.check_plan()
        open_runner(method.config.runner)
    except UsageError:
        raise
    except FiguregroundError as error:
        raise UsageError(str(error)) from error
    return needs


def describe(method: Method, images_per_second: float | None = None) -> str:
    """Return the text that `figureground plan` prints; see `plan`."""
    found = plan(method, images_per_second)
    lines = [
        f"{found['method']}, config {found['config']}: {found['images']:,} images of {found['size']} px in "
        f"{counted(found['shards'], 'shard')}, {len(found['foregrounds'])} foregrounds × "
        f"{len(found['backgrounds'])} backgrounds"
    ]
    lines += method.plan_counts(method.plan())
    lines += [
        "",
        f"about {human_bytes(found['bytes'])} as {' and '.join(found['formats'])}; "
        f"{found['denoiser_evaluations']:,} denoiser evaluations",
    ]
    if images_per_second:
        lines.append(f"{human_time(found['seconds'])} of drawing at {images_per_second:g} images/s")
    lines += found["notes"]
    if found["to_build"]:
        lines += ["", "To build it:", *(f"  {_said(need)}" for need in found["to_build"])]
    return "\n".join(lines)


def _said(need: Mapping[str, Any]) -> str:
    size = f", about {human_bytes(need['bytes'])}" if need["bytes"] else ""
    return f"{need['field']}: {need['what']}{size}" + (f": {need['command']}" if need["command"] else "")


def counts_by_split(method: Method, plan: Plan) -> list[str]:
    """Return lines with each split's counts of foregrounds on backgrounds, and their correlation."""
    lines = []
    for split, images in plan.totals().items():
        counts = plan.cells(split)
        paired = method.pairings.get(split)
        share = f", {bias_aligned_share(counts, paired):.1%} in paired cells" if paired is not None else ""
        lines += ["", f"{split}: {images:,} images, Cramér's V {cramers_v(counts):.3f}{share}"]
        lines += draw_counts(counts, plan.foregrounds, plan.backgrounds)
    return lines


def draw_counts(counts: Counts, foregrounds: Sequence[str], backgrounds: Sequence[str]) -> list[str]:
    """Return the table of counts; for more than `MOST_ROWS` classes, only each background's total and range."""
    width = [max(7, text_width(name) + 1) for name in backgrounds]
    many = len(foregrounds) > MOST_ROWS
    labels = ["all classes", "least", "most"] if many else list(foregrounds)
    rows = np.stack([counts.sum(0), counts.min(0), counts.max(0)]) if many else counts
    left = max(map(text_width, labels))
    head = " " * (left + 2) + "".join(pad(name, w, right=True) for name, w in zip(backgrounds, width, strict=True))
    body = [
        f"  {pad(label, left)}" + "".join(f"{n:>{w},}" for n, w in zip(row, width, strict=True))
        for label, row in zip(labels, rows, strict=True)
    ]
    return [head, *body]


def human_bytes(size: float) -> str:
    """Format a number of bytes in a readable unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
