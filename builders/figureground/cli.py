"""The command `figureground`: plan, build, show.

Exit codes: 0 done, 1 failed or found something, 2 wrong use, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figureground import __version__
from figureground.errors import FiguregroundError, RecipeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("\nfigureground: stopped. Finished shards are kept; the same command goes on from them.", file=sys.stderr)
        return 130
    except Exception as error:
        if options.debug:
            raise
        if isinstance(error, FiguregroundError):
            print(f"figureground: {error}", file=sys.stderr)
            return 2 if isinstance(error, RecipeError) else 1
        print(f"figureground: {type(error).__name__}: {error}\n(--debug shows where)", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="figureground",
        description="Datasets whose foreground and background labels depend on each other as much as you choose.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    recipe = argparse.ArgumentParser(add_help=False)
    recipe.add_argument("method", metavar="METHOD", help="d3s")
    recipe.add_argument("--config", help="a named recipe to begin with: pocket (the demo), imagenet, text-only, …")
    recipe.add_argument(
        "--recipe", type=Path, metavar="FILE", help="a YAML file, or the _figureground/recipe.json of a dataset"
    )
    recipe.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, in YAML; dotted keys reach inside: per_cell.train=4",
    )
    recipe.add_argument("--limit", type=int, metavar="N", help="at most N images in all")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")

    plan = commands.add_parser("plan", parents=[recipe, common], help="print what a build would make; needs no weights")
    plan.add_argument(
        "--images-per-second", type=float, metavar="R", help="also print how long it would take at this speed"
    )
    plan.set_defaults(run=_plan)

    build = commands.add_parser("build", parents=[recipe, common], help="build a dataset, or go on with one")
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.set_defaults(run=_build)

    show = commands.add_parser("show", parents=[common], help="draw preview.png and report.html of a dataset")
    show.add_argument("directory", type=Path, metavar="DIR")
    show.set_defaults(run=_show)
    return parser


def _builder(options: argparse.Namespace) -> Any:
    from figureground.builder import builder_class
    from figureground.recipe import read_recipe

    fields = read_recipe(options.recipe) if options.recipe else {}
    settings = [*options.set, *([f"limit={options.limit}"] if options.limit is not None else [])]
    return builder_class(options.method).from_recipe(fields, settings, options.config)


def _plan(options: argparse.Namespace) -> int:
    from figureground.forecast import forecast

    if options.images_per_second is not None and options.images_per_second <= 0:
        raise RecipeError("--images-per-second", "give a number above 0.")
    print(forecast(_builder(options), options.images_per_second))
    return 0


def _build(options: argparse.Namespace) -> int:
    builder = _builder(options)
    out = builder.build(options.out)
    print(builder.done_message(out))
    return 0


def _show(options: argparse.Namespace) -> int:
    from figureground.builder import open_dataset
    from figureground.show import show

    builder = open_dataset(options.directory)
    for path in show(options.directory, draw_guide=builder.draw_guide if builder else None):
        print(path)
    if builder:
        builder.finish(options.directory)  # the card shows the preview
    else:
        print(
            "figureground: the recipe's cut-outs, lists or checkpoint are gone or have changed since the build, so the "
            "report shows no guides and the card is left as it is.",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
