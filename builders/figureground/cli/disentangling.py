"""The command `disentangle`."""

from __future__ import annotations

import argparse
import dataclasses

from figureground.cli.arguments import Commands, add_device, add_later, add_track, parse_path
from figureground.core.errors import UsageError
from figureground.core.owned import refuse_within
from figureground.core.terminal import print_result

RUN_ARGUMENTS = ("directory", "method")
"""Arguments that a comparison of runs doesn't take, and a run needs."""


def add_disentangle(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "disentangle", parents=[common], help="separate features of the foreground from those of the background",
        description="Separates a backbone's features into a part for the foreground and a part for the background, "
        "for each seed, and measures with linear, MLP and kNN probes how well each part predicts each label. The same "
        "command resumes a stopped run. --compare tabulates finished runs.",
    )  # fmt: skip
    parser.add_argument("directory", type=parse_path, nargs="?", metavar="DIR", help="a dataset with two labels")
    parser.add_argument(
        "--compare",
        type=parse_path,
        nargs="+",
        metavar="RUN",
        help="finished runs to tabulate; --out is the table's path",
    )
    parser.add_argument("--out", type=parse_path, required=True, metavar="OUT")
    add_later(parser, lambda: _add_settings(parser))
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of a separator from another package",
    )
    parser.add_argument("--seeds", type=int, default=6, metavar="N", help="number of seeds, from 0 (6)")
    parser.add_argument(
        "--photographs", type=parse_path, metavar="FOLDER",
        help="real photographs of the classes, a folder each; they train the foreground's head only",
    )  # fmt: skip
    for part, text in (("features", "trains the features"), ("probes", "trains the probes"), ("test", "tests them")):
        parser.add_argument(f"--{part}-split", metavar="SPLIT", help=f"split that {text}; default: see the docs")
    parser.add_argument(
        "--pairing", action="append", default=[], metavar="CLASS=BACKGROUND",
        help="the background paired with a class, for the task with a broken correlation; repeat it for every class",
    )  # fmt: skip
    parser.add_argument("--allow-empty", action="store_true", help="allow parts in which some cells have no image")
    add_device(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="threads that decode images; no effect on results")
    add_track(parser)
    parser.set_defaults(run=_disentangle)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    from figureground.cli.flags import add_flags, show_default
    from figureground.disentangling.separator import SEPARATORS
    from figureground.disentangling.settings import Disentangling
    from figureground.recipe.own_settings import find_users

    texts = "; ".join(f"{name}: {separator.TEXT}" for name, separator in SEPARATORS.items())
    parser.add_argument("--method", metavar="|".join(SEPARATORS.names()), help=texts.replace("%", "%%"))
    defaults = {field.name: field.default for field in dataclasses.fields(Disentangling) if field.name != "method"}
    for name, users in find_users(Disentangling, SEPARATORS).items():  # defaults that differ are in the field's text
        own_defaults = {SEPARATORS[user].OWN[name] for user in users}
        defaults[name] = own_defaults.pop() if len(own_defaults) == 1 else None
    default_texts = {name: show_default(value) for name, value in defaults.items() if value is not None}
    add_flags(parser, Disentangling, default_texts, omit=["method", "options"])


def _disentangle(options: argparse.Namespace) -> int:
    if options.compare:
        if options.directory is not None or options.method is not None:
            raise UsageError("--compare takes finished runs; give no DIR and no --method with it.")
        from figureground.disentangling.comparing import compare_runs, format_files

        compare_runs(options.compare, options.out)
        print_result(format_files(options.out))
        return 0
    for name in RUN_ARGUMENTS:
        if getattr(options, name) is None:
            raise UsageError(f"give {'DIR' if name == 'directory' else f'--{name}'}, or --compare with finished runs.")
    refuse_within(options.out, options.directory, "DIR")
    if options.photographs is not None:
        refuse_within(options.out, options.photographs, "--photographs")
    from figureground.cli.flags import read_flags
    from figureground.disentangling.preflight import read_request
    from figureground.disentangling.settings import Disentangling
    from figureground.recipe.document import parse_setting
    from figureground.tracking.tracker import check_tracker

    values = read_flags(vars(options), Disentangling)
    if options.option:
        values["options"] = {".".join(names): str(text) for names, text in map(parse_setting, options.option)}
    check_tracker(options.track)
    request = read_request(
        Disentangling(**values), options.directory, options.out, photographs=options.photographs,
        splits={"features": options.features_split, "probes": options.probes_split, "test": options.test_split},
        pairing=_parse_pairing(options.pairing), allow_empty=options.allow_empty, seeds=options.seeds,
        device=options.device, workers=options.workers,
    )  # fmt: skip
    from figureground.disentangling.reporting import TABLE, tabulate
    from figureground.disentangling.training import disentangle_request

    report = disentangle_request(request, track=options.track)
    print_result(f"{tabulate(report)}\n\n{options.out / TABLE}")
    return 0


def _parse_pairing(texts: list[str]) -> dict[str, list[str]] | None:
    """Return the pairing that `--pairing` gives; None if it isn't given."""
    pairs: dict[str, list[str]] = {}
    for text in texts:
        name, equals, background = text.partition("=")
        if not (equals and name.strip() and background.strip()):
            raise UsageError(f"--pairing: {text!r} is not CLASS=BACKGROUND.")
        pairs.setdefault(name.strip(), []).append(background.strip())
    return pairs or None
