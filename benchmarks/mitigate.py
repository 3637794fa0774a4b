"""Do images that are made for it break a correlation? `python benchmarks/mitigate.py`.

All classifiers take equally many optimiser steps, whatever was added to their training. Only jtt takes more: its first
model has an epoch of its own. The table tells the steps.

On pocketbirds, where objects come with scenes in training and not in validation and test: five ways to train, and
training pictures that are pasted, or made by SCGS and DDB, added. Settings were chosen on validation with other seeds
(`--tune` prints that); the table is of the test split. In the main rows a seed is the whole pipeline; the rows of other
masks share what was made with the first seed, and vary the classifier's.

What is made is kept in `--work` and used again: a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from results import ROOT, Row, arguments, report
from tqdm import tqdm

from figureground.learn.compared import say_mean_steps
from figureground.learn.trained import spread
from figureground.pocket import birds
from figureground.sample import Sample, Spec, derive_seed
from figureground.shards.index import INDEX

SEEDS = (0, 1, 2)
TUNED_WITH = (100, 101)
"""Seeds with which settings were chosen; none of the table's."""
TRAINING: dict[str, Any] = {"epochs": 10}
"""What all classifiers share."""
CHOSEN: dict[str, dict[str, Any]] = {"jtt": {"first_epochs": 1, "upweight": 5}, "scgs": {"per_class": 300}}
"""What differs from the defaults, chosen on validation."""
TRIED: dict[str, Sequence[dict[str, Any]]] = {
    "scgs": ({}, {"repaint": "complement"}, {"per_class": 300}),
    "erm": ({},),
    "jtt": ({}, {"first_epochs": 1}, {"first_epochs": 1, "upweight": 5}),
    "groupdro": ({}, {"weight_decay": 1.0}, {"step_size": 0.1}),
}
"""What was tried, each a change of the default."""
PLAIN = ("erm", "reweight", "jtt", "groupdro", "dfr", "paste")
MASKS = ("random", "whole", "true-masks")
"""In place of attention: what SCGS repaints."""
CONTROL, UNPRUNED = "control: as many as ddb keeps, by the untouched model with plain prompts", "ddb, not pruned"
ROWS = (*PLAIN, CONTROL, "scgs", "scgs+jtt", "ddb", UNPRUNED)
SECONDS = "seconds.json"
"""Beside what an item makes: how long it worked on it."""


@dataclass(frozen=True)
class Plan:
    """Where a run works, and how large."""

    work: Path
    seeds: tuple[int, ...]
    training: Mapping[str, Any]
    smaller: Mapping[str, Mapping[str, Any]]
    """By builder, what `--quick` makes smaller."""

    @property
    def data(self) -> Path:
        return self.work / "pocketbirds"

    def settings(self, *names: str) -> dict[str, dict[str, Any]]:
        """What differs from the defaults of some methods and builders."""
        return {name: {**CHOSEN.get(name, {}), **self.smaller.get(name, {})} for name in names}


class Item(NamedTuple):
    """A piece of work for one process."""

    what: str
    """`plain`, `scgs`, `ddb` with its control, or one of `MASKS`."""
    seed: int


class Result(NamedTuple):
    """One classifier of a row."""

    row: str
    seed: int
    told: dict[str, Any]
    """`test`, `validation`, and of what was added `added` and `made`."""


def items(plan: Plan) -> list[Item]:
    """All that is to be done."""
    main = [Item(what, seed) for what in ("ddb", "scgs", "plain") for seed in plan.seeds]
    return [*main, *(Item(mask, plan.seeds[0]) for mask in MASKS)]


def do(task: tuple[Plan, Item]) -> tuple[Item, list[Result]]:
    """Makes and trains, as far as that isn't done."""
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # what builders count as cores
    plan, item = task
    began = time.monotonic()
    found = {"plain": plain, "scgs": scgs, "ddb": ddb}.get(item.what, masked)(plan, item)
    spent = folder(plan, item) / SECONDS
    before = json.loads(spent.read_text()) if spent.exists() else 0.0
    spent.write_text(json.dumps(round(before + time.monotonic() - began, 1)))
    return item, found


def plain(plan: Plan, item: Item) -> list[Result]:
    return compared(plan, item, PLAIN, ("jtt", "groupdro"))


