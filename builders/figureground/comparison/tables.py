"""Results of a comparison: a row per method, tables as text and Markdown, and a chart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figureground.comparison.rows import Row
from figureground.core.charts import draw_charts
from figureground.core.errors import join_names, plural
from figureground.core.files import replace_text
from figureground.core.intervals import wilson
from figureground.core.text import markdown, printable
from figureground.core.text_width import align_columns
from figureground.learn.training_results import (
    STAGES,
    average_over_seeds,
    describe_selection,
    format_mean_and_std,
    mean_and_std,
    percent_number,
    worst_kind,
)

REPORT, TABLE, PAGE, PNG = "comparison.json", "comparison.txt", "comparison.md", "comparison.png"
RATES = ("precision", "recall")
_COLUMNS = {
    "added": "added", "kept": "kept", "precision": "JTT precision", "recall": "JTT recall",
    "source_precision": "SCGS precision", "source_recall": "SCGS recall",
}  # fmt: skip
"""Columns that are shown if any row has a value."""
MAX_GROUPS = 12
"""Maximum number of groups in the tables; if there are more, group accuracies are only in the JSON."""


def summarise_row(row: Row, results: Sequence[Mapping[str, Any]], uses: Sequence[str] = ()) -> dict[str, Any]:
    """Return one row of the comparison, JSON-able.

    Args:
        results: Report of `train` for each seed; with a generator also `added`, the number of added images, and
            `made`, the record of `Generators.make`.
        uses: Information used beyond images and classes, such as `settings.IN_VALIDATION`.

    Returns:
        `method`, `generator`, `training`, `uses`; `steps`, the optimiser steps by stage (`first`, `added`, `main`,
        `refit`); `budget`, the steps that count as training; `average`, `reweighted`, `worst`, `added`, `kept`;
        `precision` and `recall` of JTT's error set; `source_precision` and `source_recall` of SCGS's error set. Each
        has `mean` and `std` over the seeds, or None if there are no values. `groups`, the same for each group;
        `seeds`, the values per seed.
    """
    spreads, groups = average_over_seeds([result["test"] for result in results])
    seeds = [
        {"seed": result["seed"], "epoch": result["epoch"], "steps": result["steps"], "model": result["model"],
         **{name: result["test"][name] for name in ("average", "reweighted", "worst", "worst_name")},
         "validation": result["validation"], "added": result.get("added"),
         **{name: result.get("jtt", {}).get(name) for name in RATES},
         **{f"source_{name}": ((result.get("made") or {}).get("error_set") or {}).get(name) for name in RATES},
         "made": result.get("made"), "kept": (result.get("made") or {}).get("kept"), "seconds": result["seconds"]}
        for result in results
    ]  # fmt: skip
    extras = {name: mean_and_std([seed[name] for seed in seeds]) for name in _COLUMNS}
    steps = {stage: mean_and_std([seed["steps"][stage] for seed in seeds]) for stage in seeds[0]["steps"]}
    budget = mean_and_std([result.get("budget", result["steps"]["main"]) for result in results])
    return {"method": row.name, "generator": row.generator, "training": row.training, "uses": list(uses),
            "steps": steps, "budget": budget, **spreads, **extras, "groups": groups, "seeds": seeds}  # fmt: skip


def summarise(
    about: Mapping[str, Any], seeds: Sequence[int], rows: Sequence[Mapping[str, Any]], notes: Sequence[str]
) -> dict[str, Any]:
    """Return the comparison, JSON-able.

    Args:
        about: `data`, `backbone`, `selection`, `classes`, `attributes` and `images`.
        rows: Results of `summarise_row`.
    """
    return {**about, "seeds": list(seeds), "rows": list(rows), "notes": list(notes)}


def _format_count(spread: Mapping[str, float | None]) -> str:
    return "–" if spread["mean"] is None else f"{spread['mean']:,.0f}"


FEW = 30
"""Number of a group's test images below which a note calls its accuracy uncertain."""


