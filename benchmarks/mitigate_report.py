"""Report on the units of `mitigate.py`, from their files alone: tables in Markdown, a chart, and JSON.

Tables are in % and points. A pipeline seed counts as one value: its training seeds are averaged first.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mitigate_plan import (
    BACKBONES,
    BEDS,
    EXPLORATORY_SEEDS,
    MASK_SEEDS,
    PRIMARY,
    PRIMARY_SEEDS,
    PRIMARY_TABLE,
    RESULTS,
    ROWS,
    TABLES,
    TUNED_WITH,
    UNBIASED,
    choose_settings,
)
from paired import Difference, holm, subtract
from results import Row as Measured
from results import report, shown

from figureground.core.charts import draw_charts
from figureground.core.errors import FiguregroundError, counted
from figureground.learn.settings import RULES

Unit = Mapping[str, Any]
"""Contents of a unit's JSON file."""
Metric = Callable[[Unit, Mapping[str, Any]], float]
"""Takes a unit and one of its classifiers; returns a number in %."""
COMPARISONS = len(PRIMARY) * len(BEDS)
"""Number of primary comparisons."""


# Units


def read_units(kept: Path) -> list[Unit]:
    """Return all units in a folder, sorted by name.

    Raises:
        FiguregroundError: There is none, or they can't be reported together.
    """
    paths = [path for path in sorted(kept.glob("*.json")) if not path.name.startswith("tuning-")]
    units = [{"file": path.name, **json.loads(path.read_text())} for path in paths]
    if not units:
        raise FiguregroundError(f"{shown(str(kept))} holds no unit. Run benchmarks/mitigate.py without --report first.")
    refuse_mixed(units)
    return units


def refuse_mixed(units: Sequence[Unit]) -> None:
    """Check that units can be reported in one table.

    Raises:
        FiguregroundError: They differ in plan, weights or dataset format, or a row's settings differ between them.
    """

    def refuse(what: str, found: Iterable[tuple[str, Any]]) -> None:
        first: tuple[str, str] | None = None
        for file, value in found:
            text = json.dumps(value, sort_keys=True)
            first = first or (file, text)
            if text != first[1]:
                raise FiguregroundError(
                    f"{first[0]} and {file} can't be reported together: {what} differ. Move away those that are not "
                    "meant, and do their rows again."
                )

    refuse("their plans", ((unit["file"], [unit["kept_format"], unit["plan"]]) for unit in units))
    refuse("weights or formats", ((u["file"], [o["format"], o["weights"]]) for u in units for o in u["origins"]))
    for bed in dict.fromkeys(unit["bed"] for unit in units):
        refuse(f"the drawings of {bed}", ((u["file"], u["drawn"]) for u in units if u["bed"] == bed))
    places = {
        (unit["bed"], name, backbone, table)
        for unit in units
        for name, backbones in unit["rows"].items()
        for backbone, tables in backbones.items()
        for table in tables
    }
    for bed, name, backbone, table in sorted(places):
        found = [(u["file"], cell["settings"]) for u in units if u["bed"] == bed
                 and (cell := u["rows"].get(name, {}).get(backbone, {}).get(table))]  # fmt: skip
        refuse(f"the settings of {name} ({backbone}, {table})", found)


# Numbers


def worst(unit: Unit, told: Mapping[str, Any]) -> float:
    return 100 * float(told["worst"])


def average(unit: Unit, told: Mapping[str, Any]) -> float:
    return 100 * float(told["average"])


def group(i: int) -> Metric:
    """Return the metric for the accuracy of a group, by number."""
    return lambda unit, told: 100 * float(told["groups"][i])


def against(unit: Unit, told: Mapping[str, Any]) -> float:
    """Return the mean accuracy of the groups against the bed's bias; of all groups on an unbiased bed. They are fixed
    in advance, so unlike the minimum of several groups, its expectation doesn't fall with noise."""
    groups = unit["data"]["against_the_bias"] or range(len(told["groups"]))
    return 100 * statistics.fmean(told["groups"][i] for i in groups)