def scgs(plan: Plan, item: Item) -> list[Result]:
    return compared(plan, item, ("scgs", "scgs+jtt"), ("scgs", "jtt"))


def ddb(plan: Plan, item: Item) -> list[Result]:
    """DDB with pruning and without, and as many pictures of each class as it keeps, by the checkpoint alone."""
    found = compared(plan, item, ("ddb",), ("ddb",))
    whole = folder(plan, item) / f"ddb-seed-{item.seed}"
    (made,) = (result.told["made"] for result in found)
    counts = dict.fromkeys(birds.OBJECTS, 0)
    index = json.loads((folder(plan, item) / made["directory"] / INDEX).read_text())
    for label, _, n in index["splits"]["train"]["cells"]:
        counts[birds.OBJECTS[label]] += n
    plain = folder(plan, item) / "control"
    if not (plain / birds.TABLE).exists():
        draw_control(plan, plain, item.seed, counts)
    return [
        *found,
        *(Result(UNPRUNED, *each) for each in train(plan, item, "unpruned", [item.seed], whole)),
        *(Result(CONTROL, *each) for each in train(plan, item, "control", [item.seed], plain)),
    ]


def masked(plan: Plan, item: Item) -> list[Result]:
    """SCGS with other masks, made once, and a classifier with each seed."""
    from figureground.scgs import SCGS

    out = folder(plan, item) / "scgs"
    settings = {**plan.settings("scgs")["scgs"], "mask": item.what, "repaint": "attended"}
    SCGS("pocket", data=str(plan.data), seed=item.seed, threads=1, **settings).build(out, show_progress=False)
    return [Result(f"scgs, mask {item.what}", *each) for each in train(plan, item, "erm", plan.seeds, out)]


def folder(plan: Plan, item: Item) -> Path:
    return plan.work / f"{item.what}-{item.seed}"


def compared(plan: Plan, item: Item, methods: Sequence[str], settings: Sequence[str]) -> list[Result]:
    """Rows of `figureground compare`, of one seed."""
    from figureground.learn.compare import compare

    overrides = {name: each for name, each in plan.settings(*settings).items() if each}
    for name in ("scgs", "ddb"):
        if name in settings:
            overrides[name] = {**overrides.get(name, {}), "threads": 1}
    told = compare(
        plan.data, methods, [item.seed], folder(plan, item), training=plan.training, overrides=overrides, workers=1,
        show_progress=False,
    )  # fmt: skip
    return [_result(row) for row in told["rows"]]


def _result(row: Mapping[str, Any]) -> Result:
    """A row of a comparison of one seed, in the form in which `train` reports."""
    (seed,) = row["seeds"]
    test = {name: seed[name] for name in ("average", "reweighted", "worst")}
    test["groups"] = [{"name": group["name"], "accuracy": group["mean"]} for group in row["groups"]]
    jtt = {name: seed[name] for name in ("precision", "recall")}
    told = {name: seed[name] for name in ("validation", "added", "made", "steps")}
    return Result(row["method"], seed["seed"], {**told, "test": test, **({"jtt": jtt} if jtt["recall"] else {})})


def train(plan: Plan, item: Item, name: str, seeds: Sequence[int], add: Path) -> list[tuple[int, dict[str, Any]]]:
    """ERM with pictures added."""
    from figureground.learn.settings import Training
    from figureground.learn.training import train as fit

    told = fit(
        Training("erm", **plan.training), plan.data, folder(plan, item) / f"trained-{name}", add=[add], seeds=seeds,
        workers=1, show_progress=False,
    )  # fmt: skip
    return [(each["seed"], {**each, "added": told["pictures"]["added"]}) for each in told["seeds"]]


