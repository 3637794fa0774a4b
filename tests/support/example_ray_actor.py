"""An actor of the runner `ray` that dies; workers import it, so it lies outside the tests."""

import os
import signal
import socket
from pathlib import Path

from figureground.running.failure import Failure
from figureground.running.ray.actor import ActorInfo, RenderResult, read_versions


class Dying:
    """An actor of which the second shard kills the process, and the third breaks the device once."""

    def __init__(self, out):
        self.out = Path(out)

    def describe(self):
        return ActorInfo(socket.gethostname(), os.getpid(), read_versions(), True)

    def render(self, number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 2 and not (self.out / "broken").exists():
            (self.out / "broken").write_text("")
            return RenderResult([], Failure("CUDA error: unspecified launch failure", ""), True)
        return RenderResult([f'{{"shard": {number}}}\n'])
