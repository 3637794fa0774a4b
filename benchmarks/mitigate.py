"""Worst-group accuracy of mitigation methods on the test-beds: `python benchmarks/mitigate.py`.

The test-beds of `figureground.pocket.birds` correlate class and attribute in training, but not in validation and test.
Rows are ways of training, and ERM with added images: pasted ones, images drawn from plain prompts, and images made by
D3S, SCGS and DDB. Added images are mixed with the real ones, or form a first stage of training.

**Equal budgets.** All rows take the same number of optimiser steps: added images add none, and JTT's first model and
the first stage of two-stage training use the same budget; DFR's fit of the last layer is extra. Each row tries the same
number of settings (`--tune`) on the pipeline seeds `TUNED_WITH`, which are not used for results, and validation
chooses; with `--untuned` all rows have the default settings. One rule chooses the epoch in all rows.

**Two tables.** In `known`, the attributes of the validation split are known, and its worst group chooses epochs and
settings. In `unknown`, its average does. One training serves both tables if they chose the same settings. Each row
lists the information that it uses.

**Seeds.** A pipeline seed determines the drawings of the bed and the added images: one set of about `IMAGES` per
method, shared by all trainings and backbones; its error sets come from the first backbone. It has `TRAININGS` training
seeds, which are averaged before rows are paired, so the number of pairs is the number of pipeline seeds.

**Primary comparisons.** Four were fixed before these beds were measured, though results on easier beds were known:
`PRIMARY` − ERM on both beds, with the first backbone, in the table `PRIMARY_TABLE`, worst group of test, over
`PRIMARY_SEEDS`, with 95 % intervals of paired differences and Holm's adjusted p. All others are exploratory, on
`EXPLORATORY_SEEDS`, and uncorrected.

**Longer.** `--longer` trains for twice as many epochs with the same added images, because longer training can raise
the worst group of ERM, too. Its results are kept in `results/mitigate-longer/`, and `--report` adds a section on them.

A unit of work is a bed, biased or not, and a pipeline seed. Its JSON file in `results/mitigate/` is written after each
row, and finished rows are not repeated, so the same command resumes a stopped run. `--report` makes tables and chart
from these files alone. `--time` estimates the duration of the whole plan.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mitigate_images import make_images, open_oracle
from mitigate_plan import (
    BACKBONES,
    BEDS,
    EPOCHS,
    EXPLORATORY_SEEDS,
    LONGER,
    LONGER_ROWS,
    RESULTS,
    ROWS,
    TABLES,
    TRAININGS,
    TUNED_WITH,
    Plan,
    Record,
    Row,
    Unit,
    find_longer,
    list_rows,
    read_json,
    tuning_file,
    whole_plan,
)
from mitigate_training import Place, choose_change, find_trained_folder, fit, read_rule, train_row
from results import ROOT, describe_command, make_parser
from tqdm import tqdm

from figureground.core.errors import FiguregroundError
from figureground.learn.settings import WORST_GROUP


def describe_bed(place: Place) -> dict[str, Any]:
    """Return classes, attributes and group sizes of the unit's bed."""
    from figureground.data.layouts import read_groups
    from figureground.learn.jtt import find_minority_groups

    groups = read_groups(place.data)
    counts = groups.counts(0)
    return {
        "classes": list(groups.classes), "attributes": list(groups.attributes or ()),
        "groups": list(groups.group_names), "fingerprint": groups.fingerprint,
        "images": {name: groups.counts(i).ravel().tolist() for i, name in enumerate(("train", "validation", "test"))},
        "against_the_bias": np.flatnonzero(find_minority_groups(counts).ravel()).tolist(),
    }  # fmt: skip


def limit_threads() -> None:
    """Limit this process, and builders that it starts, to one thread."""
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # what builders count as cores


