"""The command review: what people say about labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from figureground.cli.arguments import Commands
from figureground.core.terminal import say


def add_review(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "review", parents=[common], help="what share of the labels is right, from people's answers",
        description="Computes agreement, shares of right labels with their intervals, and rules from the answers in "
        "_figureground/annotations and the scores of verify; writes _figureground/labels.json and the card.",
    )  # fmt: skip
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--summary", action="store_true", required=True, help="print and save what the answers say")
    parser.set_defaults(run=_review)


def _review(options: argparse.Namespace) -> int:
    from figureground.annotation.labels import summarise
    from figureground.annotation.summary import describe
    from figureground.shards.shard import LABELS

    said = summarise(options.directory)
    say(describe(said))
    if said["people"] is not None or said["scorers"]:
        say()
        say(options.directory / LABELS)
    return 0