@dataclass(frozen=True)
class Where:
    """Selection of results: bed, table, backbone, bias and seeds."""

    bed: str
    table: str
    backbone: str
    bias: str = "biased"
    seeds: tuple[int, ...] = EXPLORATORY_SEEDS

    def cells(self, units: Sequence[Unit], row: str) -> dict[int, tuple[Unit, Mapping[str, Any]]]:
        """Return a row's units and results by pipeline seed."""
        return {
            unit["seed"]: (unit, cell)
            for unit in units
            if (unit["bed"], unit["bias"]) == (self.bed, self.bias) and unit["seed"] in self.seeds
            and (cell := unit["rows"].get(row, {}).get(self.backbone, {}).get(self.table))
        }  # fmt: skip

    def values(self, units: Sequence[Unit], row: str, metric: Metric) -> dict[int, float]:
        """Return a metric by pipeline seed, averaged over its training seeds."""
        return {
            seed: statistics.fmean(metric(unit, told) for told in cell["seeds"])
            for seed, (unit, cell) in self.cells(units, row).items()
        }

    def less_erm(
        self, units: Sequence[Unit], row: str, metric: Metric, comparisons: int = 1
    ) -> Difference | None:  # fmt: skip
        """Return the difference between a row and ERM, paired by pipeline seed; None if they share none."""
        both = [self.values(units, name, metric) for name in (row, "erm")]
        return subtract(both[0], both[1], comparisons=comparisons) if both[0].keys() & both[1].keys() else None


def primary(units: Sequence[Unit]) -> list[dict[str, Any]]:
    """Return the primary comparisons that have results, with Holm's p over all of them: a missing one counts with
    p = 1."""
    found: list[dict[str, Any]] = []
    for bed in BEDS:
        for name in PRIMARY:
            where = Where(bed, PRIMARY_TABLE, BACKBONES[0], seeds=PRIMARY_SEEDS)
            if (one := where.less_erm(units, name, worst)) is None:
                continue
            all_of = where.less_erm(units, name, worst, COMPARISONS)
            second = Where(bed, PRIMARY_TABLE, BACKBONES[1], seeds=PRIMARY_SEEDS).less_erm(units, name, worst)
            groups = where.less_erm(units, name, against)
            found.append({"bed": bed, "row": name, "difference": one, "together": all_of, "against": groups,
                          "second": second})  # fmt: skip
    tested = [1.0 if each["difference"].p is None else each["difference"].p for each in found]
    adjusted = holm(tested + [1.0] * (COMPARISONS - len(tested)))
    return [{**each, "holm": p} for each, p in zip(found, adjusted, strict=False)]


# Markdown


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])


def said(values: Mapping[int, float]) -> str:
    """Return mean and sample standard deviation over pipeline seeds, as text."""
    if not values:
        return "–"
    numbers = list(values.values())
    return f"{statistics.fmean(numbers):.1f}" + (f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else "")


def said_difference(each: Difference | None) -> str:
    if each is None:
        return "–"
    if each.low is None or each.high is None:
        return f"{each.mean:+.1f}"
    return f"{each.mean:+.1f} ({each.low:+.1f} to {each.high:+.1f})"


def said_p(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def said_settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:.3g}" for name, value in settings.items()) or "defaults"


def mean_of(values: Iterable[float | None], scale: float = 1.0, digits: int = 0) -> str:
    """Return the mean of the values that aren't None, as text."""
    numbers = [value for value in values if value is not None]
    return f"{scale * statistics.fmean(numbers):,.{digits}f}" if numbers else "–"


