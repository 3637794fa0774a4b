"""Hands shards out to actors until all are finished or have failed, and replaces actors that die."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from figureground.core import signals
from figureground.core.errors import FiguregroundError, plural
from figureground.core.event_log import EventLog
from figureground.core.terminal import print_error, print_note
from figureground.running.failure import raise_failure
from figureground.running.ray.actor import Actor, ActorInfo, RenderResult, check_actor, read_versions
from figureground.running.ray.cluster import Resources
from figureground.running.runner import Job, Place
from figureground.shards.claims import clean_stale, note_failure
from figureground.shards.markers import find_missing_shards
from figureground.shards.shard import NUMERICS, Shard
from figureground.stores.urls import StoreUrl

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_REMARK = 60.0
"""Time without any worker after which this is reported, seconds."""
SECONDS_WITHOUT_WORKERS = 1800.0
"""Time without any worker after which the build stops, seconds. A cluster may need minutes to rent a machine."""
SECONDS_OF_FAILED_STARTS = 120.0
"""Time over which every start has to fail before the build stops, seconds; Ray needs half a minute to notice that a
machine has vanished."""
SECONDS_FOR_KILLED = 5.0
"""Time to wait for killed actors to let go of their shards, seconds."""
MAX_DEATHS = 3
"""Number of actors that may die on one shard, and number of deaths in a row, per worker, that end the build."""


@dataclass
class ActorHandle:
    """An actor, as the process that builds sees it."""

    rank: int
    actor: Any
    pending: Any
    """Reference of what it will return: its facts, or a rendered shard."""
    number: int | None = None
    """The shard that it renders."""
    info: ActorInfo | None = None
    split: str | None = None
    """Split of its last shard: the next one of it needs no other concept."""


@dataclass
class ActorStarter:
    """Starts actors."""

    job: Job
    out: Path
    """The dataset's directory on this machine."""
    target: Path | StoreUrl
    """Place at which actors find the dataset."""
    lease: float
    """For a URL, seconds without a sign of life after which a shard is taken over."""
    resources: Resources
    lacks_locks: bool = False
    """Whether the file system has no locks, so that actors can't see what others do."""

    def start(self, rank: int) -> ActorHandle:
        """Start an actor. It may have to wait for room in the cluster."""
        import ray

        resources = self.resources
        processes = max(1, math.floor(1 / resources.gpus + 1e-6)) if resources.gpus else 1
        # Threads are the actor's CPUs: Ray sets OMP_NUM_THREADS to their number, unless the machine sets it.
        options: dict[str, Any] = {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        place = Place(rank, 0, processes, self.lacks_locks)
        actor: Any = ray.remote(Actor).options(**options).remote(self.job, self.target, self.lease, place)
        return ActorHandle(rank, actor, actor.describe.remote())


@dataclass
class Dispatcher:
    """Hands shards out to actors until all are finished or have failed; replaces actors that die."""

    starter: ActorStarter
    shards: Sequence[Shard]
    todo: Sequence[int]
    log: EventLog
    handles: list[ActorHandle] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    """Reasons of shards that failed, by number."""

    def __post_init__(self) -> None:
        self._queue = deque(self.todo)
        self._deaths: Counter[int] = Counter()
        self._died_in_a_row = 0
        self._failed_starts: list[float] = []
        """Times, monotonic, at which actors died before they answered, since one did."""
        self._idle_since = time.monotonic()
        self._warned = False

    def steps(self) -> Iterator[None]:
        """Hand shards out, and yield every moment.

        Raises:
            FiguregroundError: A shard can't be rendered for a reason that is the same on every machine, actors can't be
                started, or they die again and again.
            OSError: An actor met an operating system error.
        """
        import ray

        self.handles = [self.starter.start(rank) for rank in range(self.starter.resources.workers)]
        while self._queue or any(handle.number is not None for handle in self.handles):
            signals.check()
            waiting = [handle for handle in self.handles if handle.pending is not None]
            ready: list[Any] = []
            if waiting:
                ready, _ = ray.wait(
                    [handle.pending for handle in waiting], num_returns=1, timeout=SECONDS_BETWEEN_LOOKS
                )
            for handle in waiting:
                if handle.pending in ready:
                    self._receive(handle)
            for handle in self.handles:
                if handle.info is not None and handle.pending is None and self._queue and self._may_begin(handle):
                    self._assign(handle)
            self._check_for_workers()
            yield

    def stop(self) -> None:
        """Kill the actors and remove what they were writing."""
        import ray

        numbers = [handle.number for handle in self.handles if handle.number is not None]
        for handle in self.handles:
            with suppress(Exception):  # the cluster may be gone
                ray.kill(handle.actor, no_restart=True)
        latest = time.monotonic() + SECONDS_FOR_KILLED
        while numbers and clean_stale(self.starter.out) == [] and time.monotonic() < latest:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        self.handles = []

    def raise_failed(self, out: Path) -> None:
        """Raise FiguregroundError if shards failed; names them with their reasons."""
        failed = {
            number: reason for number, reason in self.failed.items() if find_missing_shards(out, [self.shards[number]])
        }
        if failed:
            lines = [f"{self.shards[number].name}: {reason}" for number, reason in sorted(failed.items())]
            raise FiguregroundError(
                f"{plural(len(lines), 'shard')} of {len(self.shards):,} can't be rendered; the others are done and "
                "kept:\n  " + "\n  ".join(lines[:20]) + ("\n  …" if lines[20:] else "")
                + "\nIf a machine was at fault, run the same command again."
            )  # fmt: skip

    def _may_begin(self, handle: ActorHandle) -> bool:
        """Without locks, the first actor settles the numerics, and the others begin after that."""
        return not self.starter.lacks_locks or handle.rank == 0 or (self.starter.out / NUMERICS).exists()

    def _assign(self, handle: ActorHandle) -> None:
        number = next((n for n in self._queue if self.shards[n].split == handle.split), self._queue[0])
        self._queue.remove(number)
        handle.number, handle.split = number, self.shards[number].split
        handle.pending = handle.actor.render.remote(number)

    def _receive(self, handle: ActorHandle) -> None:
        """Take what an actor returned; replace it if it died."""
        import ray

        try:
            result = ray.get(handle.pending)
        except ray.exceptions.RayActorError as error:
            self._replace_actor(handle, " ".join(str(error).split()))
            return
        except ray.exceptions.RayError as error:
            raise FiguregroundError(f"a worker can't be used: {' '.join(str(error).split())[:2000]}") from error
        handle.pending = None
        if isinstance(result, ActorInfo):
            check_actor(result, read_versions(), self.starter.out)
            handle.info = result
            self._failed_starts.clear()
            return
        assert isinstance(result, RenderResult)
        assert handle.info is not None
        for line in result.events:
            self.log.write_line(line)
        if result.failure is not None and result.lost_device:
            ray.kill(handle.actor, no_restart=True)  # by force, because its device may never answer again
            self._replace_actor(handle, result.failure.text)
        elif result.failure is not None:
            failure = result.failure
            text = f"{handle.info.host}: {failure.text}"
            raise_failure(dataclasses.replace(failure, text=text))
        else:
            self._died_in_a_row = 0
            handle.number = None

    def _replace_actor(self, handle: ActorHandle, cause: str) -> None:
        """Start another actor in the place of one that died, and put its shard back, unless too many died of it."""
        host = handle.info.host if handle.info else "a machine of the cluster"
        if handle.info is None:
            self._note_failed_start(cause)
        else:
            self._died_in_a_row += 1
        if handle.number is not None:
            shard = self.shards[handle.number]
            self._deaths[handle.number] += 1
            self.log.write("failure", shard=shard.name, error=cause, on=host)
            if self._deaths[handle.number] < MAX_DEATHS:
                print_error(
                    f"figureground: a worker on {host} died, and {shard.name} goes to another one: {cause[:500]}"
                )
                self._queue.appendleft(handle.number)
            else:
                reason = f"{self._deaths[handle.number]} workers died while rendering it; the last on {host}: {cause}"
                print_error(f"figureground: {shard.name} has failed: {reason[:1000]}")
                self.failed[handle.number] = reason
                assert handle.info is not None
                note_failure(self.starter.out, shard, reason, host, handle.info.pid)
        if self._died_in_a_row >= MAX_DEATHS * max(2, len(self.handles)):
            raise FiguregroundError(
                f"{self._died_in_a_row} workers died one after the other, the last on {host}: {cause}"
            )
        self.handles[self.handles.index(handle)] = self.starter.start(handle.rank)

    def _note_failed_start(self, cause: str) -> None:
        """Count an actor that died as it started.

        Ray places actors on a machine that has vanished until it misses its heartbeats, so a few such deaths within a
        short time are no reason to give up.

        Raises:
            FiguregroundError: Actors have died so again and again, and none has started meanwhile.
        """
        self._failed_starts.append(time.monotonic())
        if len(self._failed_starts) == 1:
            print_error(f"figureground: a worker died as it started, and another one is started: {cause[:500]}")
        duration = self._failed_starts[-1] - self._failed_starts[0]
        if len(self._failed_starts) >= MAX_DEATHS * max(2, len(self.handles)) and duration > SECONDS_OF_FAILED_STARTS:
            raise FiguregroundError(f"{len(self._failed_starts)} workers died as they started; the last error: {cause}")

    def _check_for_workers(self) -> None:
        """Say when no worker could be started for a while, and give up after a long one."""
        if any(handle.info is not None for handle in self.handles):
            self._idle_since, self._warned = time.monotonic(), False
            return
        waited, resources = time.monotonic() - self._idle_since, self.starter.resources
        request = f"{resources.gpus:g} GPU and {plural(resources.cpus, 'CPU')}"
        if waited > SECONDS_WITHOUT_WORKERS:
            raise FiguregroundError(
                f"no machine of the cluster had {request} for a worker in {waited / 60:.0f} minutes."
            )
        if waited > SECONDS_TO_REMARK and not self._warned:
            print_note(f"no worker has started yet; the build waits for a machine that has {request} left.")
            self._warned = True
