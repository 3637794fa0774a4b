"""Prints all output, so that no name of a file or class can control the terminal."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from figureground.core.errors import FiguregroundError, suggest
from figureground.core.text import printable


def prepare_streams() -> None:
    """Make stdout and stderr accept any text: a closed stream discards it, and unencodable characters are escaped.

    A closed file descriptor is opened on the null device; otherwise the next file written would get its number.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_result(text: object = "") -> None:
    """Print a result, one line or several, to stdout.

    Raises:
        FiguregroundError: It can't be written, for example because a disk is full.
        BrokenPipeError: The reader closed the pipe.
    """
    try:
        print(printable(text, lines=True))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise make_unwritable_error(error) from error


def print_json(value: Any) -> None:
    """Print JSON to stdout, in ASCII unless stdout is UTF-8; raises like `print_result`."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    print_result(json.dumps(value, indent=2, ensure_ascii=encoding != "utf8"))


def make_unwritable_error(error: OSError) -> FiguregroundError:
    """Return the error for an unwritable stdout, and discard further output."""
    discard_output(sys.stdout)
    return FiguregroundError(f"the output can't be written: {error.strerror or error}. Results are kept.")


def discard_output(stream: TextIO) -> None:
    """Discard a stream's buffered and further output, which Python would otherwise flush at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_error(text: object) -> None:
    """Print an error or a note to stderr; if stderr can't be written, it is lost."""
    try:
        print(printable(text, lines=True), file=sys.stderr, flush=True)
    except OSError:
        discard_output(sys.stderr)


def break_line() -> None:
    """End the line on stderr that another process's progress bar began, if stderr is a terminal."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr.isatty():
            print(file=sys.stderr, flush=True)


def print_note(text: object) -> None:
    """Print a note to stderr during work, above a progress bar if there is one."""
    from tqdm import tqdm

    try:
        tqdm.write(f"figureground: {printable(text, lines=True)}", file=sys.stderr)
    except OSError:
        discard_output(sys.stderr)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors show arguments as `printable` text, and name the nearest known one."""

    add_later: Callable[[], None] | None = None
    """Adds further arguments when they are first needed, so that other commands don't import what they come from."""

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """See `argparse.ArgumentParser.parse_known_args`."""
        self._add_deferred()
        return super().parse_known_args(*args, **kwargs)

    def format_help(self) -> str:
        """See `argparse.ArgumentParser.format_help`."""
        self._add_deferred()
        return super().format_help()

    def _add_deferred(self) -> None:
        if add := self.add_later:
            self.add_later = None
            add()

    def find_command(self, arguments: Sequence[str]) -> Parser:
        """Return the parser of the command that the arguments name, or else this one."""
        for action in self._actions:
            for argument in arguments:
                if isinstance(action, argparse._SubParsersAction) and argument in action.choices:
                    return action.choices[argument]
        return self

    def suggest_option(self, argument: str) -> str:
        """Return a hint such as `, did you mean '--epochs'?`; empty if no option of this parser is similar."""
        return suggest(argument.partition("=")[0], (name for name in self._option_string_actions if name[:2] == "--"))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += suggest(str(value), map(str, action.choices or ()))
            raise

    def error(self, message: str) -> NoReturn:
        """Print usage and error to stderr and exit with 2."""
        super().error(printable(message, lines=True))
