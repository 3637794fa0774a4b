"""A log of events, one line of JSON each, that several processes append to."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.core.errors import UsageError, printable
from figureground.core.system import OPEN_PRIVATE, lock_file
from figureground.core.terminal import print_error

STDOUT = "-"
_MAX_LINE = 1 << 20


@dataclass(frozen=True)
class EventLog:
    """Where the events of a process go. It can be sent to another process.

    A line is written by one system call to a file that is opened for appending, under the file's lock, so that lines of
    several processes don't mix, also on a file system of several machines. Nothing is kept open or in memory.
    """

    target: str | None = None
    """Absolute path of a file; `-` for stdout; None for nowhere."""
    rank: int = 0
    """Position of this process among those that build together."""
    buffer: list[str] | None = None
    """List that lines are added to instead, for another process to write them."""

    def write(self, event: str, **facts: Any) -> None:
        """Append an event with time, host, process and rank; if the log can't be written, print a note and go on.

        Args:
            event: Its kind, such as `shard`.
            facts: Further fields of the line, JSON-able.
        """
        if self.buffer is not None:
            self.buffer.append(to_line(self.record(event, **facts)))
        elif self.target is not None:
            self.write_line(to_line(self.record(event, **facts)))

    def write_line(self, line: str) -> None:
        """Append a line that `to_line` made; if it can't be written, print a note and go on."""
        if self.target is None:
            return
        try:
            self.append(line)
        except OSError as error:
            print_error(
                f"figureground: --log-json {self.target}: {error.strerror or error}; this event is lost: {line}"
            )

    def record(self, event: str, **facts: Any) -> dict[str, Any]:
        """Return an event as it is written."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = {"time": now, "event": event, "host": socket.gethostname(), "pid": os.getpid(), "rank": self.rank}
        return {**head, **facts}

    def append(self, line: str) -> None:
        """Append a line, with its line break, as it is.

        Raises:
            OSError: It can't be written.
        """
        with _open_locked(self.target or os.devnull) as handle:
            data = line.encode()
            while data:
                data = data[os.write(handle, data) :]


def to_line(record: Mapping[str, Any]) -> str:
    """Return an event as a line of JSON, in ASCII, with its line break."""
    return json.dumps(record, ensure_ascii=True) + "\n"


def open_log(target: str | os.PathLike[str] | None, out: Path) -> EventLog:
    """Return the log of a build, whose file is created if missing.

    Args:
        target: A file, `-` for stdout, or None for no log.
        out: The dataset's directory.

    Raises:
        UsageError: The file can't be written, or lies in the dataset's directory.
    """
    if target is None or os.fspath(target) == STDOUT:
        return EventLog(None if target is None else STDOUT)
    path = Path(target).expanduser().absolute()
    if Path(os.path.realpath(out)) in Path(os.path.realpath(path)).parents:  # `resolve` raises on circular links
        raise UsageError(f"--log-json {printable(path)} lies in the dataset. Give a file outside {printable(out)}.")
    try:
        EventLog(str(path)).append("")
        is_log = _is_log(path)
    except OSError as error:
        raise UsageError(f"--log-json {printable(path)} can't be written: {error.strerror or error}.") from None
    if not is_log:
        raise UsageError(f"--log-json {printable(path)} exists and is no log of events. Give a new file.")
    return EventLog(str(path))


def _is_log(path: Path) -> bool:
    """Whether a file is empty, or begins with an event. Devices and pipes, such as /dev/null, count as empty."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        line = file.readline(_MAX_LINE)
    try:
        record = json.loads(line) if line else {"event": ""}
    except ValueError:
        return False
    return isinstance(record, dict) and "event" in record


@contextlib.contextmanager
def _open_locked(target: str) -> Iterator[int]:
    """Yield a locked file descriptor that appends; stdout isn't locked, as it may be a terminal that others hold."""
    if target == STDOUT:
        yield 1
        return
    handle = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | OPEN_PRIVATE, 0o666)
    try:
        with contextlib.suppress(OSError):  # without locks, a short line is still written by one call
            lock_file(handle, wait=True)
        yield handle
    finally:
        os.close(handle)