def run_unit(task: tuple[Plan, Unit]) -> list[str]:
    """Do the missing rows of a unit; return an error message for each failure."""
    limit_threads()
    plan, unit = task
    try:
        place, record = Place(plan, unit), Record(plan.results_folder / f"{unit.name}.json", plan, unit)
    except FiguregroundError as error:
        return [str(error)]
    missing = [
        (name, backbone)
        for backbone in plan.backbones
        for name in plan.select_rows(unit)
        if set(ROWS[name].tables) - set(record.content["rows"].get(name, {}).get(backbone, {}))
    ]
    failures = []
    for name, backbone in missing:
        try:
            run_row(place, record, ROWS[name], backbone)
            record.content["failed"].pop(f"{name}, {backbone}", None)
        except FiguregroundError as error:
            reason = str(error).replace(f"{plan.work}/", "")  # places are nobody's business
            failures.append(f"{unit.name}, {name}, {backbone}: {reason}")
            record.content["failed"][f"{name}, {backbone}"] = reason
            record.write()
    return failures


def run_row(place: Place, record: Record, row: Row, backbone: str) -> None:
    for table in row.tables:
        choose_change(place, row, backbone, table)  # before anything is made for a row that wasn't tuned
    drawing_seconds = place.draw()
    record.content.setdefault("data", {**describe_bed(place), "seconds": drawing_seconds})
    add = make_images(place, row.made, record) if row.made else None
    results_by_table = record.content["rows"].setdefault(row.name, {}).setdefault(backbone, {})
    for table, result in train_row(place, row, backbone, row.tables, add).items():
        results_by_table[table] = {**result, "origin": record.origin}
    record.write()
    if row.name != "erm" or backbone != BACKBONES[0] or place.plan.images_of:  # paste looks at the usual ones
        for name in row.tables:
            shutil.rmtree(find_trained_folder(place, row, backbone, name), ignore_errors=True)


# Choosing settings


def tune(task: tuple[Plan, Unit]) -> list[str]:
    """Train each setting of each row once on a tuning seed, and keep its validation accuracy; test is never kept."""
    limit_threads()
    plan, unit = task
    try:
        place, record = Place(plan, unit), Record(tuning_file(plan.results_folder, unit.bed, unit.seed), plan, unit)
    except FiguregroundError as error:
        return [str(error)]
    trials_by_row, failures = record.content.setdefault("tried", {}), []
    for backbone, name in itertools.product(plan.backbones, plan.select_rows(unit)):
        row = ROWS[name]
        trials = trials_by_row.setdefault(name, {}).setdefault(backbone, [])
        if len(trials) == len(row.tried):
            continue
        try:
            place.draw()
            add = make_images(place, row.made, record) if row.made else None
            for i, change in list(enumerate(row.tried))[len(trials) :]:
                rules = [TABLES[table] for table in sorted(row.tables, reverse=True)]
                training_report = fit(place, row, backbone, change, rules, f"tried-{i}", add, 1)
                (seed,) = training_report["seeds"]
                validation = {
                    table: read_rule(seed, table)["validation"]["worst" if rule == WORST_GROUP else "average"]
                    for table, rule in TABLES.items()
                    if table in row.tables
                }
                trials.append(
                    {
                        "change": dict(change),
                        "validation": validation,
                        "seconds": seed["seconds"],
                        "origin": record.origin,
                    }
                )
                record.write()
                shutil.rmtree(find_trained_folder(place, row, backbone, f"tried-{i}"), ignore_errors=True)
        except FiguregroundError as error:
            failures.append(f"{unit.name}, {name}, {backbone}: {error}")
    return failures


# Duration


