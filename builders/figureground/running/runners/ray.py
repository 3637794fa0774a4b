"""Renders on the machines of a Ray cluster, or with Ray on this machine: one actor for each GPU keeps the model.

Ray (an extra) starts the actors and says which died. Images never travel through it: an actor writes its shards into
the dataset's directory, which all machines share, and returns what the log says of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import platform
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.core import libraries, signals
from figureground.core.errors import FiguregroundError, RecipeError, UsageError, counted, listed
from figureground.core.event_log import EventLog
from figureground.core.locks import has_locks
from figureground.core.numerics import library_versions
from figureground.core.progress import Progress
from figureground.core.terminal import complain, remark
from figureground.running.runner import Job, Place, Runner
from figureground.running.runners.local import Failure, failure_of, raise_failure
from figureground.shards.claiming import clean_stale, note_failure
from figureground.shards.home import home_of
from figureground.shards.markers import missing
from figureground.shards.progress import is_unfinished
from figureground.shards.shard import PRIVATE, Shard, as_shard
from figureground.stores.scratch import attached, settings_of
from figureground.stores.urls import StoreUrl

if TYPE_CHECKING:
    from figureground.methods.base import Method

SECONDS_TO_ANSWER = 5.0
"""Time that a Ray address gets to answer, seconds."""
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_REMARK = 60.0
"""Time without any worker after which that is said, seconds."""
SECONDS_WITHOUT_WORKERS = 1800.0
"""Time without any worker after which the build stops, seconds. A cluster may need minutes to rent a machine."""
SECONDS_OF_FAILED_STARTS = 120.0
"""Time over which every start has to fail before the build stops, seconds; Ray needs half a minute to notice that a
machine has vanished."""
SECONDS_FOR_KILLED = 5.0
"""Time to wait for killed actors to let go of their shards, seconds."""
MOST_DEATHS = 3
"""Number of actors that may die on one shard, and number of deaths in a row, per worker, that end the build."""
OBJECT_STORE = 100 * 2**20
"""Size of the object store of a Ray that is started here, bytes; hardly anything is put there."""


class Ray(Runner):
    """Renders in actors of Ray, each with its own model.

    Args:
        address: `auto` or `HOST:PORT` of a running Ray to join; None starts one on this machine, unless this process
            was started by `ray job submit`.
        gpus_per_worker: GPUs of each actor, which may be a fraction; 0 renders on CPUs. None is 1 if there are GPUs
            and the setting `device` allows them.
        workers: Number of actors. None is the setting `workers` if that is above 1, otherwise as many as there is room
            for: one for each GPU, or one for each machine.

    Raises:
        UsageError: An argument is invalid.
    """

    NAME = "ray"

    def __init__(self, address: str | None = None, gpus_per_worker: float | None = None, workers: int | None = None):
        if gpus_per_worker is not None and not 0 <= gpus_per_worker < math.inf:
            raise RecipeError("--gpus-per-worker", f"{gpus_per_worker} is no number of GPUs; give 0 or more.")
        if gpus_per_worker and gpus_per_worker > 1 and gpus_per_worker % 1:
            raise RecipeError("--gpus-per-worker", f"{gpus_per_worker}: above 1, Ray gives only whole GPUs.")
        if workers is not None and workers < 1:
            raise RecipeError("--workers", f"{workers} is less than 1.")
        if address is not None and "://" in address:
            raise RecipeError(
                "--ray-address", f"{address}: give auto or HOST:PORT on a machine of the cluster, or start the build "
                "there with ray job submit.",
            )  # fmt: skip
        self.address, self.gpus_per_worker, self.workers = address, gpus_per_worker, workers

    def begin(self, method: Method, out: Path) -> None:
        """Check that Ray is installed and that the device fits."""
        if importlib.util.find_spec("ray") is None:
            raise FiguregroundError(
                "the runner ray needs Ray: pip install 'figureground[ray]', or render with --runner local."
            )
        if self.gpus_per_worker and method.config.device == "cpu":
            raise UsageError(f"--gpus-per-worker {self.gpus_per_worker:g} doesn't fit device=cpu. Leave one out.")

    def run(self, method: Method, out: Path, show_progress: bool) -> None:
        planned = method.plan().shards()
        shards = [as_shard(each) for each in planned]
        todo = [number for number, shard in enumerate(shards) if missing(out, [shard])]
        with _joined(self._address()) as nodes:
            workers = self.workers or (method.config.workers if method.config.workers > 1 else None)
            needs = choose_needs(nodes, method.config.device, self.gpus_per_worker, workers, method.config.threads)
            job = Job.of(method)
            fields = {**job.fields, **({} if needs.gpus else {"device": "cpu"})}
            job = dataclasses.replace(job, fields=fields, log=EventLog(kept=[]))
            total = sum(shard.count for shard in shards)

            home = home_of(out)

            def done() -> int:
                home.look()
                return total - sum(shard.count for shard in missing(out, shards))

            url, lease = settings_of(out)
            needs = dataclasses.replace(needs, workers=min(needs.workers, len(todo)))
            blind = url is None and not has_locks(out)
            crew = _Crew(job, out.absolute(), url or out.absolute(), lease, needs, blind)
            with Progress(total, initial=done(), unit="image", desc=home.title, show=show_progress) as bar:
                handing_out = _HandingOut(crew, shards, todo, method.log)
                try:
                    with signals.at_checks():
                        for _ in handing_out.steps():
                            bar.update(done() - bar.n)
                finally:
                    handing_out.stop()
            handing_out.refuse_failed(out)

    def _address(self) -> str | None:
        return self.address or os.environ.get("RAY_ADDRESS") or None


# The cluster


@dataclass(frozen=True)
class Needs:
    """What the workers need of a cluster."""

    workers: int
    gpus: float
    """GPUs of each worker."""
    cpus: int
    """CPUs of each worker; on a CPU that is the number of torch's threads."""