def primary_table(found: Sequence[Mapping[str, Any]]) -> str:
    head = ["primary comparison, worst group of test, points", "pairs", "difference (95 % interval)",
            f"interval of all {COMPARISONS} together", "p", "p, Holm", "groups against the bias",
            f"beside it: {BACKBONES[1]}"]  # fmt: skip
    body = [
        [f"{each['row']} − erm, {each['bed']}", f"{each['difference'].n} of {len(PRIMARY_SEEDS)}",
         said_difference(each["difference"]), said_difference(each["together"]), said_p(each["difference"].p),
         said_p(each["holm"]), said_difference(each["against"]), said_difference(each["second"])]
        for each in found
    ]  # fmt: skip
    return table(head, body)


def rows_table(units: Sequence[Unit], where: Where, names: Sequence[str]) -> str | None:
    """Return a table of rows with accuracies and costs; None if there are no results."""
    there = {name: cells for name in names if (cells := where.cells(units, name))}
    if not there:
        return None
    unit = next(iter(next(iter(there.values())).values()))[0]
    groups = unit["data"]["groups"]
    head = [f"{where.bed}, {where.backbone}", "n", "uses", "worst group", "less erm", "against the bias", "less erm",
            "average", *groups, "steps", "added", "making, s", "a training, s"]  # fmt: skip
    if where.bias != "biased":  # no group goes against anything
        head[5:7] = []
    body = []
    for name, cells in there.items():
        kept = [cell for _, cell in cells.values()]
        seeds = [told for cell in kept for told in cell["seeds"]]
        made = [u["made"][ROWS[name].made] for u, _ in cells.values() if ROWS[name].made]
        opposed = [said(where.values(units, name, against)), _less_erm(units, where, name, against)]
        body.append([
            name, str(len(cells)), ", ".join(kept[0]["uses"]) or "–", said(where.values(units, name, worst)),
            _less_erm(units, where, name, worst), *(opposed if where.bias == "biased" else []),
            said(where.values(units, name, average)),
            *(said(where.values(units, name, group(i))) for i in range(len(groups))),
            mean_of(told["budget"] for told in seeds), mean_of(cell["added"] for cell in kept),
            mean_of(each["seconds"] for each in made), mean_of(told["seconds"] for told in seeds),
        ])  # fmt: skip
    return table(head, body)


def seeds_table(units: Sequence[Unit], where: Where) -> str | None:
    """Return a table of the primary rows' worst groups by pipeline seed, with medians; None if there are no results."""
    rows = {name: where.values(units, name, worst) for name in ("erm", *PRIMARY)}
    seeds = [seed for seed in where.seeds if all(seed in values for values in rows.values())]
    if not seeds:
        return None
    columns = [[values[seed] for seed in seeds] for values in rows.values()]
    columns += [[a - b for a, b in zip(column, columns[0], strict=True)] for column in columns[1:]]
    body = [
        [str(seed), *(f"{x:.1f}" for x in row)] for seed, row in zip(seeds, zip(*columns, strict=True), strict=True)
    ]
    body.append(["median", *(f"{statistics.median(column):.1f}" for column in columns)])
    return table([f"{where.bed}, {where.backbone}", *rows, *(f"{name} − erm" for name in PRIMARY)], body)


def _less_erm(units: Sequence[Unit], where: Where, name: str, metric: Metric) -> str:
    return "" if name == "erm" else said_difference(where.less_erm(units, name, metric))


