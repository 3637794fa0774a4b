"""Errors of workers, as they are sent to another process and raised again there."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import NoReturn

from figureground.core.errors import FiguregroundError, UsageError, describe_error


@dataclass(frozen=True)
class Failure:
    """Error with which a worker ended; it can be sent to another process."""

    text: str
    traceback: str
    is_usage_error: bool = False
    system: tuple[int, str, str | None] | None = None
    """Number, text and file of an operating system error."""


class WorkerTraceback(Exception):
    """Traceback of an error in a worker, for `--debug`."""


def make_failure(error: BaseException) -> Failure:
    """Return an error as it is sent from a worker."""
    system = None
    if isinstance(error, OSError) and error.errno:
        name = None if error.filename is None else str(error.filename)
        system = (error.errno, error.strerror or str(error), name)
    trace = "".join(traceback.format_exception(error))[-20_000:]
    return Failure(describe_error(error), trace, isinstance(error, UsageError), system)


def raise_failure(failure: Failure) -> NoReturn:
    """Raise a worker's error again in this process, with its traceback as the cause."""
    cause = WorkerTraceback("\n" + failure.traceback)
    if failure.system:
        raise OSError(*failure.system) from cause
    raise (UsageError if failure.is_usage_error else FiguregroundError)(failure.text) from cause
