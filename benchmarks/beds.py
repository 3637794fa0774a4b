"""Do the test-beds mislead ERM that was trained to convergence? `python benchmarks/beds.py`.

A bed is of use where ERM still fails when it has converged. Wanted of each bed, for two backbones of different
families: a worst group between 55 and 80 % and an average of at least 88 % on test, a training loss near zero and a
validation loss that is flat at the end, and at least 99 % of the drawings read rightly by a classifier of the whole
world.

The epoch is chosen by the worst group of validation, which flatters ERM most; what the best average and the last epoch
would have given is told beside it.

`--choose` trains candidates, each a change of a bed's levers, on seeds 100 to 105; `--seeds 1` begins with the first.
Without it the beds as they are in the package are judged on other seeds: biased, unbiased, and biased with twice the
epochs, which tells whether longer training alone would lift the worst group. A seed is a data seed and a training seed.

The least of several groups is biased low: it falls the more, the more the groups vary by chance. So every group is
told, and the mean of the two groups that go against the bias, which are fixed beforehand.

Finished pieces are kept in `--work` and used again as long as bed, backbone and training are the same; the report is of
all that are finished. A stopped run goes on with the same command.
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
from results import ROOT, Row, arguments, read_commit, report
from tqdm import tqdm

from figureground.data.groups import align
from figureground.learn.backbones import open_backbone
from figureground.learn.settings import Training
from figureground.learn.sheets import save_cluster_sheet
from figureground.learn.training import train
from figureground.pocket import birds, world
from figureground.pocket.birds import Bed

CHOOSING = (100, 101, 102, 103, 104, 105)
"""Seeds with which a bed's levers were chosen."""
JUDGING = (200, 201, 202, 203, 204, 205)
"""Seeds with which the beds are judged."""
TWICE = 3
"""Seeds, the first of those, that are also trained for twice the epochs."""
BACKBONES = ("pocket", "regnet")
EPOCHS, VALIDATE_EVERY = 40, 2
RULES = ("worst-group", "average", "last")
"""Rules that choose the epoch; the targets are for the first."""
WORST = (55.0, 80.0)
"""Wanted of the worst group on test, from and to, in %."""
AVERAGE, READ = 88.0, 99.0
"""Wanted at least, in %: of the average on test; of the oracle."""

TAIL = 0.2
"""Share of the epochs, the last ones, that tells whether a training has converged."""
FLAT, FLAT_NATS = 0.05, 0.01
"""A curve is flat where the line fitted to its tail changes by at most this share of the tail's mean, or this much."""
LEARNED = 0.05
"""Training loss, in nats, at most: what was trained has nothing left to learn."""

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
    "looks-11-of-1320": ("pocketlooks", {"bias_aligned_share": 1 - 22 / 1320, "train": 1320}),
    "looks-13-of-1600": ("pocketlooks", {"bias_aligned_share": 1 - 26 / 1600, "train": 1600}),
    "looks-98-mug-umbrella": (
        "pocketlooks",
        {"bias_aligned_share": 0.98, "train": 1200, "objects": ("mug", "umbrella")},
    ),
}
"""Candidates of `--choose`: a bed of the package, and its changed fields."""


@dataclass(frozen=True)
class Case:
    """A bed, and the length of the training on it."""

    name: str
    """As the report calls it."""
    bed: Bed
    epochs: int
    biased: bool = True
    """Whether something is asked of it."""
    seeds: tuple[int, ...] = CHOOSING


@dataclass(frozen=True)
class Piece:
    """One training."""

    case: Case
    backbone: str
    seed: int
    identity: Mapping[str, Any]
    """Everything that it depends on; JSON-able."""

    @property
    def key(self) -> str:
        """Changes with the identity."""
        said = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        return f"{self.case.name}-{self.backbone}-{self.seed}-{said[:12]}".replace(",", "").replace(" ", "-")


