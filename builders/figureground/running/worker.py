"""Renders shards in one process: opens the model, settles the numerics, and takes shards that no other holds.

Runners call `work` in each of their processes, or keep a `Worker` there that is given shards one by one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.core import signals
from figureground.core.accelerator import release_memory
from figureground.core.errors import FiguregroundError, OutOfMemory, describe_error
from figureground.core.progress import Progress
from figureground.diffusion.render import Renderer, split_batches
from figureground.recipe import document as recipes
from figureground.recipe.plan import Plan, PlannedShard
from figureground.recipe.sample import Reject, Sample, Spec
from figureground.running import directory
from figureground.running.announcement import Announcer, time_first
from figureground.running.opened_model import OpenedModel
from figureground.running.parts import SECONDS_BETWEEN_LOOKS, make_parts
from figureground.running.provenance import make_provenance
from figureground.running.runner import Place
from figureground.running.settling import begin, halve_batch, open_model_early, rejoin
from figureground.shards.claims import WORKING_LOCK
from figureground.shards.columns import Columns
from figureground.shards.encoding import describe_sample
from figureground.shards.filling import fill, track_results
from figureground.shards.home import ClaimLost, home_of
from figureground.shards.journal import Journal, make_origin
from figureground.shards.markers import find_missing_shards, markers
from figureground.shards.samples import Encoded
from figureground.shards.shard import PRIVATE, RECIPE, STAGES, Shard, as_shard
from figureground.shards.writer import write_shard
from figureground.stores.scratch import join_build

if TYPE_CHECKING:
    from figureground.methods.base import Method


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
        self._model: OpenedModel | None = None
        self._early_model: OpenedModel | None = None
        """The model that was opened while others render, until it is settled that it is used."""
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
            try:
                self._work(numbers, show_progress)
            finally:
                self._early_model = None  # after a failure, it would occupy the device

    def _work(self, numbers: Sequence[int] | None, show_progress: bool) -> None:
        method, out = self._method, self._out
        method.read_stages(out / STAGES)
        shards = list(_choose_shards(method.plan(), numbers))
        memory_error, has_joined = "", False
        if self._model is None:
            if method.parts(out / STAGES):
                make_parts(method, out, self._place, self.log)
                release_memory()
            self._early_model = open_model_early(method, out, self._place)
        while self._model is None or find_missing_shards(out, shards):
            settle = partial(self._settle, has_joined, memory_error)
            with directory.join_work(out, method.recipe(out / PRIVATE), WORKING_LOCK, settle) as memory_error:
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

    def _settle(self, has_joined: bool, memory_error: str) -> str:
        """Settle the numerics with which this process renders next; called under the stages' lock.

        Args:
            has_joined: Whether it rendered in this call of `work` before.
            memory_error: Message of an error that the batch size caused; empty if there was none.

        Returns:
            The message, until the batch size is smaller.
        """
        method, out = self._method, self._out
        if self._model is None:
            early_model, self._early_model = self._early_model, None
            self._model = begin(method, out, self._place, early_model)
        elif not has_joined:
            self._adopt(rejoin(method, out, self._model))
        elif halved := halve_batch(method, out, self._model, memory_error):
            self._adopt(halved)
            return ""
        return memory_error

    def _adopt(self, model: OpenedModel) -> None:
        assert self._model is not None
        if model.sampling != self._model.sampling:
            self._renderer = None
        self._model = model

    def _render_shards(self, numbers: Sequence[int] | None, show_progress: bool) -> None:
        assert self._model is not None
        method, out, model = self._method, self._out, self._model
        self._announcer.report_setup(model.numerics, method.config.size)
        plan, columns, recipe = method.plan(), method.columns(), method.recipe(out / PRIVATE)["sha256"]
        marked = recipes.is_marked(recipes.read_saved_recipe(out / RECIPE))
        device = str(model.checkpoint.device)
        provenance = make_provenance(method, model)

        def write(shard: Shard, bar: Progress) -> None:
            specs = list(plan.specs(planned_shards[shard]))
            batches = list(split_batches(specs, model.sampling.batch_size))
            origin = make_origin(shard, recipe, model.numerics, marked)
            try:
                with home_of(out).journal(shard, origin, batches) as journal:
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
        batch = min(len(specs), self._model.sampling.batch_size)
        self._announcer.report_first_batch(seconds, batch, remaining, workers)

    def _check_stop(self) -> None:
        """Called between the steps of a batch."""
        signals.check()
        if self._journal is not None:
            self._journal.check()

    def _open_renderer(self, concept: str | None) -> Renderer:
        """Return the renderer of a concept; memory may not hold two, so the one before is given up."""
        assert self._model is not None
        if self._renderer is None or concept != self._renderer_concept:
            any_kept = self._renderer is not None and self._renderer.any_kept
            any_kept = any_kept or any(marker["samples"] for marker in markers(self._out).values())
            if self._renderer is not None or concept is not None:  # this process may have learned a concept
                self._renderer = None
                release_memory()
            self._renderer_concept = concept
            self._renderer = Renderer(
                self._method.checkpoint_for(concept, self._model.checkpoint), self._model.sampling,
                self._method.load_guide, self._check_stop, any_kept,
            )  # fmt: skip
        return self._renderer


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
