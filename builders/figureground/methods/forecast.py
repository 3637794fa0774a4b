"""Forecast of a build: counts, correlation of the labels, size and work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from figureground.core.errors import FiguregroundError, UsageError, plural
from figureground.core.shares import steps_between
from figureground.core.text import human_time
from figureground.methods.measured_speed import Measured
from figureground.models.family import OWN
from figureground.models.parts import read_mapping
from figureground.models.schedules import KINDS
from figureground.models.weights import check_size, edge_multiple, local_directory
from figureground.recipe.config import Config
from figureground.recipe.shard_size import STEP, bytes_per_image
from figureground.recipe.table import bias_aligned_share, cramers_v
from figureground.running.runner import open_runner

if TYPE_CHECKING:
    from figureground.methods.base import Method
    from figureground.models.family_records import Start
    from figureground.models.need import Need
    from figureground.recipe.plan import Plan

IDLE = 0.1
"""Share of the workers' time that may be idle without a note."""
MAX_ROUNDS = 32
"""Shards for each worker up to which a better shard size is looked for."""


def plan(method: Method, images_per_second: float | Measured | None = None) -> dict[str, Any]:
    """Forecast a build, as `figureground plan --json` prints it. Needs no weights.

    Args:
        method: The method with its settings, such as `D3S("pocket")`.
        images_per_second: Speed of the machine that will build, above 0, or one that was measured (`read_measured`);
            None leaves `seconds` None.

    Returns:
        A dict in which `method` and `config` are names, `images`, `size` (pixels) and `shards` are numbers,
        `foregrounds` and `backgrounds` list the labels, and `formats` the formats of the shards. `splits` maps each
        split to `images`, `counts` (images per cell: rows are foregrounds, columns backgrounds), `cramers_v`
        (0 to 1) and `bias_aligned_share` (0 to 1, None without a pairing). `bytes`, `denoiser_evaluations` and
        `seconds` estimate size and work; `images_per_second` is the speed that they follow from, and `measured` says
        where it is from, None if it was given; `idle_share` is the share of the workers' time without a shard to
        render, 0 to 1, if they are equally fast. `notes` lists warnings and remarks. `to_build` lists requirements
        that this machine lacks, each with `field`, `what`, `command` (None if no single command helps) and `bytes`
        (None if unknown).

    Raises:
        UsageError: No machine can build the recipe as given.
    """
    needs = _list_needs(method)
    rate = images_per_second
    measured, speed = (rate, rate.images_per_second) if isinstance(rate, Measured) else (None, rate)
    config, planned = method.config, method.plan()
    images = sum(planned.totals().values())
    repeated_steps = int(_find_sampler(config) == "pndm")  # its first step takes two evaluations
    calls = method.denoiser_steps() + repeated_steps
    is_guided = config.guidance_scale > 1 or (config.true_cfg_scale or 1) > 1
    passes = 1 + is_guided
    if method.family:
        passes = method.family.evaluations(config.guidance_scale, config.true_cfg_scale)
    evaluations = calls * passes
    if config.guidance_interval is not None:
        evaluations = calls + _count_guided_calls(config, method.denoiser_steps(), repeated_steps) * (passes - 1)
    splits = {}
    for split, count in planned.totals().items():
        cells, pairing = planned.cells(split), method.pairings.get(split)
        splits[split] = {
            "images": count, "cramers_v": round(cramers_v(cells), 6), "counts": cells.tolist(),
            "bias_aligned_share": None if pairing is None else round(bias_aligned_share(cells, pairing), 6),
        }  # fmt: skip
    return {
        "method": method.METHOD, "config": config.name, "images": images, "size": config.size,
        "shards": len(planned.shards()), "foregrounds": list(planned.foregrounds),
        "backgrounds": list(planned.backgrounds),
        "splits": splits, "formats": list(config.formats),
        "bytes": round(images * bytes_per_image(config.size, config.image_format, config.keep) * len(config.formats)),
        "denoiser_evaluations": images * evaluations,
        "seconds": None if speed is None else images / speed,
        "images_per_second": speed, "measured": measured and measured.to_json(),
        "workers": config.workers, "idle_share": round(idle_share(planned, config.workers), 6),
        "notes": [
            *([method.fast_row.note] if method.fast_row else []),
            *method.checkpoint_notes(), *_describe_start(config, method.start), *method.plan_notes(),
            *idle_notes(planned, config.workers),
        ],
        "to_build": [need.to_json() for need in needs],
    }  # fmt: skip


def _list_needs(method: Method) -> list[Need]:
    """Return a build's missing requirements; raise every error as UsageError, as no work has been started."""
    try:
        _check_size(method.config)
        needs = method.needs()
        method.check_family()
        method.check_plan()
        open_runner(method.config.runner)
    except UsageError:
        raise
    except FiguregroundError as error:
        raise UsageError(str(error)) from error
    return needs


def _check_size(config: Config) -> None:
    """Check that latents can have the image size. Needs no weights; passes if the checkpoint isn't known.

    Raises:
        RecipeError: The size isn't a multiple of the checkpoint's pixels per latent pixel or patch. For checkpoints on
            the Hub, 8 are assumed, which every family needs at least.
    """
    try:
        folder = local_directory(config.checkpoint, config.checkpoint_config)
        step = edge_multiple(folder, config.checkpoint) if folder else 8
    except (FiguregroundError, OSError, ValueError):
        return
    check_size(config.size, step)