def notes_on_small_groups(rows: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """Return a note on the uncertainty of the smallest test group's accuracy, which the spread over seeds misses.

    Args:
        kind: The word for a group: `group`, or `class` if the data have no attribute.
    """
    tested = [group for group in rows[0]["groups"] if group["images"]] if rows else []
    if not tested or (smallest := min(tested, key=lambda group: group["images"]))["images"] >= FEW:
        return []
    low = percent_number(wilson(1.0, smallest["images"]).low)
    return [
        f"The smallest test {kind}, {smallest['name']}, has {plural(smallest['images'], 'image')}: if all are "
        f"correct, the interval is 100.0 % ({low} to 100.0). The deviation over seeds doesn't include this uncertainty."
    ]


def format_mean_steps(steps: Mapping[str, Mapping[str, float | None]]) -> str:
    """Return the optimiser steps of each stage, averaged over the seeds: `38 + 190`."""
    return " + ".join(_format_count(steps[stage]) for stage in STAGES if stage in steps)


def notes_on_steps(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return notes on the optimiser steps of the rows."""
    notes = []
    main = {row["method"]: row["budget"]["mean"] for row in rows}
    if len(set(main.values())) > 1:
        methods = join_names([f"{name} {steps:,.0f}" for name, steps in main.items()], len(main))
        notes.append(
            f"The rows were trained for different numbers of optimiser steps ({methods}). Longer training changes "
            "accuracy by itself, so the rows aren't directly comparable."
        )
    stages = {stage for row in rows for stage in row["steps"]} - {"main"}
    counts = any(row["budget"]["mean"] > row["steps"]["main"]["mean"] for row in rows if "first" in row["steps"])
    explanations = {
        "first": "The steps before the + are those of jtt's first model"
        + (". They count: both models together take as many steps as another row's single model." if counts else "."),
        "added": "For two-stage, the steps before the + use only added images, and those after it real ones.",
        "refit": "The steps after the + are those in which dfr fits the last layer to validation features.",
    }
    return [*notes, *(text for stage, text in explanations.items() if stage in stages)]


def _make_tables(comparison: Mapping[str, Any]) -> list[list[list[str]]]:
    """Return the cells of the tables: the comparison, and the accuracy of each group."""
    rows = comparison["rows"]
    names = {"average": "average", "reweighted": "re-weighted average", "worst": worst_kind(comparison["attributes"])}
    accuracies = {n: text for n, text in names.items() if any(row[n]["mean"] is not None for row in rows)}
    extras = {n: text for n, text in _COLUMNS.items() if any(row[n]["mean"] is not None for row in rows)}
    overall = [["test accuracy, %", *accuracies.values(), "steps", *extras.values(), "uses"]]
    for row in rows:
        cells = [*(format_mean_and_std(row[name]) for name in accuracies), format_mean_steps(row["steps"])]
        cells += [(_format_count if name == "added" else format_mean_and_std)(row[name]) for name in extras]
        overall.append([row["method"], *cells, ", ".join(row["uses"]) or "–"])
    groups = rows[0]["groups"]
    if len(groups) > MAX_GROUPS:
        return [overall]
    kind = "group" if comparison["attributes"] is not None else "class"
    by_group = [[f"by {kind}, %", *(f"{group['name']} ({group['images']:,})" for group in groups)]]
    by_group += [[row["method"], *(format_mean_and_std(group) for group in row["groups"])] for row in rows]
    return [overall, by_group]


def _format_heading(comparison: Mapping[str, Any]) -> str:
    seeds = comparison["seeds"]
    spreads = ", mean ± sample standard deviation" if len(seeds) > 1 else ""
    return (
        f"{comparison['data']}, {comparison['backbone']}, {plural(len(seeds), 'seed')}{spreads}; "
        f"{describe_selection(comparison['selection'])}"
    )


def tabulate(comparison: Mapping[str, Any]) -> str:
    """Return the comparison as text: test accuracies in %."""
    blocks = [_format_heading(comparison)]
    blocks += ["\n".join(align_columns(table)) for table in _make_tables(comparison)]
    if comparison["notes"]:
        blocks.append("\n".join(f"note: {note}" for note in comparison["notes"]))
    return "\n\n".join(blocks)


def make_tracker_table(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[str | float | None]]]:
    """Return the comparison as a tracker shows it: columns, and a row per method; accuracies are 0 to 1."""
    names = ("average", "reweighted", "worst", "budget")
    columns = ["method", "seeds", *(f"{name}{suffix}" for name in names for suffix in ("", "_std"))]
    rows = [
        [row["method"], len(row["seeds"]), *(row[name][key] for name in names for key in ("mean", "std"))]
        for row in comparison["rows"]
    ]
    return columns, rows


def to_markdown(comparison: Mapping[str, Any]) -> str:
    """Return the comparison as Markdown."""
    blocks = [f"{markdown(_format_heading(comparison))}."]
    for table in _make_tables(comparison):
        head, *body = [[markdown(cell) for cell in row] for row in table]
        ruled = [head, ["---", *["---:"] * (len(head) - 1)], *body]
        blocks.append("\n".join(f"| {' | '.join(row)} |" for row in ruled))
    if comparison["notes"]:
        blocks.append("\n".join(f"- {markdown(note)}" for note in comparison["notes"]))
    return "\n\n".join(blocks)


def write(out: Path, comparison: Mapping[str, Any]) -> None:
    """Write the comparison as JSON, text, Markdown and, if matplotlib is installed, a chart; each atomically."""
    replace_text(out / REPORT, json.dumps(comparison, indent=2, ensure_ascii=False) + "\n")
    replace_text(out / TABLE, printable(tabulate(comparison), lines=True) + "\n")
    replace_text(out / PAGE, to_markdown(comparison) + "\n")
    _draw(out / PNG, comparison)


def _draw(path: Path, comparison: Mapping[str, Any]) -> None:
    """Draw a pair of bars per row: the average and the worst group."""
    rows, has_spread = comparison["rows"], len(comparison["seeds"]) > 1

    def plot(figure: Any, axes: Any) -> None:
        axis, positions = axes[0, 0], np.arange(len(rows))
        worst = worst_kind(comparison["attributes"])
        for name, offset, colour in (("average", -0.19, "#c3c9d1"), (worst, 0.19, "#2c6fad")):
            spreads = [row["average" if name == "average" else "worst"] for row in rows]
            means = [100 * spread["mean"] for spread in spreads]
            stds = [100 * (spread["std"] or 0.0) for spread in spreads]
            axis.barh(positions + offset, means, 0.36, color=colour, label=name)
            if has_spread:
                axis.errorbar(
                    means, positions + offset, xerr=stds, fmt="none", ecolor="#30343a", elinewidth=1, capsize=2
                )
            for position, mean, std in zip(positions + offset, means, stds, strict=True):
                axis.annotate(
                    f"{mean:.1f}", (mean + std, position), (4, 0), textcoords="offset points", va="center", fontsize=8
                )
        axis.set_yticks(positions, [row["method"] for row in rows])
        axis.invert_yaxis()
        axis.set_xlim(0, 109)
        axis.set_xticks(range(0, 101, 20))
        axis.set_xlabel("test accuracy, %" + (" (bars: mean, whiskers: ± std)" if has_spread else ""))
        figure.legend(loc="outside upper center", ncols=2, frameon=False)

    draw_charts(path, (7.2, 1.2 + 0.42 * len(rows)), plot)