class Convergence(NamedTuple):
    """Convergence, read from the last fifth of the epochs."""

    training_loss: float
    """Its mean over the epochs after which validation was judged, in nats."""
    validation_loss: float
    """Its mean, in nats."""
    change: float
    """Change of the line fitted to the validation loss, from the tail's first epoch to its last, in nats."""
    converged: bool
    """Whether the validation loss is flat and the training loss low."""


def converge(training_loss: Sequence[float], validation_loss: Sequence[float]) -> Convergence:
    """Whether a training has come to its end, by the rule that `RULE` tells.

    Args:
        training_loss: Of each epoch after which validation was judged, two or more.
        validation_loss: Likewise.
    """
    n = max(2, math.ceil(TAIL * len(validation_loss)))
    trained, held = float(np.mean(training_loss[-n:])), np.array(validation_loss[-n:])
    change = float(np.polyfit(np.arange(n), held, 1)[0] * (n - 1))
    flat = abs(change) <= max(FLAT * float(held.mean()), FLAT_NATS)
    return Convergence(trained, float(held.mean()), change, flat and trained <= LEARNED)


RULE = (
    f"In the last {TAIL:.0%} of the epochs the line fitted to the validation loss changes by at most {FLAT:.0%} of "
    f"their mean, or {FLAT_NATS} nats, and the mean training loss is at most {LEARNED} nats."
)


# One training


def do(task: tuple[Path, Sequence[Piece]]) -> int:
    """Draws a bed, trains backbones on it, and keeps what came of each; what was begun goes on.

    Args:
        task: Where to work, and pieces of one case and seed.

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
        out, kept = folder / piece.key, kept_at(work, piece)
        train(settings, folder / "data", out, seeds=[seed], workers=1, show_progress=False)
        result = json.loads((out / f"seed-{seed}.json").read_text())
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_suffix(".part")
        draft.write_text(json.dumps({"commit": read_commit(), "identity": piece.identity, **result}) + "\n")
        draft.replace(kept)
    shutil.rmtree(folder)
    return len(pieces)


def settings_of(case: Case, backbone: str, work: Path) -> Training:
    """How a backbone is trained."""
    return Training(
        "erm", epochs=case.epochs, select=",".join(RULES), validate_every=VALIDATE_EVERY,
        **backbones.training(backbone, work / "backbones"),
    )  # fmt: skip


def kept_at(work: Path, piece: Piece) -> Path:
    """Where a finished piece lies."""
    return work / "pieces" / f"{piece.key}.json"


def identify(case: Case, backbone: str, seed: int, work: Path) -> Piece:
    """A piece, and everything that it depends on: the bed and its drawings, the training, the network."""
    bed, drawn = case.bed, hashlib.sha256()
    for y in (0, 1):
        for a in (0, 1):
            drawn.update(bed.draw(birds.Planned("train", y, a, 0), seed).image.tobytes())
    settings = settings_of(case, backbone, work)
    identity = {
        "bed": dataclasses.asdict(bed), "drawn": drawn.hexdigest(), "seed": seed,
        "training": {**settings.to_json(), "backbone": backbone}, "network": describe_network(backbone, work),
    }  # fmt: skip
    return Piece(case, backbone, seed, json.loads(json.dumps(identity)))


@functools.cache
def describe_network(backbone: str, work: Path) -> str:
    """Changes with the layers of a backbone."""
    settings = Training("erm", **backbones.training(backbone, work / "backbones"))
    return digest(str(open_backbone(settings, ("one", "other"), world.SIZE, 0).network))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# What came of it


def over(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and 95 % interval of the mean (Student's t), of shares in %; None where there is
    one value.

    Args:
        values: One a seed, 0 to 1.
    """
    numbers = 100 * np.array(values, np.float64)
    told: dict[str, Any] = {"n": len(numbers), "mean": float(numbers.mean()), "std": None, "low": None, "high": None}
    if len(numbers) > 1:
        low, high = scipy.stats.t.interval(0.95, len(numbers) - 1, numbers.mean(), scipy.stats.sem(numbers))
        told |= {"std": float(numbers.std(ddof=1)), "low": float(low), "high": float(high)}
    return told


