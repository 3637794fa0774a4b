"""Renders on this machine: in this process, or in several that each take shards that no other holds."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.core import libraries, signals
from figureground.core.errors import FiguregroundError, join_names
from figureground.core.progress import Progress
from figureground.core.system import HAS_MASKS
from figureground.core.terminal import print_error
from figureground.recipe.sample import derive_seed
from figureground.running.failure import Failure, make_failure, raise_failure
from figureground.running.runner import Job, Place, Runner
from figureground.shards.home import home_of
from figureground.shards.markers import find_missing_shards
from figureground.shards.shard import STAGES, as_shard

if TYPE_CHECKING:
    from figureground.methods.base import Method

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_FOR_WORKERS = 12.0
"""Time that workers get to stop before they are killed, seconds."""
SECONDS_FOR_KILLED = 3.0
"""Time to wait for killed workers, seconds. One that hangs in a driver or on a lost disk ends when that returns."""


class Local(Runner):
    """Renders in `workers` processes on this machine; a single one is this process."""

    NAME = "local"

    def run(self, method: Method, out: Path, show_progress: bool) -> None:
        places, shards = self.places(method), len(method.plan().shards())
        run_workers(method, out, [(order_shards(shards, p.rank, len(places)), p) for p in places], show_progress)

    def places(self, method: Method) -> list[Place]:
        return [Place(k, k) for k in range(method.config.workers)]


def order_shards(shards: int, rank: int, world: int) -> list[int]:
    """Return the numbers of all shards in the order in which one of `world` processes tries them.

    Its share comes first. The others follow in an order that differs from process to process: towards the end, when
    many have finished their share, they would otherwise all try the same shards.
    """
    own = range(rank * shards // world, (rank + 1) * shards // world)
    rest = [*range(own.stop, shards), *range(own.start)]
    return [*own, *sorted(rest, key=lambda number: derive_seed(rank, "turn", str(number)))]


def run_workers(method: Method, out: Path, parts: Sequence[tuple[list[int], Place]], show_progress: bool) -> None:
    """Run `worker.work` on this machine: in this process if there is one part, otherwise in one process for each.

    Args:
        parts: For each process, the numbers of its shards and its place.

    Raises:
        FiguregroundError: Shards can't be rendered.
        OSError: A process met an operating system error.
    """
    if len(parts) > 1:
        _run_in_processes(method, out, parts, show_progress)
        return
    with libraries.pause_garbage_collector():
        from figureground.running import worker  # needs torch

    worker.work(method, out, *parts[0], show_progress=show_progress)


def run_planning_parts(method: Method, out: Path, places: Sequence[Place]) -> None:
    """Run `parts.make_planning_parts` on this machine: in this process if there is one place, otherwise in one each.

    Raises:
        FiguregroundError: A stage can't be made.
        OSError: A process met an operating system error.
    """
    names = method.planning_parts(out / STAGES)
    if len(names) > 1 and len(places) > 1:
        tasks = [_Task(Job.from_method(method), out, None, place) for place in places[: len(names)]]
        _run_tasks(tasks, lambda: None, lambda: not method.planning_parts(out / STAGES))
        return
    with libraries.pause_garbage_collector():
        from figureground.running.parts import make_planning_parts  # needs torch

    make_planning_parts(method, out, places[0])


def _run_in_processes(method: Method, out: Path, parts: Sequence[tuple[list[int], Place]], show_progress: bool) -> None:
    """Run `worker.work` in processes and wait for them; see `_run_tasks`."""
    job, plan = Job.from_method(method), method.plan().shards()
    planned = [as_shard(plan[number]) for number in sorted({number for numbers, _ in parts for number in numbers})]
    total = sum(s.count for s in planned)

    def count_finished() -> int:
        return total - sum(s.count for s in find_missing_shards(out, planned))

    with Progress(total, initial=count_finished(), unit="image", desc=home_of(out).title, show=show_progress) as bar:
        _run_tasks(
            [_Task(job, out, numbers, place) for numbers, place in parts], lambda: bar.update(count_finished() - bar.n),
            lambda: not find_missing_shards(out, planned),
        )  # fmt: skip


@dataclass(frozen=True)
class _Task:
    """Work of a process."""

    job: Job
    out: Path
    shards: list[int] | None
    """Numbers of shards to render; None for stages that the plan depends on."""
    place: Place


def _run_tasks(tasks: Sequence[_Task], poll: Callable[[], object], is_finished: Callable[[], bool]) -> None:
    """Start a process for each task and wait for them.

    If this process is asked to stop, the workers are stopped; if it dies, they stop by themselves.

    Args:
        poll: Called every moment, to report progress.
        is_finished: Whether nothing is left to do, so that errors of some workers don't matter.

    Raises:
        FiguregroundError: Workers ended with an error or were killed, and work is left.
        OSError: A worker met an operating system error.
    """
    context = multiprocessing.get_context("spawn")
    if HAS_MASKS:  # on Windows, there is no such process
        resource_tracker.ensure_running()  # if started later, it would receive the Ctrl-C that is held back
    workers: list[BaseProcess] = []
    reports: list[Any] = []
    with signals.run_before_exit(lambda: _kill_workers(workers)):  # until they have stopped: see `_stop_workers`
        try:
            with signals.delay_to_checks():
                with signals.hold_back_interrupts():
                    for task in tasks:
                        receive, send = context.Pipe(duplex=False)
                        worker = context.Process(
                            target=_run_worker, name=f"worker {task.place.rank}", args=(task, send)
                        )
                        worker.start()
                        workers.append(worker)
                        reports.append(receive)
                        send.close()
                while alive := [worker.sentinel for worker in workers if worker.is_alive()]:
                    signals.check()
                    wait(alive, SECONDS_BETWEEN_LOOKS)
                    poll()
                signals.check()
        except BaseException:
            _stop_workers(workers)
            raise
    failures = {worker.name: _receive_failure(report) for worker, report in zip(workers, reports, strict=True)}
    _raise_failures(
        {name: failure for name, failure in failures.items() if failure},
        [w for w in workers if w.exitcode and not failures[w.name]],
        is_finished=is_finished(),
    )


def _raise_failures(failures: dict[str, Failure], killed: list[BaseProcess], is_finished: bool) -> None:
    lines = [f"{name}: {failure.text}" for name, failure in failures.items()]
    if killed:
        names = join_names(f"{worker.name} ({_describe_exit(worker)})" for worker in killed)
        lines.append(
            f"{names} ended before the work was done. If "
            "you didn't stop them, the machine most likely ran out of memory: give fewer --set workers=…, or a smaller "
            "--set batch_size=…."
        )
    if not lines:
        return
    if is_finished:  # the other workers took over the rest
        for line in lines:
            print_error(f"figureground, {line}")
        return
    texts = {failure.text for failure in failures.values()}
    text = "\n".join(lines) if killed or len(texts) > 1 else texts.pop()
    first = next(iter(failures.values()), None)
    if first and first.system and not killed:
        raise_failure(first)
    if first:
        raise_failure(dataclasses.replace(first, text=text, system=None))
    raise FiguregroundError(text)


def _describe_exit(worker: BaseProcess) -> str:
    code = worker.exitcode or 0
    number = -code if code < 0 else code - 128
    with suppress(ValueError):
        return f"killed by {signal.Signals(number).name}"
    return f"exit code {code}"


def _receive_failure(connection: Any) -> Failure | None:
    with suppress(EOFError, OSError):
        if connection.poll():
            failure: Failure = connection.recv()
            return failure
    return None


def _stop_workers(workers: list[BaseProcess]) -> None:
    """Ask workers to stop, and kill those that don't stop in time."""
    try:
        for worker in workers:
            worker.terminate()
        latest = time.monotonic() + SECONDS_FOR_WORKERS
        for worker in workers:
            worker.join(max(0.0, latest - time.monotonic()))
    finally:
        _kill_workers(workers)


def _kill_workers(workers: list[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
    latest = time.monotonic() + SECONDS_FOR_KILLED
    for worker in workers:
        worker.join(max(0.0, latest - time.monotonic()))


# In the worker


def _run_worker(task: _Task, connection: Any) -> None:
    libraries.silence_warnings()
    with signals.handle_signals(is_worker=True):
        threading.Thread(target=_end_with_parent, name="watch the parent", daemon=True).start()
        try:
            with libraries.pause_garbage_collector():
                from figureground.running import parts, worker

            method = task.job.open()
            if task.shards is None:
                parts.make_planning_parts(method, task.out, task.place)
            else:
                worker.work(method, task.out, task.shards, task.place, show_progress=False)
        except BaseException as error:
            number = signals.received_signal()
            if number is not None or isinstance(error, KeyboardInterrupt):
                raise SystemExit(128 + (number or signal.SIGINT)) from None
            with suppress(OSError):
                connection.send(make_failure(error))
            raise SystemExit(1) from None
        finally:
            gc.freeze()  # see `figureground.__main__`


def _end_with_parent() -> None:
    """Stop this process when its parent is gone, so that no orphan keeps rendering."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
