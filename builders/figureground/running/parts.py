"""Makes a method's independent stages: each process makes one at a time, while other processes make others."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from figureground.core import signals
from figureground.core.event_log import EventLog
from figureground.core.numerics import usable_cores
from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.render import move_to_cpu
from figureground.running import directory
from figureground.running.opened_model import choose_local_device
from figureground.running.runner import Place
from figureground.running.settling import open_checked_model
from figureground.shards.claims import PARTS_LOCK
from figureground.shards.home import home_of
from figureground.shards.shard import PRIVATE, STAGES

if TYPE_CHECKING:
    from figureground.methods.base import Method

SECONDS_BETWEEN_LOOKS = 1.0
"""Interval at which an idle process checks whether others have finished, seconds."""


def make_planning_parts(method: Method, out: Path, place: Place = Place()) -> None:  # noqa: B008 - it is frozen
    """Make stages that the plan depends on and that don't need each other, while other processes make others.

    Returns when all of them are finished.

    Args:
        out: The dataset's directory.
        place: This process among those that build together.
    """
    stages, config = out / STAGES, method.config
    processes = place.local_world_size or config.workers
    device = choose_local_device(config.device, place, processes)
    if processes > 1:
        torch.set_num_threads(config.threads or max(1, usable_cores() // processes))
    with directory.join_work(out, method.recipe(out / PRIVATE), PARTS_LOCK, lambda: None):
        make = partial(method.make_planning_part, stages, device=device)
        log = dataclasses.replace(method.log, rank=place.rank)
        _make_in_turn(out, lambda: method.planning_parts(stages), make, place.rank, log)


def make_parts(method: Method, out: Path, place: Place, log: EventLog) -> None:
    """Make stages that images depend on and that don't need each other, while other processes make others.

    The model is opened for them, leaves the device, and is given up. Returns when all of them are finished.

    Args:
        out: The dataset's directory.
        place: This process among those that build together.
        log: Receives an event for each stage that this process makes.
    """
    stages = out / STAGES

    def open_on_cpu() -> tuple[Checkpoint, torch.device]:
        checkpoint = open_checked_model(method, out, place)[0].checkpoint
        device = checkpoint.device
        move_to_cpu(checkpoint)
        return checkpoint, device

    with directory.join_work(out, method.recipe(out / PRIVATE), PARTS_LOCK, open_on_cpu) as (checkpoint, device):
        make = partial(method.make_part, stages, checkpoint=checkpoint, device=device)
        _make_in_turn(out, lambda: method.parts(stages), make, place.rank, log)


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


def rotate(names: Sequence[str], rank: int) -> list[str]:
    """Return names in an order that begins elsewhere for each process."""
    first = rank % max(1, len(names))
    return [*names[first:], *names[:first]]