def draw_control(plan: Plan, out: Path, seed: int, counts: Mapping[str, int]) -> None:
    """Pictures of both classes as plain prompts give them, in folders, and their table; `counts` of each class."""
    import torch

    from figureground.ddb import DDB
    from figureground.diffusion.checkpoint import open_checkpoint
    from figureground.diffusion.render import Renderer, Sampling
    from figureground.finetuning import fill

    config = DDB.CONFIGS["pocket"]
    steps = plan.settings("ddb")["ddb"].get("steps", config.steps)
    checkpoint = open_checkpoint("pocket", device=torch.device("cpu"), dtype=torch.float32, safety="off")
    sampling = Sampling(config.size, steps, 1.0, config.guidance_scale, batch_size=config.batch_size or 1)
    specs = [
        Spec(f"{label}-{i:05d}", "train", label, 0, name, "unknown", fill("a photo of a {noun}", name, ""),
             derive_seed(seed, "control", name, str(i)))
        for label, name in enumerate(birds.OBJECTS) for i in range(counts[name])
    ]  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)
    (out / "train").mkdir(parents=True)
    lines = ["filename,split,y"]
    for each in Renderer(checkpoint, sampling, lambda spec: (_ for _ in ()).throw(AssertionError(spec))).render(specs):
        if isinstance(each, Sample):
            file = f"train/{each.spec.key}.png"
            each.image.save(out / file)
            lines.append(f"{file},0,{each.spec.foreground_name}")
    (out / birds.TABLE).write_text("\n".join(lines) + "\n")


# The table


