"""Differences between operating systems: flags of `os.open`, locks of open files, signal masks.

Modules that only some systems have, such as `fcntl`, are imported when they are used, so that everything imports
anywhere.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Collection
from typing import Any

OPEN_PRIVATE = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOCTTY", "O_BINARY"))
"""Flags of `os.open` by which a file isn't passed on, doesn't become the terminal, and has its bytes unchanged."""
OPEN_NONBLOCKING = OPEN_PRIVATE | getattr(os, "O_NONBLOCK", 0)
"""The same for a file that others may have put there: opening a FIFO doesn't block."""
OPEN_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""Flag of `os.open` that refuses a link; 0 on Windows, where making links takes a privilege."""

HAS_MASKS = hasattr(signal, "pthread_sigmask")
"""Whether threads can hold signals back: everywhere but on Windows."""
_POSIX: Any = signal  # for mypy on Windows, it has no masks

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}

_SHARED, _IMMEDIATE, _EXCLUSIVE = 0, 1, 2
"""Windows' LOCKFILE_FAIL_IMMEDIATELY and LOCKFILE_EXCLUSIVE_LOCK."""
_VIOLATION, _PENDING = 33, 997
"""Windows' ERROR_LOCK_VIOLATION and ERROR_IO_PENDING."""
_UNSUPPORTED = (1, 50)
"""Windows' ERROR_INVALID_FUNCTION and ERROR_NOT_SUPPORTED."""
_LOCK_OFFSET = 2**30
"""High word of the place that is locked on Windows. No reader gets there, and locked bytes can't be read by others."""


def lock_file(handle: int, *, wait: bool, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed, which the system does when a process ends.

    Args:
        handle: The file's descriptor.
        wait: Whether to wait for those who hold it.
        shared: Whether others may hold it too, if they share it.

    Returns:
        Whether it was locked; None if the file system, or the system, has no locks.

    Raises:
        OSError: The system reports another error.
    """
    try:
        import fcntl
    except ImportError:
        return _lock_file_ex(handle, wait, shared)
    posix: Any = fcntl  # for mypy on Windows, the module is empty
    kind = posix.LOCK_SH if shared else posix.LOCK_EX
    try:
        posix.flock(handle, kind if wait else kind | posix.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _lock_file_ex(handle: int, wait: bool, shared: bool) -> bool | None:
    """Lock an open file by Windows' LockFileEx; `msvcrt.locking` has no shared locks."""
    try:
        import msvcrt
    except ImportError:
        return None
    import ctypes
    from ctypes import wintypes

    class Overlapped(ctypes.Structure):
        _fields_ = [
            ("internal", ctypes.c_void_p), ("internal_high", ctypes.c_void_p), ("offset", wintypes.DWORD),
            ("offset_high", wintypes.DWORD), ("event", wintypes.HANDLE),
        ]  # fmt: skip

    windows: Any = ctypes  # for mypy on other systems, the names of Windows are missing
    lock = windows.WinDLL("kernel32", use_last_error=True).LockFileEx
    lock.argtypes = [wintypes.HANDLE, *[wintypes.DWORD] * 4, ctypes.POINTER(Overlapped)]
    lock.restype = wintypes.BOOL
    flags = (_SHARED if shared else _EXCLUSIVE) | (0 if wait else _IMMEDIATE)
    runtime: Any = msvcrt
    if lock(runtime.get_osfhandle(handle), flags, 0, 1, 0, ctypes.byref(Overlapped(offset_high=_LOCK_OFFSET))):
        return True
    code = windows.get_last_error()
    if code in (_VIOLATION, _PENDING):
        return False
    if code in _UNSUPPORTED:
        return None
    raise windows.WinError(code)


def block_signals(numbers: Collection[int]) -> Any:
    """Have this thread, and processes that it starts, hold signals back; return what `restore_signals` takes."""
    return _POSIX.pthread_sigmask(_POSIX.SIG_BLOCK, numbers) if HAS_MASKS else None


def restore_signals(mask: Any) -> None:
    """Undo `block_signals`."""
    if HAS_MASKS:
        _POSIX.pthread_sigmask(_POSIX.SIG_SETMASK, mask)


def unblock_signals(numbers: Collection[int]) -> None:
    """Let this thread receive signals that the process that started it held back."""
    if HAS_MASKS:
        _POSIX.pthread_sigmask(_POSIX.SIG_UNBLOCK, numbers)


def send_to_self(number: int) -> None:
    """Send this process a signal from any of its threads, for its handler.

    Windows' `os.kill` would end the process instead.
    """
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        os.kill(os.getpid(), number)


def peak_resident_memory() -> float:
    """Return the largest memory that this process has had so far, bytes."""
    try:
        import resource
    except ImportError:
        import psutil  # comes with accelerate

        memory = psutil.Process().memory_info()
        return float(getattr(memory, "peak_wset", memory.rss))
    usage: Any = resource
    return float(usage.getrusage(usage.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
