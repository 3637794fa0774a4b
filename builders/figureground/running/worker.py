"""Renders shards in one process: opens the model, settles the numerics, and takes shards that no other holds.

Runners call `work` in each of their processes.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from figureground.core import signals
from figureground.core.accelerator import choose_device, choose_dtype
from figureground.core.errors import FiguregroundError, OutOfMemory
from figureground.core.files import replace_text
from figureground.core.locks import lock
from figureground.core.numerics import (
    library_versions,
    read_numerics,
    refuse_other_numerics,
    settle_numerics,
    usable_cores,
)
from figureground.core.terminal import remark
from figureground.diffusion.checkpoint import Checkpoint, open_checkpoint
from figureground.diffusion.render import Renderer, Sampling, find_batch_size, in_batches, release_memory
from figureground.models.weights import check_size
from figureground.recipe.plan import Plan, PlannedShard
from figureground.recipe.sample import Reject, Sample, Spec
from figureground.running import directory
from figureground.shards.claiming import WORKING_LOCK
from figureground.shards.columns import Columns
from figureground.shards.encoding import described
from figureground.shards.filling import counted, fill
from figureground.shards.home import home_of
from figureground.shards.journal import Journal, origin
from figureground.shards.markers import markers, missing
from figureground.shards.samples import Encoded
from figureground.shards.shard import PRIVATE, Shard, as_shard
from figureground.shards.writer import write_shard
from figureground.stores.scratch import joined

if TYPE_CHECKING:
    from figureground.methods.base import Method

PROVENANCE_NAMES = {"num_inference_steps": "steps"}
"""Fields of the recipe that have another name in a sample's provenance, which is part of the dataset's format."""
SECONDS_BETWEEN_LOOKS = 1.0
"""Interval at which an idle process checks whether others have finished, seconds."""


def work(
    method: Method, out: Path, numbers: Sequence[int] | None = None, rank: int = 0, show_progress: bool = True
) -> None:
    """Renders shards that no other process holds, and returns when all of them are finished.

    Several processes may work in one directory, also on several machines that share it. If another process holds a
    shard, this one waits for it, and takes it over if that process dies.

    Args:
        numbers: Positions of the shards in the plan, from 0, in the order in which to render them; None for all.
        rank: Index of this process on its machine, by which several processes use different devices.
    """
    with joined(out):
        _work(method, out, numbers, rank, show_progress)


def _work(method: Method, out: Path, numbers: Sequence[int] | None, rank: int, show_progress: bool) -> None:
    method.read_stages(out / PRIVATE / "stages")
    shards = list(_choose(method.plan(), numbers))
    opened: tuple[Checkpoint, Sampling, dict[str, Any]] | None = None
    too_much = ""
    while opened is None or missing(out, shards):
        with ExitStack() as stack:
            with home_of(out).settling():
                directory.settle_recipe(out, method.recipe(out / PRIVATE))
                if opened is None:
                    opened = begin(method, out, rank)
                elif smaller := _smaller_batch(method, out, *opened[1:], too_much):
                    opened, too_much = (opened[0], *smaller), ""
                stack.enter_context(lock(out / WORKING_LOCK, wait=True, shared=True))
            try:
                if not too_much:
                    return _render_shards(method, out, numbers, *opened, show_progress)
            except OutOfMemory as error:
                too_much = str(error)  # the error itself would keep the batch in memory
        signals.check()
        release_memory()
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _choose(plan: Plan, numbers: Sequence[int] | None) -> dict[Shard, PlannedShard]:
    """Return the shards with some numbers, in that order; all if None."""
    planned = plan.shards()
    chosen = planned if numbers is None else [planned[number] for number in numbers]
    return {as_shard(each): each for each in chosen}


def begin(method: Method, out: Path, rank: int) -> tuple[Checkpoint, Sampling, dict[str, Any]]:
    """Opens the model, runs the stages that images need, and records the numerics of the first shard.

    Called under the stages' lock. Nothing is recorded for a process that fails here, for example because of a missing
    device: another process may be about to start with settings that work.

    Raises:
        FiguregroundError: Existing shards were made with other numerics or formats.
    """
    started = directory.has_started(out)
    directory.check_formats(out, method.config.formats, started)
    rendered = home_of(out).rendered()
    opened = open_model(method, out, rank, started or rendered > 0)
    path, numerics, mixed = out / PRIVATE / "numerics.json", opened[2], method.config.allow_mixed_numerics
    if started and path.exists():
        try:
            refuse_other_numerics(path, numerics, mixed)  # before stages that may take hours
        except FiguregroundError:
            if not home_of(out).is_deserted():
                raise
            started = False
    elif rendered and path.exists() and numerics != {n: v for n, v in read_numerics(path).items() if n != "mixed"}:
        remark(f"{out}: its unfinished shards are rendered from their beginning, as the numerics are others now.")
    method.prepare(out / PRIVATE / "stages", opened[0])
    settle_numerics(path, numerics, mixed, started)
    if not started:
        directory.record_execution(out, method.recipe(out / PRIVATE))
    return opened


def _smaller_batch(
    method: Method, out: Path, sampling: Sampling, numerics: dict[str, Any], too_much: str
) -> tuple[Sampling, dict[str, Any]] | None:
    """Halves the batch size and records it, if no shard is finished yet; called under the stages' lock.

    Returns:
        The new sampling and numerics; None while other processes still try the same size.

    Raises:
        FiguregroundError: A shard is finished, so the size can't change, or the size is already 1.
    """
    path = out / PRIVATE / "numerics.json"
    settled = read_numerics(path)
    settled.pop("mixed", None)
    size = sampling.batch_size
    if settled["batch_size"] >= size:  # otherwise another process was faster
        with lock(out / WORKING_LOCK) as alone:
            if markers(out):
                shards = [as_shard(s) for s in method.plan().shards()]
                raise FiguregroundError(
                    f"{too_much} The batch size can't change because finished shards were made with it. Free some "
                    "memory (other programs, fewer --set workers=…) and run the same command again, or build in a "
                    f"new directory with a smaller --set batch_size=…. {directory.shards_kept(out, shards)}"
                )
            if size == 1:
                raise FiguregroundError(f"{too_much} Give a smaller --set size=…, or a device with more memory.")
            if not alone or not home_of(out).is_alone():
                return None
            settled = {
                **numerics,
                "batch_size": size // 2,
                "batch_size_asked": settled.get("batch_size_asked", size),
            }
            replace_text(path, json.dumps({**settled, "mixed": []}, indent=2) + "\n")
    remark(f"{too_much} Continuing with batches of {settled['batch_size']}.")
    return dataclasses.replace(sampling, batch_size=settled["batch_size"]), settled


def _render_shards(
    method: Method, out: Path, numbers: Sequence[int] | None, checkpoint: Checkpoint, sampling: Sampling,
    numerics: dict[str, Any], show_progress: bool,
) -> None:  # fmt: skip
    plan, columns = method.plan(), method.columns()
    recipe = method.recipe(out / PRIVATE)
    renderer: Renderer | None = None
    journal: Journal | None = None
    drawn_by: str | None = None
    common = {
        **checkpoint.facts,
        **{PROVENANCE_NAMES.get(name, name): value for name, value in method.settings_shown().items()},
        "device": numerics["device"],
        "dtype": numerics["dtype"],
        "versions": library_versions(),
    }

    def provenance(spec: Spec) -> dict[str, Any]:
        return {
            "foreground_name": spec.foreground_name, "background_name": spec.background_name, "seed": spec.seed,
            "guide": dataclasses.asdict(spec.guide) if spec.guide else None, **common, **method.provenance(spec),
        }  # fmt: skip

    def pause() -> None:
        signals.check()
        if journal is not None:
            journal.check()

    def write(shard: Shard, bar: tqdm) -> None:
        nonlocal renderer, drawn_by, journal
        specs = list(plan.specs(planned[shard]))
        if renderer is None or specs[0].concept != drawn_by:
            proven = renderer is not None and renderer.proven
            proven = proven or any(marker["samples"] for marker in markers(out).values())
            if renderer is not None or specs[0].concept is not None:  # this process may have learned a concept
                renderer = None
                release_memory()  # memory may not hold two concepts
            drawn_by = specs[0].concept
            renderer = Renderer(method.checkpoint_for(drawn_by, checkpoint), sampling, method.load_guide, pause, proven)
        batches = list(in_batches(specs, sampling.batch_size))
        with home_of(out).journal(shard, origin(shard, recipe["sha256"], numerics), batches) as journal:
            write_shard(
                out, shard, columns, counted(_results(renderer, journal, columns, provenance), bar),
                lambda sample: provenance(sample.spec), formats=tuple(method.config.formats),
                image_format=method.config.image_format, journal=journal,
            )  # fmt: skip
        journal = None

    planned = _choose(plan, numbers)
    fill(out, list(planned), write, show_progress)


def _results(
    renderer: Renderer, journal: Journal, columns: Columns, provenance: Callable[[Spec], dict[str, Any]]
) -> Iterator[Sample | Encoded | Reject]:
    """Yield a shard's results: those that its journal kept, then those that are still to be rendered."""
    for batch in journal.read(lambda spec: described(spec, columns, provenance(spec))):
        for result in batch:
            renderer.count(result.reason if isinstance(result, Reject) else None)
            yield result
    yield from renderer.render(journal.lacking())


