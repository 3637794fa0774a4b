"""Separation of object and background in a network's features, by method: `python benchmarks/disentangle.py`.

The data are sets of six objects on six scenes, built here with the pocket model and independent labels, one per seed. A
small network is trained on both labels of the training split, and its features are frozen. Each method separates them;
post-hoc methods erase, trained ones take `STEPS` steps each, at every penalty of `PENALTIES`. Fine-tuned rows take
`FINE_STEPS` steps.

**Measurements.**
1. Linear, MLP and kNN probes of the own and the other label, trained on the validation split and tested on the test
   split, with chance and majority rates: `curves` plot the own label kept over the other label leaked.
2. The task with a broken correlation: heads are trained on each class on its own scene, and tested on its own and on
   other scenes. ERM, JTT and DFR train the same network on the heads' images for `FINE_STEPS` steps; DFR also sees all
   images of the validation split, which the heads don't.
3. Transfer: the separation learned on the set is fixed, and heads are trained and tested on pocketbirds, where 95 % of
   the training images follow the bias.

All sets, including that of `TUNED_WITH`, are made from the same cut-outs and scenes; each split has its own (54, 24 and
12 of each kind). Seeds differ in combinations, noise, and training, so intervals don't cover new objects or scenes.

**Choice of the penalty.** It is chosen on `TUNED_WITH`, a seed that is not used for results. Of the penalties at which
the accuracy of linear probes on both own labels is within `ALLOWED_LOSS` of that of `none`, the one with the lowest MLP
accuracy on the other labels, relative to chance, is chosen; if there is none, the one that keeps the own labels best.
The network is fine-tuned at that penalty only.

**Targets**, fixed before the results were seen: own labels within 2 points of `none`; MLP accuracy on the other labels
at most 1.5 times chance; error on anti-correlated images from foreground features at most half of that of `none`. They
apply to the method with the lowest MLP accuracy on `TUNED_WITH`. Differences are paired by seed.

A unit is a seed. Each saves its rows in a JSON file in `results/disentangle/`; finished rows are not repeated, and the
same command resumes a stopped run. `--report` reads those files alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired import holm, subtract
from results import ROOT, Row, describe_command, describe_machine, describe_origin, make_parser, report

from figureground import D3S, disentangle
from figureground.core.errors import FiguregroundError
from figureground.core.files import replace_text
from figureground.data.layouts import read_groups
from figureground.disentangling import comparing, reporting
from figureground.disentangling.data import open_data
from figureground.disentangling.division import Division, assign
from figureground.disentangling.model import open_model
from figureground.disentangling.probes import Examples, fit_probe
from figureground.learn.accuracy import accuracy_by_group, worst_group_accuracy
from figureground.learn.settings import Training
from figureground.learn.training import train
from figureground.pocket import birds
from figureground.recipe.table import read_pairing

OBJECTS = ["bird", "boat", "car", "cat", "mug", "umbrella"]
SCENES = ["forest", "grass", "night", "sand", "snow", "water"]
PER_CELL = {"train": 48, "validation": 20, "test": 10}
SEEDS, TUNED_WITH = tuple(range(6)), 100
TRAINED, ERASERS = ("wasserstein", "adversarial", "hsic"), ("inlp", "leace")
PENALTIES: Mapping[str, tuple[float, ...]] = {
    "wasserstein": (0.0, 0.3, 3.0, 30.0), "adversarial": (0.0, 0.3, 3.0, 30.0), "hsic": (0.0, 3.0, 30.0, 300.0),
}  # fmt: skip
"""By method, equally many for each. HSIC is at most 1, so it needs larger weights than an adversary's loss."""
PRETRAIN, STEPS, FINE_STEPS, BATCH = 600, 1500, 400, 64
HSIC_BATCH = 512
"""HSIC is estimated from the pairs within a batch, and its normalised value is biased in a small batch. So the numbers
of images differ: in `STEPS` steps the model sees 0.77 million images with hsic and 0.1 million with the others, whose
critics see another 0.3 (wasserstein) and 0.76 million (adversarial). The batch size and the range of penalties were
chosen on `TUNED_WITH`."""
ALLOWED_LOSS = 0.02
"""Loss of accuracy on an own label, as a share, that is allowed when the penalty is chosen."""
WAYS = ("erm", "jtt", "dfr")
OTHER = {"background from foreground": 1, "foreground from background": 0}
"""Probes of the other label."""

