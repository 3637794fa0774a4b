"""Builds the dataset that a method plans; `methods.base` lists the method's hooks in the order of their calls."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from figureground.core import signals
from figureground.core.errors import FiguregroundError, RecipeError, Stopped, UsageError, describe_error
from figureground.core.event_log import open_log
from figureground.core.locks import lock
from figureground.core.owned import refuse_within
from figureground.core.terminal import print_note
from figureground.models.loras import check_loras, select_active
from figureground.models.weights import check_files, check_size, edge_multiple, local_directory, refuse_revision
from figureground.recipe import document as recipes
from figureground.recipe.config import SAMPLING
from figureground.recipe.settings import Names, find_marks
from figureground.running import directory
from figureground.running.reporting import report_progress
from figureground.running.runner import Runner, open_runner
from figureground.shards import index
from figureground.shards.claims import STAGES_LOCK, remove_locks
from figureground.shards.empty_splits import refuse_empty_parts
from figureground.shards.finished import read_finished_index
from figureground.shards.home import home_of
from figureground.shards.markers import find_missing_shards
from figureground.shards.progress import forget_plan, is_unfinished, record_plan
from figureground.shards.shard import PRIVATE, Shard, as_shard
from figureground.stores.leases import SECONDS
from figureground.stores.scratch import open_scratch
from figureground.stores.urls import StoreUrl, parse
from figureground.tracking.reporting import tracked
from figureground.tracking.tracker import check_tracker

if TYPE_CHECKING:
    from figureground.methods.base import Method


def build(
    method: Method,
    out: str | os.PathLike[str],
    show_progress: bool = True,
    runner: str | Runner | None = None,
    *,
    scratch: str | os.PathLike[str] | None = None,
    lease: float = SECONDS,
    log_json: str | os.PathLike[str] | None = None,
    track: str | None = None,
) -> Path:
    """Build a dataset in a directory or at a URL, or resume a stopped build there.

    A build that fails before it has rendered anything leaves the directory unchanged.

    Args:
        method: The method with its settings, such as `D3S("pocket")`.
        out: The directory, created if it doesn't exist; or a URL in an object store, such as `s3://bucket/name`.
        show_progress: Whether to show progress on stderr.
        runner: The runner: a name such as `local`, or a runner with its options, such as
            `Rank(rank=0, world=4)`; None for the recipe's.
        scratch: For a URL, the directory in which shards are written before they are uploaded; None for one in the
            user's cache.
        lease: For a URL, seconds without a sign of life after which a process's shard is taken over.
        log_json: File to which events are appended, one line of JSON for each shard; `-` for stdout.
        track: The tracker to report to: trackio, tensorboard, wandb, or one of another package; None reports nothing.

    Returns:
        The directory; for a URL the scratch directory, with index, card and markers, but without images. The dataset
        is finished, except if the runner is `rank`, the file system has no locks, and other ranks are still rendering
        their share.

    Raises:
        FiguregroundError: The directory holds something else or another recipe or can't be written, the numerics
            differ from those of its first shards, or an input named by the recipe can't be used.
        RecipeError: The runner or the tracker doesn't exist.
        StoreError: The store at the URL can't be used, or holds other bytes under a shard's name.
        UsageError: The log can't be written, or the runner's options don't fit together.
        NothingLeft: Every image was rejected, in total, in a split or in the last extension.
    """
    if runner is not None:
        name = runner if isinstance(runner, str) else runner.NAME
        method.config = dataclasses.replace(method.config, runner=name)
    resolved_runner = runner if isinstance(runner, Runner) else open_runner(method.config.runner)
    check_tracker(track)
    target = parse(os.fspath(out))
    if scratch is not None and not isinstance(target, StoreUrl):
        raise UsageError(f"--scratch is for datasets at a URL, not for the directory {target}.")
    with ExitStack() as stack:
        if isinstance(target, StoreUrl):
            scratch_path = None if scratch is None else Path(scratch)
            folder = stack.enter_context(open_scratch(target, scratch_path, seconds=lease))
        else:
            folder = target
        log = open_log(log_json, folder)
        method.show_progress, method.log = show_progress, dataclasses.replace(log, rank=resolved_runner.rank)
        method.runner = resolved_runner
        stack.enter_context(resolved_runner.build_context())
        stack.enter_context(_log_build(method, str(target)))
        return _build(method, folder, resolved_runner, show_progress, track)


@contextmanager
def _log_build(method: Method, location: str) -> Iterator[None]:
    """Log how a build begins and ends.

    Args:
        location: The dataset's directory or URL.
    """
    log = method.log
    log.write("start", out=location, runner=method.config.runner)
    try:
        yield
    except KeyboardInterrupt as error:
        number = signals.received_signal() or (error.signal if isinstance(error, Stopped) else signal.SIGINT)
        log.write("stop", out=location, reason=signal.Signals(number).name)
        raise
    except BaseException as error:
        log.write("failure", out=location, error=describe_error(error))
        raise
    log.write("stop", out=location, reason="finished")


def _build(method: Method, out: Path, runner: Runner, show_progress: bool, track: str | None) -> Path:
    config = method.config
    _refuse_within_sources(method, out)
    directory.refuse_uninstalled(config.formats)
    directory.refuse_older(out)
    if method.has_default_shard_size and (size := directory.read_shard_size(out)):
        method.config = dataclasses.replace(method.config, shard_size=size)
    method.marks_images = directory.marks_images(out)
    method.refuse_absent()
    method.settle_sampler()
    _check_checkpoint(method)
    runner.begin(method, out)
    settings = {name: getattr(method.config, name) for name in config.field_names()}
    tracker = track if runner.rank == 0 else None
    with tracked(tracker, out, {"method": method.METHOD, "config": config.name, **settings}):
        is_finished = _render(method, out, runner, show_progress)
    if is_finished:
        refuse_empty_parts(read_finished_index(out), str(out))
    return out


def _render(method: Method, out: Path, runner: Runner, show_progress: bool) -> bool:
    """Have the shards rendered, and describe the dataset; return whether it is finished."""
    method.run_planning_stages(out)
    plan = method.plan()
    if not plan.shards():
        raise RecipeError("table", "it plans no images.")
    planned = plan.shards()
    plan.spec(planned[0].split, 0)  # report a defective plan now, not when the model is loaded
    shards = [as_shard(s) for s in planned]
    with directory.claim_directory(out, method.recipe(out / PRIVATE), lambda: directory.describe_progress(out, shards)):
        directory.check_formats(out, method.config.formats)
        is_complete = not find_missing_shards(out, shards)
        if not is_complete and not _run(method, out, runner, shards, show_progress):
            return False
        with home_of(out).describing(images=method.SCORES) as is_needed:
            if is_needed:
                _describe(method, out, is_complete)
        forget_plan(out)
    return True


def _run(method: Method, out: Path, runner: Runner, shards: Sequence[Shard], show_progress: bool) -> bool:
    """Have the runner render shards; return whether all are finished, as they are unless others render some."""
    with lock(out / STAGES_LOCK, wait=True):  # otherwise another process could take its draft for a stale one
        record_plan(out, shards)
    with report_progress(out, shards):
        runner.run(method, out, show_progress)
    home_of(out).refresh(now=True)
    if not find_missing_shards(out, shards):
        return True
    if reason := runner.explain_unfinished(out):
        print_note(f"{reason} {directory.describe_progress(out, shards)}")
        return False
    raise FiguregroundError(
        f"the runner {method.config.runner!r} ended before the work was done. "
        f"{directory.describe_progress(out, shards)} Run the same command again."
    )


def _describe(method: Method, out: Path, was_complete: bool) -> None:
    """Write index, card and scores.

    Args:
        was_complete: Whether nothing was left to render. Otherwise, another process that rendered for the same build
            may have written index and card already.
    """
    with lock(out / STAGES_LOCK, wait=True):
        if was_complete or is_unfinished(out):
            finish(method, out)
            forget_plan(out)
    remove_locks(out)
    method.score_samples(out)


def finish(method: Method, out: Path) -> None:
    """Write index and card; every shard must have its marker."""
    recipe, provenance_settings = method.recipe(out / PRIVATE), method.provenance_settings()
    identity = {n: v for n, v in recipe.pop("identity").items() if n not in SAMPLING or n in provenance_settings}
    settings = {**identity, **recipe.pop("execution")}
    for name in ("content", recipes.SEAL):
        recipe.pop(name, None)
    index.finish(
        out,
        [as_shard(s) for s in method.plan().shards()],
        method.columns(),
        {**recipe, **settings},
        method.card_context(out),
        formats=tuple(method.config.formats),
        image_format=method.config.image_format,
        sha256=recipe["sha256"],
    )


def _check_checkpoint(method: Method) -> None:
    """Raise FiguregroundError if a checkpoint on this machine doesn't meet the recipe's requirements."""
    config = method.config
    for need in method.missing_extras():
        raise FiguregroundError(f"{need.field}: {need.what}: {need.command}")
    folder = local_directory(config.checkpoint, config.checkpoint_config)
    refuse_revision(config.checkpoint, config.revision, folder)
    if folder is not None:
        variant = check_files(
            folder,
            config.checkpoint,
            inpaint=method.INPAINTS,
            scheduler=config.scheduler,
            safety=config.safety,
            steps=config.num_inference_steps,
        )
        check_loras(select_active(config.loras), folder, config.checkpoint, variant)
        check_size(config.size, edge_multiple(folder, config.checkpoint))
    method.check_family()


def _refuse_within_sources(method: Method, out: Path) -> None:
    """Raise UsageError if the dataset would lie among the files that it is made from."""
    for field, names in find_marks(type(method.config), Names).items():
        value = getattr(method.config, field) if names.source else None
        for source in value.values() if isinstance(value, Mapping) else [value]:
            if isinstance(source, str | os.PathLike) and source != "pocket":
                refuse_within(out, Path(source), field)