def _find_sampler(config: Config) -> str:
    """Return the name of the sampler; for `own`, that of the checkpoint's scheduler if the checkpoint is on this
    machine."""
    folder = local_directory(config.checkpoint, config.checkpoint_config) if config.scheduler == OWN else None
    if folder is None:
        return config.scheduler
    match read_mapping(folder / "model_index.json").get("scheduler"):
        case [_, str(kind)]:
            return KINDS.get(kind, OWN)
    return OWN


def _count_guided_calls(config: Config, drawn_steps: int, repeated_steps: int) -> int:
    """Return the number of denoiser calls for one image in which guidance is applied, if it is on.

    Args:
        config: Its `guidance_interval` limits guidance to some of `num_inference_steps`.
        drawn_steps: Number of steps that are run: the last ones of `num_inference_steps`.
        repeated_steps: Number of steps that take two calls: the first ones.
    """
    steps = config.num_inference_steps
    guided_steps = steps_between(steps, config.guidance_interval)
    return sum(
        max(0, step - repeated_steps) in guided_steps for step in range(steps - drawn_steps, steps + repeated_steps)
    )


def _describe_start(config: Config, start: Start | None) -> list[str]:
    """Return a line on where drawing on a guide starts, if `noise` says it.

    Args:
        start: Where it starts; None if the checkpoint isn't on this machine.
    """
    if config.noise is None:
        return []
    if start is None:
        return [
            f"The step at which noise {config.noise:g} starts, and so the number of steps that are run, "
            "depends on the checkpoint."
        ]
    return [
        f"Guides start at noise {start.noise:.3f}, the step nearest to {config.noise:g}: {start.steps} of "
        f"{config.num_inference_steps} steps are run."
    ]


def describe(method: Method, images_per_second: float | Measured | None = None) -> str:
    """Return the text that `figureground plan` prints; see `plan`."""
    forecast = plan(method, images_per_second)
    lines = [
        f"{forecast['method']}, config {forecast['config']}: {plural(forecast['images'], 'image')} of "
        f"{forecast['size']} px in {plural(forecast['shards'], 'shard')}, "
        f"{plural(len(forecast['foregrounds']), 'foreground')} × {plural(len(forecast['backgrounds']), 'background')}"
    ]
    lines += method.plan_counts(method.plan())
    lines += [
        "",
        f"about {human_bytes(forecast['bytes'])} as {' and '.join(forecast['formats'])}; "
        f"{forecast['denoiser_evaluations']:,} denoiser evaluations",
    ]
    if speed := forecast["images_per_second"]:
        source = f", {images_per_second.source}" if isinstance(images_per_second, Measured) else ""
        lines.append(f"{human_time(forecast['seconds'])} of drawing at {speed:.4g} images/s{source}")
    lines += forecast["notes"]
    if forecast["to_build"]:
        lines += ["", "To build it:", *(f"  {_describe_need(need)}" for need in forecast["to_build"])]
    return "\n".join(lines)


def _describe_need(need: Mapping[str, Any]) -> str:
    size = f", about {human_bytes(need['bytes'])}" if need["bytes"] else ""
    return f"{need['field']}: {need['what']}{size}" + (f": {need['command']}" if need["command"] else "")


def idle_share(plan: Plan, workers: int) -> float:
    """Return the share of the time of equally fast workers in which they have no shard to render, 0 to 1."""
    assert plan.shard_size is not None
    totals = plan.totals()
    size = min(plan.shard_size, max(totals.values(), default=1))
    return _idle_share(sum(totals.values()), len(plan.shards()), size, workers)


def _idle_share(images: int, shards: int, size: int, workers: int) -> float:
    rounds = -(-shards // workers)
    return 1 - images / (rounds * size * workers) if images else 0.0


def idle_notes(plan: Plan, workers: int) -> list[str]:
    """Return a sentence about workers that would be idle for most of a build or of its last round, with what to set."""
    shards, idle = len(plan.shards()), idle_share(plan, workers)
    last = shards % workers
    if workers == 1 or not shards or (shards >= workers and not (0 < last <= workers / 2 and idle > IDLE)):
        return []
    if shards < workers:
        problem = (
            f"only {plural(shards, 'shard')} for {workers} workers, so {workers - shards} would have nothing to do"
        )
    else:
        problem = (
            f"{plural(shards, 'shard')} don't divide evenly among {workers} workers: at the end only {last} would be "
            f"at work, with {idle:.0%} of the workers' time idle"
        )
    better = _better_size(plan, workers)
    if better is None:
        return [f"{problem}: set workers={max(w for w in range(1, workers) if _divides_evenly(shards, w))}."]
    return [f"{problem}: set shard_size={better} for a new dataset, or fewer workers."]


def _divides_evenly(shards: int, workers: int) -> bool:
    """Whether no more than a tenth of the places in all rounds stay empty."""
    return shards >= (1 - IDLE) * (-(-shards // workers) * workers)


def _better_size(plan: Plan, workers: int) -> int | None:
    """Return the largest smaller shard size that keeps the workers busy; or else the one that does best.

    Sizes are multiples of `STEP`. None if none would at least halve the idle time.
    """
    totals = plan.totals()
    images = sum(totals.values())
    assert plan.shard_size is not None
    idle = {}
    for rounds in range(1, MAX_ROUNDS + 1):
        size = images // (workers * rounds) // STEP * STEP
        if 0 < size < plan.shard_size and size not in idle:
            idle[size] = _idle_share(images, sum(-(-n // size) for n in totals.values()), size, workers)
    if busy := [size for size, share in idle.items() if share <= IDLE]:
        return max(busy)
    best = min(idle, key=idle.__getitem__, default=None)
    return best if best is not None and idle[best] <= idle_share(plan, workers) / 2 else None


def human_bytes(size: float) -> str:
    """Format a number of bytes in a readable unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