def summarise(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """By row: accuracies of test, mean and standard deviation over seeds, and what was added."""
    table: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(result.row for result in results):
        mine = sorted((r for r in results if r.row == name), key=lambda r: r.seed)
        tests = [r.told["test"] for r in mine]
        groups = [g["name"] for g in tests[0]["groups"]]
        made = [r.told["made"] for r in mine if r.told.get("made")]
        kept = [m["kept"] for m in made if m.get("kept") is not None]
        table[name] = {
            "seeds": [r.seed for r in mine],
            **{key: spread([t[key] for t in tests]) for key in ("average", "reweighted", "worst")},
            "worst_of_each": [t["worst"] for t in tests],
            "validation_worst": spread([r.told["validation"]["worst"] for r in mine]),
            "groups": {
                group: spread([t["groups"][i]["accuracy"] for t in tests]) for i, group in enumerate(groups)
            },
            "steps": {stage: spread([r.told["steps"][stage] for r in mine]) for stage in mine[0].told["steps"]},
            "added": float(np.mean([r.told.get("added") or 0 for r in mine])),
            "kept": float(np.mean(kept)) if kept else None,
            **({"jtt": [r.told["jtt"] for r in mine]} if all("jtt" in r.told for r in mine) else {}),
        }  # fmt: skip
    return table


def markdown(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The table for people, in per cent."""

    def cell(each: Mapping[str, float | None]) -> str:
        if each["mean"] is None:
            return "–"
        return f"{100 * each['mean']:.1f}" + (f" ± {100 * each['std']:.1f}" if each["std"] is not None else "")

    groups = list(next(iter(table.values()))["groups"])
    head = ["training", "worst group", "average", "re-weighted", *groups, "steps", "added", "kept"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name, each in table.items():
        cells = [name, cell(each["worst"]), cell(each["average"]), cell(each["reweighted"])]
        cells += [cell(each["groups"][group]) for group in groups]
        cells += [
            say_mean_steps(each["steps"]),
            f"{each['added']:.0f}",
            "" if each["kept"] is None else f"{100 * each['kept']:.0f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def verdicts(table: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """What must hold: ERM is biased, and DDB and SCGS mend that by more than twice the spread."""
    rows = [
        Row(
            f"{name}: worst group",
            100 * each["worst"]["mean"],
            "%",
            *(100 * f(each["worst_of_each"]) for f in (min, max)),
        )
        for name, each in table.items()
    ]
    if not {"erm", "scgs", "ddb"} <= set(table) or table["erm"]["worst"]["std"] is None:
        return rows
    erm = table["erm"]["worst"]
    rows.append(Row("erm: average above worst group", 100 * (table["erm"]["average"]["mean"] - erm["mean"]), "points",
                    at_least=5))  # fmt: skip
    for name in ("scgs", "ddb"):
        both = max(erm["std"], table[name]["worst"]["std"])
        gained = 100 * (table[name]["worst"]["mean"] - erm["mean"])
        rows.append(Row(f"{name} above erm, worst group", gained, "points", at_least=round(200 * both, 1)))
    return rows


# Choosing settings


def tune(plan: Plan, name: str, change: Mapping[str, Any]) -> dict[str, Any]:
    """The worst group of validation with a changed setting; the test split's numbers are not looked at."""
    from figureground.learn.compare import compare

    settings = {**change, **plan.smaller.get(name, {}), **({"threads": 1} if name in ("scgs", "ddb") else {})}
    label = "-".join(f"{key}-{value}" for key, value in change.items()) or "default"
    told = compare(
        plan.data, [name], list(TUNED_WITH),
        plan.work / "tuning" / f"{name}-{label}", training=plan.training,
        overrides={name: settings} if settings else {}, workers=1, show_progress=False,
    )  # fmt: skip
    (row,) = told["rows"]
    found = [each["validation"] for each in row["seeds"]]
    return {
        "method": name, "change": dict(change), "worst": float(np.mean([each["worst"] for each in found])),
        "average": float(np.mean([each["average"] for each in found])),
    }  # fmt: skip


def _tune(task: tuple[Plan, str, dict[str, Any]]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    return tune(*task)


def _parse() -> argparse.Namespace:
    parser = arguments(__doc__, "mitigate")
    parser.set_defaults(work=ROOT / "out" / "mitigate")
    parser.add_argument("--workers", type=int, default=2, help="processes, a thread each")
    parser.add_argument(
        "--tune", action="store_true", help="print what validation says of the settings that were tried"
    )
    parser.add_argument("--no-masks", action="store_true", help="leave out the rows of other masks")
    return parser.parse_args()


def main() -> None:
    args = _parse()
    began = time.monotonic()
    quick = args.quick
    small = {"steps": 2, "threads": 1}
    plan = Plan(
        args.work / "quick" if quick else args.work,
        SEEDS[:1] if quick else SEEDS,
        {"epochs": 1} if quick else TRAINING,
        {
            "jtt": {"first_epochs": 1},
            "scgs": {**small, "per_class": 2, "folds": 2, "training": {"epochs": 1}},
            "ddb": {**small, "sources": 4, "per_source": 1, "token_images": 3, "inversion": {"steps": 2},
                    "training": {"epochs": 1}, "least_probability": 0.0, "least_attribution_ratio": 0.0},
        } if quick else {},
    )  # fmt: skip
    if not (plan.data / birds.TABLE).exists():
        sizes = (60, 16, 16) if quick else ()
        birds.write(plan.data, *sizes, show_progress=False)
    with multiprocessing.get_context("spawn").Pool(args.workers, maxtasksperchild=1) as processes:
        if args.tune:
            tasks = [(plan, name, dict(change)) for name, changes in TRIED.items() for change in changes]
            found = list(tqdm(processes.imap_unordered(_tune, tasks), total=len(tasks), disable=None))
            found.sort(key=lambda each: (each["method"], -each["worst"]))
            for told in found:
                print(f"{told['method']:<10} {100 * told['worst']:5.1f} {100 * told['average']:5.1f}  {told['change']}")
            if args.out:
                args.out.write_text(json.dumps({"seeds": TUNED_WITH, "tried": found}, indent=2) + "\n")
            return
        work = [(plan, item) for item in items(plan) if not (args.no_masks and item.what in MASKS)]
        done = processes.imap_unordered(do, work)
        results = [each for _, found in tqdm(done, total=len(work), unit="part", disable=None) for each in found]
    order = {name: i for i, name in enumerate(ROWS)}
    results.sort(key=lambda result: order.get(result.row, len(ROWS)))
    table = summarise(results)
    text = markdown(table)
    print("\n" + text)
    out = args.out or ROOT / "benchmarks" / "results" / "mitigate.json"
    if not quick or args.out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".md").write_text(text)
    report(
        "mitigate", args, verdicts(table),
        {
            "training": dict(plan.training), "chosen": CHOSEN, "tried": TRIED,
            "tuned_with_seeds": TUNED_WITH, "seeds": plan.seeds, "workers": args.workers,
            "worked_s": {
                f"{each.what}-{each.seed}": json.loads((folder(plan, each) / SECONDS).read_text()) for _, each in work
            },
        },
        began, table=table,
    )  # fmt: skip


if __name__ == "__main__":
    main()