def estimate(
    record: Mapping[str, Any], backbones: Sequence[str], beds: Sequence[str] = BEDS
) -> dict[str, dict[str, float]]:
    """Return the core-hours of the whole plan by row: `training`, `making` and `tuning`.

    Args:
        record: Record of a unit with one training per row, at full size.
        backbones: Planned backbones; one that wasn't timed counts as the first that was.
    """
    hours = {name: {"training": 0.0, "making": 0.0, "tuning": 0.0} for name in record["rows"]}

    def training_hours(name: str, backbone: str) -> float:
        tables = record["rows"][name].get(backbone) or next(iter(record["rows"][name].values()))
        return float(next(iter(tables.values()))["seeds"][0]["seconds"]) / 3600

    units = [*whole_plan(beds), *(Unit(bed, True, seed) for bed in beds for seed in TUNED_WITH)]
    for unit in units:
        counted: set[str] = set()
        for name in (name for name in list_rows(unit) if name in hours):
            row, is_tuning = ROWS[name], unit.seed in TUNED_WITH
            if row.made and row.made not in counted:
                counted.add(row.made)
                hours[name]["making"] += record["made"][row.made]["seconds"] / 3600
            if is_tuning:
                hours[name]["tuning"] += len(row.tried) * training_hours(name, backbones[0])
            else:
                hours[name]["training"] += TRAININGS * sum(training_hours(name, backbone) for backbone in backbones)
    hours["the beds"] = {"training": 0.0, "making": len(units) * record["data"]["seconds"] / 3600, "tuning": 0.0}
    return hours


def print_hours(hours: Mapping[str, Mapping[str, float]]) -> None:
    kinds = ("training", "making", "tuning")
    print(f"\n{'core-hours':<24}" + "".join(f"{kind:>10}" for kind in (*kinds, "all")))
    lines = {**hours, "all": {kind: sum(row_hours[kind] for row_hours in hours.values()) for kind in kinds}}
    for name, row_hours in lines.items():
        print(
            f"{name:<24}"
            + "".join(f"{value:>10.2f}" for value in (*(row_hours[k] for k in kinds), sum(row_hours.values())))
        )
    print("One training serves both tables where they choose the same setting: where they don't, training takes up to "
          "twice as long.")  # fmt: skip


# Command


def parse_seeds(text: str) -> list[int]:
    """Parse a seed, `3`, or a range, `0-5`.

    Raises:
        ValueError: The text is neither.
    """
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1)) if dash else [int(first)]


QUICK: dict[str, Any] = {
    "epochs": 4, "trainings": 1, "images": 4, "sizes": (40, 16, 16), "choose": False,
    "oracle": {"pool": 128, "epochs": 1},
    "smaller": {
        "d3s": {"num_inference_steps": 2, "batch_size": 4},
        "scgs": {"num_inference_steps": 2, "batch_size": 4, "folds": 2, "training": {"epochs": 1}},
        "ddb": {
            "num_inference_steps": 2, "batch_size": 4, "sources": 4, "per_source": 1, "token_images": 3,
            "inversion": {"max_train_steps": 2},
            "training": {"epochs": 1}, "min_probability": 0.0, "min_attribution_ratio": 0.0,
        },
    },
}  # fmt: skip
"""Sizes of a smoke test."""
QUICK_ROWS = ("erm", "jtt", "dfr", "paste", "d3s", "scgs", "ddb", "ddb, two-stage")


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__, "mitigate")
    parser.set_defaults(work=ROOT / "out" / "mitigate")
    add = parser.add_argument
    add("--beds", nargs="+", choices=BEDS, default=list(BEDS), help="test-beds")
    add("--bias", nargs="+", choices=("biased", "unbiased"), default=["biased", "unbiased"], help="(both)")
    add("--seeds", nargs="+", type=parse_seeds, metavar="N|N-M", help="pipeline seeds (all of the plan)")
    add("--rows", nargs="+", choices=list(ROWS), metavar="NAME", help=f"of {'; '.join(ROWS)} (all of the plan)")
    add("--backbones", nargs="+", default=list(BACKBONES), metavar="NAME", help="(%(default)s)")
    add("--untuned", action="store_true", help="use the default settings in all rows")
    add("--workers", type=int, default=2, help="processes, a thread each (%(default)s)")
    add("--kept", type=Path, default=RESULTS, help="folder of the units' JSON files; --longer appends -longer")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--tune", action="store_true", help="try the settings of each row on the tuning seeds")
    what.add_argument(
        "--longer", action="store_true",
        help=f"train {', '.join(LONGER_ROWS)} {LONGER} times as long on biased beds, with the images of a usual run",
    )  # fmt: skip
    what.add_argument("--report", action="store_true", help="only make tables and chart from the kept results")
    what.add_argument(
        "--time", action="store_true", help="do each row once, and estimate the core-hours of the whole plan"
    )
    args = parser.parse_args()
    if args.longer and (args.quick or args.bias == ["unbiased"] or set(args.rows or ()) - set(LONGER_ROWS)):
        parser.error(f"--longer trains {', '.join(LONGER_ROWS)} on biased beds, at full size.")
    return args


