"""Ctrl-C and SIGTERM: a build stops between two steps, drops the shard in work, and can go on later."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from figureground.core.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_TO_STOP = 20.0
"""A process that was asked to stop and hasn't by then just ends. Slurm kills after 30 seconds."""


class _State:
    """What was asked of this process, and what is to be done; signals are the whole process's."""

    asked: int | None = None
    """The first signal that came."""
    waits_for_check = False
    postponed = False
    """Whether the signal came where an exception would be lost, and hasn't taken effect yet."""
    reminded = False
    holding_back = False
    held_back = False
    """Whether Ctrl-C came meanwhile."""
    worker = False
    watched = False
    before_leaving: Callable[[], None] | None = None


_came = threading.Event()


def check() -> None:
    """Called where work can stop.

    Raises:
        Stopped: A signal asked for it.
    """
    if _State.asked is not None:
        raise Stopped(_State.asked)


def asked_to_stop() -> int | None:
    """The signal that asked this process to stop, or None."""
    return _State.asked


@contextlib.contextmanager
def handled(worker: bool = False) -> Iterator[None]:
    """Turns SIGINT and SIGTERM into `Stopped`, in the main thread of a command or of a worker.

    The first signal raises `Stopped` where the work stands or, within `at_checks`, at the next check. A second
    Ctrl-C ends the process at once, and so does the passing of `SECONDS_TO_STOP`: finished shards are safe either
    way. A signal that is ignored, as `nohup` and background jobs have it, stays ignored. Handlers are put back at
    the end, unless a signal came: the process is ending then, and one more Ctrl-C shouldn't show its remains.

    Args:
        worker: Whether Ctrl-C is left to the process that started this one, which passes it on as SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _State.watched:
        _State.watched = True
        threading.Thread(target=_leave_in_time, name="stop in time", daemon=True).start()
    _State.worker = worker
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if worker and number == signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)
        elif handler != signal.SIG_IGN:
            signal.signal(number, _handle)
    if worker:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # what `held_back` blocked
    try:
        yield
    finally:
        if _State.asked is None:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def at_checks() -> Iterator[None]:
    """Within, a signal takes effect at the next `check` only, so that no library is interrupted midway."""
    before, _State.waits_for_check = _State.waits_for_check, True
    try:
        yield
    finally:
        _State.waits_for_check = before


@contextlib.contextmanager
def before_leaving(action: Callable[[], None]) -> Iterator[None]:
    """Within, `action` comes first when the process ends at once, such as ending its workers."""
    before, _State.before_leaving = _State.before_leaving, action
    try:
        yield
    finally:
        _State.before_leaving = before


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within, Ctrl-C waits. A process started here holds it back too, until `handled` is ready for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    _State.holding_back = True  # the mask is this thread's; what another one takes is handled here all the same
    try:
        yield
    finally:
        _State.holding_back = False
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if _State.held_back:
            _State.held_back = False
            signal.raise_signal(signal.SIGINT)


def _handle(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and _State.holding_back:
        _State.held_back = True
        return
    first, reminder = _State.asked is None, _State.reminded
    _State.reminded = False
    if first:
        _State.asked = number
        _came.set()
        if _State.waits_for_check:
            _say("figureground: stopping." + (" Ctrl-C again stops at once." if number == signal.SIGINT else ""))
    elif number == signal.SIGINT and not reminder:
        _leave(number)
    if (first or reminder) and not _State.waits_for_check:
        # Within an import an exception may be swallowed, or be printed as one that nobody could catch.
        _State.postponed = _importing(frame)
        if not _State.postponed:
            raise Stopped(number)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _leave_in_time() -> None:
    """Sees to it that a signal takes effect: sent again where it was postponed, and by force in the end."""
    _came.wait()
    latest = time.monotonic() + SECONDS_TO_STOP
    while time.monotonic() < latest:
        time.sleep(0.1)
        if _State.postponed and _State.asked is not None:
            _State.reminded = True
            os.kill(os.getpid(), _State.asked)
    _leave(_State.asked or signal.SIGTERM)


def _leave(number: int) -> None:
    """Ends the process without unwinding; what it was writing is cleared away by the next build."""
    if _State.before_leaving is not None:
        with contextlib.suppress(Exception):
            _State.before_leaving()
    _say("figureground: stopped at once. What was saved is kept; the same command goes on from there.")
    os._exit(128 + number)


def _say(text: str) -> None:
    """Writes past Python's buffers, which a handler may find in use."""
    if not _State.worker:
        start = "\n" if os.isatty(2) else ""  # a progress bar may stand in the line
        with contextlib.suppress(OSError):
            os.write(2, f"{start}{text}\n".encode())