def error_sets(units: Sequence[Unit]) -> str | None:
    """Return a table of precision and recall of the error sets, as sets of the groups against the bias."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for unit in units:
        if unit["bias"] != "biased":
            continue
        for name, made in unit["made"].items():
            if "error_set" in made:
                found.setdefault((unit["bed"], name), []).append(made["error_set"])
        if cell := unit["rows"].get("jtt", {}).get(BACKBONES[0], {}).get(PRIMARY_TABLE):
            found.setdefault((unit["bed"], "jtt, first model"), []).extend(s["error_set"] for s in cell["seeds"])
    body = [
        [name, bed, str(len(some)), mean_of((e["errors"] for e in some), digits=1),
         mean_of((e.get("precision") for e in some), 100, 1), mean_of((e.get("recall") for e in some), 100, 1)]
        for (bed, name), some in sorted(found.items())
    ]  # fmt: skip
    head = ["error set", "bed", "n", "errors", "precision, %", "recall, %"]
    return table(head, body) if body else None


def made_sets(units: Sequence[Unit]) -> str | None:
    """Return a table of made images by method: their number, and the share with a correct label."""
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for unit in units:
        for name, made in unit["made"].items():
            found.setdefault((unit["bed"], unit["bias"], name), []).append(made)
    body = []
    for (bed, bias, name), some in sorted(found.items()):
        classes = list(some[0]["by_class"])
        labels = [
            f"{label} {mean_of((e['oracle']['by_class'].get(label, {}).get('label') for e in some), 100, 1)}"
            for label in classes
        ]  # fmt: skip
        body.append([
            name, f"{bed}, {bias}", str(len(some)), mean_of(e["images"] for e in some),
            mean_of((e.get("kept") for e in some), 100), mean_of((e["oracle"]["label"] for e in some), 100, 1),
            ", ".join(labels), mean_of((e["oracle"]["attribute"] for e in some), 100, 1),
            mean_of(e["seconds"] for e in some),
        ])  # fmt: skip
    head = ["made images", "bed", "sets", "images", "kept, %", "label right, %", "by class, %", "attribute right, %",
            "seconds"]  # fmt: skip
    return table(head, body) if body else None


def tuning_table(kept: Path) -> str | None:
    """Return a table of the settings tried for each row, and their validation accuracy."""
    found: dict[tuple[str, str, str], list[list[Mapping[str, Any]]]] = {}
    for path in sorted(kept.glob("tuning-*.json")):
        one = json.loads(path.read_text())
        for name, backbones in one["tried"].items():
            for backbone, tried in backbones.items():
                found.setdefault((one["bed"], name, backbone), []).append(tried)
    body = []
    for (bed, name, backbone), seeds in found.items():
        for tried in zip(*seeds, strict=False):
            numbers = [mean_of((t["validation"].get(each) for t in tried), 100, 1) for each in TABLES]
            chosen = [each for each in ROWS[name].tables
                      if _is_chosen(kept, bed, name, backbone, each, tried[0]["change"])]  # fmt: skip
            body.append([name, f"{bed}, {backbone}", said_settings(tried[0]["change"]), *numbers, ", ".join(chosen)])
    head = ["row", "bed", "tried", *(f"{name}: {RULES[rule]}" for name, rule in TABLES.items()), "chosen in"]
    return table(head, body) if body else None


def _is_chosen(kept: Path, bed: str, name: str, backbone: str, of: str, change: Mapping[str, Any]) -> bool:
    try:
        return dict(choose_settings(kept, bed, ROWS[name], of, backbone)) == dict(change)
    except FiguregroundError:
        return False


def unequal_steps(units: Sequence[Unit]) -> list[str]:
    """Return a note if rows took different numbers of optimiser steps, which they must not."""
    steps: dict[int, set[str]] = {}
    for unit in units:
        for name, backbones in unit["rows"].items():
            for tables in backbones.values():
                for cell in tables.values():
                    for told in cell["seeds"]:
                        steps.setdefault(told["budget"], set()).add(name)
    if len(steps) < 2:
        return []
    each = "; ".join(f"{n:,}: {', '.join(sorted(names))}" for n, names in sorted(steps.items()))
    return [f"**The rows took different numbers of optimiser steps ({each}), so they can't be compared.**"]


def to_markdown(units: Sequence[Unit], kept: Path) -> str:
    """Return all tables."""
    origins = [o for unit in units for o in unit["origins"]]
    plan, commits = units[0]["plan"], sorted({str(o["commit"])[:12] for o in origins})
    weights = ", ".join(f"{name} {sha.removeprefix('sha256:')[:12]}" for name, sha in origins[0]["weights"].items())
    blocks = [
        "# Worst-group accuracy of mitigation methods",
        f"{counted(len(units), 'unit')} of `benchmarks/mitigate.py`, dataset format {origins[0]['format']}, weights "
        f"{weights}, commits {', '.join(commits)}. All rows take as many optimiser steps as {plan['epochs']} passes "
        f"over the real images. The {plan['trainings']} classifiers of a pipeline seed are averaged first, so n counts "
        "pipeline seeds. Numbers are test accuracies in %, mean ± sample standard deviation, with 95 % intervals of "
        "paired differences (Student's t).",
        *unequal_steps(units),
        "The minimum of several groups is biased low, the more so the more they vary by chance. So all groups are "
        "listed, and the mean of the groups against the bias, which are fixed in advance.",
        "## Primary comparisons",
        f"Fixed before any result was seen: {' and '.join(PRIMARY)} − erm, both beds, {BACKBONES[0]}, attributes "
        f"{PRIMARY_TABLE} in validation, {len(PRIMARY_SEEDS)} pipeline seeds. Holm's p and the wider intervals "
        f"(Bonferroni) are over all {COMPARISONS}; unmeasured ones count with p = 1. Results with {BACKBONES[1]} are "
        "not among them.",
        primary_table(primary(units)),
    ]
    for bed in BEDS:
        for name in TABLES:
            where = Where(bed, name, BACKBONES[0], seeds=PRIMARY_SEEDS)
            one = rows_table(units, where, ("erm", *PRIMARY))
            blocks += [f"Rows of these comparisons, attributes {name} in validation:", one] if one else []
        one = seeds_table(units, Where(bed, PRIMARY_TABLE, BACKBONES[0], seeds=PRIMARY_SEEDS))
        blocks += [f"Worst group by pipeline seed, attributes {PRIMARY_TABLE}:", one] if one else []
    seeds = f"{len(EXPLORATORY_SEEDS)} pipeline seeds, {len(MASK_SEEDS)} for rows with other regions"
    for name, rule in TABLES.items():
        blocks.append(f"## Attributes {name} in validation")
        blocks.append(
            f"Exploratory, uncorrected: {seeds}. The {RULES[rule]} of validation chooses epochs and settings."
        )
        for bed in BEDS:
            for backbone in BACKBONES:
                one = rows_table(units, Where(bed, name, backbone), list(ROWS))
                blocks += [one] if one else []
    unbiased = [
        one
        for bed in BEDS for backbone in BACKBONES
        if (one := rows_table(units, Where(bed, PRIMARY_TABLE, backbone, "unbiased"), UNBIASED))
    ]  # fmt: skip
    if unbiased:
        blocks += ["## Beds without a bias", "Exploratory, uncorrected: a method must do no harm.", *unbiased]
    for title, one in (
        ("## Error sets", error_sets(units)), ("## Labels of made images", made_sets(units)),
        ("## Tried settings", tuning_table(kept)),
    ):  # fmt: skip
        blocks += [title, one] if one else []
    if any(unit.get("failed") for unit in units):
        blocks.append("## Failed")
        blocks += [f"- {u['file']}, {what}: {why}" for u in units for what, why in u["failed"].items()]
    return "\n\n".join(blocks) + "\n"


# Chart and report


def draw(path: Path, units: Sequence[Unit]) -> None:
    """Draw the worst group less ERM's, with intervals, by method and bed, for the first backbone."""
    places = {bed: Where(bed, PRIMARY_TABLE, BACKBONES[0]) for bed in BEDS}
    of_beds = {
        bed: [name for name in ROWS if name != "erm" and where.less_erm(units, name, worst)]
        for bed, where in places.items()
    }
    names = [name for name in ROWS if any(name in some for some in of_beds.values())]
    places = {bed: where for bed, where in places.items() if of_beds[bed]}
    if not names:
        return

    def plot(figure: Any, axes: Any) -> None:
        for axis, (bed, where) in zip(axes.flat, places.items(), strict=True):
            axis.axvline(0, color="#9aa3ad", linewidth=0.8)
            for y, name in enumerate(names):
                first = name in PRIMARY
                of = Where(bed, PRIMARY_TABLE, BACKBONES[0], seeds=PRIMARY_SEEDS) if first else where
                if (each := of.less_erm(units, name, worst)) is None:
                    continue
                colour = "#c2410c" if first else "#2c6fad"
                if each.low is not None and each.high is not None:
                    axis.plot([each.low, each.high], [y, y], color=colour, linewidth=1.6)
                axis.plot([each.mean], [y], "o", color=colour, markersize=5)
                axis.annotate(
                    f"n = {each.n}", (each.mean, y), (0, 5), textcoords="offset points", ha="center", fontsize=7
                )
            axis.set_title(bed, fontsize=10)
            axis.set_yticks(range(len(names)), names)
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.set_xlabel("worst group minus ERM's, points", fontsize=9)
        for axis in axes.flat[1:]:
            axis.set_yticklabels([])
        figure.suptitle("95 % intervals of paired differences; primary comparisons in red", fontsize=9)

    draw_charts(path, (1.2 + 4.2 * len(places), 1.4 + 0.3 * len(names)), plot, across=len(places))


