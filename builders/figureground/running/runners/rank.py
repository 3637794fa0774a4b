"""Renders as one of several processes that a batch system or a launcher starts, on one machine or on many."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from figureground.core import signals
from figureground.core.errors import RecipeError, UsageError
from figureground.core.locks import has_locks
from figureground.core.terminal import print_note
from figureground.running.runner import Place, Runner
from figureground.running.runners.local import order_shards, run_workers
from figureground.shards.shard import NUMERICS

if TYPE_CHECKING:
    from figureground.methods.base import Method

SECONDS_BETWEEN_LOOKS = 1.0
"""Interval at which a rank that waits for rank 0 checks whether it has begun."""
_LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""Variables by which libraries would join these processes to one training; ranks of a build are independent."""


@dataclass(frozen=True)
class RankInfo:
    """Position of this process among those of a build."""

    rank: int
    world: int
    local_rank: int | None = None
    """Position on its machine; None if it isn't known."""
    local_world_size: int = 1
    """Number of processes on its machine that share its cores and devices, as far as known."""
    source: str = ""
    """Source of these numbers, such as `torchrun's RANK`; empty if there is none."""


class Rank(Runner):
    """Renders in this process as rank `rank` of `world`; without arguments, variables of the launcher say which.

    A rank begins at its own share of the shards, and then takes those that no living process holds. It returns when all
    shards are finished. On a file system without locks, it renders only its own share, and returns then.

    Args:
        rank: Position of this process, from 0.
        world: Number of processes.

    Raises:
        UsageError: Only one of the two is given, the rank isn't below the number, or variables contradict them or each
            other.
    """

    NAME = "rank"

    def __init__(self, rank: int | None = None, world: int | None = None):
        self.info = find_rank(os.environ, rank, world)
        self.rank = self.info.rank
        self._lacks_locks: bool | None = None

    @contextlib.contextmanager
    def build_context(self) -> Iterator[None]:
        """Hide the launcher's variables from libraries, which would wait for other processes at the first training."""
        hidden = {name: os.environ.pop(name) for name in _LAUNCHER_VARIABLES if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(hidden)

    def begin(self, method: Method, out: Path) -> None:
        """Without locks, wait until rank 0 has run the stages and settled the numerics."""
        info = self.info
        self._lacks_locks = not has_locks(out)
        if not info.source:
            if self._lacks_locks:
                raise UsageError(
                    f"--runner rank: {out} has no file locks, so it isn't known which part of the work is this "
                    "process's. Give --rank I --world N, or start it with srun, torchrun or mpirun."
                )
            print_note("no launcher's variables are set, so this is rank 0 of 1.")
        numerics = out / NUMERICS
        if self._lacks_locks and info.rank and not numerics.exists():
            print_note(f"{out} has no file locks: rank {info.rank} waits until rank 0 has prepared the build.")
            while not numerics.exists():
                signals.check()
                time.sleep(SECONDS_BETWEEN_LOOKS)

    def run(self, method: Method, out: Path, show_progress: bool) -> None:
        shards, world, parts = len(method.plan().shards()), self.info.world * method.config.workers, []
        for place in self._places(method):
            number = place.rank
            parts.append(
                (own_shards(shards, number, world) if self._lacks_locks else order_shards(shards, number, world), place)
            )
        parts = [part for part in parts if part[0]]
        if parts:  # there may be more ranks than shards
            run_workers(method, out, parts, show_progress)

    def places(self, method: Method) -> list[Place]:
        places = self._places(method)
        return places[:1] if self._lacks_locks else places

    def _places(self, method: Method) -> list[Place]:
        """Return the places of this rank's processes."""
        info, workers = self.info, method.config.workers
        local = info.rank if info.local_rank is None else info.local_rank
        return [
            Place(
                info.rank * workers + k, local * workers + k, info.local_world_size * workers, bool(self._lacks_locks)
            )
            for k in range(workers)
        ]

    def explain_unfinished(self, out: Path) -> str | None:
        """Say why shards may be unfinished after `run`: without locks, they are other ranks'."""
        if not self._lacks_locks:
            return None
        return (
            f"rank {self.info.rank} of {self.info.world} has finished its share, and {out} has no file locks by "
            "which it could take others'. The rank that ends last writes the index and the card. If one was killed, "
            "start that rank again."
        )


def own_shards(shards: int, rank: int, world: int) -> list[int]:
    """Return the numbers of the shards that one of `world` processes renders if it can't see what others do."""
    return list(range(rank * shards // world, (rank + 1) * shards // world))


def find_rank(variables: Mapping[str, str], rank: int | None = None, world: int | None = None) -> RankInfo:
    """Return this process's rank, from its arguments or from the variables of what started it.

    What is given comes first. Then, the innermost launcher counts: torchrun, then OpenMPI, then Slurm's `srun`. The
    tasks of a Slurm array are ranks too: with several processes in each task, their number is multiplied.

    Args:
        variables: The environment.
        rank: `--rank`.
        world: `--world`.

    Raises:
        UsageError: See `Rank`.
    """
    requested = None
    if rank is not None or world is not None:
        requested = _make_rank("--rank", rank, "--world", world, "")
    inner = _read_torchrun(variables) or _read_openmpi(variables) or _read_slurm(variables)
    outer = _read_array(variables)
    detected = _combine(inner, outer)
    if requested is None:
        return detected or RankInfo(0, 1)
    if detected is not None and detected.world == requested.world and detected.rank != requested.rank:
        raise UsageError(
            f"--rank {requested.rank} --world {requested.world}: {detected.source} says that this is rank "
            f"{detected.rank} of {detected.world}. Leave both out, or give every process its own rank."
        )
    machine = detected or requested
    return RankInfo(requested.rank, requested.world, machine.local_rank, machine.local_world_size, "--rank")


def _combine(inner: RankInfo | None, outer: RankInfo | None) -> RankInfo | None:
    """Return the rank of a process in a task of an array."""
    if inner is None or outer is None:
        return inner or outer
    return RankInfo(
        outer.rank * inner.world + inner.rank, outer.world * inner.world, inner.local_rank, inner.local_world_size,
        f"{outer.source} with {inner.source}",
    )  # fmt: skip


def _read_torchrun(variables: Mapping[str, str]) -> RankInfo | None:
    return _read_launcher(variables, "torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def _read_openmpi(variables: Mapping[str, str]) -> RankInfo | None:
    head = "OMPI_COMM_WORLD_"
    names = (f"{head}{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
    return _read_launcher(variables, "OpenMPI", *names)


def _read_slurm(variables: Mapping[str, str]) -> RankInfo | None:
    """Read the variables of a task. `salloc` and `sbatch` set the number of tasks also where there is none."""
    if "SLURM_PROCID" not in variables:
        return None
    size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in variables else "SLURM_NTASKS"
    if size not in variables and variables["SLURM_PROCID"].strip() == "0":
        return None  # the script of a job that asked for no tasks, such as one of an array
    info = _read_launcher(variables, "Slurm", "SLURM_PROCID", size, "SLURM_LOCALID", "")
    assert info is not None
    return RankInfo(info.rank, info.world, info.local_rank, _count_slurm_neighbours(variables, info.world), info.source)


def _count_slurm_neighbours(variables: Mapping[str, str], world: int) -> int:
    """Return the number of tasks that share what this one sees; a task that was given GPUs of its own shares none."""
    if any(variables.get(name) for name in ("SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU", "SLURM_TRES_PER_TASK")):
        return 1
    text = variables.get("SLURM_STEP_TASKS_PER_NODE") or variables.get("SLURM_TASKS_PER_NODE") or ""
    numbers = [int(n) for n in re.findall(r"(?:^|,)(\d+)", text)]  # such as 2(x3),1
    return min(max(numbers, default=1), world)


def _read_array(variables: Mapping[str, str]) -> RankInfo | None:
    """Read the variables of a task of a Slurm array."""
    head = "SLURM_ARRAY_TASK_"
    if f"{head}ID" not in variables:
        return None
    missing = [name for name in ("MIN", "MAX", "COUNT") if f"{head}{name}" not in variables]
    if missing:
        raise UsageError(f"{head}ID is set, but {head}{missing[0]} isn't. Give --rank and --world.")
    own, least, most, count = (_parse_number(variables, f"{head}{name}") for name in ("ID", "MIN", "MAX", "COUNT"))
    step = max(1, (most - least) // (count - 1)) if count > 1 else 1
    if most - least != step * (count - 1) or (own - least) % step or not least <= own <= most:
        raise UsageError(
            f"the tasks of this Slurm array ({count} from {least} to {most}) aren't evenly spaced, so the rank of task "
            f"{own} isn't known. Give --rank and --world."
        )
    return RankInfo((own - least) // step, count, None, 1, f"{head}ID")


def _read_launcher(
    variables: Mapping[str, str], launcher: str, rank: str, world: str, local_name: str, local_world_name: str
) -> RankInfo | None:
    """Read a launcher's variables: rank, number of processes, and optionally both on this machine."""
    present = [name for name in (rank, world) if name in variables]
    if not present:
        return None
    if len(present) == 1:
        other = world if present[0] == rank else rank
        raise UsageError(
            f"{launcher}'s variable {present[0]} is set, but {other} isn't. Set both, or unset {present[0]}, or give "
            "--rank and --world."
        )
    info = _make_rank(rank, _parse_number(variables, rank), world, _parse_number(variables, world), f"{launcher}'s ")
    local_rank = _parse_number(variables, local_name) if local_name in variables else None
    local_world_size = _parse_number(variables, local_world_name) if local_world_name in variables else 1
    return RankInfo(info.rank, info.world, local_rank, max(1, local_world_size), f"{launcher}'s {rank}")


def _make_rank(rank_name: str, rank: int | None, world_name: str, world: int | None, prefix: str) -> RankInfo:
    if rank is None or world is None:
        missing = rank_name if rank is None else world_name
        raise RecipeError(missing, f"it is missing. Give both {rank_name} and {world_name}, or neither.")
    if world < 1:
        raise UsageError(f"{prefix}{world_name} is {world}; it must be 1 or more.")
    if not 0 <= rank < world:
        raise UsageError(f"{prefix}{rank_name} is {rank}, and {world_name} is {world}: ranks go from 0 to {world - 1}.")
    return RankInfo(rank, world, source=rank_name)


def _parse_number(variables: Mapping[str, str], name: str) -> int:
    text = variables[name].strip()
    if not re.fullmatch(r"-?\d{1,9}", text, re.ASCII):
        raise UsageError(f"the variable {name} is {text!r}, which isn't a whole number. Unset it, or give --rank.")
    return int(text)
