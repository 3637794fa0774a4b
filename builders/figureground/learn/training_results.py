"""Training results: test scores of each seed, their mean and spread, tables and curves."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figureground.core.charts import draw_charts
from figureground.core.errors import plural
from figureground.core.files import replace_text
from figureground.core.intervals import mean
from figureground.core.text import printable
from figureground.core.text_width import align_columns
from figureground.learn.accuracy import accuracy_by_group, reweighted_accuracy, worst_group_accuracy
from figureground.learn.settings import LAST, RULES

REPORT, TABLE, CONFUSION = "report.json", "report.txt", "confusion.json"
CSV, PNG = "curves.csv", "curves.png"

Result = Mapping[str, Any]
"""Stored result of a finished seed."""


def score(
    predicted: np.ndarray, y: np.ndarray, group: np.ndarray | None, names: Sequence[str], train_counts: np.ndarray,
    objects: np.ndarray | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compute the accuracies of one classifier, each 0 to 1, JSON-serialisable.

    Args:
        predicted: int (n,): the most likely class of each image.
        y: int (n,).
        group: int (n,); None if the data have no attribute, in which case y is used.
        names: Names of the groups.
        train_counts: int (groups,).
        objects: int64 (n,): images with equal numbers show the same object; by default each image shows its own.

    Returns:
        `average`; `reweighted`, weighted by training group counts (None without groups, or if no training group has
        test images); `worst` and `worst_name`; and `groups`, a list of `name`, `correct`, `images`, `accuracy`, `low`
        and `high` (ends of the 95 % interval, None without images), and `train`, the number of real training images.
    """
    correct, labels = predicted == y, y if group is None else group
    accuracy = accuracy_by_group(correct, labels, len(names))
    present = ~np.isnan(accuracy)
    has_reweighted = group is not None and train_counts[present].sum() > 0
    images = np.bincount(labels, minlength=len(names))
    hits = np.bincount(labels[correct], minlength=len(names))
    object_ids = np.arange(len(y)) if objects is None else objects
    intervals = [
        mean([correct[labels == i]], [object_ids[labels == i]]) if present[i] else None for i in range(len(names))
    ]
    return {
        "average": float(correct.mean()),
        "reweighted": reweighted_accuracy(accuracy, train_counts) if has_reweighted else None,
        "worst": worst_group_accuracy(accuracy),
        "worst_name": names[int(np.nanargmin(accuracy))],
        "groups": [
            {"name": name, "correct": int(hits[i]), "images": int(images[i]),
             "accuracy": float(accuracy[i]) if present[i] else None, "low": interval.low if interval else None,
             "high": interval.high if interval else None, "train": int(train_counts[i])}
            for i, (name, interval) in enumerate(zip(names, intervals, strict=True))
        ],
    }  # fmt: skip


def count_confusions(predicted: np.ndarray, labels: np.ndarray, groups: int, classes: int) -> list[list[int]]:
    """Count test images by group and predicted class."""
    cells = np.bincount(labels * classes + predicted, minlength=groups * classes)
    return cells.reshape(groups, classes).tolist()


def mean_and_std(values: Sequence[float | None]) -> dict[str, float | None]:
    """Return mean and sample standard deviation; both None if a value is missing, the deviation also for one value."""
    if not values or any(value is None for value in values):
        return {"mean": None, "std": None}
    numbers = np.array(values, np.float64)
    return {"mean": float(numbers.mean()), "std": float(numbers.std(ddof=1)) if len(numbers) > 1 else None}