def choose_needs(
    nodes: Sequence[Mapping[str, float]], device: str, gpus: float | None, workers: int | None, threads: int | None
) -> Needs:
    """Return number and size of workers that fit into a cluster.

    Args:
        nodes: Resources of each machine, by Ray's names: `CPU`, `GPU`.
        device: The setting `device`.
        gpus: GPUs of each worker; None chooses.
        workers: Number of workers; None chooses.
        threads: The setting `threads`.

    Raises:
        FiguregroundError: GPUs are asked for, and no machine has enough.
    """
    most = max((node.get("GPU", 0) for node in nodes), default=0)
    asked = gpus if gpus is not None else (1 if device.startswith("cuda") else None)
    if asked and most < asked:
        what = f"--gpus-per-worker {asked:g}" if gpus is not None else f"device={device}"
        raise FiguregroundError(
            f"{what} asks for {asked:g} GPU for each worker, and no machine of this Ray has more than {most:g}. Give "
            "--gpus-per-worker 0 to render on CPUs, or join another Ray with --ray-address."
        )
    each = asked if asked is not None else (1.0 if most and device == "auto" else 0.0)
    if each:
        room = sum(math.floor(node.get("GPU", 0) / each + 1e-6) for node in nodes)
        return Needs(workers or room, each, 1)
    sizes = sorted(int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1) or [1]
    cpus = min(threads, sizes[-1]) if threads else sizes[0]
    while workers and not threads and cpus > 1 and sum(size // cpus for size in sizes) < workers:
        cpus -= 1
    return Needs(workers or max(1, sum(size // cpus for size in sizes)), 0.0, cpus)


@contextmanager
def _joined(address: str | None) -> Iterator[list[dict[str, float]]]:
    """Start or join Ray for the duration of the context; yields the resources of each machine that is alive.

    Raises:
        FiguregroundError: The address doesn't answer, or its Ray or Python is of another version.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise Ray reports its use to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise it warns that this will change
    with libraries.importing():
        import ray
    if ray.is_initialized():  # by the program that builds
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return
    options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False, "include_dashboard": False}
    if address is None:
        options |= {"address": "local", "object_store_memory": OBJECT_STORE}  # else Ray joins one that runs here
    else:
        _refuse_silent(address)
        options = {"address": address, "logging_level": "error", "log_to_driver": False}
    try:
        with signals.held_back():
            ray.init(**options)
    except (RuntimeError, ConnectionError, ValueError) as error:
        said = " ".join(str(error).split())
        if "ersion mismatch" in said:
            raise FiguregroundError(
                f"{_named(address)} is of another version than this process's Ray {ray.__version__} or Python "
                f"{platform.python_version()}: {said} Install the cluster's versions here, or these there."
            ) from error
        raise FiguregroundError(f"{_named(address)} can't be used: {said}") from error
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _named(address: str | None) -> str:
    return "Ray on this machine" if address is None else f"--ray-address {address}: that Ray"


def _refuse_silent(address: str) -> None:
    """Refuse an address at which nothing answers: Ray itself would try for minutes.

    Raises:
        FiguregroundError: It is no address, or nothing answers within `SECONDS_TO_ANSWER`.
    """
    found: str | None = address
    if address in ("auto", "local"):
        with suppress(ImportError, AttributeError, ConnectionError):
            from ray._private import services

            found = services.canonicalize_bootstrap_address_or_die(address)
        if found in (None, "auto", "local"):
            raise FiguregroundError(
                f"--ray-address {address}: no Ray runs on this machine. Start one with ray start --head, or leave "
                "--ray-address out."
            )
    host, _, port = str(found).rpartition(":")
    if not host or not port.isdigit():
        raise RecipeError("--ray-address", f"{address}: give auto or HOST:PORT, such as 10.0.0.1:6379.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise FiguregroundError(
            f"--ray-address {address}: {found} doesn't answer ({error}). Check that ray start --head runs there, and "
            "that this machine reaches its port."
        ) from None


# In an actor


@dataclass(frozen=True)
class Facts:
    """What an actor says of itself before it renders."""

    host: str
    pid: int
    versions: Mapping[str, str]
    sees: bool
    """Whether it sees the dataset's directory."""


@dataclass(frozen=True)
class Rendered:
    """What an actor returns of a shard."""

    events: list[str]
    """Lines of the log."""
    failure: Failure | None = None
    broken: bool = False
    """Whether its device can't be used by this process any more."""


def versions() -> dict[str, str]:
    """Return what must be the same on all machines. Other libraries are compared with the numerics."""
    import ray

    return {
        "Ray": ray.__version__, "Python": platform.python_version(),
        "figureground": library_versions()["figureground"],
    }  # fmt: skip


class Actor:
    """A process that keeps a model and renders one shard after another.

    Args:
        job: The method.
        out: The dataset's directory, or its URL; then the actor works in the scratch of its machine.
        lease: For a URL, seconds without a sign of life after which a shard is taken over.
        place: Its place among the actors.
    """

    def __init__(self, job: Job, out: Path | StoreUrl, lease: float, place: Place):
        libraries.quieten()
        self._attached = contextlib.ExitStack()  # for as long as the actor lives
        self._sees = isinstance(out, StoreUrl)
        if isinstance(out, StoreUrl):
            out = self._attached.enter_context(attached(out, seconds=lease, handed_out=True))
        self._sees = self._sees or is_unfinished(out)
        self._job, self._out, self._place = job, out, place
        self._worker: Any = None

    def facts(self) -> Facts:
        """Return where it runs, with which versions."""
        return Facts(socket.gethostname(), os.getpid(), versions(), self._sees)

    def render(self, number: int) -> Rendered:
        """Render a shard, unless another process has.

        Args:
            number: Its position in the plan.
        """
        kept: list[str] = []
        try:
            if self._worker is None:
                with libraries.importing():
                    from figureground.running import worker

                self._worker = worker.Worker(self._job.open(), self._out, self._place)
            self._worker.log = dataclasses.replace(self._job.log, rank=self._place.rank, kept=kept)
            self._worker.work([number], show_progress=False)
        except Exception as error:
            from figureground.core.accelerator import is_device_error

            return Rendered(kept, failure_of(error), is_device_error(error))
        return Rendered(kept)


# In the process that builds


@dataclass
class _Hand:
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
class _Crew:
    """Starts actors."""

    job: Job
    out: Path
    """The dataset's directory on this machine."""
    place: Path | StoreUrl
    """Where actors find the dataset."""
    lease: float
    """For a URL, seconds without a sign of life after which a shard is taken over."""
    needs: Needs
    blind: bool = False
    """Whether actors can't see what others do, as the file system has no locks."""

    def start(self, rank: int) -> _Hand:
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
        return _Hand(rank, actor, actor.facts.remote())


@dataclass
class _HandingOut:
    """Hands shards out to actors until all are finished or have failed; replaces actors that die."""

    crew: _Crew
    shards: Sequence[Shard]
    todo: Sequence[int]
    log: EventLog
    hands: list[_Hand] = field(default_factory=list)
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

    def _may_begin(self, hand: _Hand) -> bool:
        """Without locks, the first actor settles the numerics, and the others begin after that."""
        return not self.crew.blind or hand.rank == 0 or (self.crew.out / PRIVATE / "numerics.json").exists()

    def _give(self, hand: _Hand) -> None:
        number = next((n for n in self._queue if self.shards[n].split == hand.split), self._queue[0])
        self._queue.remove(number)
        hand.number, hand.split = number, self.shards[number].split
        hand.waits_for = hand.actor.render.remote(number)

    def _take(self, hand: _Hand) -> None:
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
            _refuse_other(returned, versions(), self.crew.out)
            hand.facts = returned
            self._failed_starts.clear()
            return
        assert isinstance(returned, Rendered)
        assert hand.facts is not None
        for line in returned.events:
            self.log.write_line(line)
        if returned.failure is not None and returned.broken:
            ray.kill(hand.actor, no_restart=True)  # hard: its device may never answer again
            self._replace(hand, returned.failure.text)
        elif returned.failure is not None:
            failure = returned.failure
            text = f"{hand.facts.host}: {failure.text}"
            raise_failure(dataclasses.replace(failure, text=text))
        else:
            self._died_in_a_row = 0
            hand.number = None

    def _replace(self, hand: _Hand, why: str) -> None:
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
                reason = f"{self._deaths[hand.number]} workers died of it; the last on {where}: {why}"
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
            raise FiguregroundError(f"{len(self._failed_starts)} workers died as they started, the last so: {why}")

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


def _refuse_other(facts: Facts, mine: Mapping[str, str], out: Path) -> None:
    """Refuse an actor whose versions differ from this process's, or that doesn't see the dataset.

    Raises:
        FiguregroundError: See above; names the machine.
    """
    other = [
        f"{name} {theirs} instead of {mine[name]}" for name, theirs in facts.versions.items() if theirs != mine[name]
    ]
    if other:
        raise FiguregroundError(f"{facts.host} has {listed(other)}. Install the same versions on all machines.")
    if not facts.sees:
        raise FiguregroundError(f"{facts.host} doesn't see {out}. Give a directory that all machines share.")
