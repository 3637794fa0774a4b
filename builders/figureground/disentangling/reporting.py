"""Reports of a run: means over seeds, a table as text, and a chart."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figureground.core.charts import draw_charts
from figureground.core.errors import plural
from figureground.core.files import replace_text
from figureground.core.text import printable
from figureground.core.text_width import align_columns
from figureground.disentangling.correlation import PARTS
from figureground.disentangling.cross_probes import SIDES
from figureground.disentangling.probes import KINDS
from figureground.learn.training_results import format_mean_and_std, percent_number

REPORT, TABLE, PNG = "report.json", "report.txt", "report.png"

CROSSINGS = tuple(f"{label} from {part}" for part in SIDES for label in SIDES)
"""The four cross-probes: those of foreground features first."""
OWN = ("foreground from foreground", "background from background")
"""Cross-probes of a part's own label; the others are of the other label."""
TESTS = ("correlated", "anti_correlated")


def mean_and_std(values: Sequence[float]) -> dict[str, float | None]:
    """Return `mean` and sample standard deviation `std` (None for a single value)."""
    return {
        "mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None,
    }  # fmt: skip


def summarise(about: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the report: facts of the run, means over seeds, and the seeds' results."""
    probes = {}
    for name in CROSSINGS:
        seeds = [result["probes"][name] for result in results]
        probes[name] = {
            "chance": seeds[0]["chance"], "majority": seeds[0]["majority"], "images": seeds[0]["images"],
            "dimensions": seeds[0]["dimensions"],
            "accuracy": {kind: mean_and_std([probe["accuracy"][kind]["value"] for probe in seeds]) for kind in KINDS},
            "on_fitted": mean_and_std([probe["on_fitted"] for probe in seeds]),
        }  # fmt: skip
    tasks = [result["task"] for result in results]
    task = None
    if all(tasks):
        task = {
            "chance": tasks[0]["chance"], "images": tasks[0]["images"],
            "parts": {
                part: {
                    test: {
                        measure: mean_and_std([result["parts"][part][test][measure] for result in tasks])
                        for measure in ("accuracy", "worst_group", "worst_class")
                    }
                    for test in TESTS
                }
                for part in PARTS
            },
        }  # fmt: skip
    return {
        "made_by": "figureground disentangle", **about,
        "over_seeds": {"probes": probes, "task": task}, "seeds": list(results),
    }  # fmt: skip


def tabulate(report: Mapping[str, Any]) -> str:
    """Return the report as text: accuracies in %, mean ± standard deviation over seeds."""
    means, seeds = report["over_seeds"], report["seeds"]
    images, probes = report["images"], means["probes"]
    settings = report["settings"]
    training_note = "fine-tuned" if settings["fine_tune"] else "frozen features"
    penalty = f", penalty {settings['penalty']:g}" if settings.get("penalty") is not None else ""
    widths = " + ".join(f"{width:,}" for width in seeds[0]["widths"])
    head = [
        f"{report['method']} on {report['data']}, {report['backbone']}, {training_note}{penalty}, "
        f"{plural(len(seeds), 'seed')}",
        f"features: {widths} of {report['dimensions']:,} dimensions; {plural(images['features'], 'image')} trained "
        f"them, {images['probes']:,} train probes, {images['test']:,} test"
        + (f"; {plural(images['photographs'], 'photograph')}" if images["photographs"] else ""),
    ]
    rows = [["probe accuracy, %", "linear", "MLP", "kNN", "chance", "majority", "linear, on fitted"]]
    for name in CROSSINGS:
        probe = probes[name]
        rows.append([
            name, *(format_mean_and_std(probe["accuracy"][kind]) for kind in KINDS), percent_number(probe["chance"]),
            percent_number(probe["majority"]), format_mean_and_std(probe["on_fitted"]),
        ])  # fmt: skip
    blocks = ["\n".join(head), "\n".join(align_columns(rows)), format_task(means["task"])]
    blocks += ["\n".join(f"note: {note}" for note in report["notes"])] if report["notes"] else []
    return "\n\n".join(blocks)


def format_task(task: Mapping[str, Any] | None) -> str:
    """Return the task's results as text."""
    if task is None:
        return (
            "broken correlation: not measured, since there are no images of a class on its own or on another background"
        )
    rows = [["broken correlation, %", "correlated", "worst group", "anti-correlated", "worst group", "worst class"]]
    for part, tests in task["parts"].items():
        correlated, anti_correlated = (tests[test] for test in TESTS)
        rows.append([
            f"head on {part}" + (" features" if part == "all" else ""),
            format_mean_and_std(correlated["accuracy"]), format_mean_and_std(correlated["worst_group"]),
            format_mean_and_std(anti_correlated["accuracy"]), format_mean_and_std(anti_correlated["worst_group"]),
            format_mean_and_std(anti_correlated["worst_class"]),
        ])  # fmt: skip
    images = task["images"]
    counts = (
        f"heads: {images['heads']:,} images; tests: {images['correlated']:,} and {images['anti_correlated']:,}; "
        f"chance {percent_number(task['chance'])}"
    )
    return "\n".join([*align_columns(rows), counts])


def write(out: Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON and text, and draw the chart, each atomically."""
    replace_text(out / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    replace_text(out / TABLE, printable(tabulate(report), lines=True) + "\n")
    _draw(out / PNG, report)


COLOURS = {"linear": "#4477aa", "mlp": "#ee6677", "knn": "#bbbbbb"}
NAMES = {"linear": "linear", "mlp": "MLP", "knn": "kNN"}


def _draw(path: Path, report: Mapping[str, Any]) -> None:
    """Draw the cross-probes beside chance, and the task."""
    means = report["over_seeds"]

    def plot(figure: Any, axes: Any) -> None:
        left, right = axes.flat
        for i, kind in enumerate(KINDS):
            values = [means["probes"][name]["accuracy"][kind] for name in CROSSINGS]
            left.bar(
                [x + 0.27 * (i - 1) for x in range(4)], [100 * v["mean"] for v in values], 0.25, label=NAMES[kind],
                color=COLOURS[kind], yerr=[100 * (v["std"] or 0) for v in values], error_kw={"linewidth": 1},
            )  # fmt: skip
        for x, name in enumerate(CROSSINGS):
            chance = 100 * means["probes"][name]["chance"]
            left.plot([x - 0.42, x + 0.42], [chance] * 2, "k--", linewidth=1, label="chance" if x == 0 else None)
        left.set_xticks(range(4), [name.replace(" from ", "\nfrom ") for name in CROSSINGS], fontsize=8)
        left.set_title("accuracy of probes, %", fontsize=9)
        left.set_ylim(0, 105)
        left.legend(fontsize=8, frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        if (task := means["task"]) is None:
            right.remove()
            return
        for i, (test, colour) in enumerate(zip(TESTS, ("#4477aa", "#ee6677"), strict=True)):
            values = [task["parts"][part][test]["accuracy"] for part in PARTS]
            right.bar(
                [x + 0.38 * (i - 0.5) for x in range(3)], [100 * v["mean"] for v in values], 0.36, color=colour,
                label=test.replace("_", "-"), yerr=[100 * (v["std"] or 0) for v in values], error_kw={"linewidth": 1},
            )  # fmt: skip
        right.axhline(100 * task["chance"], color="k", linestyle="--", linewidth=1, label="chance")
        right.set_xticks(range(3), [f"{part}\nfeatures" for part in PARTS], fontsize=8)
        right.set_title("heads trained on correlated images: accuracy, %", fontsize=9)
        right.set_ylim(0, 105)
        right.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))

    draw_charts(path, (10.5, 3.8), plot, columns=2)
