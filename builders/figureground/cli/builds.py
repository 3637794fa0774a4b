"""Commands on builds: status, how far one is, and clean, which frees what one leaves."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from figureground.cli.arguments import Commands, parse_place
from figureground.core.errors import UsageError, join_names, plural
from figureground.core.terminal import print_json, print_result
from figureground.core.text import human_time
from figureground.stores.urls import StoreUrl

if TYPE_CHECKING:
    from figureground.running.cleaning import Cleanup
    from figureground.shards.progress import BuildProgress

SECONDS_BETWEEN_LOOKS = 5.0


def add_status(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "status", parents=[common],
        help="show the progress of a build: shards finished, claimed and failed; speed; time left",
        description="Shows the progress of a build, during or after it, from any machine that can read the directory "
        "or the URL. Changes nothing. A shard is claimed while its process is alive; at a URL, until another process "
        "takes it over.",
        epilog="exit codes: 0 finished, or going on without failures; 1 a shard failed, or the directory holds no "
        "dataset; 2 wrong use; 130 stopped with Ctrl-C; 143 stopped by SIGTERM",
    )  # fmt: skip
    parser.add_argument("directory", type=parse_place, metavar="DIR|URL")
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch, one line each time")
    parser.add_argument(
        "--watch", action="store_true",
        help="look again every five seconds until the dataset is finished, or a shard has failed and none is claimed",
    )  # fmt: skip
    parser.set_defaults(run=_status)


def _status(options: argparse.Namespace) -> int:
    from figureground.shards.progress import Watch
    from figureground.stores.status import StoreWatch

    watch = StoreWatch(options.directory) if isinstance(options.directory, StoreUrl) else Watch(options.directory)
    while True:
        progress = watch.read()
        if options.json:
            print_result(json.dumps(progress.to_json())) if options.watch else print_json(progress.to_json())
        else:
            print_result("\n".join(describe(progress, str(options.directory))))
        is_over = progress.finished or (progress.failed and not progress.working)
        if is_over or not options.watch:
            return 1 if progress.failed else 0
        sys.stdout.flush()
        time.sleep(SECONDS_BETWEEN_LOOKS)


def describe(progress: BuildProgress, name: str) -> list[str]:
    """Return lines for people: totals, splits, shards in work, failed shards, speed.

    Args:
        name: The dataset's directory.
    """
    shards, images = progress.total("shards_done"), progress.total("images_done")
    state, of_shards, of_images = "finished" if progress.finished else "not finished", "", ""
    if progress.planned:
        of_shards, of_images = f" of {progress.total('shards'):,}", f" of {progress.total('images'):,}"
    counts = f"{shards:,}{of_shards} shards, {images:,}{of_images} images, {progress.total('samples'):,} samples"
    lines = [f"{name}: {state}. {counts}"]
    lines += [
        f"  {split}: {item.shards_done:,} of {item.shards:,} shards, {item.images_done:,} of {item.images:,} images, "
        f"{item.samples:,} samples"
        for split, item in progress.splits.items()
    ]
    lines += [
        f"  claimed: {item.shard}, by process {item.pid} on {item.host} since {item.since}" for item in progress.working
    ]
    lines += [f"  failed: {item.shard}, on {item.host} at {item.since}: {item.reason}" for item in progress.failed]
    rates = {"in the last minutes": progress.recent_rate, "in all": progress.total_rate}
    speed = [f"{rate:.3g} images/s {when}" for when, rate in rates.items() if rate]
    if progress.seconds_left:
        speed.append(f"{human_time(progress.seconds_left)} left")
    return [*lines, *([f"  {', '.join(speed)}"] if speed else [])]


def add_clean(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "clean", parents=[common], help="delete a build's intermediate files: stages, journals, temporary files",
        description="Deletes a build's intermediate files: stages such as trained classifiers and fine-tuned concepts, "
        "journals of unfinished shards, and leftovers of killed processes. Keeps shards, scores and people's answers. "
        "extend recreates the stages that it needs. Refused while a build is running.",
    )  # fmt: skip
    parser.add_argument("directory", type=parse_place, metavar="DIR")
    parser.add_argument("--dry-run", action="store_true", help="remove nothing; report what would be freed")
    parser.add_argument(
        "--unfinished", action="store_true", help="also clean an unfinished build, which then repeats that work"
    )
    parser.set_defaults(run=_clean)


def _clean(options: argparse.Namespace) -> int:
    if isinstance(options.directory, StoreUrl):
        raise UsageError(
            f"{options.directory}: clean takes a directory, because builds on other machines may be using the stages "
            f"at a URL. Once none is, remove {options.directory}/_figureground/stages with your store's own tool."
        )
    from figureground.running.cleaning import clean

    cleaned = clean(options.directory, dry_run=options.dry_run, unfinished=options.unfinished)
    print_result("\n".join(describe_cleaned(cleaned, str(options.directory), options.dry_run)))
    return 0


def describe_cleaned(cleaned: Cleanup, name: str, dry_run: bool) -> list[str]:
    """Return lines for people: bytes in all, and by stage, journals and drafts.

    Args:
        name: The dataset's directory.
        dry_run: Whether nothing was removed.
    """
    from figureground.methods.forecast import human_bytes

    lines = [f"{name}: {'would free' if dry_run else 'freed'} {human_bytes(cleaned.bytes)}."]
    lines += [f"  stage {stage}: {human_bytes(size)}" for stage, size in cleaned.stages.items()]
    if cleaned.journals:
        lines.append(f"  journals: {human_bytes(cleaned.journals)}, {plural(cleaned.images, 'rendered image')}")
    if cleaned.drafts:
        lines.append(f"  drafts: {human_bytes(cleaned.drafts)}")
    if cleaned.unfinished and cleaned.describe_cost():
        again = f"the next build has to make {join_names(cleaned.describe_cost(), 8)} again"
        lines.append(f"It isn't finished: {again}{'; --unfinished allows that' if dry_run else ''}.")
    return lines
