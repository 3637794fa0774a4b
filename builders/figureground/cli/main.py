"""The command `figureground`: init, plan, build, cutouts, scenes, status, clean, finetune, show, check, evaluate,
verify, review, audit, groups, train, compare, disentangle, curate, extend, merge, export, push, components, doctor.

Exit codes: 0 done, 1 failed or found something, 2 wrong use, 130 stopped with Ctrl-C, 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from figureground.cli import (
    audits,
    builds,
    concepts,
    datasets,
    disentangling,
    doctor,
    exporting,
    materials,
    recipes,
    reviewing,
    training,
    verification,
)
from figureground.core import signals
from figureground.core.errors import FiguregroundError, UsageError
from figureground.core.terminal import Parser, discard_output, make_unwritable_error, prepare_streams, print_error
from figureground.core.version import VERSION
from figureground.stores.urls import StoreUrl, describe_copying, is_url, parse

if TYPE_CHECKING:
    from figureground.cli.arguments import Commands

EXIT_CODES = (
    "exit codes: 0 done, 1 failed or found something, 2 wrong use, 130 stopped with Ctrl-C, 143 stopped by SIGTERM"
)
COMMANDS = (
    recipes.add_init, recipes.add_plan, recipes.add_settings, recipes.add_build, materials.add_cutouts,
    materials.add_scenes, builds.add_status, builds.add_clean, concepts.add_finetune, datasets.add_show,
    datasets.add_check, datasets.add_evaluate, verification.add_verify, reviewing.add_review, audits.add_audit,
    training.add_groups, training.add_train, training.add_compare, disentangling.add_disentangle, datasets.add_curate,
    datasets.add_extend, datasets.add_merge, exporting.add_export, datasets.add_push, concepts.add_components,
    doctor.add_doctor,
)  # fmt: skip
"""Commands, in the order in which help lists them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    prepare_streams()
    parser = _make_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        command = parser.find_command(sys.argv[1:] if arguments is None else arguments)
        _refuse_arguments(command, unknown, options)
    try:
        with signals.handle_signals():
            _check_place(options)
            code = options.run(options)
            try:
                sys.stdout.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                raise make_unwritable_error(error) from error
            return code
    except KeyboardInterrupt as stop:
        return _report_stop(stop)
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        discard_output(sys.stdout)
        return 0
    except Exception as error:
        if signals.received_signal() is not None:  # a library turned the interruption into another error
            return _report_stop(error)
        if options.debug:
            raise
        print_error(f"figureground: {_explain_error(error, options)}")
        return 2 if isinstance(error, UsageError) else 1


def _refuse_arguments(parser: Parser, unknown: Sequence[str], options: argparse.Namespace) -> NoReturn:
    """Exit, naming the unrecognized arguments; suggest the nearest option, or `--set` for what looks like a setting."""
    settings = [argument for argument in unknown if "=" in argument and not argument.startswith("-")]
    hint = f". Each setting needs its own --set: --set {settings[0]}" if settings and hasattr(options, "set") else ""
    hint = hint or next((parser.suggest_option(argument) for argument in unknown if argument.startswith("--")), "")
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


def _check_place(options: argparse.Namespace) -> None:
    """Refuse a deleted working directory, and arguments that aren't UTF-8, since recipes and cards can't hold them.

    Raises:
        UsageError: The working directory is gone, or an argument isn't UTF-8; the message names it.
    """
    try:
        os.getcwd()
    except OSError:
        raise UsageError("the working directory no longer exists. Change to another one.") from None
    for name, value in vars(options).items():
        if isinstance(value, Path):
            setattr(options, name, _to_local_path(value))
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str | os.PathLike):
                try:
                    os.fspath(item).encode()
                except UnicodeEncodeError:
                    raise UsageError(
                        f"--{name.replace('_', '-')}: {os.fspath(item)!a} isn't valid UTF-8. Rename the file or the "
                        "directory, or retype the name."
                    ) from None


def _to_local_path(path: Path) -> Path:
    """Return the path that a `file://` URL names, or the path as it is.

    Raises:
        UsageError: It is a URL of a store, which this argument doesn't take.
    """
    place = parse(str(path)) if is_url(path) else path
    if isinstance(place, StoreUrl):
        raise UsageError(f"{place}: this command takes a directory, not a URL. {describe_copying(place)}")
    return place


def _report_stop(error: BaseException) -> int:
    print_error(" ".join(["figureground: stopped.", *getattr(error, "__notes__", [])]))
    return 128 + (signals.received_signal() or signal.SIGINT)


def _explain_error(error: Exception, options: argparse.Namespace) -> str:
    from figureground.core import disk

    if isinstance(error, FiguregroundError):
        return str(error)
    directory = getattr(options, "out", None) or getattr(options, "directory", None)
    explanation = None
    if isinstance(error, OSError) and isinstance(directory, Path):
        explanation = disk.explain_disk_error(error, directory)
    if explanation is None and isinstance(error, PermissionError) and error.filename is not None:
        explanation = f"{error.filename}: permission denied. Change its permissions, or give another path."
    return explanation or f"{type(error).__name__}: {error}\n(--debug shows where)"


def _make_parser() -> Parser:
    parser = Parser(
        prog="figureground",
        description="Build image-classification datasets with a chosen dependence between foreground and background.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    commands = cast("Commands", parser.add_subparsers(title="commands", required=True, metavar="COMMAND"))

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    for add in COMMANDS:
        add(commands, common)
    return parser


if __name__ == "__main__":
    sys.exit(main())