def measured(units: Sequence[Unit]) -> list[Measured]:
    """Return the targets: all primary intervals above 0; and the failure of ERM."""
    rows = []
    for bed in BEDS:
        for name in ("erm", *PRIMARY):
            values = Where(bed, PRIMARY_TABLE, BACKBONES[0], seeds=PRIMARY_SEEDS).values(units, name, worst)
            if values:
                rows.append(Measured(f"{name}, worst group, {bed}", statistics.fmean(values.values()), "%",
                                     min(values.values()), max(values.values())))  # fmt: skip
    for each in primary(units):
        one, name = each["difference"], f"{each['row']} − erm, {each['bed']}"
        rows.append(Measured(name, one.mean, "points", one.low, one.high))
        if one.low is not None:
            rows.append(Measured(f"{name}: lower end of the interval", one.low, "points", at_least=0))
    return rows


def write(kept: Path, args: argparse.Namespace, began: float) -> None:
    """Write `mitigate.md`, `mitigate.png` and `mitigate.json` from the units in a folder, and print the first.

    With `--quick` they go beside the units, and the JSON only to `--out`.
    """
    units = read_units(kept)
    text = to_markdown(units, kept)
    print("\n" + text)
    out = args.out or (kept / "mitigate.json" if args.quick else RESULTS.parent / "mitigate.json")
    folder = out.parent if not args.quick or args.out else kept.parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mitigate.md").write_text(text)
    draw(folder / "mitigate.png", units)
    found = [
        {**each, **{name: asdict(each[name]) for name in ("difference", "together", "against", "second") if each[name]}}
        for each in primary(units)
    ]  # fmt: skip
    report(
        "mitigate", args, measured(units),
        {
            "plan": units[0]["plan"], "primary": {"rows": PRIMARY, "table": PRIMARY_TABLE, "seeds": PRIMARY_SEEDS},
            "exploratory_seeds": EXPLORATORY_SEEDS, "tuned_with_seeds": TUNED_WITH,
            "rows": {name: {"tried": list(row.tried), "training": row.training, "made": row.made,
                            "fixed": dict(row.fixed)} for name, row in ROWS.items()},
        },
        began, units=[unit["file"] for unit in units], origins=_distinct(units), primary=found,
    )  # fmt: skip


def _distinct(units: Sequence[Unit]) -> list[Any]:
    """Return the origins of all units, without duplicates."""
    found: list[Any] = []
    for each in (o for unit in units for o in unit["origins"]):
        if each not in found:
            found.append(each)
    return found