def open_model(method: Method, out: Path, rank: int, started: bool) -> tuple[Checkpoint, Sampling, dict[str, Any]]:
    """Opens the model and chooses the numerics: those of the first shard, or new ones.

    Args:
        started: Whether a shard is finished or being rendered.

    Returns:
        The model, its sampling settings, and the numerics, which aren't recorded yet.
    """
    config = method.config
    path = out / PRIVATE / "numerics.json"
    settled = read_numerics(path) if path.exists() and started else None
    name = config.device if config.device != "auto" or settled is None else settled["device"]
    device = choose_device(name)
    if device.type == "cuda" and device.index is None and config.workers > 1:
        device = torch.device("cuda", rank % torch.cuda.device_count())
    dtype = config.dtype if config.dtype != "auto" or settled is None else settled["dtype"]
    threads = config.threads or (settled or {}).get("threads") or max(1, usable_cores() // config.workers)
    torch.set_num_threads(threads)
    checkpoint = open_checkpoint(
        config.checkpoint, (settled or {}).get("revision") or config.revision, device=device,
        dtype=choose_dtype(dtype, device), scheduler=config.scheduler, safety=config.safety, inpaint=method.INPAINTS,
    )  # fmt: skip
    check_size(config.size, checkpoint.factor)
    batch_size, halved = config.batch_size, {}
    if settled and batch_size in (None, settled.get("batch_size_asked")):
        batch_size = settled["batch_size"]
        halved = {name: settled[name] for name in ("batch_size_asked",) if name in settled}
    sampling = Sampling(
        config.size, config.num_inference_steps, config.strength, config.guidance_scale, config.negative_prompt,
        config.eta,
        batch_size or 1, config.compile, **method.sampling(),
    )  # fmt: skip
    if not config.batch_size and not settled:
        devices = torch.cuda.device_count() if device.type == "cuda" else 1
        sharing = -(-config.workers // max(1, devices))
        sampling = dataclasses.replace(sampling, batch_size=find_batch_size(checkpoint, sampling, sharing))
    mine = {
        "device": device.type,
        "dtype": str(choose_dtype(dtype, device)).removeprefix("torch."),
        "batch_size": sampling.batch_size,
        **halved,
        "threads": threads if device.type == "cpu" else None,
        "compile": config.compile,
        "revision": checkpoint.facts["revision"],
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "versions": library_versions(),
    }
    return checkpoint, sampling, mine
