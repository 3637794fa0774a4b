"""Handles Ctrl-C and SIGTERM: a build stops between two steps, drops the current batch, and can be resumed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from figureground.core.errors import Stopped
from figureground.core.system import block_signals, restore_signals, send_to_self, unblock_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_TO_STOP = 20.0
"""Time after which a process that was asked to stop is ended by force. Slurm kills after 30 seconds."""


class _State:
    """Stop requests and handling state, global because signals concern the whole process."""

    asked: int | None = None
    """First signal received."""
    waits_for_check = False
    postponed = False
    """Whether the signal arrived where an exception would be lost, and hasn't taken effect yet."""
    reminded = False
    holding_back = False
    held_back = False
    """Whether Ctrl-C arrived while it was held back."""
    worker = False
    watched = False
    before_leaving: Callable[[], None] | None = None


_came = threading.Event()


def check() -> None:
    """Raise `Stopped` if a signal asked to stop; call it where work can stop.

    Raises:
        Stopped: A signal asked to stop.
    """
    if _State.asked is not None:
        raise Stopped(_State.asked)


def asked_to_stop() -> int | None:
    """Return the signal that asked this process to stop, or None."""
    return _State.asked


@contextlib.contextmanager
def handled(worker: bool = False) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Stopped`, in the main thread of a command or of a worker.

    The first signal raises `Stopped` at the current statement or, within `at_checks`, at the next check. A second
    Ctrl-C ends the process at once, and so does the timeout `SECONDS_TO_STOP`; finished shards are safe either way.
    Signals that are ignored, as with `nohup` and in background jobs, stay ignored. Handlers are restored at the end,
    unless a signal arrived: then the process is ending, and another Ctrl-C shouldn't print tracebacks.

    Args:
        worker: Whether Ctrl-C is left to the parent process, which passes it on as SIGTERM.
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
        unblock_signals(SIGNALS)  # what `held_back` blocked
    try:
        yield
    finally:
        if _State.asked is None:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def at_checks() -> Iterator[None]:
    """Delay signals until the next `check`, so that no library is interrupted midway."""
    before, _State.waits_for_check = _State.waits_for_check, True
    try:
        yield
    finally:
        _State.waits_for_check = before


@contextlib.contextmanager
def before_leaving(action: Callable[[], None]) -> Iterator[None]:
    """Run `action`, such as killing workers, first if the process is ended by force within the context."""
    before, _State.before_leaving = _State.before_leaving, action
    try:
        yield
    finally:
        _State.before_leaving = before


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold Ctrl-C back. A process started within the context holds it back too, until it enters `handled`."""
    before = block_signals([signal.SIGINT])
    _State.holding_back = True  # the mask applies to this thread; signals to other threads are still handled here
    try:
        yield
    finally:
        _State.holding_back = False
        restore_signals(before)
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
    # A reminder may come after the signal took effect; a second exception would then interrupt the clean-up.
    if (first or (reminder and _State.postponed)) and not _State.waits_for_check:
        _State.postponed = _would_be_lost(frame)
        if not _State.postponed:
            raise Stopped(number)


def _would_be_lost(frame: FrameType | None) -> bool:
    """Return whether an exception may be swallowed, or printed as uncatchable: in an import and in a finalizer."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _leave_in_time() -> None:
    """Make sure that a signal takes effect: resend it if it was postponed, and finally end the process by force."""
    _came.wait()
    latest = time.monotonic() + SECONDS_TO_STOP
    while time.monotonic() < latest:
        time.sleep(0.1)
        if _State.postponed and _State.asked is not None:
            _State.reminded = True
            send_to_self(_State.asked)
    _leave(_State.asked or signal.SIGTERM)


def _leave(number: int) -> None:
    """End the process without unwinding; the next build removes its partial files."""
    if _State.before_leaving is not None:
        with contextlib.suppress(Exception):
            _State.before_leaving()
    _say("figureground: stopped at once. Saved results are kept; the same command resumes from there.")
    os._exit(128 + number)


def _say(text: str) -> None:
    """Write directly to stderr, because a handler may interrupt the use of Python's buffers."""
    if not _State.worker:
        start = "\n" if os.isatty(2) else ""  # the line may contain a progress bar
        with contextlib.suppress(OSError):
            os.write(2, f"{start}{text}\n".encode())