def summarise(results: Sequence[Mapping[str, Any]], bed: Bed) -> dict[str, Any]:
    """One case with one backbone, over its seeds; accuracies in %.

    Args:
        results: What `do` kept, a seed each.
    """
    tests = [each["test"] for each in results]
    groups = by_group(tests)
    curves = [[each for each in result["curve"] if each["validation_loss"] is not None] for result in results]
    ends = [converge([e["loss"] for e in curve], [e["validation_loss"] for e in curve]) for curve in curves]
    last = [curve[-1] for curve in curves]
    by_rule = {}
    for rule in RULES:
        of_rule = [each["selected"][rule]["test"] for each in results]
        by_rule[rule] = {
            "average": over([t["average"] for t in of_rule]), "worst": over([t["worst"] for t in of_rule]),
            "against_the_bias": over(against_the_bias(of_rule, bed)),
        }  # fmt: skip
    return {
        "seeds": [each["seed"] for each in results],
        "average": over([t["average"] for t in tests]),
        "worst": over([t["worst"] for t in tests]),
        "worst_of_each": [round(100 * t["worst"], 2) for t in tests],
        "groups": {name: over(values) for name, values in groups.items()},
        "against_the_bias": over(against_the_bias(tests, bed)),
        "worst_of_mean_groups": 100 * min(float(np.mean(values)) for values in groups.values()),
        "by_rule": by_rule,
        "validation": {
            "chosen": {name: over([each["validation"][name] for each in results]) for name in ("average", "worst")},
            "last": {name: over([each[name] for each in last]) for name in ("average", "worst")},
        },
        "epochs_chosen": [each["epoch"] for each in results],
        "epochs": results[0]["curve"][-1]["epoch"],
        "training_loss": [round(each.training_loss, 5) for each in ends],
        "validation_loss": [round(each.validation_loss, 4) for each in ends],
        "validation_loss_change": [round(each.change, 4) for each in ends],
        "converged": [each.converged for each in ends],
        "seconds": [each["seconds"] for each in results],
    }  # fmt: skip


