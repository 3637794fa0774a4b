"""Commands on recipes: plan, init, settings, build."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.cli.arguments import Commands, add_track, parse_path, parse_place
from figureground.core.errors import FiguregroundError, RecipeError, UsageError, join_names
from figureground.core.event_log import STDOUT
from figureground.core.terminal import print_error, print_json, print_result

if TYPE_CHECKING:
    from figureground.methods.base import Method
    from figureground.methods.measured_speed import Measured
    from figureground.running.runner import Runner
    from figureground.stores.urls import StoreUrl

METHOD = (
    "method that makes the dataset: d3s (classes on backgrounds), spurious (spurious features without their class), "
    "or, from a biased training set, scgs (repaints the regions that misled a classifier) or ddb (paints in other "
    "classes' objects); optional if --recipe names it"
)
"""Help of the argument METHOD."""


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", nargs="?", metavar="METHOD", help=METHOD)
    parser.add_argument(
        "--recipe",
        type=parse_path,
        metavar="FILE",
        help="recipe: a YAML file, or a dataset's _figureground/recipe.json",
    )


def _make_recipe_parser() -> argparse.ArgumentParser:
    """Return a parser with the arguments that define a recipe."""
    parser = argparse.ArgumentParser(add_help=False)
    _add_method(parser)
    parser.add_argument(
        "--config",
        help="named recipe with the defaults: pocket (the demo, and the default); for d3s also imagenet, edit, and the "
        "controls text-only, reconstruction and same-background, prefixed by pocket- for the pocket model; for "
        "spurious also spurious-imagenet; for scgs and ddb also photographs",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting: plain text, or a list or mapping in YAML; dotted keys reach inside: per_cell.train=4",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images in total")
    parser.add_argument(
        "--concepts",
        type=parse_path,
        metavar="DIR",
        help="spurious: directory of fine-tuned concepts that several datasets can share",
    )

    parser.add_argument(
        "--data", metavar="DIR|CSV", help="scgs and ddb: training set, in a form that figureground groups reads"
    )
    parser.add_argument(
        "--classifier", metavar="NAME",
        help="scgs and ddb: classifier whose errors count: train (the default), or one that was trained on the data",
    )  # fmt: skip
    return parser


def add_plan(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "plan",
        parents=[_make_recipe_parser(), common],
        help="forecast a build: images, size and work; needs no weights",
    )
    parser.add_argument(
        "--images-per-second", metavar="R|DIR",
        help="also print the time that the build takes at this speed, or at the speed of a dataset, finished or not, "
        "that is built in the same way (default: the speed of the dataset that --recipe belongs to, if any)",
    )  # fmt: skip
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="also report if some of N workers would be idle; same as --set workers=N",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    from figureground.methods import forecast

    method = _make_method(options)
    speed = _read_speed(options, method)
    if options.json:
        print_json(forecast.plan(method, speed))
    else:
        print_result(forecast.describe(method, speed))
    return 0


def _read_speed(options: argparse.Namespace, method: Method) -> float | Measured | None:
    """Return the speed that is given, or that of the dataset that is given or that the recipe is of.

    Raises:
        RecipeError: It is neither a number above 0 nor a dataset that was drawn in the same way.
    """
    from figureground.methods.measured_speed import dataset_of, read_measured

    value = options.images_per_second
    if value is None:
        directory = dataset_of(options.recipe) if options.recipe else None
        with contextlib.suppress(FiguregroundError):  # a recipe that was changed says nothing about its speed
            return read_measured(directory, method) if directory else None
        return None
    number = None
    with contextlib.suppress(ValueError):
        number = float(value)
    if number is not None:
        if not 0 < number < math.inf:
            raise RecipeError("--images-per-second", "give a number above 0, or the directory of a dataset.")
        return number
    if not Path(value).is_dir():
        raise RecipeError(
            "--images-per-second",
            f"{value!r} is neither a number nor a directory. Give images per second, or the directory of a dataset.",
        )
    measured = read_measured(Path(value), method)
    if measured is None:
        raise RecipeError("--images-per-second", f"{value} has no finished shard yet, so its speed isn't known.")
    return measured


def add_settings(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("settings", parents=[common], help="list the settings of a recipe, with defaults")
    _add_method(parser)
    parser.add_argument("--config", help="config whose defaults to print")
    parser.add_argument(
        "--schema", action="store_true", help="print JSON Schema, for editors to check and complete recipes"
    )
    parser.set_defaults(run=_settings)


def _settings(options: argparse.Namespace) -> int:
    from figureground.methods.base import find_config
    from figureground.methods.recipe_files import make_config, make_schema

    kind, recipe = _read_method(options)
    name = str(options.config or recipe.get("config") or kind.DEFAULT)
    find_config(kind, name)
    if options.schema:
        print_json(make_schema(kind))
        return 0
    config = make_config(kind, name, recipe)
    for field, text in config.field_help().items():
        value = json.dumps(getattr(config, field), ensure_ascii=False).strip('"')
        description = textwrap.fill(text, 100, initial_indent="    ", subsequent_indent="    ")
        print_result(f"{field}: {value}\n{description}")
    print_result(
        "\nThese are not part of the recipe's hash (device, dtype, batch_size, threads and compile can change pixels "
        "slightly): " + ", ".join(config.execution_names()) + "."
    )
    return 0


def add_init(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "init", parents=[common], help="write a commented recipe to start from",
        description="Writes a recipe with the settings that people change most, each with its meaning, what it accepts "
        "and the config's value. It can be built as it is.",
    )  # fmt: skip
    parser.add_argument("method", metavar="METHOD", help=METHOD.removesuffix("; optional if --recipe names it"))
    parser.add_argument("--config", metavar="NAME", help="config whose values to write (pocket, the demo)")
    parser.add_argument(
        "--out", type=parse_path, metavar="FILE", help="the file, which must not exist; - for stdout (METHOD.yaml)"
    )
    parser.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> int:
    from figureground.core.files import create_text
    from figureground.methods.recipe_files import make_starter
    from figureground.methods.registry import method_class

    kind = method_class(options.method)
    out = options.out or Path(f"{kind.METHOD}.yaml")
    file = f"{kind.METHOD}.yaml" if str(out) == STDOUT else out.name
    text = make_starter(kind, options.config or kind.DEFAULT, shlex.quote(file))
    if str(out) == STDOUT:
        print_result(text.removesuffix("\n"))
        return 0
    try:
        create_text(out, text)
    except FileExistsError:
        raise UsageError(f"--out {out} exists already, and was left as it is. Give another name.") from None
    print_result(f"{out}. Forecast it: figureground plan --recipe {out}")
    return 0


def add_build(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "build", parents=[_make_recipe_parser(), common], help="build a dataset, or resume a stopped build"
    )
    parser.add_argument(
        "--out", type=parse_place, required=True, metavar="DIR|URL",
        help="directory of the dataset, or its place in an object store: s3://bucket/name, gs://…, hf://buckets/…",
    )  # fmt: skip
    parser.add_argument(
        "--scratch", type=parse_path, metavar="DIR",
        help="for a URL: local directory in which shards are written before they are uploaded (a directory in the "
        "user's cache)",
    )  # fmt: skip
    parser.add_argument(
        "--lease", type=float, default=60.0, metavar="SECONDS",
        help="for a URL: seconds without a heartbeat after which a process's shard is taken over (60)",
    )  # fmt: skip
    parser.add_argument(
        "--runner", metavar="NAME",
        help="what runs the rendering processes: local (processes on this machine, the default), rank (this process "
        "is one of those that srun, torchrun, mpirun or an array job started), ray (workers of a Ray cluster), or a "
        "runner of another package",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, metavar="N", help="rendering processes; the same as --set workers=N")
    parser.add_argument(
        "--rank", type=int, metavar="I", help="runner rank: this process's position, from 0, if no launcher sets it"
    )
    parser.add_argument("--world", type=int, metavar="N", help="runner rank: the number of processes")
    parser.add_argument(
        "--ray-address", metavar="auto|HOST:PORT",
        help="runner ray: address of the Ray cluster to join (without it, Ray is started on this machine, unless ray "
        "job submit started this process)",
    )  # fmt: skip
    parser.add_argument(
        "--gpus-per-worker", type=float, metavar="X",
        help="runner ray: GPUs per worker, which may be a fraction; 0 renders on CPUs (1 if there are GPUs)",
    )  # fmt: skip
    parser.add_argument(
        "--log-json", metavar="FILE|-",
        help="append one line of JSON to a file, or to stdout, for each shard, and for start, stop and failure",
    )  # fmt: skip
    parser.add_argument(
        "--severity", action="append", default=[], metavar="AXIS[=VALUE,...]",
        help="d3s: build a dataset for each value of an axis, from mild to severe, in folders of DIR, with the same "
        "seeds, for evaluate: scale (of the object), position (its distance from the centre), strength; repeatable",
    )  # fmt: skip
    add_track(parser)
    parser.set_defaults(run=_build)


def _build(options: argparse.Namespace) -> int:
    if options.severity:
        return _build_severity(options)
    method = _make_method(options)
    for note in method.checkpoint_notes():
        print_error(f"figureground: {note}")
    _build_one(options, method, options.out)
    return 0


def _build_one(options: argparse.Namespace, method: Method, out: Path | StoreUrl) -> Path:
    """Build a dataset, and say so if it is finished."""
    from figureground.shards.progress import is_unfinished

    directory = method.build(
        str(out), runner=_make_runner(options), scratch=options.scratch, lease=options.lease,
        log_json=options.log_json, track=options.track,
    )  # fmt: skip
    if not is_unfinished(directory):
        report = print_error if options.log_json == STDOUT else print_result  # stdout holds nothing but the log
        report(method.done_message(directory).replace(str(directory), str(out)))
    return directory


def _build_severity(options: argparse.Namespace) -> int:
    from figureground.methods.severity import build_severity, plan_severity
    from figureground.recipe.severity import read_axes

    if not isinstance(options.out, Path):
        raise UsageError(f"--severity: {options.out} is a URL, and evaluate reads directories. Give a directory.")
    axes = read_axes(options.severity)
    common = list(options.set)

    def make(settings: Sequence[str]) -> Method:
        options.set = [*common, *settings]
        return _make_method(options)

    methods = plan_severity(make, axes)
    for note in next(iter(methods.values())).checkpoint_notes():
        print_error(f"figureground: {note}")
    directories = list(build_severity(methods, axes, options.out, lambda method, out: _build_one(options, method, out)))
    report = print_error if options.log_json == STDOUT else print_result
    report(
        f"{options.out}: {len(directories)} datasets. figureground evaluate {options.out} --classifier … compares them."
    )
    return 0


def _make_runner(options: argparse.Namespace) -> str | Runner | None:
    """Return the runner with its options; each option belongs to one runner and chooses it.

    Raises:
        UsageError: Options of several runners are given, or one doesn't fit.
    """
    options_of = {"rank": ("rank", "world"), "ray": ("ray_address", "gpus_per_worker")}
    options_by_runner = {
        name: [o for o in names if getattr(options, o) is not None] for name, names in options_of.items()
    }
    runner = options.runner or next((name for name, used in options_by_runner.items() if used), None)
    for name, used in options_by_runner.items():
        if used and name != runner:
            flag = used[0].replace("_", "-")
            raise UsageError(f"--{flag} is an option of the runner {name}, not of {runner}.")
    if runner == "rank":
        from figureground.running.runners.rank import Rank

        return Rank(options.rank, options.world)
    if runner == "ray":
        from figureground.running.runners.ray import Ray

        return Ray(options.ray_address, options.gpus_per_worker, options.workers)
    return options.runner


def _make_method(options: argparse.Namespace) -> Method:
    kind, fields = _read_method(options)
    settings = list(options.set)
    for name in ("limit", "workers"):
        if (number := getattr(options, name, None)) is not None:
            settings.append(f"{name}={number}")
    if options.concepts is not None:
        settings.append(f"concepts={json.dumps(str(options.concepts))}")
    settings += [f"{n}={json.dumps(v)}" for n in ("data", "classifier") if (v := getattr(options, n)) is not None]
    return kind.from_recipe(fields, settings, options.config)


def _read_method(options: argparse.Namespace) -> tuple[type[Method], dict[str, Any]]:
    """Return the class of the method that the command or the recipe names, and the recipe file's fields."""
    from figureground.methods.registry import METHODS, method_class
    from figureground.recipe.document import COPIES, read_recipe

    fields = read_recipe(options.recipe) if options.recipe else {}
    builder = fields.get("builder")
    if builder in COPIES:
        raise RecipeError(
            "METHOD",
            f"{options.recipe} belongs to a dataset that {builder} made from others, so it can't be built. Use the "
            "recipe of one that it was made from.",
        )
    if options.method and builder and options.method != builder:
        raise RecipeError("METHOD", f"{options.method!r} is given, but {options.recipe} is a recipe of {builder!r}.")
    if not options.method and not builder:
        where = f"{options.recipe} names no method, as in builder: d3s" if options.recipe else "none is given"
        raise RecipeError("METHOD", f"{where}. Name one of {join_names(METHODS.names())}.")
    return method_class(options.method or str(builder)), fields
