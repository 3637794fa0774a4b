"""Where the command `figureground` begins: Ctrl-C is answered from its first instruction on, also while it imports."""

import gc
import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command, `figureground.cli.main`, and return its exit code."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # what `nohup` ignores stays ignored
        signal.signal(signal.SIGINT, _stop)
    from figureground.core import libraries

    libraries.silence_warnings()
    from figureground.cli.main import main as run

    try:
        return run()
    finally:
        gc.freeze()  # the process ends: a last search for cycles, among all that libraries made, would take a second


def _stop(number: int, frame: FrameType | None) -> None:
    """End the process: nothing is begun yet, and an exception within an import would show where."""
    os.write(2, b"figureground: stopped.\n")
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
