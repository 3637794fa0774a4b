"""The command `review`: people look at a sample of a dataset and say whether its labels are right."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from figureground.cli.arguments import Commands, parse_path
from figureground.core.errors import UsageError, plural
from figureground.core.terminal import print_error, print_result

if TYPE_CHECKING:
    from figureground.shards.finished import FinishedDataset

SAMPLING = ("images", "margin", "per", "expected", "overlap", "splits", "seed")
"""Options that decide the sample."""


def add_review(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "review", parents=[common], help="let people say whether labels are right, on a local web page",
        description="Serves a page on this machine where people look at a random sample of a dataset and say whether "
        "its labels are right. Answers are saved in DIR/_figureground/annotations; the same command resumes a "
        "stopped review. Without options about the sample, the last sample is used again.",
    )  # fmt: skip
    parser.add_argument("directory", type=parse_path, metavar="DIR")
    sample = parser.add_argument_group("sample")
    sample.add_argument(
        "--images", type=int, metavar="N", help="number of images (default: as many as the interval needs)"
    )
    sample.add_argument("--margin", type=float, metavar="X", help="half the interval's width (0.03)")
    sample.add_argument(
        "--per",
        metavar="GROUP",
        help="subject of each interval: dataset (default), split, foreground, background, cell",
    )
    sample.add_argument("--expected", type=float, metavar="X", help="expected share of right labels (0.95)")
    sample.add_argument(
        "--overlap", type=float, metavar="X", help="share of the images that every annotator is asked about (0.2)"
    )
    sample.add_argument(
        "--split", dest="splits", action="append", metavar="SPLIT", help="sample only this split; repeatable"
    )
    sample.add_argument("--seed", type=int, metavar="N", help="seed of the random sample (0)")
    parser.add_argument("--port", type=int, metavar="N", help="port (8377, or a free one if that is in use)")
    elsewhere = parser.add_argument_group("other places to ask people")
    elsewhere.add_argument(
        "--export", metavar="FORMAT", help="write the sample for mturk or label-studio instead, to --out"
    )
    elsewhere.add_argument("--out", type=parse_path, metavar="OUT", help="new directory for the export")
    elsewhere.add_argument(
        "--image-url", metavar="URL", help="where you will put the exported images, such as https://example.org/images"
    )
    elsewhere.add_argument(
        "--import", dest="results", type=parse_path, metavar="FILE",
        help="read answers: results of MTurk (CSV) or an export of Label Studio (JSON)",
    )  # fmt: skip
    parser.add_argument(
        "--summary",
        action="store_true",
        help="only print what answers and scores say about the labels, and update the card",
    )
    parser.set_defaults(run=_review)


def _review(options: argparse.Namespace) -> int:
    from figureground.annotation.reviewing import choose_sample, describe, review
    from figureground.shards.finished import FinishedDataset

    if options.results is not None and options.export is not None:
        raise UsageError("--import and --export can't be given together.")
    for name in () if options.export is not None else ("out", "image_url"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} needs --export mturk or --export label-studio.")
    if options.export is not None and options.out is None:
        raise UsageError("--export needs --out OUT, a new directory.")
    if options.summary:
        if options.results is not None or options.export is not None:
            raise UsageError("--summary can't be given with --import or --export.")
        return _summarise(options.directory)
    dataset = FinishedDataset(options.directory)
    if options.results is not None:
        return _import(dataset, options.results)
    sampling = {name: getattr(options, name) for name in SAMPLING if getattr(options, name) is not None}
    sample = choose_sample(dataset, sampling)
    if options.export is not None:
        from figureground.annotation.exchange.exchange import export
        from figureground.annotation.sampling import save

        files = export(dataset, sample, options.export, options.out, options.image_url)
        save(dataset, sample)
        print_result("\n".join([describe(dataset, sample), *map(str, files)]))
        return 0
    print_result(describe(dataset, sample))
    result = review(options.directory, port=options.port, **sampling)
    for note in result.notes:
        print_error(f"figureground: {note}")
    print_result(f"{options.directory}: {plural(result.saved, 'answer')} saved.")
    for name, answers in result.annotators.items():
        print_result(f"  {name}: {plural(answers, 'answer')} in all")
    if result.replaced:
        print_result(f"  {plural(result.replaced, 'answer')} replaced by a later one about the same image")
    return _summarise(options.directory)


def _summarise(directory: Path) -> int:
    """Print what is known of the labels."""
    from figureground.annotation.labels import summarise
    from figureground.annotation.summary import describe
    from figureground.shards.shard import LABELS

    summary = summarise(directory)
    print_result(describe(summary))
    if summary["people"] is not None or summary["scorers"]:
        print_result(directory / LABELS)
    return 0


def _import(dataset: FinishedDataset, path: Path) -> int:
    from figureground.annotation.exchange.exchange import import_results

    result = import_results(dataset, path)
    print_result(f"{path}: {plural(result.saved, 'answer')} of {plural(len(result.annotators), 'annotator')} saved.")
    if result.duplicates:
        print_result(f"  {plural(result.duplicates, 'answer')} had been imported before")
    for reason, count in result.left_out.items():
        print_result(f"  {count:,} left out: {reason}")
    return _summarise(dataset.directory)