def by_group(tests: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Accuracy of each group, a seed each, 0 to 1."""
    return {group["name"]: [t["groups"][i]["accuracy"] for t in tests] for i, group in enumerate(tests[0]["groups"])}


def against_the_bias(tests: Sequence[Mapping[str, Any]], bed: Bed) -> list[float]:
    """Mean accuracy of the two groups that show an object with the other's attribute, a seed each, 0 to 1."""
    names = [f"{bed.objects[0]} × {bed.attributes[1]}", f"{bed.objects[1]} × {bed.attributes[0]}"]
    return np.mean([by_group(tests)[name] for name in names], axis=0).tolist()


Table = dict[str, dict[str, dict[str, Any]]]
"""By case and backbone, what `summarise` gives."""


def tabulate(pieces: Iterable[Piece], work: Path) -> tuple[Table, set[str | None]]:
    """All finished pieces, and the commits that they were trained with."""
    found: dict[tuple[str, str], tuple[Bed, list[dict[str, Any]]]] = {}
    commits = set()
    for piece in pieces:
        if kept_at(work, piece).exists():
            result = json.loads(kept_at(work, piece).read_text())
            commits.add(result["commit"])
            found.setdefault((piece.case.name, piece.backbone), (piece.case.bed, []))[1].append(result)
    table: Table = {}
    for (name, backbone), (bed, results) in found.items():
        table.setdefault(name, {})[backbone] = summarise(results, bed)
    return table, commits


def lines(table: Table) -> list[str]:
    """The table as text."""

    def cell(each: Mapping[str, Any]) -> str:
        return f"{each['mean']:.1f}" + ("" if each["std"] is None else f" ± {each['std']:.1f}")

    rows = [["", "n", "average", "worst", "against", "groups", "last epoch", "training loss",
             "validation loss (change)", "converged", "epoch", "s"]]  # fmt: skip
    for name, of_backbones in table.items():
        for backbone, each in of_backbones.items():
            last = each["by_rule"]["last"]
            rows.append([
                f"{name}, {backbone}", str(len(each["seeds"])), cell(each["average"]), cell(each["worst"]),
                cell(each["against_the_bias"]), " ".join(f"{g['mean']:.0f}" for g in each["groups"].values()),
                f"{last['average']['mean']:.1f}, worst {last['worst']['mean']:.1f}",
                f"{np.mean(each['training_loss']):.3f}",
                f"{np.mean(each['validation_loss']):.2f} ({np.mean(each['validation_loss_change']):+.3f})",
                f"{sum(each['converged'])}/{len(each['converged'])}",
                f"{np.median(each['epochs_chosen']):.0f}/{each['epochs']}", f"{np.median(each['seconds']):.0f}",
            ])  # fmt: skip
    return align(rows)


def verdicts(table: Table, cases: Sequence[Case], drawings: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Targets of biased beds; the plain numbers of the others."""
    rows = []
    for case in cases:
        for backbone, each in table.get(case.name, {}).items():
            title, worst = f"{case.name}, {backbone}", each["worst_of_each"]
            asked = case.biased
            rows += [
                Row(f"{title}: worst group", each["worst"]["mean"], "%", min(worst), max(worst),
                    at_least=WORST[0] if asked else None, at_most=WORST[1] if asked else None),
                Row(f"{title}: groups against the bias", each["against_the_bias"]["mean"], "%"),
                Row(f"{title}: average", each["average"]["mean"], "%", at_least=AVERAGE if asked else None),
                Row(f"{title}: converged", 100 * float(np.mean(each["converged"])), "% of seeds",
                    at_least=100 if asked else None),
            ]  # fmt: skip
    for name, shares in drawings.items():
        rows += [
            Row(f"{name}: the oracle reads the {part}", share, "%", at_least=READ) for part, share in shares.items()
        ]
    return rows


# The drawings


def read_drawings(bed: Bed, seer: oracle.Classifier, count: int, seed: int) -> dict[str, float]:
    """By part, the share of test drawings that the oracle reads rightly, in %: foreground, background, and the look
    where that is the attribute.

    Args:
        count: Drawings, a multiple of four.
        seed: Of the drawings.
    """
    parts = ["foreground", "background", *(["look"] if bed.looks else [])]
    planned = list(bed.plan(0, 0, count, 0.5))
    names = [bed.name_parts(image, seed) for image in planned]
    seen = seer.read(np.stack([oracle.pixels(bed.draw(image, seed).image) for image in planned])).labels
    heads = list(oracle.HEADS)
    right = {}
    for part in parts:
        known, shown = oracle.HEADS[part], [n.prop if part == "look" else getattr(n, part) for n in names]
        right[part] = 100 * float(np.mean(seen[:, heads.index(part)] == [known.index(each) for each in shown]))
    return right


def draw_sheet(path: Path, cases: Sequence[Case], count: int = 12) -> None:
    """A contact sheet: of each bed and group the first training images that would be drawn."""
    rows = []
    for case in cases:
        bed = case.bed
        for (y, a), n in np.ndenumerate(birds.counts(bed.train, bed.bias_aligned_share)):
            images = [bed.draw(birds.Planned("train", y, a, i), case.seeds[0]).image for i in range(count)]
            rows.append((f"{case.name}: {bed.objects[y]} × {bed.attributes[a]}, {n} in training", images))
    save_cluster_sheet(path, "test-beds", rows)


# The command


def candidates(quick: bool) -> list[Case]:
    return [
        Case(name, small(dataclasses.replace(birds.BEDS[bed], **changes), quick), 4 if quick else EPOCHS)
        for name, (bed, changes) in CANDIDATES.items()
    ]


def judged(quick: bool) -> list[Case]:
    """The beds as they are in the package."""
    cases, epochs = [], 4 if quick else EPOCHS
    for name, bed in birds.BEDS.items():
        bed = small(bed, quick)
        unbiased = dataclasses.replace(bed, bias_aligned_share=0.5)
        cases += [
            Case(name, bed, epochs, seeds=JUDGING),
            Case(f"{name}, unbiased", unbiased, epochs, biased=False, seeds=JUDGING),
            Case(f"{name}, twice the epochs", bed, 2 * epochs, biased=False, seeds=JUDGING[:TWICE]),
        ]
    return cases


def small(bed: Bed, quick: bool) -> Bed:
    return dataclasses.replace(bed, train=40, validation=8, test=8) if quick else bed


def _parse() -> argparse.Namespace:
    parser = arguments(__doc__, "beds")
    parser.set_defaults(work=ROOT / "out" / "beds")
    add = parser.add_argument
    add("--choose", action="store_true", help="train the candidates; kept in beds-choosing.json")
    add("--beds", nargs="+", metavar="NAME", help="of the candidates, or of the beds with their cases (all)")
    add("--backbones", nargs="+", choices=backbones.NAMES, default=list(BACKBONES))
    add("--seeds", type=int, metavar="N", help="the first N seeds (all); 0 reports what is finished")
    add("--workers", type=int, default=2, help="processes, a thread each (%(default)s)")
    add("--drawings", type=int, default=2000, help="of each bed, read by the oracle, a multiple of four (%(default)s)")
    add("--oracle-cache", type=Path, default=ROOT / "out" / "fidelity", help="where trained oracles are kept")
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
    cases = candidates(args.quick) if args.choose else judged(args.quick)
    asked = [case for case in cases if not args.beds or case.name.partition(",")[0] in args.beds]
    pieces = {
        (case.name, backbone, seed): identify(case, backbone, seed, args.work)
        for case in cases for backbone in args.backbones for seed in case.seeds
    }  # fmt: skip
    first = (CHOOSING if args.choose else JUDGING)[: args.seeds]
    tasks = [
        [pieces[case.name, backbone, seed] for backbone in args.backbones]
        for seed in first for case in asked if seed in case.seeds
    ]  # fmt: skip
    tasks = [[piece for piece in task if not kept_at(args.work, piece).exists()] for task in tasks]
    tasks = [task for task in tasks if task]
    with (
        multiprocessing.get_context("spawn").Pool(args.workers) as processes,
        tqdm(total=sum(map(len, tasks)), unit="training", disable=None) as bar,
    ):
        for done in processes.imap_unordered(do, [(args.work, task) for task in tasks]):
            bar.update(done)
    table, commits = tabulate(pieces.values(), args.work)
    settings = oracle.Settings(pool=128, epochs=1) if args.quick else oracle.Settings()
    seer = oracle.trained("oracle", 0, args.work if args.quick else args.oracle_cache, "cpu", settings)
    shown = [case for case in cases if case.name in table and (args.choose or case.name in birds.BEDS)]
    read = {case.name: read_drawings(case.bed, seer, args.drawings, case.seeds[0]) for case in shown}
    print(
        "\n" + "\n".join(lines(table)) + f"\n\nConverged: {RULE}\n"
        "Epochs are chosen by the worst group of validation; 'against' is the mean of the two groups that go against "
        "the bias."
    )
    out = args.out or ROOT / "benchmarks" / "results" / "beds.json"
    if args.out or not args.quick:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(out.with_suffix(".png"), shown)
    report(
        "beds", args, verdicts(table, cases, read),
        {
            "epochs": EPOCHS, "validate_every": VALIDATE_EVERY, "rules": RULES,
            "choosing": CHOOSING, "judging": JUDGING, "backbones": args.backbones, "rule": RULE,
            "beds": {case.name: dataclasses.asdict(case.bed) for case in cases if case.name in table},
            "workers": args.workers, "drawings": args.drawings, "trained_at": sorted(str(each) for each in commits),
        },
        began, table=table, oracle=read,
    )  # fmt: skip


if __name__ == "__main__":
    main()