def average_over_seeds(tests: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return mean and deviation over the seeds, as from `mean_and_std`.

    Args:
        tests: The output of `score` for each seed.

    Returns:
        Spreads of `average`, `reweighted` and `worst`; and of each group, with its `name`, `images` and `train`.
    """
    spreads = {name: mean_and_std([test[name] for test in tests]) for name in ("average", "reweighted", "worst")}
    groups = [
        {**{key: group[key] for key in ("name", "images", "train")},
         **mean_and_std([test["groups"][i]["accuracy"] for test in tests])}
        for i, group in enumerate(tests[0]["groups"])
    ]  # fmt: skip
    return spreads, groups


def summarise(about: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """Return the report: its description, means and deviations over the seeds, and the results of each seed.

    Args:
        about: `method`, `data`, `selection` (criterion for choosing epochs), `classes`, `groups` and more.
        results: Result of each seed, in order.
    """
    spreads, groups = average_over_seeds([result["test"] for result in results])
    seeds = [{k: v for k, v in result.items() if k not in ("curve", "confusion")} for result in results]
    return {**about, "over_seeds": {"seeds": len(results), **spreads, "groups": groups}, "seeds": seeds}


STAGES = {"first": "first model", "added": "added images", "main": "training", "refit": "last layer"}
"""Training stages with optimiser steps, in order: the first model of jtt, the first stage of two-stage, all networks,
and the fit of dfr."""


def describe_selection(selection: str) -> str:
    """Describe, for a heading, how epochs were chosen (a value of `settings.RULES`)."""
    return "the last epoch is taken" if selection == RULES[LAST] else f"epochs chosen by the {selection} of validation"


def worst_kind(attributes: Sequence[str] | None) -> str:
    """Return `worst group` or `worst class`, whichever the worst accuracy refers to."""
    return "worst class" if attributes is None else "worst group"


def format_steps(steps: Mapping[str, int]) -> str:
    """Format optimiser steps by stage, such as `38 + 190`."""
    return " + ".join(f"{steps[stage]:,}" for stage in STAGES if stage in steps)


def format_steps_label(steps: Mapping[str, int]) -> str:
    """Return the table label for the output of `format_steps`."""
    return "steps" if len(steps) == 1 else f"steps: {' + '.join(STAGES[stage] for stage in STAGES if stage in steps)}"


def percent_number(value: float | None) -> str:
    """Format a share, 0 to 1, in % without the sign; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def format_mean_and_std(value: Mapping[str, float | None]) -> str:
    """Format the output of `mean_and_std` in %."""
    return percent_number(value["mean"]) + ("" if value["std"] is None else f" ± {percent_number(value['std'])}")


def tabulate(report: Mapping[str, Any]) -> str:
    """Format the report as text: test accuracies in %, one column per seed."""
    spreads, seeds = report["over_seeds"], report["seeds"]
    kind = "group" if report["attributes"] is not None else "class"

    def row(name: str, mean: Mapping[str, float | None], values: Sequence[float | None]) -> list[str]:
        return [name, format_mean_and_std(mean), *map(percent_number, values)]

    rows = [["test accuracy, %", "mean ± std" if len(seeds) > 1 else "mean", *(f"seed {s['seed']}" for s in seeds)]]
    rows.append(row("average", spreads["average"], [s["test"]["average"] for s in seeds]))
    if spreads["reweighted"]["mean"] is not None:
        rows.append(row("re-weighted average", spreads["reweighted"], [s["test"]["reweighted"] for s in seeds]))
    rows.append(row(f"worst {kind}", spreads["worst"], [s["test"]["worst"] for s in seeds]))
    rows.append(["  its 95 % interval", "", *(_format_interval(s["test"]) for s in seeds)])
    for i, group in enumerate(spreads["groups"]):
        name = f"  {group['name']} ({group['images']:,})"
        rows.append(row(name, group, [s["test"]["groups"][i]["accuracy"] for s in seeds]))
    rows.append(["epoch", "", *(str(s["epoch"]) for s in seeds)])
    for rule in list(seeds[0].get("selected", {}))[1:]:  # the first rule chose the epoch reported above
        chosen = [s["selected"][rule] for s in seeds]
        worsts = [epoch["test"]["worst"] for epoch in chosen]
        rows.append(row(f"worst {kind}, epoch by {RULES[rule]}", mean_and_std(worsts), worsts))
        rows.append(["  that epoch", "", *(str(epoch["epoch"]) for epoch in chosen)])
    rows.append([format_steps_label(seeds[0]["steps"]), "", *(format_steps(s["steps"]) for s in seeds)])
    head = (
        f"{report['method']} on {report['data']}, {report['backbone']}, {plural(len(seeds), 'seed')}; "
        f"{describe_selection(report['selection'])}"
    )
    return "\n".join(
        [head, "", *align_columns(rows), *_format_errors(seeds), *(f"note: {note}" for note in report["notes"])]
    )


def _format_interval(test: Mapping[str, Any]) -> str:
    """Format the interval of the worst group, such as `43.9 to 100.0`."""
    (worst,) = (group for group in test["groups"] if group["name"] == test["worst_name"])
    return f"{percent_number(worst['low'])} to {percent_number(worst['high'])}"


def _format_errors(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for seed in seeds:
        if (errors := seed.get("jtt")) is None:
            continue
        line = f"seed {seed['seed']}: the first model got {errors['errors']:,} of {errors['images']:,} wrong"
        if "precision" in errors:
            line += (
                f"; of minority groups: precision {percent_number(errors['precision'])} %, recall "
                f"{percent_number(errors['recall'])} %"
            )
        lines.append(line)
    return ["", *lines] if lines else []


def write(out: Path, report: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Write the report, its table, the curves, and a confusion matrix by group, each atomically."""
    replace_text(out / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    replace_text(out / TABLE, printable(tabulate(report), lines=True) + "\n")
    confusion = {
        "rows": report["groups"], "columns": report["classes"],
        "seeds": {str(result["seed"]): result["confusion"] for result in results},
    }  # fmt: skip
    replace_text(out / CONFUSION, json.dumps(confusion, indent=2, ensure_ascii=False) + "\n")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["seed", "epoch", "steps", *_CURVES, f"validation_{_name_worst_column(report)}"])
    writer.writerows(
        [result["seed"], epoch["epoch"], epoch["steps"],
         *(_format_number(epoch.get(name)) for name in (*_CURVES.values(), "worst"))]
        for result in results for epoch in result["curve"]
    )  # fmt: skip
    replace_text(out / CSV, buffer.getvalue())
    _draw(out, report, results)


_CURVES = {"training_loss": "loss", "validation_loss": "validation_loss", "validation_average": "average"}
"""Columns of `curves.csv` and the matching fields of an epoch; the last column is the worst group or class."""


def _format_number(value: float | None) -> str:
    """Format a number with six significant digits; an empty string for None."""
    return "" if value is None else f"{value:.6g}"


def _name_worst_column(report: Mapping[str, Any]) -> str:
    return worst_kind(report["attributes"]).replace(" ", "_")


def _draw(out: Path, report: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Draw `curves.png`, one line per seed."""
    titles = {
        "loss": "training loss", "validation_loss": "validation loss", "average": "validation, average, %",
        "worst": f"validation, {worst_kind(report['attributes'])}, %",
    }  # fmt: skip

    def plot(figure: Any, axes: Any) -> None:
        for axis, (name, title) in zip(axes.flat, titles.items(), strict=True):
            for result in results:
                epochs = [epoch for epoch in result["curve"] if epoch.get(name) is not None]
                values = [epoch[name] * (100 if name in ("average", "worst") else 1) for epoch in epochs]
                marker = "." if len(epochs) < 3 else None
                axis.plot([epoch["epoch"] for epoch in epochs], values, linewidth=1.2, marker=marker)
                if name != "loss":
                    axis.axvline(result["epoch"], linewidth=0.5, alpha=0.5)
            axis.set_title(title, fontsize=9)
        figure.supxlabel("epoch", fontsize=9)

    draw_charts(out / PNG, (11.2, 2.6), plot, columns=len(titles))
