"""Settles, for all processes of a build, the numerics with which its images are drawn.

The first process that renders chooses them, and the others follow it: images drawn with other numerics may differ in
their last bits.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.core.errors import FiguregroundError
from figureground.core.files import replace_text
from figureground.core.locks import lock
from figureground.core.numerics import read_numerics, record_numerics, refuse_other_numerics
from figureground.core.terminal import print_note
from figureground.running import directory
from figureground.running.opened_model import OpenedModel, open_model
from figureground.running.runner import Place
from figureground.shards.claims import WORKING_LOCK
from figureground.shards.home import home_of
from figureground.shards.markers import markers
from figureground.shards.shard import NUMERICS, PRIVATE, STAGES, as_shard

if TYPE_CHECKING:
    from figureground.methods.base import Method


def open_model_early(method: Method, out: Path, place: Place) -> OpenedModel | None:
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


def begin(method: Method, out: Path, place: Place, model: OpenedModel | None = None) -> OpenedModel:
    """Open the model, run the stages that images need, and record the numerics of the first shard.

    Called under the stages' lock. Nothing is recorded for a process that fails here, for example because of a missing
    device: another process may be about to start with settings that work.

    Args:
        model: What `open_model_early` returned.

    Raises:
        FiguregroundError: Existing shards were made with other numerics or formats.
    """
    model, started = open_checked_model(method, out, place, model)
    method.prepare(out / STAGES, model.checkpoint)
    record_numerics(out / NUMERICS, model.numerics, method.config.allow_mixed_numerics, started)
    if not started:
        directory.record_execution(out, method.recipe(out / PRIVATE))
    return model


def open_checked_model(
    method: Method, out: Path, place: Place, model: OpenedModel | None = None
) -> tuple[OpenedModel, bool]:
    """Open the model, and compare formats and numerics before stages that may take hours; see `begin`.

    Returns:
        The model, and whether a shard is finished or being rendered.
    """
    started = directory.has_started(out) or (place.lacks_locks and place.rank > 0)
    directory.check_formats(out, method.config.formats, started)
    rendered = home_of(out).count_rendered()
    if model is not None and started:
        model = adopt_smaller_batch(out, model)
    else:
        model = open_model(method, out, place, started or rendered > 0)
    numerics = model.numerics
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
    return model, started


def rejoin(method: Method, out: Path, model: OpenedModel) -> OpenedModel:
    """Return the model for a process that goes on after it held no shard; called under the stages' lock.

    Meanwhile another process may have halved the batch size, or settled other numerics, if no shard was finished.

    Raises:
        FiguregroundError: Existing shards were made with other numerics.
    """
    model = adopt_smaller_batch(out, model)
    record_numerics(out / NUMERICS, model.numerics, method.config.allow_mixed_numerics, directory.has_started(out))
    return model


def adopt_smaller_batch(out: Path, model: OpenedModel) -> OpenedModel:
    """Return the model with the batch size that another process has halved meanwhile."""
    path = out / NUMERICS
    if path.exists():
        saved = read_numerics(path)
        if "batch_size_asked" in saved and saved["batch_size"] < model.sampling.batch_size:
            halved = {name: saved[name] for name in ("batch_size", "batch_size_asked")}
            return _change_batch_size(model, halved["batch_size"], {**model.numerics, **halved})
    return model


def halve_batch(method: Method, out: Path, model: OpenedModel, memory_error: str) -> OpenedModel | None:
    """Halve the batch size and record it, if no shard is finished yet; called under the stages' lock.

    Args:
        memory_error: Message of the error that the batch size caused.

    Returns:
        The model with the new batch size; None while other processes still try the same size.

    Raises:
        FiguregroundError: A shard is finished, so the size can't change, or the size is already 1.
    """
    path = out / NUMERICS
    saved = read_numerics(path)
    saved.pop("mixed", None)
    size = model.sampling.batch_size
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
                **model.numerics,
                "batch_size": size // 2,
                "batch_size_asked": saved.get("batch_size_asked", size),
            }
            replace_text(path, json.dumps({**saved, "mixed": []}, indent=2) + "\n")
    print_note(f"{memory_error} Continuing with batches of {saved['batch_size']}.")
    return _change_batch_size(model, saved["batch_size"], saved)


def _change_batch_size(model: OpenedModel, size: int, numerics: dict[str, Any]) -> OpenedModel:
    sampling = dataclasses.replace(model.sampling, batch_size=size)
    return dataclasses.replace(model, sampling=sampling, numerics=numerics)
