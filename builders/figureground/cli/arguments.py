"""What the commands' arguments are put into, and the flag that commands of several kinds have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

from figureground.core.terminal import Parser

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where each command's parser is added."""


def add_later(parser: argparse.ArgumentParser, add: Callable[[], None]) -> None:
    """Let `add` give a command its further arguments when they are first needed; see `Parser.add_later`."""
    assert isinstance(parser, Parser)
    parser.add_later = add


def add_device(parser: argparse.ArgumentParser) -> None:
    """Gives a parser the flag that says what is computed on."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
