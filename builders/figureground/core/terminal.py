"""What is printed: every line goes through here, so that no name of a file or class can steer the terminal."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from figureground.core.text import printable


def say(text: object = "") -> None:
    """Print a result, one line or several, to stdout."""
    print(printable(text, lines=True))


def complain(text: object) -> None:
    """Print an error or a note to stderr."""
    print(printable(text, lines=True), file=sys.stderr, flush=True)


def remark(text: object) -> None:
    """Print a note to stderr while work goes on, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(f"figureground: {printable(text, lines=True)}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """A parser of arguments whose errors show those arguments as `printable` does."""

    def error(self, message: str) -> NoReturn:
        """Print usage and error to stderr and exit with 2."""
        super().error(printable(message, lines=True))
