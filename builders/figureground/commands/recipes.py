"""The commands on recipes: plan, settings, build."""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from figureground.commands.arguments import Commands
from figureground.core.terminal import complain, say
from figureground.errors import RecipeError

if TYPE_CHECKING:
    from figureground.builder import Builder

METHOD = (
    "how the dataset is made: d3s (classes on backgrounds), spurious (what fools classifiers into a class), or, "
    "from a biased training set, scgs (what misled a classifier is repainted) or ddb (another class's object is "
    "painted in)"
)
"""What the name of a builder stands for."""


def _recipe() -> argparse.ArgumentParser:
    """The arguments that name a recipe."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("method", metavar="METHOD", help=METHOD)
    parser.add_argument(
        "--config",
        help="a named recipe to begin with: pocket (the demo, and the default); of d3s also imagenet, and the controls "
        "text-only, reconstruction and same-background, with pocket- before them for the pocket model; of spurious "
        "also spurious-imagenet; of scgs and ddb also photographs",
    )
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", help="a YAML file, or the _figureground/recipe.json of a dataset"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting: a text as it is, a list or mapping in YAML; dotted keys reach inside: per_cell.train=4",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images in all")
    parser.add_argument(
        "--concepts", type=Path, metavar="DIR", help="of spurious: fine-tuned concepts, for several datasets to share"
    )

    parser.add_argument(
        "--data", metavar="DIR|CSV", help="of scgs and ddb: the training set, as figureground groups reads it"
    )
    parser.add_argument(
        "--classifier", metavar="NAME",
        help="of scgs and ddb: whose errors count; train (the default), or one that was trained on the data",
    )  # fmt: skip
    return parser


def add_plan(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "plan", parents=[_recipe(), common], help="print what a build would make; needs no weights"
    )
    parser.add_argument(
        "--images-per-second", type=float, metavar="R", help="also print how long it would take at this speed"
    )
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    from figureground.forecast import forecast

    if options.images_per_second is not None and not 0 < options.images_per_second < math.inf:
        raise RecipeError("--images-per-second", "give a number above 0.")
    say(forecast(_builder(options), options.images_per_second))
    return 0


def add_settings(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("settings", parents=[common], help="list what a recipe can say, with defaults")
    parser.add_argument("method", metavar="METHOD", help=METHOD)
    parser.add_argument("--config", help="whose defaults to print")
    parser.set_defaults(run=_settings)


def _settings(options: argparse.Namespace) -> int:
    from figureground.builder import builder_class
    from figureground.errors import nearest_or_all

    kind = builder_class(options.method)
    name = options.config or kind.DEFAULT
    if name not in kind.CONFIGS:
        raise RecipeError("config", f"{options.method} has no config {name!r}{nearest_or_all(name, kind.CONFIGS)}")
    config = kind.CONFIGS[name]
    for field, text in type(config).told().items():
        value = json.dumps(getattr(config, field), ensure_ascii=False).strip('"')
        told = textwrap.fill(text, 100, initial_indent="    ", subsequent_indent="    ")
        say(f"{field}: {value}\n{told}")
    say("\nThese decide no picture: " + ", ".join(config.EXECUTION) + ".")
    return 0


def add_build(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("build", parents=[_recipe(), common], help="build a dataset, or go on with one")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.set_defaults(run=_build)


def _build(options: argparse.Namespace) -> int:
    builder = _builder(options)
    for note in builder.checkpoint_notes():
        complain(f"figureground: {note}")
    out = builder.build(options.out)
    say(builder.done_message(out))
    return 0


def _builder(options: argparse.Namespace) -> Builder:
    from figureground.builder import builder_class
    from figureground.recipe import read_recipe

    fields = read_recipe(options.recipe) if options.recipe else {}
    settings = [*options.set, *([f"limit={options.limit}"] if options.limit is not None else [])]
    if options.concepts is not None:
        settings.append(f"concepts={json.dumps(str(options.concepts))}")
    settings += [f"{n}={json.dumps(v)}" for n in ("data", "classifier") if (v := getattr(options, n)) is not None]
    return builder_class(options.method).from_recipe(fields, settings, options.config)
