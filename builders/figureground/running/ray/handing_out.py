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
from figureground.core.errors import FiguregroundError, counted
from figureground.core.event_log import EventLog
from figureground.core.terminal import complain, remark
from figureground.running.failure import raise_failure
from figureground.running.ray.actor import Actor, Facts, Rendered, refuse_other, versions
from figureground.running.ray.cluster import Needs
from figureground.running.runner import Job, Place
from figureground.shards.claiming import clean_stale, note_failure
from figureground.shards.markers import missing
from figureground.shards.shard import PRIVATE, Shard
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
MOST_DEATHS = 3
"""Number of actors that may die on one shard, and number of deaths in a row, per worker, that end the build."""


@dataclass
class Hand:
    """An actor, as the process that builds sees it."""

    rank: int
    actor: Any
    waits_for: Any
    """Reference of what it will return: its facts, or a rendered shard."""
    number: int | None = None
    """The shard that it renders."""
    facts: Facts | None = None
    split: str | None = None
    """Split of its last shard: the next one of it needs no other concept."""


@dataclass
class Crew:
    """Starts actors."""

    job: Job
    out: Path
    """The dataset's directory on this machine."""
    place: Path | StoreUrl
    """Place at which actors find the dataset."""
    lease: float
    """For a URL, seconds without a sign of life after which a shard is taken over."""
    needs: Needs
    blind: bool = False
    """Whether actors can't see what others do, as the file system has no locks."""

    def start(self, rank: int) -> Hand:
        """Start an actor. It may have to wait for room in the cluster."""
        import ray

        needs = self.needs
        beside = max(1, math.floor(1 / needs.gpus + 1e-6)) if needs.gpus else 1
        # Threads are the actor's CPUs: Ray sets OMP_NUM_THREADS to their number, unless the machine sets it.
        options: dict[str, Any] = {
            "num_cpus": needs.cpus,
            "num_gpus": needs.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        its_place = Place(rank, 0, beside, self.blind)
        actor: Any = ray.remote(Actor).options(**options).remote(self.job, self.place, self.lease, its_place)
        return Hand(rank, actor, actor.facts.remote())


@dataclass
class HandingOut:
    """Hands shards out to actors until all are finished or have failed; replaces actors that die."""

    crew: Crew
    shards: Sequence[Shard]
    todo: Sequence[int]
    log: EventLog
    hands: list[Hand] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    """Reasons of shards that failed, by number."""

    def __post_init__(self) -> None:
        self._queue = deque(self.todo)
        self._deaths: Counter[int] = Counter()
        self._died_in_a_row = 0
        self._failed_starts: list[float] = []
        """Times, monotonic, at which actors died before they answered, since one did."""
        self._alone_since = time.monotonic()
        self._remarked = False

    def steps(self) -> Iterator[None]:
        """Hand shards out, and yield every moment.

        Raises:
            FiguregroundError: A shard can't be rendered for a reason that is the same on every machine, actors can't be
                started, or they die again and again.
            OSError: An actor met an operating system error.
        """
        import ray

        self.hands = [self.crew.start(rank) for rank in range(self.crew.needs.workers)]
        while self._queue or any(hand.number is not None for hand in self.hands):
            signals.check()
            waiting = [hand for hand in self.hands if hand.waits_for is not None]
            ready: list[Any] = []
            if waiting:
                ready, _ = ray.wait([hand.waits_for for hand in waiting], num_returns=1, timeout=SECONDS_BETWEEN_LOOKS)
            for hand in waiting:
                if hand.waits_for in ready:
                    self._take(hand)
            for hand in self.hands:
                if hand.facts is not None and hand.waits_for is None and self._queue and self._may_begin(hand):
                    self._give(hand)
            self._refuse_emptiness()
            yield

    def stop(self) -> None:
        """Kill the actors and remove what they were writing."""
        import ray

        numbers = [hand.number for hand in self.hands if hand.number is not None]
        for hand in self.hands:
            with suppress(Exception):  # the cluster may be gone
                ray.kill(hand.actor, no_restart=True)
        latest = time.monotonic() + SECONDS_FOR_KILLED
        while numbers and clean_stale(self.crew.out) == [] and time.monotonic() < latest:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        self.hands = []

    def refuse_failed(self, out: Path) -> None:
        """Raise FiguregroundError if shards failed; names them with their reasons."""
        failed = {number: why for number, why in self.failed.items() if missing(out, [self.shards[number]])}
        if failed:
            lines = [f"{self.shards[number].name}: {why}" for number, why in sorted(failed.items())]
            raise FiguregroundError(
                f"{counted(len(lines), 'shard')} of {len(self.shards):,} can't be rendered; the others are done and "
                "kept:\n  " + "\n  ".join(lines[:20]) + ("\n  …" if lines[20:] else "")
                + "\nIf a machine was at fault, run the same command again."
            )  # fmt: skip

    def _may_begin(self, hand: Hand) -> bool:
        """Without locks, the first actor settles the numerics, and the others begin after that."""
        return not self.crew.blind or hand.rank == 0 or (self.crew.out / PRIVATE / "numerics.json").exists()

    def _give(self, hand: Hand) -> None:
        number = next((n for n in self._queue if self.shards[n].split == hand.split), self._queue[0])
        self._queue.remove(number)
        hand.number, hand.split = number, self.shards[number].split
        hand.waits_for = hand.actor.render.remote(number)

    def _take(self, hand: Hand) -> None:
        """Take what an actor returned; replace it if it died."""
        import ray

        try:
            returned = ray.get(hand.waits_for)
        except ray.exceptions.RayActorError as error:
            self._replace(hand, " ".join(str(error).split()))
            return
        except ray.exceptions.RayError as error:
            raise FiguregroundError(f"a worker can't be used: {' '.join(str(error).split())[:2000]}") from error
        hand.waits_for = None
        if isinstance(returned, Facts):
            refuse_other(returned, versions(), self.crew.out)
            hand.facts = returned
            self._failed_starts.clear()
            return
        assert isinstance(returned, Rendered)
        assert hand.facts is not None
        for line in returned.events:
            self.log.write_line(line)
        if returned.failure is not None and returned.broken:
            ray.kill(hand.actor, no_restart=True)  # by force, because its device may never answer again
            self._replace(hand, returned.failure.text)
        elif returned.failure is not None:
            failure = returned.failure
            text = f"{hand.facts.host}: {failure.text}"
            raise_failure(dataclasses.replace(failure, text=text))
        else:
            self._died_in_a_row = 0
            hand.number = None

    def _replace(self, hand: Hand, why: str) -> None:
        """Start another actor in the place of one that died, and put its shard back, unless too many died of it."""
        where = hand.facts.host if hand.facts else "a machine of the cluster"
        if hand.facts is None:
            self._note_failed_start(why)
        else:
            self._died_in_a_row += 1
        if hand.number is not None:
            shard = self.shards[hand.number]
            self._deaths[hand.number] += 1
            self.log.write("failure", shard=shard.name, error=why, on=where)
            if self._deaths[hand.number] < MOST_DEATHS:
                complain(f"figureground: a worker on {where} died, and {shard.name} goes to another one: {why[:500]}")
                self._queue.appendleft(hand.number)
            else:
                reason = f"{self._deaths[hand.number]} workers died while rendering it; the last on {where}: {why}"
                complain(f"figureground: {shard.name} has failed: {reason[:1000]}")
                self.failed[hand.number] = reason
                assert hand.facts is not None
                note_failure(self.crew.out, shard, reason, where, hand.facts.pid)
        if self._died_in_a_row >= MOST_DEATHS * max(2, len(self.hands)):
            raise FiguregroundError(
                f"{self._died_in_a_row} workers died one after the other, the last on {where}: {why}"
            )
        self.hands[self.hands.index(hand)] = self.crew.start(hand.rank)

    def _note_failed_start(self, why: str) -> None:
        """Count an actor that died as it started.

        Ray places actors on a machine that has vanished until it misses its heartbeats, so a few such deaths within a
        short time are no reason to give up.

        Raises:
            FiguregroundError: Actors have died so again and again, and none has started meanwhile.
        """
        self._failed_starts.append(time.monotonic())
        if len(self._failed_starts) == 1:
            complain(f"figureground: a worker died as it started, and another one is started: {why[:500]}")
        lasted = self._failed_starts[-1] - self._failed_starts[0]
        if len(self._failed_starts) >= MOST_DEATHS * max(2, len(self.hands)) and lasted > SECONDS_OF_FAILED_STARTS:
            raise FiguregroundError(f"{len(self._failed_starts)} workers died as they started; the last error: {why}")

    def _refuse_emptiness(self) -> None:
        """Say when no worker could be started for a while, and give up after a long one."""
        if any(hand.facts is not None for hand in self.hands):
            self._alone_since, self._remarked = time.monotonic(), False
            return
        waited, needs = time.monotonic() - self._alone_since, self.crew.needs
        what = f"{needs.gpus:g} GPU and {counted(needs.cpus, 'CPU')}"
        if waited > SECONDS_WITHOUT_WORKERS:
            raise FiguregroundError(f"no machine of the cluster had {what} for a worker in {waited / 60:.0f} minutes.")
        if waited > SECONDS_TO_REMARK and not self._remarked:
            remark(f"no worker has started yet; the build waits for a machine that has {what} left.")
            self._remarked = True
