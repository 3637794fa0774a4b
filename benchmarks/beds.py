"""Whether ERM, trained to convergence, fails on the test-beds: `python benchmarks/beds.py`.

A test-bed is useful if ERM still fails on it after convergence. Targets for each bed, with two backbones of different
families: a worst group between 55 and 80 % and an average of at least 88 % on test, a training loss near zero, a
validation loss that is flat at the end, and at least 99 % of the drawings labelled correctly by a classifier trained
on the whole world.

The worst group of validation chooses the epoch, which favours ERM most. Results with the best average and with the last
epoch are reported too.

`--choose` trains candidates, each with changed parameters of a bed, on seeds 100 to 105; `--seeds 1` starts with the
first of these. Without it, the beds of the package are tested on other seeds: biased, unbiased, and biased with twice
the epochs, which shows whether longer training alone raises the worst group. A seed determines data and training.

The minimum of several groups is biased low, the more so the more they vary by chance. So all groups are reported, and
the mean of the two groups against the bias, which are fixed in advance.

Finished pieces are kept in `--work` and reused as long as bed, backbone and training are the same. The report covers
all finished pieces. The same command resumes a stopped run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import backbones
import numpy as np
import oracle
import scipy.stats
from results import ROOT, Row, make_parser, read_commit, report
from tqdm import tqdm

from figureground.core.text_width import align_columns
from figureground.learn.backbones import open_backbone
from figureground.learn.settings import Training
from figureground.learn.sheets import save_cluster_sheet
from figureground.learn.training import train
from figureground.pocket import birds, world
from figureground.pocket.birds import Bed

CHOOSING = (100, 101, 102, 103, 104, 105)
"""Seeds for choosing a bed's parameters."""
JUDGING = (200, 201, 202, 203, 204, 205)
"""Seeds for testing the beds."""
TWICE = 3
"""Number of test seeds that are also trained for twice the epochs."""
BACKBONES = ("pocket", "regnet")
EPOCHS, VALIDATE_EVERY = 40, 2
RULES = ("worst-group", "average", "last")
"""Rules that choose the epoch; the targets are for the first."""
WORST_RANGE = (55.0, 80.0)
"""Target range of the worst group on test, in %."""
AVERAGE, ORACLE_RIGHT = 88.0, 99.0
"""Minimum targets, in %: average on test; drawings that the oracle labels correctly."""

TAIL = 0.2
"""Share of the epochs, at the end, from which convergence is determined."""
FLAT, FLAT_NATS = 0.05, 0.01
"""A curve is flat if the line fitted to its tail changes by at most this share of the tail's mean, or this much."""
LEARNED = 0.05
"""Maximum training loss after convergence, in nats."""

CANDIDATES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "birds-97.5": ("pocketbirds", {"bias_aligned_share": 0.975, "train": 1200}),
    "birds-98": ("pocketbirds", {"bias_aligned_share": 0.98, "train": 1200}),
    "birds-98.5": ("pocketbirds", {"bias_aligned_share": 0.985, "train": 1200}),
    "birds-98.7": ("pocketbirds", {"bias_aligned_share": 0.987, "train": 1200}),
    "birds-16-of-1200": ("pocketbirds", {"bias_aligned_share": 1 - 16 / 1200, "train": 1200}),
    "birds-14-of-1200": ("pocketbirds", {"bias_aligned_share": 1 - 14 / 1200, "train": 1200}),
    "birds-99": ("pocketbirds", {"bias_aligned_share": 0.99, "train": 1200}),
    "looks-97.5": ("pocketlooks", {"bias_aligned_share": 0.975, "train": 1200}),
    "looks-98": ("pocketlooks", {"bias_aligned_share": 0.98, "train": 1200}),
    "looks-98.4": ("pocketlooks", {"bias_aligned_share": 0.984, "train": 1200}),
    "looks-98.5": ("pocketlooks", {"bias_aligned_share": 0.985, "train": 1200}),
    "looks-16-of-1320": ("pocketlooks", {"bias_aligned_share": 1 - 16 / 1320, "train": 1320}),
    "looks-17-of-1320": ("pocketlooks", {"bias_aligned_share": 1 - 17 / 1320, "train": 1320}),
    "looks-18-of-1320": ("pocketlooks", {"bias_aligned_share": 1 - 18 / 1320, "train": 1320}),
    "looks-20-of-1320": ("pocketlooks", {"bias_aligned_share": 1 - 20 / 1320, "train": 1320}),
    "looks-22-of-1320": ("pocketlooks", {"bias_aligned_share": 1 - 22 / 1320, "train": 1320}),
    "looks-26-of-1600": ("pocketlooks", {"bias_aligned_share": 1 - 26 / 1600, "train": 1600}),
    "looks-98-mug-umbrella": (
        "pocketlooks",
        {"bias_aligned_share": 0.98, "train": 1200, "objects": ("mug", "umbrella")},
    ),
}
"""Candidates of `--choose`: a bed of the package, and changes to its fields."""


