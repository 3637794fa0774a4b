"""Commands on labelled data sets and the classifiers trained on them: groups, train, compare."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from figureground.cli.arguments import Commands, add_device, add_later, add_track, parse_path
from figureground.core.errors import FiguregroundError, UsageError
from figureground.core.owned import refuse_within
from figureground.core.terminal import print_json, print_result


def add_groups(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "groups", parents=[common], help="count a labelled data set by class and attribute, and report irregularities",
        description="Reads your own data set, or one built here. Reports counts by class × attribute, their "
        "association (Cramér's V), and irregularities. The layout is detected: a table filename,y[,split][,a], "
        "ImageFolder metadata, Waterbirds, CelebA, MetaShift, folders by class, or a dataset. Nothing is written.",
    )  # fmt: skip
    parser.add_argument("data", type=parse_path, metavar="DIR|CSV")
    parser.add_argument(
        "--layout",
        metavar="NAME",
        help="table, imagefolder, waterbirds, celeba, dataset, metashift or folders, if it can't be detected",
    )
    parser.add_argument("--root", type=parse_path, metavar="DIR", help="directory of the files that a table names")
    parser.add_argument("--y", metavar="NAME", help="class column of the table (y) or CelebA attribute (Blond_Hair)")
    parser.add_argument(
        "--a",
        metavar="NAME[,NAME]",
        help="attribute column or CelebA attribute (a; Male); several, as in A,B, are crossed",
    )
    parser.add_argument("--file", metavar="NAME", help="file column of the table (filename)")
    parser.add_argument("--split-column", metavar="NAME", help="split column of the table (split)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_groups)


def _groups(options: argparse.Namespace) -> int:
    from figureground.data.data_source import DataSource
    from figureground.data.layouts import read_data
    from figureground.data.summary import format_summary, summarise_groups

    groups = read_data(DataSource.of(options.data, **_reading_options(options)))
    print_json(summarise_groups(groups)) if options.json else print_result(format_summary(groups))
    return 0


def _reading_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that say how to read a labelled data set, by name."""
    from figureground.data.data_source import READING_OPTIONS

    return {name: getattr(options, name) for name in READING_OPTIONS}


def add_train(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "train", parents=[common], help="train classifiers on a labelled data set; report worst-group accuracy",
        description="Trains one classifier per seed on the training split. Selects the epoch by worst-group accuracy "
        "on validation (worst class if there are no attributes), and evaluates the test split once, at the end. The "
        "same command resumes a stopped run.",
    )  # fmt: skip
    add_later(parser, lambda: _add_settings(parser, method=True))
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of a way of training from another package",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=parse_path, required=True, metavar="DIR|CSV", help="as figureground groups reads it"
    )
    parser.add_argument(
        "--add", action="append", type=parse_path, default=[], metavar="DIR",
        help="a data set whose training images are added; classes are matched by name; several may be given",
    )  # fmt: skip
    parser.add_argument("--out", type=parse_path, required=True, metavar="DIR")
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="number of seeds, from 0 (3); one classifier each"
    )
    _add_layout(parser, "of --data")
    parser.set_defaults(run=_train)


def _add_settings(parser: argparse.ArgumentParser, method: bool) -> None:
    """Add one flag for each setting of a training.

    Args:
        method: Whether to add the method too, and the settings that one method alone uses.
    """
    from figureground.cli.flags import add_flags, show_default
    from figureground.learn.settings import Training
    from figureground.learn.way import WAYS
    from figureground.recipe.own_settings import find_users

    if method:
        texts = "; ".join(f"{name}: {way.TEXT}" for name, way in WAYS.items())
        parser.add_argument("method", metavar="|".join(WAYS.names()), help=texts)
    defaults = {field.name: field.default for field in dataclasses.fields(Training) if field.name != "method"}
    own_settings = find_users(Training, WAYS)
    defaults |= {name: WAYS[users[0]].OWN[name] for name, users in own_settings.items()}
    default_texts = {name: show_default(value) for name, value in defaults.items() if value is not None}
    add_flags(
        parser, Training, default_texts, omit=["method", "options"] if method else ["method", "options", *own_settings]
    )


