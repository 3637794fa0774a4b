"""Renders shards in one process: opens the model, settles the numerics, and takes shards that no other holds.

Runners call `work` in each of their processes, or keep a `Worker` there that is given shards one by one.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from figureground.core import signals
from figureground.core.accelerator import choose_device, processor_name, release_memory
from figureground.core.errors import FiguregroundError, OutOfMemory, describe_error
from figureground.core.event_log import EventLog
from figureground.core.files import replace_text
from figureground.core.locks import lock
from figureground.core.numerics import (
    library_versions,
    read_numerics,
    record_numerics,
    refuse_other_numerics,
    usable_cores,
)
from figureground.core.terminal import print_note
from figureground.diffusion.checkpoint import Checkpoint, open_checkpoint
from figureground.diffusion.render import (
    Renderer,
    Sampling,
    find_batch_size,
    find_checkpoint_start,
    move_to_cpu,
    split_batches,
)
from figureground.models.family import OWN
from figureground.models.loras import select_active
from figureground.models.weights import check_size
from figureground.recipe import document as recipes
from figureground.recipe.plan import Plan, PlannedShard
from figureground.recipe.sample import Guide, Reject, Sample, Spec
from figureground.running import directory
from figureground.running.announcement import Announcer, time_first
from figureground.running.runner import Place
from figureground.shards.claims import PARTS_LOCK, WORKING_LOCK
from figureground.shards.columns import Columns
from figureground.shards.encoding import describe_sample
from figureground.shards.filling import fill, track_results
from figureground.shards.home import ClaimLost, home_of
from figureground.shards.journal import Journal, make_origin
from figureground.shards.markers import find_missing_shards, markers
from figureground.shards.samples import Encoded
from figureground.shards.shard import NUMERICS, PRIVATE, RECIPE, STAGES, Shard, as_shard
from figureground.shards.writer import write_shard
from figureground.stores.scratch import join_build

if TYPE_CHECKING:
    from figureground.methods.base import Method

PROVENANCE_NAMES = {"num_inference_steps": "steps"}
"""Fields of the recipe that have another name in a sample's provenance, which is part of the dataset's format."""
SECONDS_BETWEEN_LOOKS = 1.0
"""Interval at which an idle process checks whether others have finished, seconds."""


def work(
    method: Method,
    out: Path,
    numbers: Sequence[int] | None = None,
    place: Place = Place(),  # noqa: B008 - it is frozen
    show_progress: bool = True,
) -> None:
    """Render shards that no other process holds, and return when all of them are finished.

    Several processes may work in one directory, also on several machines that share it. If another process holds a
    shard, this one waits for it, and takes it over if that process dies.

    Args:
        numbers: Positions of the shards in the plan, from 0, in the order in which to render them; None for all.
        place: This process among those that build together.
    """
    Worker(method, out, place).work(numbers, show_progress)


def make_planning_parts(method: Method, out: Path, place: Place = Place()) -> None:  # noqa: B008 - it is frozen
    """Make stages that the plan depends on and that don't need each other, while other processes make others.

    Returns when all of them are finished.

    Args:
        out: The dataset's directory.
        place: This process among those that build together.
    """
    stages, config = out / STAGES, method.config
    processes = place.local_world_size or config.workers
    device = _choose_local_device(config.device, place, processes)
    if processes > 1:
        torch.set_num_threads(config.threads or max(1, usable_cores() // processes))
    with ExitStack() as stack:
        with home_of(out).settling():
            directory.settle_recipe(out, method.recipe(out / PRIVATE))
            stack.enter_context(lock(out / PARTS_LOCK, wait=True, shared=True))
        make = partial(method.make_planning_part, stages, device=device)
        log = dataclasses.replace(method.log, rank=place.rank)
        _make_in_turn(out, lambda: method.planning_parts(stages), make, place.rank, log)


def _make_in_turn(
    out: Path, list_unfinished: Callable[[], list[str]], make: Callable[[str], None], rank: int, log: EventLog
) -> None:
    """Make stages that no other process makes, one at a time, until none is unfinished."""
    while names := list_unfinished():
        for name in rotate(names, rank):
            signals.check()
            with home_of(out).claim_part(name) as is_claimed:
                if is_claimed and name in list_unfinished():
                    start = time.perf_counter()
                    make(name)
                    log.write("stage", stage=name, seconds=round(time.perf_counter() - start, 3))
        if list_unfinished():
            time.sleep(SECONDS_BETWEEN_LOOKS)


class Worker:
    """Renders shards in this process, and keeps the model that it opened from one call of `work` to the next.

    Args:
        method: The method; a runner's other processes make it from a `Job`.
        out: The dataset's directory.
        place: This process among those that build together.
    """

    def __init__(self, method: Method, out: Path, place: Place = Place()):  # noqa: B008 - it is frozen
        self._method, self._out, self._place = method, out, place
        self.log = dataclasses.replace(method.log, rank=place.rank)
        """Receives the events of its shards."""
        self._model: OpenModel | None = None
        self._renderer: Renderer | None = None
        self._renderer_concept: str | None = None
        self._journal: Journal | None = None
        self._announcer = Announcer(method.show_progress and place.rank == 0)

    def work(self, numbers: Sequence[int] | None = None, show_progress: bool = True) -> None:
        """Render shards; see the function `work`. The first call opens the model.

        Raises:
            FiguregroundError: The model can't be opened, the numerics differ from those of the first shards, or a shard
                can't be rendered.
        """
        with join_build(self._out):
            self._work(numbers, show_progress)

    def _work(self, numbers: Sequence[int] | None, show_progress: bool) -> None:
        method, out = self._method, self._out
        method.read_stages(out / STAGES)
        shards = list(_choose_shards(method.plan(), numbers))
        memory_error, has_joined = "", False
        if self._model is None:
            self._make_parts()
        early_model = open_model_early(method, out, self._place) if self._model is None else None
        while self._model is None or find_missing_shards(out, shards):
            with ExitStack() as stack:
                with home_of(out).settling():
                    directory.settle_recipe(out, method.recipe(out / PRIVATE))
                    if self._model is None:
                        self._model, early_model = begin(method, out, self._place, early_model), None
                    elif not has_joined:
                        self._adopt(*rejoin(method, out, *self._model[1:]))
                    elif halved := _halve_batch(method, out, *self._model[1:], memory_error):
                        self._adopt(*halved)
                        memory_error = ""
                    stack.enter_context(lock(out / WORKING_LOCK, wait=True, shared=True))
                has_joined = True
                try:
                    if not memory_error:
                        return self._render_shards(numbers, show_progress)
                except OutOfMemory as error:
                    if self._place.lacks_locks:
                        raise FiguregroundError(
                            f"{error} Without file locks, the batch size can't change while others render. Give a "
                            "smaller --set batch_size=… in a new directory."
                        ) from None
                    memory_error = str(error)  # the error itself would keep the batch in memory
                    self._renderer = None
            signals.check()
            release_memory()
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _make_parts(self) -> None:
        """Run stages that don't need each other, one at a time, while other workers run others; wait for all.

        The model is opened for them, leaves the device, and is given up.
        """
        method, out = self._method, self._out
        stages = out / STAGES
        if not method.parts(stages):
            return
        with ExitStack() as stack:
            with home_of(out).settling():
                directory.settle_recipe(out, method.recipe(out / PRIVATE))
                checkpoint = open_checked_model(method, out, self._place)[0]
                device = checkpoint.device
                move_to_cpu(checkpoint)
                stack.enter_context(lock(out / PARTS_LOCK, wait=True, shared=True))
            make = partial(method.make_part, stages, checkpoint=checkpoint, device=device)
            _make_in_turn(out, lambda: method.parts(stages), make, self._place.rank, self.log)
        del checkpoint
        release_memory()

    def _adopt(self, sampling: Sampling, numerics: dict[str, Any]) -> None:
        assert self._model is not None
        if sampling != self._model[1]:
            self._renderer = None
        self._model = (self._model[0], sampling, numerics)

    def _render_shards(self, numbers: Sequence[int] | None, show_progress: bool) -> None:
        assert self._model is not None
        method, out = self._method, self._out
        checkpoint, sampling, numerics = self._model
        self._announcer.report_setup(numerics, method.config.size)
        plan, columns, recipe = method.plan(), method.columns(), method.recipe(out / PRIVATE)["sha256"]
        marked = recipes.is_marked(recipes.read_saved_recipe(out / RECIPE))
        device = str(checkpoint.device)
        common = {
            **checkpoint.facts,
            **{PROVENANCE_NAMES.get(name, name): value for name, value in method.provenance_settings().items()},
            "device": numerics["device"],
            "dtype": numerics["dtype"],
            "versions": numerics["versions"],
        }

        start_provenance = _make_start_provenance(checkpoint, sampling)

        def provenance(spec: Spec) -> dict[str, Any]:
            return {
                "foreground_name": spec.foreground_name, "background_name": spec.background_name, "seed": spec.seed,
                "guide": dataclasses.asdict(spec.guide) if spec.guide else None, **common,
                **(start_provenance(spec.guide) if spec.guide else {}), **method.provenance(spec),
            }  # fmt: skip

        def write(shard: Shard, bar: tqdm) -> None:
            specs = list(plan.specs(planned_shards[shard]))
            batches = list(split_batches(specs, sampling.batch_size))
            try:
                with home_of(out).journal(shard, make_origin(shard, recipe, numerics, marked), batches) as journal:
                    self._journal = journal
                    renderer = self._open_renderer(specs[0].concept)
                    marker = write_shard(
                        out, shard, columns,
                        track_results(self._iterate_results(renderer, journal, columns, provenance), bar),
                        lambda sample: provenance(sample.spec), formats=tuple(method.config.formats),
                        image_format=method.config.image_format, journal=journal, marked=marked,
                    )  # fmt: skip
            except (OutOfMemory, ClaimLost):
                raise
            except Exception as error:
                self.log.write("failure", shard=shard.name, device=device, error=describe_error(error))
                raise
            finally:
                self._journal = None
            self.log.write("shard", shard=shard.name, device=device, **summarise_shard(marker))

        planned_shards = _choose_shards(plan, numbers)
        fill(out, list(planned_shards), write, show_progress)

    def _iterate_results(
        self, renderer: Renderer, journal: Journal, columns: Columns, provenance: Callable[[Spec], dict[str, Any]]
    ) -> Iterator[Sample | Encoded | Reject]:
        """Yield a shard's results: those that its journal kept, then those that are still to be rendered."""
        for batch in journal.read(lambda spec: describe_sample(spec, columns, provenance(spec))):
            for result in batch:
                renderer.count(result.reason if isinstance(result, Reject) else None)
                yield result
        remaining = journal.missing_specs()
        yield from time_first(
            renderer.render(remaining), time.perf_counter, lambda seconds: self._report_speed(seconds, remaining)
        )

    def _report_speed(self, seconds: float, specs: Sequence[Spec]) -> None:
        """Say how long the build will take, by the time of its first batch."""
        assert self._model is not None
        if not self._announcer.is_pending:
            return
        shards = [as_shard(shard) for shard in self._method.plan().shards()]
        remaining = sum(shard.count for shard in find_missing_shards(self._out, shards))
        workers = self._place.local_world_size or self._method.config.workers
        self._announcer.report_first_batch(seconds, min(len(specs), self._model[1].batch_size), remaining, workers)

    def _check_stop(self) -> None:
        """Called between the steps of a batch."""
        signals.check()
        if self._journal is not None:
            self._journal.check()

    def _open_renderer(self, concept: str | None) -> Renderer:
        """Return the renderer of a concept; memory may not hold two, so the one before is given up."""
        assert self._model is not None
        checkpoint, sampling, _ = self._model
        if self._renderer is None or concept != self._renderer_concept:
            any_kept = self._renderer is not None and self._renderer.any_kept
            any_kept = any_kept or any(marker["samples"] for marker in markers(self._out).values())
            if self._renderer is not None or concept is not None:  # this process may have learned a concept
                self._renderer = None
                release_memory()
            self._renderer_concept = concept
            self._renderer = Renderer(
                self._method.checkpoint_for(concept, checkpoint), sampling, self._method.load_guide, self._check_stop,
                any_kept,
            )  # fmt: skip
        return self._renderer