@dataclass(frozen=True)
class Case:
    """A bed, and the length of training."""

    name: str
    """Name in the report."""
    bed: Bed
    epochs: int
    biased: bool = True
    """Whether the targets apply."""
    seeds: tuple[int, ...] = CHOOSING


@dataclass(frozen=True)
class Piece:
    """One training."""

    case: Case
    backbone: str
    seed: int
    identity: Mapping[str, Any]
    """Everything that the result depends on; JSON-serialisable."""

    @property
    def key(self) -> str:
        """File name of the piece, with a hash of its identity."""
        identity_hash = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        return f"{self.case.name}-{self.backbone}-{self.seed}-{identity_hash[:12]}".replace(",", "").replace(" ", "-")


class Convergence(NamedTuple):
    """Convergence, determined from the last fifth of the epochs."""

    training_loss: float
    """Mean over the evaluated epochs, in nats."""
    validation_loss: float
    """Mean, in nats."""
    change: float
    """Change of the line fitted to the validation loss, from the tail's first epoch to its last, in nats."""
    converged: bool
    """Whether the validation loss is flat and the training loss low."""


def converge(training_loss: Sequence[float], validation_loss: Sequence[float]) -> Convergence:
    """Return whether a training has converged, by `RULE`.

    Args:
        training_loss: Losses of the evaluated epochs, two or more.
        validation_loss: Likewise.
    """
    n = max(2, math.ceil(TAIL * len(validation_loss)))
    mean_training_loss, validation_tail = float(np.mean(training_loss[-n:])), np.array(validation_loss[-n:])
    change = float(np.polyfit(np.arange(n), validation_tail, 1)[0] * (n - 1))
    flat = abs(change) <= max(FLAT * float(validation_tail.mean()), FLAT_NATS)
    return Convergence(
        mean_training_loss, float(validation_tail.mean()), change, flat and mean_training_loss <= LEARNED
    )


RULE = (
    f"In the last {TAIL:.0%} of the epochs the line fitted to the validation loss changes by at most {FLAT:.0%} of "
    f"their mean, or {FLAT_NATS} nats, and the mean training loss is at most {LEARNED} nats."
)


# One training


def run_pieces(task: tuple[Path, Sequence[Piece]]) -> int:
    """Draw a bed, train backbones on it and keep each result, or resume.

    Args:
        task: The working folder, and pieces of one case and seed.

    Returns:
        The number of pieces.
    """
    import torch

    torch.set_num_threads(1)
    work, pieces = task
    case, seed = pieces[0].case, pieces[0].seed
    folder = work / "begun" / f"{case.name}-{seed}-{digest(repr(case.bed))[:12]}".replace(", ", "-").replace(" ", "-")
    if not (folder / "data" / birds.TABLE).exists():
        birds.write(folder / "data", bed=case.bed, seed=seed, show_progress=False)
    for piece in pieces:
        settings = settings_of(case, piece.backbone, work)
        out, result_path = folder / piece.key, path_of_piece(work, piece)
        train(settings, folder / "data", out, seeds=[seed], workers=1, show_progress=False)
        result = json.loads((out / f"seed-{seed}.json").read_text())
        result_path.parent.mkdir(parents=True, exist_ok=True)
        draft = result_path.with_suffix(".part")
        draft.write_text(json.dumps({"commit": read_commit(), "identity": piece.identity, **result}) + "\n")
        draft.replace(result_path)
    shutil.rmtree(folder)
    return len(pieces)


