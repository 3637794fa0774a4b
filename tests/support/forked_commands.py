"""Runs commands and scripts in forks of a process that has imported the libraries, which saves seconds for each.

A fork is a process of its own, as real as one that a shell starts: it leads a session, can be signalled and killed, and
has its own standard streams. What it does not show is how long imports take and what happens during them; tests of that
use `subprocess`.
"""

from __future__ import annotations

import atexit
import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, reduction
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["forked_preload"])


class Forked:
    """A process that runs `python -m figureground` or a script; has the part of `subprocess.Popen` that tests use.

    Args:
        arguments: Arguments of `figureground`, or of the script.
        script: Python code to run instead of `figureground`.
        cwd: Working directory.
        env: Environment; what libraries read on import stays as in the server.
        stdout, stderr: As for `subprocess.Popen`: `PIPE`, `STDOUT`, `DEVNULL`, or a file descriptor.
    """

    def __init__(
        self, arguments: Sequence[str], script: str | None = None, cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE,
    ):  # fmt: skip
        _begin_server(env or os.environ)
        ends: list[int] = []
        self.stdout, out = _open_stream(stdout, ends)
        self.stderr, err = (None, out) if stderr == subprocess.STDOUT else _open_stream(stderr, ends)
        self._process = CONTEXT.Process(
            target=_become,
            args=([*map(str, arguments)], script, str(cwd or Path.cwd()), dict(env or os.environ), _Fd(out), _Fd(err)),
        )
        self._process.start()
        self._texts: dict[str, str] = {}
        for end in ends:
            os.close(end)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(["figureground"], timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """Return all that it writes, and wait for its end."""
        texts = self._texts

        def read(name: str, stream: Any) -> None:
            with stream:
                texts[name] = stream.read()

        streams = [(name, stream) for name in ("stdout", "stderr") if (stream := getattr(self, name)) is not None]
        streams = [(name, stream) for name, stream in streams if not stream.closed]
        readers = [threading.Thread(target=read, args=each, daemon=True) for each in streams]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return texts.get("stdout"), texts.get("stderr")

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Fd:
    """A file descriptor that travels to the process."""

    def __init__(self, fd: int):
        self.fd = fd

    def __getstate__(self) -> Any:
        return reduction.DupFd(self.fd)

    def __setstate__(self, passed: Any) -> None:
        self.fd = passed.detach()


def _open_stream(kind: int, ends: list[int]) -> tuple[Any, int]:
    """Return this process's end of a stream, if it has one, and the other's; `ends` gets what is closed later."""
    if kind == subprocess.PIPE:
        read, write = os.pipe()
        ends.append(write)
        return open(read, encoding="utf-8", errors="surrogateescape"), write
    if kind == subprocess.DEVNULL:
        ends.append(os.open(os.devnull, os.O_WRONLY))
        return None, ends[-1]
    return None, kind


def _begin_server(env: Mapping[str, str]) -> None:
    """Start the process to fork from, unless it runs, with an environment that reaches the libraries it imports."""
    before = dict(os.environ)
    os.environ.update(env, PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _become(arguments: list[str], script: str | None, cwd: str, env: dict[str, str], out: _Fd, err: _Fd) -> None:
    """Run in the fork: become `python -m figureground` or `python -c`, and end as that would."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    os.dup2(out.fd, 1)
    os.dup2(err.fd, 2)
    for fd in {out.fd, err.fd}:
        os.close(fd)
    sys.stdout, sys.stderr = _text(1), _text(2)  # multiprocessing has closed the standard input
    multiprocessing.set_start_method(None, force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        if script is None:
            sys.argv = ["figureground", *arguments]
            runpy.run_module("figureground", run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *arguments]
            exec(compile(script, "<string>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 120
        os._exit(code)


def _text(fd: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(fd, "w", closefd=False)), encoding="utf-8", write_through=True, line_buffering=True
    )