def _plan(args: argparse.Namespace) -> Plan:
    command = describe_command("mitigate")
    rows = tuple(args.rows) if args.rows else None
    if args.quick:
        work = args.work / "quick"
        return Plan(work, work / "kept", rows or QUICK_ROWS, tuple(args.backbones[:1]), command=command, **QUICK)
    if args.time:
        work = args.work / "timing"
        return Plan(work, work / "kept", rows, tuple(args.backbones), trainings=1, everything=True, choose=False,
                    command=command)  # fmt: skip
    backbones = tuple(args.backbones)
    if args.longer:
        if backbones == BACKBONES:
            backbones = BACKBONES[:1]
        return Plan(args.work, find_longer(args.kept), rows or LONGER_ROWS, backbones, LONGER * EPOCHS, 1,
                    images_of=args.kept, choose=not args.untuned, command=command)  # fmt: skip
    if args.tune and backbones == BACKBONES:
        backbones = BACKBONES[:1]  # the second takes the settings of the first, unless it is named
    return Plan(args.work, args.kept, rows, backbones, choose=not args.untuned, command=command)


def _units(args: argparse.Namespace) -> list[Unit]:
    if args.quick:
        return [Unit(args.beds[0], True, 0)]
    requested = None if args.seeds is None else {seed for group in args.seeds for seed in group}
    if args.tune:
        units = [Unit(bed, True, seed) for seed in TUNED_WITH for bed in args.beds]
    else:
        units = [unit for unit in whole_plan(args.beds) if unit.kind in args.bias]
    if args.longer:
        units = [unit for unit in units if unit.biased and unit.seed in EXPLORATORY_SEEDS]
    return [unit for unit in units if requested is None or unit.seed in requested]


def _run(work: Callable[[tuple[Plan, Unit]], list[str]], plan: Plan, units: Sequence[Unit], workers: int) -> list[str]:
    tasks = [(plan, unit) for unit in units]
    with multiprocessing.get_context("spawn").Pool(min(workers, max(1, len(tasks))), maxtasksperchild=1) as processes:
        done = processes.imap_unordered(work, tasks)
        return [failure for failures in tqdm(done, total=len(tasks), unit="unit", disable=None) for failure in failures]


def main() -> int:
    args = _parse()
    plan, began = _plan(args), time.monotonic()
    failures: list[str] = []
    if not args.report:
        limit_threads()
        open_oracle(plan)  # once, before several processes would
        if args.time:
            unit = Unit(args.beds[0], True, TUNED_WITH[0])  # none that is judged
            failures = _run(run_unit, plan, [unit], 1)
            print_hours(estimate(read_json(plan.results_folder / f"{unit.name}.json"), args.backbones, args.beds))
        else:
            failures = _run(tune if args.tune else run_unit, plan, _units(args), args.workers)
    import mitigate_report

    try:
        if args.tune:
            print(mitigate_report.format_tuning(plan.results_folder) or "Nothing has been tuned.")
        elif args.report or args.quick:
            mitigate_report.write_report(plan.results_folder, args, began)
        elif not args.time:
            print("Tables and chart of the kept results: python benchmarks/mitigate.py --report")
    except FiguregroundError as error:
        failures.append(str(error))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