def settings_of(case: Case, backbone: str, work: Path) -> Training:
    """Return the training settings of a backbone."""
    return Training(
        "erm", epochs=case.epochs, select=",".join(RULES), validate_every=VALIDATE_EVERY,
        **backbones.training(backbone, work / "backbones"),
    )  # fmt: skip


def path_of_piece(work: Path, piece: Piece) -> Path:
    """Return the path of a finished piece."""
    return work / "pieces" / f"{piece.key}.json"


def identify(case: Case, backbone: str, seed: int, work: Path) -> Piece:
    """Return a piece with everything that it depends on: the bed and its drawings, the training, the network."""
    bed, drawings_hash = case.bed, hashlib.sha256()
    for y in (0, 1):
        for a in (0, 1):
            drawings_hash.update(bed.draw(birds.PlannedImage("train", y, a, 0), seed).image.tobytes())
    settings = settings_of(case, backbone, work)
    identity = {
        "bed": dataclasses.asdict(bed), "drawn": drawings_hash.hexdigest(), "seed": seed,
        "training": {**settings.to_json(), "backbone": backbone}, "network": describe_network(backbone, work),
    }  # fmt: skip
    return Piece(case, backbone, seed, json.loads(json.dumps(identity)))


@functools.cache
def describe_network(backbone: str, work: Path) -> str:
    """Return a hash of a backbone's layers."""
    settings = Training("erm", **backbones.training(backbone, work / "backbones"))
    return digest(str(open_backbone(settings, ("one", "other"), world.SIZE, 0).network))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# What came of it


