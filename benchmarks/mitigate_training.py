"""Training of a unit's rows, for `mitigate.py`."""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitigate_plan import (
    EPOCHS,
    ROWS,
    TABLES,
    TUNED_WITH,
    Plan,
    Row,
    Unit,
    choose_settings,
    make_settings,
    training_seeds,
)

from figureground.learn import training_results
from figureground.pocket import birds


@dataclass(frozen=True)
class Place:
    """Folders of a unit."""

    plan: Plan
    unit: Unit

    @property
    def folder(self) -> Path:
        return self.plan.work / self.unit.name

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def images_folder(self, name: str) -> Path:
        """Return the folder of a method's added images and their table."""
        return self.folder / "made" / name

    def settings(self, name: str) -> dict[str, Any]:
        """Return the changes of a builder's defaults."""
        return {"threads": 1, **self.plan.smaller.get(name, {})}

    def draw(self) -> float:
        """Draw the bed if it is missing; return the duration in seconds."""
        began = time.monotonic()
        if not (self.data / birds.TABLE).exists():
            shutil.rmtree(self.data, ignore_errors=True)
            share = None if self.unit.biased else 0.5
            birds.write(self.data, *self.plan.sizes, bed=self.unit.bed, bias_aligned_share=share, seed=self.unit.seed,
                        show_progress=False)  # fmt: skip
        return round(time.monotonic() - began, 1)


def find_trained_folder(place: Place, row: Row, backbone: str, name: str) -> Path:
    """Return the folder of a row's classifiers.

    Args:
        name: Name of the training: that of a table, or of a tried setting.
    """
    folder = row.name.replace(", ", "-").replace(" ", "-")
    length = "" if place.plan.epochs == EPOCHS else f"-{place.plan.epochs}-epochs"
    return place.folder / "trained" / f"{folder}-{backbone}-{name}{length}"


def fit(
    place: Place, row: Row, backbone: str, change: Mapping[str, Any], rules: Sequence[str], name: str,
    add: Path | None, trainings: int,
) -> dict[str, Any]:  # fmt: skip
    """Train or resume; return the report of `figureground train`."""
    from figureground.learn.training import train

    return train(
        make_settings(row, change, rules, place.plan, backbone), place.data,
        find_trained_folder(place, row, backbone, name),
        add=[add] if add else [], seeds=training_seeds(place.unit.seed, trainings), workers=1, device="cpu",
        show_progress=False,
    )  # fmt: skip


def choose_change(place: Place, row: Row, backbone: str, table: str) -> dict[str, Any]:
    """Return the setting of a row's results; during tuning, the first tried one."""
    if not place.plan.choose or place.unit.seed in TUNED_WITH:
        return dict(ROWS[row.like or row.name].tried[0])
    folder = place.plan.images_of or place.plan.results_folder
    return dict(choose_settings(folder, place.unit.bed, row, table, backbone))


def train_row(
    place: Place, row: Row, backbone: str, tables: Sequence[str], add: Path | None = None, trainings: int | None = None
) -> dict[str, dict[str, Any]]:
    """Train a row's classifiers, once for all tables that chose the same setting; return the results by table.

    The rule without attributes comes first, so it chooses the kept classifiers if both tables share a training.
    """
    by_setting: dict[str, list[str]] = {}
    for table in sorted(tables, reverse=True):
        by_setting.setdefault(json.dumps(choose_change(place, row, backbone, table)), []).append(table)
    results: dict[str, dict[str, Any]] = {}
    for text, served_tables in by_setting.items():
        change = json.loads(text)
        training_report = fit(
            place, row, backbone, change, [TABLES[table] for table in served_tables], served_tables[0], add,
            trainings or place.plan.trainings,
        )  # fmt: skip
        curves = read_curves(find_trained_folder(place, row, backbone, served_tables[0]))
        for table in served_tables:
            results[table] = {
                "settings": change, "rule": TABLES[table], "uses": row.uses(table),
                "added": training_report["images"]["added"],
                "seeds": [keep_seed(each, curves[each["seed"]], table) for each in training_report["seeds"]],
            }  # fmt: skip
    return {table: results[table] for table in tables}


def read_curves(folder: Path) -> dict[int, list[dict[str, str]]]:
    """Return the rows of `curves.csv` in a folder of classifiers, by training seed."""
    curves: dict[int, list[dict[str, str]]] = {}
    with (folder / training_results.CSV).open(newline="") as file:
        for row in csv.DictReader(file):
            curves.setdefault(int(row["seed"]), []).append(row)
    return curves


def read_rule(seed_report: Mapping[str, Any], table: str) -> Mapping[str, Any]:
    """Return the part of a classifier's report about the epoch that a table's rule chose."""
    return seed_report.get("selected", {}).get(TABLES[table], seed_report)


def keep_seed(seed_report: Mapping[str, Any], curve: Sequence[Mapping[str, str]], table: str) -> dict[str, Any]:
    """Return the part of a classifier's report that is kept, with how its losses end."""
    rule_report = read_rule(seed_report, table)
    test = rule_report["test"]
    return {
        "seed": seed_report["seed"], "epoch": rule_report["epoch"], "steps": seed_report["steps"],
        "budget": seed_report["budget"],
        "seconds": seed_report["seconds"], "validation": rule_report["validation"], "average": test["average"],
        "worst": test["worst"], "groups": [group["accuracy"] for group in test["groups"]],
        "convergence": measure_convergence(curve),
        **({"error_set": seed_report["jtt"]} if "jtt" in seed_report else {}),
    }  # fmt: skip


def measure_convergence(curve: Sequence[Mapping[str, str]]) -> dict[str, Any] | None:
    """Return the fields of `beds.Convergence` of a training; None if fewer than two epochs were evaluated."""
    from beds import converge

    evaluated = [epoch for epoch in curve if epoch["validation_loss"]]
    if len(evaluated) < 2:
        return None
    losses = [[float(epoch[name]) for epoch in evaluated] for name in ("training_loss", "validation_loss")]
    return converge(*losses)._asdict()