def _make_start_provenance(checkpoint: Checkpoint, sampling: Sampling) -> Callable[[Guide], dict[str, Any]]:
    """Return a function that returns what provenance says of where drawing on a guide started.

    That is nothing for `strength` with DDPM's noise levels, whose records stay as in earlier releases. An edited image
    doesn't start from its guide.
    """
    if sampling.edit:
        return lambda guide: {"route": "edit"}
    if sampling.noise is None and checkpoint.family.SCHEDULER != OWN:
        return lambda guide: {}
    start = find_checkpoint_start(checkpoint, sampling)
    noise = 0.0 if start.noise is None else round(start.noise, 6)

    def start_provenance(guide: Guide) -> dict[str, Any]:
        # Repainting with all steps starts from noise alone.
        from_noise = guide.kind == "inpaint" and start.steps >= sampling.num_inference_steps
        return {"noise_at_start": 1.0 if from_noise else noise, "steps_run": start.steps}

    return start_provenance


def summarise_shard(marker: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the log says of a finished shard, from its marker."""
    return {
        "split": marker["split"], "samples": marker["samples"], "rejects": marker["rejects"],
        "seconds": marker["seconds"], "images_per_second": marker["images_per_second"],
        "bytes": sum(file["bytes"] for file in marker["files"].values()),
    }  # fmt: skip


def _choose_shards(plan: Plan, numbers: Sequence[int] | None) -> dict[Shard, PlannedShard]:
    """Return the shards with some numbers, in that order; all if None."""
    planned = plan.shards()
    chosen = planned if numbers is None else [planned[number] for number in numbers]
    return {as_shard(shard): shard for shard in chosen}


OpenModel = tuple[Checkpoint, Sampling, dict[str, Any]]
"""A model, its sampling settings and the numerics."""


def open_model_early(method: Method, out: Path, place: Place) -> OpenModel | None:
    """Open the model without the stages' lock, if others render already, so that many processes can at the same time.

    Returns:
        What `begin` needs; None if nobody renders, as the first process decides what the others do.
    """
    with home_of(out).settling():
        directory.settle_recipe(out, method.recipe(out / PRIVATE))
        if not (directory.has_started(out) and (out / NUMERICS).exists()):
            return None
        directory.check_formats(out, method.config.formats, started=True)
    return open_model(method, out, place, started=True)


def begin(method: Method, out: Path, place: Place, model: OpenModel | None = None) -> OpenModel:
    """Open the model, run the stages that images need, and record the numerics of the first shard.

    Called under the stages' lock. Nothing is recorded for a process that fails here, for example because of a missing
    device: another process may be about to start with settings that work.

    Args:
        model: What `open_model_early` returned.

    Raises:
        FiguregroundError: Existing shards were made with other numerics or formats.
    """
    checkpoint, sampling, numerics, started = open_checked_model(method, out, place, model)
    method.prepare(out / STAGES, checkpoint)
    record_numerics(out / NUMERICS, numerics, method.config.allow_mixed_numerics, started)
    if not started:
        directory.record_execution(out, method.recipe(out / PRIVATE))
    return checkpoint, sampling, numerics


def open_checked_model(
    method: Method, out: Path, place: Place, model: OpenModel | None = None
) -> tuple[Checkpoint, Sampling, dict[str, Any], bool]:
    """Open the model, and compare formats and numerics before stages that may take hours; see `begin`.

    Returns:
        The model, its sampling settings, the numerics, and whether a shard is finished or being rendered.
    """
    started = directory.has_started(out) or (place.lacks_locks and place.rank > 0)
    directory.check_formats(out, method.config.formats, started)
    rendered = home_of(out).count_rendered()
    if model is not None and started:
        model = (model[0], *adopt_smaller_batch(out, *model[1:]))
    else:
        model = open_model(method, out, place, started or rendered > 0)
    checkpoint, sampling, numerics = model
    path = out / NUMERICS
    if started and path.exists():
        try:
            refuse_other_numerics(path, numerics, method.config.allow_mixed_numerics)
        except FiguregroundError:
            if not home_of(out).is_deserted():
                raise
            started = False
    elif rendered and path.exists() and numerics != {n: v for n, v in read_numerics(path).items() if n != "mixed"}:
        print_note(
            f"{out}: its unfinished shards are rendered again from the beginning, because the numerics have changed."
        )
    return checkpoint, sampling, numerics, started


def _choose_local_device(name: str, place: Place, processes: int) -> torch.device:
    """Return the device of a process: of several GPUs, the one of its place on the machine."""
    device = choose_device(name)
    if device.type == "cuda" and device.index is None and (processes > 1 or place.local_rank):
        device = torch.device("cuda", place.local_rank % torch.cuda.device_count())
    return device


def rotate(names: Sequence[str], rank: int) -> list[str]:
    """Return names in an order that begins elsewhere for each process."""
    first = rank % max(1, len(names))
    return [*names[first:], *names[:first]]


def rejoin(method: Method, out: Path, sampling: Sampling, numerics: dict[str, Any]) -> tuple[Sampling, dict[str, Any]]:
    """Return sampling and numerics for a process that goes on after it held no shard; called under the stages' lock.

    Meanwhile another process may have halved the batch size, or settled other numerics, if no shard was finished.

    Raises:
        FiguregroundError: Existing shards were made with other numerics.
    """
    sampling, numerics = adopt_smaller_batch(out, sampling, numerics)
    path = out / NUMERICS
    record_numerics(path, numerics, method.config.allow_mixed_numerics, directory.has_started(out))
    return sampling, numerics


def adopt_smaller_batch(out: Path, sampling: Sampling, numerics: dict[str, Any]) -> tuple[Sampling, dict[str, Any]]:
    """Return sampling and numerics with the batch size that another process has halved meanwhile."""
    path = out / NUMERICS
    if path.exists():
        saved = read_numerics(path)
        if "batch_size_asked" in saved and saved["batch_size"] < sampling.batch_size:
            halved = {name: saved[name] for name in ("batch_size", "batch_size_asked")}
            return dataclasses.replace(sampling, batch_size=halved["batch_size"]), {**numerics, **halved}
    return sampling, numerics


def _halve_batch(
    method: Method, out: Path, sampling: Sampling, numerics: dict[str, Any], memory_error: str
) -> tuple[Sampling, dict[str, Any]] | None:
    """Halve the batch size and record it, if no shard is finished yet; called under the stages' lock.

    Returns:
        The new sampling and numerics; None while other processes still try the same size.

    Raises:
        FiguregroundError: A shard is finished, so the size can't change, or the size is already 1.
    """
    path = out / NUMERICS
    saved = read_numerics(path)
    saved.pop("mixed", None)
    size = sampling.batch_size
    if saved["batch_size"] >= size:  # otherwise another process was faster
        with lock(out / WORKING_LOCK) as is_idle:
            if markers(out):
                shards = [as_shard(s) for s in method.plan().shards()]
                raise FiguregroundError(
                    f"{memory_error} The batch size can't change because finished shards were made with it. Free some "
                    "memory (other programs, fewer --set workers=…) and run the same command again, or build in a "
                    f"new directory with a smaller --set batch_size=…. {directory.describe_progress(out, shards)}"
                )
            if size == 1:
                raise FiguregroundError(f"{memory_error} Give a smaller --set size=…, or a device with more memory.")
            if not is_idle or not home_of(out).is_alone():
                return None
            saved = {
                **numerics,
                "batch_size": size // 2,
                "batch_size_asked": saved.get("batch_size_asked", size),
            }
            replace_text(path, json.dumps({**saved, "mixed": []}, indent=2) + "\n")
    print_note(f"{memory_error} Continuing with batches of {saved['batch_size']}.")
    return dataclasses.replace(sampling, batch_size=saved["batch_size"]), saved


def _list_libraries(method: Method) -> list[str]:
    """Return further libraries whose versions can change pixels."""
    config = method.config
    return [*(["peft"] if select_active(config.loras) else []), *(["torchao"] if config.quantization else [])]


def open_model(method: Method, out: Path, place: Place, started: bool) -> tuple[Checkpoint, Sampling, dict[str, Any]]:
    """Open the model and choose the numerics: those of the first shard, or new ones.

    Args:
        started: Whether a shard is finished or being rendered.

    Returns:
        The model, its sampling settings, and the numerics, which aren't recorded yet.
    """
    config, processes = method.config, place.local_world_size or method.config.workers
    path = out / NUMERICS
    saved = read_numerics(path) if path.exists() and started else None
    name = config.device if config.device != "auto" or saved is None else saved["device"]
    device = _choose_local_device(name, place, processes)
    dtype = config.dtype if config.dtype != "auto" or saved is None else saved["dtype"]
    threads = config.threads or (saved or {}).get("threads") or max(1, usable_cores() // processes)
    torch.set_num_threads(threads)
    checkpoint = open_checkpoint(
        config.checkpoint, (saved or {}).get("revision") or config.revision, device=device,
        dtype=dtype, scheduler=config.scheduler, safety=config.safety, inpaint=method.INPAINTS,
        config=config.checkpoint_config, loras=select_active(config.loras), quantization=config.quantization,
        offload=config.offload,
    )  # fmt: skip
    checkpoint.family.check_route(method.route, f"checkpoint {config.checkpoint!r}")
    check_size(config.size, checkpoint.edge_multiple)
    batch_size, halved = config.batch_size, {}
    if saved and batch_size in (None, saved.get("batch_size_asked")):
        batch_size = saved["batch_size"]
        halved = {name: saved[name] for name in ("batch_size_asked",) if name in saved}
    sampling = Sampling(
        config.size, config.num_inference_steps, config.strength, config.guidance_scale, config.negative_prompt,
        config.eta,
        batch_size or 1, config.compile, config.noise,
        None if config.guidance_interval is None else (config.guidance_interval[0], config.guidance_interval[1]),
        true_cfg_scale=config.true_cfg_scale,
        **method.sampling(),
    )  # fmt: skip
    if not config.batch_size and not saved:
        devices = torch.cuda.device_count() if device.type == "cuda" else 1
        processes_per_device = -(-processes // max(1, devices))
        largest_shard = max((shard.count for shard in method.plan().shards()), default=1)
        size = find_batch_size(checkpoint, sampling, processes_per_device, largest_shard)
        sampling = dataclasses.replace(sampling, batch_size=size)
    numerics = {
        "device": device.type,
        "dtype": str(checkpoint.denoiser.dtype).removeprefix("torch."),
        "batch_size": sampling.batch_size,
        **halved,
        "threads": threads if device.type == "cpu" else None,
        "compile": config.compile,
        "revision": checkpoint.facts["revision"],
        "processor": processor_name(device),
        "versions": library_versions(*_list_libraries(method)),
    }
    return checkpoint, sampling, numerics
