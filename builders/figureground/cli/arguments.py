"""Shared by the command modules: the type of the subparsers and the --device flag."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The subparsers that each command's parser is added to."""


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the --device flag to a parser."""
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 or mps")