def summarise_values(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean, sample standard deviation and 95 % interval of the mean (Student's t), in %; the last two are
    None for a single value.

    Args:
        values: One value per seed, 0 to 1.
    """
    percentages = 100 * np.array(values, np.float64)
    summary: dict[str, Any] = {
        "n": len(percentages),
        "mean": float(percentages.mean()),
        "std": None,
        "low": None,
        "high": None,
    }
    if len(percentages) > 1:
        deviation = float(percentages.std(ddof=1))
        half = deviation / math.sqrt(len(percentages)) * float(scipy.stats.t.isf(0.025, len(percentages) - 1))
        summary |= {"std": deviation, "low": summary["mean"] - half, "high": summary["mean"] + half}
    return summary


def summarise(results: Sequence[Mapping[str, Any]], bed: Bed) -> dict[str, Any]:
    """Summarise one case with one backbone over its seeds; accuracies are in %.

    Args:
        results: Results saved by `run_pieces`, one per seed.
    """
    tests = [result["test"] for result in results]
    groups = by_group(tests)
    curves = [[epoch for epoch in result["curve"] if epoch["validation_loss"] is not None] for result in results]
    convergences = [
        converge([epoch["loss"] for epoch in curve], [epoch["validation_loss"] for epoch in curve]) for curve in curves
    ]
    last = [curve[-1] for curve in curves]
    by_rule = {}
    for rule in RULES:
        rule_tests = [result["selected"][rule]["test"] for result in results]
        by_rule[rule] = {
            "average": summarise_values([test["average"] for test in rule_tests]),
            "worst": summarise_values([test["worst"] for test in rule_tests]),
            "against_the_bias": summarise_values(average_against_bias(rule_tests, bed)),
        }  # fmt: skip
    return {
        "seeds": [result["seed"] for result in results],
        "average": summarise_values([test["average"] for test in tests]),
        "worst": summarise_values([test["worst"] for test in tests]),
        "worst_of_each": [round(100 * test["worst"], 2) for test in tests],
        "groups": {name: summarise_values(values) for name, values in groups.items()},
        "against_the_bias": summarise_values(average_against_bias(tests, bed)),
        "worst_of_mean_groups": 100 * min(float(np.mean(values)) for values in groups.values()),
        "by_rule": by_rule,
        "validation": {
            "chosen": {name: summarise_values([result["validation"][name] for result in results])
                       for name in ("average", "worst")},
            "last": {name: summarise_values([epoch[name] for epoch in last]) for name in ("average", "worst")},
        },
        "epochs_chosen": [result["epoch"] for result in results],
        "epochs": results[0]["curve"][-1]["epoch"],
        "training_loss": [round(end.training_loss, 5) for end in convergences],
        "validation_loss": [round(end.validation_loss, 4) for end in convergences],
        "validation_loss_change": [round(end.change, 4) for end in convergences],
        "converged": [end.converged for end in convergences],
        "seconds": [result["seconds"] for result in results],
    }  # fmt: skip


def by_group(tests: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the accuracies of each group, one per seed, 0 to 1."""
    return {group["name"]: [t["groups"][i]["accuracy"] for t in tests] for i, group in enumerate(tests[0]["groups"])}


def average_against_bias(tests: Sequence[Mapping[str, Any]], bed: Bed) -> list[float]:
    """Return the mean accuracy of the two groups with the other object's attribute, one per seed, 0 to 1."""
    names = [f"{bed.objects[0]} × {bed.attributes[1]}", f"{bed.objects[1]} × {bed.attributes[0]}"]
    return np.mean([by_group(tests)[name] for name in names], axis=0).tolist()


Table = dict[str, dict[str, dict[str, Any]]]
"""Results of `summarise` by case and backbone."""


def tabulate(pieces: Iterable[Piece], work: Path) -> tuple[Table, set[str | None]]:
    """Summarise all finished pieces; return the table, and the commits that they were trained with."""
    results_by_case: dict[tuple[str, str], tuple[Bed, list[dict[str, Any]]]] = {}
    commits = set()
    for piece in pieces:
        if path_of_piece(work, piece).exists():
            result = json.loads(path_of_piece(work, piece).read_text())
            commits.add(result["commit"])
            results_by_case.setdefault((piece.case.name, piece.backbone), (piece.case.bed, []))[1].append(result)
    table: Table = {}
    for (name, backbone), (bed, results) in results_by_case.items():
        table.setdefault(name, {})[backbone] = summarise(results, bed)
    return table, commits


def format_table(table: Table) -> list[str]:
    """Return the table as text."""

    def cell(summary: Mapping[str, Any]) -> str:
        return f"{summary['mean']:.1f}" + ("" if summary["std"] is None else f" ± {summary['std']:.1f}")

    rows = [["", "n", "average", "worst", "against", "groups", "last epoch", "training loss",
             "validation loss (change)", "converged", "epoch", "s"]]  # fmt: skip
    for name, summaries in table.items():
        for backbone, summary in summaries.items():
            last = summary["by_rule"]["last"]
            rows.append([
                f"{name}, {backbone}", str(len(summary["seeds"])), cell(summary["average"]), cell(summary["worst"]),
                cell(summary["against_the_bias"]), " ".join(f"{g['mean']:.0f}" for g in summary["groups"].values()),
                f"{last['average']['mean']:.1f}, worst {last['worst']['mean']:.1f}",
                f"{np.mean(summary['training_loss']):.3f}",
                f"{np.mean(summary['validation_loss']):.2f} ({np.mean(summary['validation_loss_change']):+.3f})",
                f"{sum(summary['converged'])}/{len(summary['converged'])}",
                f"{np.median(summary['epochs_chosen']):.0f}/{summary['epochs']}",
                f"{np.median(summary['seconds']):.0f}",
            ])  # fmt: skip
    return align_columns(rows)


def make_rows(table: Table, cases: Sequence[Case], drawings: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Return the rows of the report: biased beds with their targets, others without."""
    rows = []
    for case in cases:
        for backbone, summary in table.get(case.name, {}).items():
            title, worst = f"{case.name}, {backbone}", summary["worst_of_each"]
            has_targets = case.biased
            rows += [
                Row(f"{title}: worst group", summary["worst"]["mean"], "%", min(worst), max(worst),
                    at_least=WORST_RANGE[0] if has_targets else None, at_most=WORST_RANGE[1] if has_targets else None),
                Row(f"{title}: groups against the bias", summary["against_the_bias"]["mean"], "%"),
                Row(f"{title}: average", summary["average"]["mean"], "%", at_least=AVERAGE if has_targets else None),
                Row(f"{title}: converged", 100 * float(np.mean(summary["converged"])), "% of seeds",
                    at_least=100 if has_targets else None),
            ]  # fmt: skip
    for name, shares in drawings.items():
        rows += [
            Row(f"{name}: the oracle reads the {part}", share, "%", at_least=ORACLE_RIGHT)
            for part, share in shares.items()
        ]
    return rows


# The drawings


def read_drawings(bed: Bed, classifier: oracle.Classifier, count: int, seed: int) -> dict[str, float]:
    """Return the share of test drawings that the oracle labels correctly, in %, by part: foreground, background, and
    the look if it is the attribute.

    Args:
        count: Number of drawings, a multiple of four.
        seed: Seed of the drawings.
    """
    parts = ["foreground", "background", *(["look"] if bed.looks else [])]
    images = list(bed.plan(0, 0, count, 0.5))
    names = [bed.name_parts(image, seed) for image in images]
    labels = classifier.read(np.stack([oracle.to_pixels(bed.draw(image, seed).image) for image in images])).labels
    heads = list(oracle.HEADS)
    shares = {}
    for part in parts:
        classes, true_names = oracle.HEADS[part], [n.prop if part == "look" else getattr(n, part) for n in names]
        shares[part] = 100 * float(
            np.mean(labels[:, heads.index(part)] == [classes.index(true_name) for true_name in true_names])
        )
    return shares


def draw_sheet(path: Path, cases: Sequence[Case], count: int = 12) -> None:
    """Draw a contact sheet with the first training images of each bed and group."""
    rows = []
    for case in cases:
        bed = case.bed
        for (y, a), n in np.ndenumerate(birds.count_groups(bed.train, bed.bias_aligned_share)):
            images = [bed.draw(birds.PlannedImage("train", y, a, i), case.seeds[0]).image for i in range(count)]
            rows.append((f"{case.name}: {bed.objects[y]} × {bed.attributes[a]}, {n} in training", images))
    save_cluster_sheet(path, "test-beds", rows)


# The command


def list_candidates(quick: bool) -> list[Case]:
    return [
        Case(name, shrink(dataclasses.replace(birds.BEDS[bed], **changes), quick), 4 if quick else EPOCHS)
        for name, (bed, changes) in CANDIDATES.items()
    ]


def list_judged_cases(quick: bool) -> list[Case]:
    """Return the cases that test the beds of the package."""
    cases, epochs = [], 4 if quick else EPOCHS
    for name, bed in birds.BEDS.items():
        bed = shrink(bed, quick)
        unbiased = dataclasses.replace(bed, bias_aligned_share=0.5)
        cases += [
            Case(name, bed, epochs, seeds=JUDGING),
            Case(f"{name}, unbiased", unbiased, epochs, biased=False, seeds=JUDGING),
            Case(f"{name}, twice the epochs", bed, 2 * epochs, biased=False, seeds=JUDGING[:TWICE]),
        ]
    return cases


def shrink(bed: Bed, quick: bool) -> Bed:
    return dataclasses.replace(bed, train=40, validation=8, test=8) if quick else bed


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__, "beds")
    parser.set_defaults(work=ROOT / "out" / "beds")
    add = parser.add_argument
    add("--choose", action="store_true", help="train the candidates; results go to beds-choosing.json")
    add("--beds", nargs="+", metavar="NAME", help="candidates, or beds (all)")
    add("--backbones", nargs="+", choices=backbones.NAMES, default=list(BACKBONES))
    add("--seeds", type=int, metavar="N", help="the first N seeds (all); 0 only reports finished pieces")
    add("--workers", type=int, default=2, help="processes, a thread each (%(default)s)")
    add("--drawings", type=int, default=2000, help="drawings of each bed that the oracle labels (%(default)s)")
    add("--oracle-cache", type=Path, default=ROOT / "out" / "fidelity", help="folder of trained oracles")
    args = parser.parse_args()
    if args.quick:
        args.work, args.drawings, args.seeds = args.work / "quick", 16, 1
    known = CANDIDATES if args.choose else birds.BEDS
    if unknown := sorted(set(args.beds or ()) - set(known)):
        parser.error(f"--beds: there is no {', '.join(unknown)}; there is {', '.join(known)}.")
    if args.choose and not args.out and not args.quick:
        args.out = ROOT / "benchmarks" / "results" / "beds-choosing.json"
    return args


def main() -> None:
    args = _parse()
    began = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
    args.work.mkdir(parents=True, exist_ok=True)
    (args.work / "backbones").mkdir(exist_ok=True)
    cases = list_candidates(args.quick) if args.choose else list_judged_cases(args.quick)
    selected_cases = [case for case in cases if not args.beds or case.name.partition(",")[0] in args.beds]
    pieces = {
        (case.name, backbone, seed): identify(case, backbone, seed, args.work)
        for case in cases for backbone in args.backbones for seed in case.seeds
    }  # fmt: skip
    seeds = (CHOOSING if args.choose else JUDGING)[: args.seeds]
    tasks = [
        [pieces[case.name, backbone, seed] for backbone in args.backbones]
        for seed in seeds for case in selected_cases if seed in case.seeds
    ]  # fmt: skip
    tasks = [[piece for piece in task if not path_of_piece(args.work, piece).exists()] for task in tasks]
    tasks = [task for task in tasks if task]
    with (
        multiprocessing.get_context("spawn").Pool(args.workers) as processes,
        tqdm(total=sum(map(len, tasks)), unit="training", disable=None) as bar,
    ):
        for num_done in processes.imap_unordered(run_pieces, [(args.work, task) for task in tasks]):
            bar.update(num_done)
    table, commits = tabulate(pieces.values(), args.work)
    settings = oracle.Settings(pool=128, epochs=1) if args.quick else oracle.Settings()
    classifier = oracle.load_or_train("oracle", 0, args.work if args.quick else args.oracle_cache, "cpu", settings)
    shown_cases = [case for case in cases if case.name in table and (args.choose or case.name in birds.BEDS)]
    oracle_shares = {
        case.name: read_drawings(case.bed, classifier, args.drawings, case.seeds[0]) for case in shown_cases
    }
    print(
        "\n" + "\n".join(format_table(table)) + f"\n\nConverged: {RULE}\n"
        "The worst group of validation chooses the epoch; 'against' is the mean of the two groups against the bias."
    )
    out = args.out or ROOT / "benchmarks" / "results" / "beds.json"
    if args.out or not args.quick:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(out.with_suffix(".png"), shown_cases)
    report(
        "beds", args, make_rows(table, cases, oracle_shares),
        {
            "epochs": EPOCHS, "validate_every": VALIDATE_EVERY, "rules": RULES,
            "choosing": CHOOSING, "judging": JUDGING, "backbones": args.backbones, "rule": RULE,
            "beds": {case.name: dataclasses.asdict(case.bed) for case in cases if case.name in table},
            "workers": args.workers, "drawings": args.drawings, "trained_at": sorted(str(commit) for commit in commits),
        },
        began, table=table, oracle=oracle_shares,
    )  # fmt: skip


if __name__ == "__main__":
    main()