RESULTS = ROOT / "benchmarks" / "results" / "disentangle"
KEPT_FORMAT = 1
"""Version of the units' JSON files."""


@dataclass(frozen=True)
class Plan:
    """Folders and sizes of a run."""

    work: Path
    results_folder: Path
    objects: Sequence[str] = field(default_factory=lambda: list(OBJECTS))
    scenes: Sequence[str] = field(default_factory=lambda: list(SCENES))
    per_cell: Mapping[str, int] = field(default_factory=lambda: dict(PER_CELL))
    build: Mapping[str, Any] = field(default_factory=lambda: {"num_inference_steps": 8})
    birds: Mapping[str, Any] = field(
        default_factory=lambda: {"bias_aligned_share": 0.95, "validation": 4, "test": 2000}
    )
    methods: tuple[str, ...] = (*TRAINED, *ERASERS)
    penalties: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: dict(PENALTIES))
    pretrain: int = PRETRAIN
    steps: int = STEPS
    fine_steps: int = FINE_STEPS
    batch: int = BATCH
    hsic_batch: int = HSIC_BATCH
    more: Mapping[str, Any] = field(default_factory=dict)
    """Changed settings of trained methods, for quick runs."""
    command: str = ""

    def facts(self) -> dict[str, Any]:
        """Return the settings that all units in a report must share."""
        return json.loads(json.dumps({
            "objects": self.objects, "scenes": self.scenes, "per_cell": self.per_cell, "build": self.build,
            "pretrain": self.pretrain, "steps": self.steps, "fine_steps": self.fine_steps, "batch": self.batch,
            "hsic_batch": self.hsic_batch,
            "more": self.more, "birds": self.birds,
        }))  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A row: a method at a penalty, on frozen features or fine-tuned."""

    method: str
    penalty: float | None = None
    fine_tune: bool = False

    @property
    def name(self) -> str:
        penalty = "" if self.penalty is None else f" {self.penalty:g}"
        return f"{self.method}{penalty}{' fine-tuned' if self.fine_tune else ''}"


def list_frozen_variants(plan: Plan) -> list[Variant]:
    """Return the rows on frozen features, `none` first."""
    variants = [Variant("none")]
    for method in plan.methods:
        variants += (
            [Variant(method, penalty) for penalty in plan.penalties[method]] if method in TRAINED else [Variant(method)]
        )
    return variants


class Unit:
    """A seed: its sets, its network, and the JSON of its finished rows.

    Raises:
        FiguregroundError: The JSON was made by another plan, or with other weights or another format.
    """

    def __init__(self, plan: Plan, seed: int):
        self.plan, self.seed = plan, seed
        self.work = plan.work / f"seed-{seed:03d}"
        self.path = plan.results_folder / f"seed-{seed:03d}.json"
        current_origin, identity = describe_origin(), {"kept_format": KEPT_FORMAT, "seed": seed, "plan": plan.facts()}
        self.content: dict[str, Any] = {
            **identity,
            "command": plan.command,
            "machine": describe_machine(),
            "origin": current_origin,
            "rows": {},
        }
        if self.path.exists():
            self.content = json.loads(self.path.read_text())
            if changed := [name for name, value in identity.items() if self.content.get(name) != value]:
                raise FiguregroundError(
                    f"{self.path.name} was made by another plan: {', '.join(changed)} differ. Move it away."
                )
            saved_origin = self.content["origin"]
            if (saved_origin["format"], saved_origin["weights"]) != (
                current_origin["format"],
                current_origin["weights"],
            ):
                raise FiguregroundError(f"{self.path.name} was made with other weights or formats. Move it away.")

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.path, json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")

    def is_done(self, row: str) -> bool:
        return row in self.content["rows"]

    # Inputs

    def build_data(self) -> Path:
        """Build the set, or resume it; return its directory."""
        folder = self.work / "set"
        if not (folder / "_figureground" / "index.json").exists():
            D3S(
                "pocket", classes=list(self.plan.objects), backgrounds=list(self.plan.scenes),
                per_cell=dict(self.plan.per_cell), seed=self.seed, threads=1, device="cpu", **self.plan.build,
            ).build(folder)  # fmt: skip
        return folder

    def train_backbone(self) -> Path:
        """Train the network on both labels of the training split, as a run of `none`; return its directory."""
        folder = self.work / "none" / f"none-seed-{self.seed}" / "backbone"
        if not folder.exists():
            self.run_variant(Variant("none"))
        return folder

    def run_variant(self, variant: Variant) -> Path:
        """Separate features, unless that is finished; return the saved model."""
        out = self.work / variant.name.replace(" ", "-")
        plan = self.plan
        settings: dict[str, Any] = {"batch_size": plan.batch}
        if variant == Variant("none"):
            settings |= {"backbone": "pocket", "pretrain_steps": plan.pretrain}
        else:
            settings |= {"backbone": str(self.train_backbone())}
        if variant.method in TRAINED:
            steps = plan.fine_steps if variant.fine_tune else plan.steps
            settings |= {"penalty": variant.penalty, "max_train_steps": steps, **plan.more}
            if variant.method == "hsic":
                if not variant.fine_tune:
                    settings["batch_size"] = plan.hsic_batch
                settings = {name: value for name, value in settings.items() if not name.startswith("critic")}
        elif variant.fine_tune:
            settings |= {"max_train_steps": plan.fine_steps}
        result_report = disentangle(
            self.build_data(), out, variant.method, seeds=[self.seed], device="cpu", fine_tune=variant.fine_tune,
            show_progress=False, **settings,
        )  # fmt: skip
        if not self.is_done(variant.name):
            self.content["about"] = {
                name: result_report[name] for name in ("data", "images", "foregrounds", "backgrounds")
            }
            (seed,) = result_report["seeds"]
            about = {name: result_report[name] for name in result_report if name not in ("seeds", "over_seeds")}
            if variant != Variant("none"):
                about["settings"] = {**about["settings"], "backbone": "that of none"}  # not where it lies
            self.content["rows"][variant.name] = {
                "method": variant.method, "penalty": variant.penalty, "fine_tune": variant.fine_tune,
                "report": about, "result": seed,
                "transfer": self.measure_transfer(out / seed["model"]),
            }  # fmt: skip
            self.write()
        return out / f"{variant.method}-seed-{self.seed}"

    # Other data

    def measure_transfer(self, model: Path) -> dict[str, Any]:
        """Train and judge heads on pocketbirds, on features that were separated on the set."""
        folder = self.work / "birds"
        if not (folder / birds.TABLE).exists():
            birds.write(folder, seed=self.seed, show_progress=False, **self.plan.birds)
        groups = read_groups(folder)
        separated = open_model(model)
        sides: dict[str, list[torch.Tensor]] = {"foreground": [], "background": []}
        images = [draw() for _, draw in groups.read(np.arange(len(groups)))]
        for start in range(0, len(images), 64):
            for name, part in zip(sides, separated.features(images[start : start + 64]), strict=True):
                sides[name].append(part)
        parts = {name: torch.cat(batches) for name, batches in sides.items()}
        parts["all"] = torch.cat(list(parts.values()), 1)
        y = torch.from_numpy(groups.y)
        rows = {name: np.flatnonzero(groups.split == number) for name, number in (("train", 0), ("test", 2))}
        accuracies = {}
        for name, features in parts.items():
            examples = Examples(features, y, groups.objects)
            predict = fit_probe("linear", examples.select(rows["train"]), len(groups.classes), self.seed)
            test = examples.select(rows["test"])
            right = (predict(test.features) == test.label).numpy()
            by_group = accuracy_by_group(right, groups.group[rows["test"]], len(groups.group_names))
            accuracies[name] = {"average": float(right.mean()), "worst_group": worst_group_accuracy(by_group)}
        return accuracies

    def read_division(self) -> tuple[Any, Division]:
        data = open_data(self.build_data())
        return data, assign(data, {}, read_pairing(None, data.foregrounds, data.backgrounds))

    def train_baseline(self, way: str) -> None:
        """Train with a method of `learn` on the heads' images, from the network that was trained on the set."""
        name = f"{way} on images"
        if self.is_done(name):
            return
        data, division = self.read_division()
        table = self._export(data, division)
        steps_an_epoch = -(-len(division.heads) // 32)
        epochs = max(2, round(self.plan.fine_steps / steps_an_epoch))
        changes: dict[str, Any] = {"count_first": True, "first_epochs": max(1, epochs // 10)} if way == "jtt" else {}
        settings = Training(
            way, backbone=str(self.train_backbone()), epochs=epochs, batch_size=32, select="last",
            validate_every=epochs, **changes,
        )  # fmt: skip
        training_report = train(settings, table, self.work / way, seeds=[self.seed], device="cpu", show_progress=False)
        (seed,) = training_report["seeds"]
        paired_names = {f"{data.foregrounds[f]} × {data.backgrounds[b]}" for f, b in np.argwhere(division.paired)}
        groups = {name: [g for g in seed["test"]["groups"] if g["images"] and (g["name"] in paired_names) == is_paired]
                  for name, is_paired in (("correlated", True), ("anti_correlated", False))}  # fmt: skip
        self.content["rows"][name] = {
            "method": way, "steps": seed["budget"], "uses": training_report["uses"],
            **{
                test: {
                    "accuracy": sum(g["correct"] for g in test_groups) / sum(g["images"] for g in test_groups),
                    "worst_group": min(g["accuracy"] for g in test_groups),
                }
                for test, test_groups in groups.items()
            },
        }  # fmt: skip
        self.write()

    def _export(self, data: Any, division: Division) -> Path:
        """Write the heads' images as a training split, the probes' as validation, and the test images."""
        folder = self.work / "table"
        path = folder / "metadata.csv"
        if path.exists():
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for split, rows in (("train", division.heads), ("val", division.probes), ("test", division.test)):
            for row, draw in data.images.read(rows):
                name = f"{split}-{row}.png"
                draw().save(folder / name)
                lines.append(
                    [name, split, data.foregrounds[data.foreground[row]], data.backgrounds[data.background[row]]]
                )
        with path.with_suffix(".part").open("w", newline="") as file:
            csv.writer(file).writerows([["filename", "split", "y", "a"], *lines])
        path.with_suffix(".part").rename(path)
        return folder


# --- choosing ---------------------------------------------------------------------------------------


def probe_accuracy(row: Mapping[str, Any], crossing: str, kind: str) -> float:
    """Return the accuracy of a probe in a row, 0 to 1."""
    return float(row["result"]["probes"][crossing]["accuracy"][kind]["value"])


def relative_leak(row: Mapping[str, Any]) -> float:
    """Return the MLP's accuracy on the other labels relative to chance, averaged over both."""
    return float(
        np.mean([probe_accuracy(row, name, "mlp") / row["result"]["probes"][name]["chance"] for name in OTHER])
    )


def strongest_relative_leak(row: Mapping[str, Any]) -> float:
    """Return the strongest probe's accuracy on the other labels relative to chance, averaged over both."""
    probes = row["result"]["probes"]
    best_values = [
        max(probe["value"] for probe in probes[name]["accuracy"].values()) / probes[name]["chance"] for name in OTHER
    ]
    return float(np.mean(best_values))


def make_worst_group(part: str) -> Callable[[Mapping[str, Any]], float]:
    """Return a function from a row to worst-group accuracy on pocketbirds with a part's features."""
    return lambda row: float(row["transfer"][part]["worst_group"])


def own_label_loss(row: Mapping[str, Any], plain: Mapping[str, Any]) -> float:
    """Return the larger loss of linear-probe accuracy on an own label, as a share."""
    return max(probe_accuracy(plain, name, "linear") - probe_accuracy(row, name, "linear") for name in reporting.OWN)


def choose_penalty(tuned: Mapping[str, Any], method: str) -> float:
    """Return the penalty of a method from the rows of `TUNED_WITH`, by the rule in the module's docstring."""
    plain = tuned["none"]
    rows = [row for row in tuned.values() if row["method"] == method and not row.get("fine_tune") and row["penalty"]]
    eligible = [row for row in rows if own_label_loss(row, plain) <= ALLOWED_LOSS]
    best = min(eligible, key=relative_leak) if eligible else min(rows, key=lambda row: own_label_loss(row, plain))
    return float(best["penalty"])


# --- the report -------------------------------------------------------------------------------------


def by_seed(units: Sequence[Mapping[str, Any]], row: str, value: Any) -> dict[int, float]:
    """Return a row's value by seed."""
    return {unit["seed"]: float(value(unit["rows"][row])) for unit in units if row in unit["rows"]}


def task_error(row: Mapping[str, Any], part: str = "foreground", test: str = "anti_correlated") -> float:
    return 1 - float(row["result"]["task"]["parts"][part][test]["accuracy"])


def summarise_difference(first: Mapping[int, float], second: Mapping[int, float]) -> dict[str, Any]:
    """Return a paired difference in points, with its 95 % interval."""
    difference = subtract(first, second)
    points = {"mean": difference.mean, "low": difference.low, "high": difference.high}
    return {
        "n": difference.n, **{name: None if value is None else 100 * value for name, value in points.items()},
        "p": difference.p,
    }  # fmt: skip


def make_rows(units: Sequence[Mapping[str, Any]], best: str) -> tuple[list[Row], dict]:
    """Return the rows of the report, and paired differences from `none` for every row.

    A trained row is also compared with penalty 0, where each part learns its own label alone: only that difference is
    due to the penalty.
    """
    names = [name for name in units[0]["rows"] if all(name in unit["rows"] for unit in units)]
    separated = [name for name in names if "result" in units[0]["rows"][name]]
    differences: dict[str, Any] = {}
    for name in separated:
        comparisons: dict[str, Any] = {}
        for crossing in reporting.CROSSINGS:
            for kind in ("linear", "mlp"):
                values = [
                    by_seed(units, row, lambda r, c=crossing, k=kind: probe_accuracy(r, c, k)) for row in (name, "none")
                ]
                comparisons[f"{crossing}, {kind}"] = summarise_difference(*values)
        errors, plain = by_seed(units, name, task_error), by_seed(units, "none", task_error)
        comparisons["anti-correlated error"] = summarise_difference(errors, plain)
        comparisons["anti-correlated error − half of none's"] = summarise_difference(
            errors, {s: v / 2 for s, v in plain.items()}
        )
        unpenalised = Variant(units[0]["rows"][name]["method"], 0.0).name
        if units[0]["rows"][name]["penalty"] and not units[0]["rows"][name]["fine_tune"] and unpenalised in separated:
            comparisons["anti-correlated error − that at penalty 0"] = summarise_difference(
                errors, by_seed(units, unpenalised, task_error)
            )
            comparisons["other labels, MLP, % of chance − that at penalty 0"] = summarise_difference(
                by_seed(units, name, relative_leak), by_seed(units, unpenalised, relative_leak)
            )
            comparisons["pocketbirds, worst group − that at penalty 0"] = summarise_difference(
                by_seed(units, name, make_worst_group("foreground")),
                by_seed(units, unpenalised, make_worst_group("foreground")),
            )
        for part, label in (("foreground", ""), ("all", ", both parts")):
            worst = [by_seed(units, row, make_worst_group(part)) for row in (name, "none")]
            comparisons[f"pocketbirds, worst group{label}"] = summarise_difference(*worst)
        differences[name] = comparisons

        for label, value in (("MLP", relative_leak), ("strongest probe", strongest_relative_leak)):
            comparisons[f"other labels, {label}, % of chance: mean"] = summarise_mean(by_seed(units, name, value))
    frozen = [name for name in separated if name != "none" and not units[0]["rows"][name]["fine_tune"]]
    transfers = [differences[name]["pocketbirds, worst group"] for name in frozen]
    if all(transfer["p"] is not None for transfer in transfers):
        for transfer, p in zip(transfers, holm([transfer["p"] for transfer in transfers]), strict=True):
            transfer["p_holm"] = p
    for name in names:
        if name not in separated:
            errors = by_seed(units, name, lambda r: 1 - r["anti_correlated"]["accuracy"])
            differences[name] = {"anti-correlated error: mean": summarise_mean(errors)}

    def mean(row: str, value: Any) -> float:
        return float(np.mean(list(by_seed(units, row, value).values())))

    rows = []
    for name in separated:
        target = name == best
        own_label_change = min(100 * (mean(name, lambda r, c=c: probe_accuracy(r, c, "linear")) -
                          mean("none", lambda r, c=c: probe_accuracy(r, c, "linear")))
                   for c in reporting.OWN)  # fmt: skip
        rows += [
            Row(f"{name}: own labels, linear, − none", own_label_change, "points", at_least=-2 if target else None),
            Row(f"{name}: other labels, MLP / chance", mean(name, relative_leak), "×", at_most=1.5 if target else None),
            Row(f"{name}: other labels, strongest probe / chance", mean(name, strongest_relative_leak), "×"),
            Row(f"{name}: anti-correlated error, foreground", 100 * mean(name, task_error), "%",
                at_most=50 * mean("none", task_error) if target else None),
            Row(f"{name}: pocketbirds, worst group, foreground", 100 * mean(name, make_worst_group("foreground")), "%"),
        ]  # fmt: skip
    for name in names:
        if name not in separated:
            error = mean(name, lambda r: 1 - r["anti_correlated"]["accuracy"])
            rows.append(Row(f"{name}: anti-correlated error", 100 * error, "%"))
    return rows, differences


def summarise_mean(values: Mapping[int, float]) -> dict[str, Any]:
    """Return mean and interval of values by seed, in %, in the form of `summarise_difference`."""
    return summarise_difference(values, dict.fromkeys(values, 0.0))


def tabulate(units: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of all separated rows that all units have: means over seeds, in %."""
    heads = ["method, λ", "own labels, linear", *(f"{name}: linear, MLP, kNN" for name in OTHER),
             "strongest probe / chance", "anti-correlated error", "pocketbirds, worst group"]  # fmt: skip
    lines = [heads, ["---"] * len(heads)]
    for name, row in units[0]["rows"].items():
        if "result" in row and all(name in unit["rows"] for unit in units):
            unit_rows = [unit["rows"][name] for unit in units]
            probes = [(reporting.OWN, ["linear"]), *(([probe_name], ["linear", "mlp", "knn"]) for probe_name in OTHER)]
            lines.append([
                f"`{name}`",
                *(", ".join(_format_mean([probe_accuracy(r, c, k) for r in unit_rows])
                            for c in crossings for k in kinds)
                  for crossings, kinds in probes),
                f"{np.mean([strongest_relative_leak(r) for r in unit_rows]):.1f} ×",
                _format_mean([task_error(r) for r in unit_rows], spread=True),
                _format_mean([make_worst_group("foreground")(r) for r in unit_rows], spread=True),
            ])  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _format_mean(shares: Sequence[float], spread: bool = False) -> str:
    """Return a mean in %, with the sample standard deviation if asked for."""
    values = 100 * np.array(shares)
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if spread and len(values) > 1 else "")


def draw(units: Sequence[Mapping[str, Any]], path: Path) -> str:
    """Draw the curves of all methods, and return their table."""
    runs = []
    for name, row in units[0]["rows"].items():
        if "result" in row and all(name in unit["rows"] for unit in units):
            run_report = {**row["report"]}
            summary = reporting.summarise(run_report, [unit["rows"][name]["result"] for unit in units])
            runs.append(comparing.Run(name, summary))
    runs.sort(key=lambda run: (run.method, run.is_fine_tuned, run.penalty or 0.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    comparing.draw_comparison(path, runs)
    return comparing.to_markdown(runs)


# --- the command ------------------------------------------------------------------------------------


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__, "disentangle")
    parser.set_defaults(work=ROOT / "out" / "disentangle")
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", help=f"judged seeds ({SEEDS[0]} to {SEEDS[-1]})")
    add("--methods", nargs="+", choices=[*TRAINED, *ERASERS], help="methods beside none (all)")
    add("--report", action="store_true", help="report what is finished")
    return parser.parse_args()


def make_plan(args: argparse.Namespace) -> Plan:
    command = describe_command("disentangle")
    methods = tuple(args.methods or (("wasserstein", "hsic", *ERASERS) if args.quick else (*TRAINED, *ERASERS)))
    if "leace" in methods and find_spec("concept_erasure") is None:
        methods = tuple(method for method in methods if method != "leace")
        print("leace is left out: pip install 'figureground[erase]'.", file=sys.stderr)
    if not args.quick:
        return Plan(args.work, RESULTS, methods=methods, command=command)
    return Plan(
        args.work / "quick", args.work / "quick" / "kept", ["bird", "car"], ["grass", "snow"],
        {"train": 3, "validation": 3, "test": 2}, {"num_inference_steps": 2, "size": 16},
        {"train": 8, "validation": 4, "test": 8, "size": 16}, methods, dict.fromkeys(TRAINED, (1.0,)), 2, 4, 4, 8, 16,
        {"label_steps": 1, "hidden": 8, "critic_steps": 1, "critic_hidden": 8} if methods else {}, command,
    )  # fmt: skip


def main() -> None:
    args = _parse()
    began = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    plan = make_plan(args)
    seeds = args.seeds or ([0] if args.quick else list(SEEDS))
    tuning = Unit(plan, seeds[0] if args.quick else TUNED_WITH)
    units = [tuning if seed == tuning.seed else Unit(plan, seed) for seed in seeds]
    if not args.report:
        for variant in list_frozen_variants(plan):
            if not tuning.is_done(variant.name):
                tuning.run_variant(variant)
    tuned_rows = tuning.content["rows"]
    if any(variant.name not in tuned_rows for variant in list_frozen_variants(plan)):
        raise SystemExit(f"Seed {tuning.seed}, on which penalties are chosen, isn't finished. Run without --report.")
    penalties = {method: choose_penalty(tuned_rows, method) for method in plan.methods if method in TRAINED}
    if not args.report:
        fine_tuned = [Variant("none", fine_tune=True), *(Variant(m, p, True) for m, p in penalties.items())]
        if args.quick:
            fine_tuned = [variant for variant in fine_tuned if variant.method == "hsic"]
        for unit in units:
            for variant in [*list_frozen_variants(plan), *fine_tuned]:
                if not unit.is_done(variant.name):
                    unit.run_variant(variant)
            for way in WAYS:
                unit.train_baseline(way)
            shutil.rmtree(unit.work / "table", ignore_errors=True)
    finished = [unit.content for unit in units if "none" in unit.content["rows"]]
    if not finished:
        raise SystemExit("Nothing is finished.")
    candidates = [Variant(m, penalties.get(m)).name for m in plan.methods]
    best = min((name for name in candidates if name in tuned_rows), key=lambda name: relative_leak(tuned_rows[name]))
    rows, differences = make_rows(finished, best)
    out = args.out or ROOT / "benchmarks" / "results" / "disentangle.json"
    if args.out or not args.quick:
        text = draw(finished, out.with_suffix(".png"))
        replace_text(out.with_suffix(".md"), f"{tabulate(finished)}\n\n{text}\n")
    report(
        "disentangle", args, rows,
        {**plan.facts(), "seeds": [unit["seed"] for unit in finished], "tuned_with": tuning.seed, "chosen": penalties,
         "best": best, "kept": ALLOWED_LOSS, "machine_of_units": [unit["machine"] for unit in finished]},
        began, paired_differences=differences,
    )  # fmt: skip


if __name__ == "__main__":
    main()
