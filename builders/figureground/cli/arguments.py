"""Shared by the command modules: the type of the subparsers and the --device flag."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from figureground.core.errors import UsageError
from figureground.core.terminal import Parser
from figureground.stores.urls import StoreUrl, parse

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The subparsers that each command's parser is added to."""


def parse_path(text: str) -> Path:
    """Read a path. An empty one, as from an unset variable, would be the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty. Give a path.")
    return Path(text)


def parse_place(text: str) -> Path | StoreUrl:
    """Read a dataset's place: a directory, or a URL in an object store."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty. Give a directory or a URL.")
    try:
        return parse(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_later(parser: argparse.ArgumentParser, add: Callable[[], None]) -> None:
    """Let `add` give a command its further arguments when they are first needed; see `Parser.add_later`."""
    assert isinstance(parser, Parser)
    parser.add_later = add


def add_track(parser: argparse.ArgumentParser) -> None:
    """Add the --track flag to a parser."""
    parser.add_argument(
        "--track", metavar="NAME",
        help="report to trackio, tensorboard, wandb, or a tracker from another package (default: report nothing)",
    )  # fmt: skip


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the --device flag to a parser."""
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 or mps")
