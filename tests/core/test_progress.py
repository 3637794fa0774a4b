"""Progress bars: what they count, and that a signal takes effect between two items."""

import subprocess
import sys

from figureground.core.progress import Progress

STOPPED = """
import os, signal
from figureground.core import signals
from figureground.core.errors import Stopped
from figureground.core.progress import Progress

done = []
with signals.handle_signals():
    try:
        with Progress.stoppable(5, show=False) as bar:
            for item in bar.track(range(5)):
                if item == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                done.append(item)
    except Stopped:
        print("stopped after", *done)
"""


def test_a_tracked_item_counts_once_it_is_done_and_a_batch_as_its_images():
    with Progress.stoppable(5, disable=False, mininterval=60) as bar:
        counts = [bar.n for _ in bar.track([["a", "b"], ["c", "d"], ["e"]], len)]
        assert counts == [0, 2, 4]
        assert bar.n == 5


def test_a_signal_waits_until_the_item_is_done():
    run = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=60)
    assert run.stdout.splitlines() == ["stopped after 0 1 2"], run.stderr