def _train(options: argparse.Namespace) -> int:
    refuse_within(options.out, options.data, "--data")
    for added in options.add:
        refuse_within(options.out, added, "--add")
    from figureground.cli.flags import read_flags
    from figureground.data.data_source import DataSource
    from figureground.learn.preflight import read_request, refuse_unused
    from figureground.learn.settings import Training
    from figureground.recipe.document import parse_setting
    from figureground.tracking.tracker import check_tracker

    values = read_flags(vars(options), Training)
    if options.option:
        values["options"] = {".".join(names): str(text) for names, text in map(parse_setting, options.option)}
    settings = Training(**values)
    check_tracker(options.track)
    refuse_unused(settings, options.add)
    request = read_request(
        settings, DataSource.of(options.data, **_reading_options(options)), options.out, add=options.add,
        seeds=options.seeds, device=options.device, workers=options.workers,
    )  # fmt: skip
    from figureground.learn.training import train_request
    from figureground.learn.training_results import TABLE, tabulate

    report = train_request(request, track=options.track)
    print_result(f"{tabulate(report)}\n\n{options.out / TABLE}")
    return 0


def add_compare(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "compare", parents=[common], help="train with several methods on a labelled data set and tabulate them",
        description="Trains classifiers with several methods on one data set, some on images generated for it, and "
        "reports the average and worst-group accuracy of each. The same command resumes a stopped run; methods and "
        "seeds may be added later.",
    )  # fmt: skip
    parser.add_argument("data", type=parse_path, metavar="DIR|CSV", help="as figureground groups reads it")
    parser.add_argument(
        "--methods", required=True, metavar="A,B,…",
        help="erm, reweight, jtt, groupdro, dfr; paste, scgs, ddb, which generate images and add them to training; "
        "or one of the latter with a training other than ERM, such as scgs+jtt",
    )  # fmt: skip
    parser.add_argument("--out", type=parse_path, required=True, metavar="DIR")
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N",
        help="number of seeds, from 0 (3); methods that add images generate them with the same seed",
    )  # fmt: skip
    add_later(parser, lambda: _add_settings(parser, method=False))
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME.KEY=VALUE",
        help="a setting of one method or builder: jtt.upweight=50, ddb.strength=0.9, paste.quantile=0.8",
    )  # fmt: skip
    parser.add_argument(
        "--config", metavar="NAME", help="recipe of scgs and ddb: pocket (for images up to 96 px), or photographs"
    )
    _add_layout(parser, "of the data")
    parser.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    refuse_within(options.out, options.data, "the data in")
    from figureground.comparison.comparing import compare, parse_overrides
    from figureground.comparison.preflight import SHARED
    from figureground.comparison.tables import TABLE, tabulate

    rows: dict[str, Any] = {}
    try:
        compare(
            options.data, [name.strip() for name in options.methods.split(",") if name.strip()], options.seeds,
            options.out, training={name: value for name, value in vars(options).items() if name in SHARED},
            overrides=parse_overrides(options.set), config=options.config, device=options.device,
            workers=options.workers, on_row=rows.update, track=options.track, **_reading_options(options),
        )  # fmt: skip
    except Exception as error:
        if not rows:
            raise
        print_result(f"{tabulate(rows)}\n")
        if isinstance(error, UsageError):  # wrong use is reported before the first row, so this is a failure
            raise FiguregroundError(str(error)) from error
        raise
    print_result(f"{tabulate(rows)}\n\n{options.out / TABLE}")
    return 0


def _add_layout(parser: argparse.ArgumentParser, subject: str) -> None:
    """Add the flags for the layout of a labelled data set, the device, the workers and the tracker."""
    for flag, text in (
        ("--layout", f"layout {subject}, if it can't be detected: as for figureground groups"),
        ("--root", "directory of the files that a table names"),
        ("--y", "class column or attribute"),
        ("--a", "attribute column, or several: A,B"),
        ("--file", "file column of a table"),
        ("--split-column", "split column of a table"),
    ):
        parser.add_argument(flag, metavar="DIR" if flag == "--root" else "NAME", help=text)
    add_device(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="threads that decode images; no effect on results")
    add_track(parser)
