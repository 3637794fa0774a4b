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

    received: int | None = None
    """First signal received."""
    delayed_to_checks = False
    is_postponed = False
    """Whether the signal arrived where an exception would be lost, and hasn't taken effect yet."""
    is_reminder = False
    holds_interrupts_back = False
    has_interrupt_pending = False
    """Whether Ctrl-C arrived while it was held back."""
    is_worker = False
    has_watchdog = False
    exit_action: Callable[[], None] | None = None


_arrival = threading.Event()


def check() -> None:
    """Raise `Stopped` if a signal asked to stop; call it where work can stop.

    Raises:
        Stopped: A signal asked to stop.
    """
    if _State.received is not None:
        raise Stopped(_State.received)


def received_signal() -> int | None:
    """Return the signal that asked this process to stop, or None."""
    return _State.received


@contextlib.contextmanager
def handle_signals(is_worker: bool = False) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Stopped`, in the main thread of a command or of a worker.

    The first signal raises `Stopped` at the current statement or, within `delay_to_checks`, at the next check. A second
    Ctrl-C ends the process at once, and so does the timeout `SECONDS_TO_STOP`; finished shards are safe either way.
    Signals that are ignored, as with `nohup` and in background jobs, stay ignored. Handlers are restored at the end,
    unless a signal arrived: then the process is ending, and another Ctrl-C shouldn't print tracebacks.

    Args:
        is_worker: Whether Ctrl-C is left to the parent process, which passes it on as SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _State.has_watchdog:
        _State.has_watchdog = True
        threading.Thread(target=_enforce_stop, name="stop in time", daemon=True).start()
    _State.is_worker = is_worker
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in previous.items():
        if is_worker and number == signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)
        elif handler != signal.SIG_IGN:
            signal.signal(number, _handle)
    if is_worker:
        unblock_signals(SIGNALS)  # what `hold_back_interrupts` blocked
    try:
        yield
    finally:
        if _State.received is None:
            for number, handler in previous.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def delay_to_checks() -> Iterator[None]:
    """Delay signals until the next `check`, so that no library is interrupted midway."""
    previous, _State.delayed_to_checks = _State.delayed_to_checks, True
    try:
        yield
    finally:
        _State.delayed_to_checks = previous


@contextlib.contextmanager
def run_before_exit(action: Callable[[], None]) -> Iterator[None]:
    """Run `action`, such as killing workers, first if the process is ended by force within the context."""
    previous, _State.exit_action = _State.exit_action, action
    try:
        yield
    finally:
        _State.exit_action = previous


@contextlib.contextmanager
def hold_back_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back. A process started within the context holds it back too, until it enters `handle_signals`."""
    previous = block_signals([signal.SIGINT])
    # The mask applies to this thread only; signals to other threads are still handled here.
    _State.holds_interrupts_back = True
    try:
        yield
    finally:
        _State.holds_interrupts_back = False
        restore_signals(previous)
        if _State.has_interrupt_pending:
            _State.has_interrupt_pending = False
            signal.raise_signal(signal.SIGINT)


def _handle(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and _State.holds_interrupts_back:
        _State.has_interrupt_pending = True
        return
    is_first, is_reminder = _State.received is None, _State.is_reminder
    _State.is_reminder = False
    if is_first:
        _State.received = number
        _arrival.set()
        if _State.delayed_to_checks:
            _write_stderr(
                "figureground: stopping." + (" Ctrl-C again stops at once." if number == signal.SIGINT else "")
            )
    elif number == signal.SIGINT and not is_reminder:
        _exit_now(number)
    # A reminder may come after the signal took effect; a second exception would then interrupt the clean-up.
    if (is_first or (is_reminder and _State.is_postponed)) and not _State.delayed_to_checks:
        _State.is_postponed = _is_swallowed(frame)
        if not _State.is_postponed:
            raise Stopped(number)


def _is_swallowed(frame: FrameType | None) -> bool:
    """Return whether an exception may be swallowed, or printed as uncatchable: in an import and in a finalizer."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _enforce_stop() -> None:
    """Make sure that a signal takes effect: resend it if it was postponed, and finally end the process by force."""
    _arrival.wait()
    deadline = time.monotonic() + SECONDS_TO_STOP
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if _State.is_postponed and _State.received is not None:
            _State.is_reminder = True
            send_to_self(_State.received)
    _exit_now(_State.received or signal.SIGTERM)


def _exit_now(number: int) -> None:
    """End the process without unwinding; the next build removes its partial files."""
    if _State.exit_action is not None:
        with contextlib.suppress(Exception):
            _State.exit_action()
    _write_stderr("figureground: stopped at once. Saved results are kept; the same command resumes from there.")
    os._exit(128 + number)


def _write_stderr(text: str) -> None:
    """Write directly to stderr, because a handler may interrupt the use of Python's buffers."""
    if not _State.is_worker:
        start = "\n" if os.isatty(2) else ""  # the line may contain a progress bar
        with contextlib.suppress(OSError):
            os.write(2, f"{start}{text}\n".encode())
