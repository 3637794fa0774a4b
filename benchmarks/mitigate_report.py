"""Report on the units of `mitigate.py`, from their files alone: tables in Markdown, a chart, and JSON.

Tables are in % and points. A pipeline seed counts as one value: its training seeds are averaged first.
"""

from __future__ import annotations

import argparse
import itertools
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
    find_longer,
)
from paired import Difference, holm, subtract
from results import Row as Measured
from results import report, strip_location

from figureground.core.charts import draw_charts
from figureground.core.errors import FiguregroundError, plural
from figureground.learn.settings import RULES

Unit = Mapping[str, Any]
"""Contents of a unit's JSON file."""
Metric = Callable[[Unit, Mapping[str, Any]], float]
"""Takes a unit and one of its classifiers; returns a number in %."""
COMPARISONS = len(PRIMARY) * len(BEDS)
"""Number of primary comparisons."""
MIN_PAIRS_DRAWN = 4
"""Fewer pairs are drawn without their interval, which would be wider than the chart."""


# Units


def read_units(kept: Path) -> list[Unit]:
    """Return all units in a folder, sorted by name.

    Raises:
        FiguregroundError: There is none, or they can't be reported together.
    """
    paths = [path for path in sorted(kept.glob("*.json")) if not path.name.startswith("tuning-")]
    units: list[Unit] = [{"file": path.name, **json.loads(path.read_text())} for path in paths]
    if not units:
        raise FiguregroundError(
            f"{strip_location(str(kept))} holds no unit. Run benchmarks/mitigate.py without --report first."
        )
    refuse_mixed(units)
    return units


def refuse_mixed(units: Sequence[Unit]) -> None:
    """Check that units can be reported in one table.

    Raises:
        FiguregroundError: They differ in plan, weights or dataset format, or a row's settings differ between them.
    """
    _refuse_different("their plans", ((unit["file"], [unit["kept_format"], unit["plan"]]) for unit in units))
    refuse_mixed_rows(units)


def refuse_mixed_rows(units: Sequence[Unit]) -> None:
    """Check that units have the same drawings, weights and settings, whatever the length of training.

    Raises:
        FiguregroundError: They don't.
    """
    _refuse_different(
        "weights or formats",
        ((unit["file"], [origin["format"], origin["weights"]]) for unit in units for origin in unit["origins"]),
    )
    for bed in dict.fromkeys(unit["bed"] for unit in units):
        _refuse_different(
            f"the drawings of {bed}", ((unit["file"], unit["drawn"]) for unit in units if unit["bed"] == bed)
        )
    places = {
        (unit["bed"], name, backbone, table)
        for unit in units
        for name, backbones in unit["rows"].items()
        for backbone, tables in backbones.items()
        for table in tables
    }
    for bed, name, backbone, table in sorted(places):
        entries = [(unit["file"], cell["settings"]) for unit in units if unit["bed"] == bed
                 and (cell := unit["rows"].get(name, {}).get(backbone, {}).get(table))]  # fmt: skip
        _refuse_different(f"the settings of {name} ({backbone}, {table})", entries)


def _refuse_different(description: str, entries: Iterable[tuple[str, Any]]) -> None:
    """Raise FiguregroundError if not all entries, pairs of a file's name and a value, have the same value."""
    first: tuple[str, str] | None = None
    for file, value in entries:
        text = json.dumps(value, sort_keys=True)
        first = first or (file, text)
        if text != first[1]:
            raise FiguregroundError(
                f"{first[0]} and {file} can't be reported together: {description} differ. Move away those that are "
                "not meant, and do their rows again."
            )


# Numbers


def worst_group(unit: Unit, result: Mapping[str, Any]) -> float:
    return 100 * float(result["worst"])


def average_accuracy(unit: Unit, result: Mapping[str, Any]) -> float:
    return 100 * float(result["average"])


def make_group_accuracy(i: int) -> Metric:
    """Return the metric for the accuracy of a group, by number."""
    return lambda unit, result: 100 * float(result["groups"][i])


def against_bias(unit: Unit, result: Mapping[str, Any]) -> float:
    """Return the mean accuracy of the groups against the bed's bias; of all groups on an unbiased bed. They are fixed
    in advance, so unlike the minimum of several groups, its expectation doesn't fall with noise."""
    groups = unit["data"]["against_the_bias"] or range(len(result["groups"]))
    return 100 * statistics.fmean(result["groups"][i] for i in groups)


WANTED_BELOW = 80
"""Worst-group accuracy of ERM in percent below which a bed was to stay."""


@dataclass(frozen=True)
class Selection:
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
            seed: statistics.fmean(metric(unit, result) for result in cell["seeds"])
            for seed, (unit, cell) in self.cells(units, row).items()
        }

    def subtract(
        self, units: Sequence[Unit], row: str, other: str, metric: Metric, comparisons: int = 1
    ) -> Difference | None:
        """Return the difference between two rows, paired by pipeline seed; None if they share none."""
        values = [self.values(units, name, metric) for name in (row, other)]
        return subtract(values[0], values[1], comparisons=comparisons) if values[0].keys() & values[1].keys() else None

    def subtract_erm(
        self, units: Sequence[Unit], row: str, metric: Metric, comparisons: int = 1
    ) -> Difference | None:  # fmt: skip
        """Return the difference between a row and ERM, paired by pipeline seed; None if they share none."""
        return self.subtract(units, row, "erm", metric, comparisons)


def compare_primary(units: Sequence[Unit]) -> list[dict[str, Any]]:
    """Return the primary comparisons that have results, with Holm's p over all of them: a missing one counts with
    p = 1."""
    comparisons: list[dict[str, Any]] = []
    for bed in BEDS:
        for name in PRIMARY:
            selection = Selection(bed, PRIMARY_TABLE, BACKBONES[0], seeds=PRIMARY_SEEDS)
            if (difference := selection.subtract_erm(units, name, worst_group)) is None:
                continue
            joint_difference = selection.subtract_erm(units, name, worst_group, COMPARISONS)
            second_difference = Selection(bed, PRIMARY_TABLE, BACKBONES[1], seeds=PRIMARY_SEEDS).subtract_erm(
                units, name, worst_group
            )
            groups = selection.subtract_erm(units, name, against_bias)
            comparisons.append({
                "bed": bed, "row": name, "difference": difference, "together": joint_difference, "against": groups,
                "second": second_difference,
            })  # fmt: skip
    p_values = [1.0 if comparison["difference"].p is None else comparison["difference"].p for comparison in comparisons]
    adjusted = holm(p_values + [1.0] * (COMPARISONS - len(p_values)))
    return [{**comparison, "holm": p} for comparison, p in zip(comparisons, adjusted, strict=False)]


# Markdown


def format_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])


def format_mean(values: Mapping[int, float]) -> str:
    """Return mean and sample standard deviation over pipeline seeds, as text."""
    if not values:
        return "–"
    numbers = list(values.values())
    return f"{statistics.fmean(numbers):.1f}" + (f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else "")


def format_difference(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    if difference.low is None or difference.high is None:
        return f"{difference.mean:+.1f}"
    return f"{difference.mean:+.1f} ({difference.low:+.1f} to {difference.high:+.1f})"


def format_p(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def format_settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:.3g}" for name, value in settings.items()) or "defaults"


def format_mean_of(values: Iterable[float | None], scale: float = 1.0, digits: int = 0) -> str:
    """Return the mean of the values that aren't None, as text."""
    numbers = [value for value in values if value is not None]
    return f"{scale * statistics.fmean(numbers):,.{digits}f}" if numbers else "–"


def format_primary(comparisons: Sequence[Mapping[str, Any]]) -> str:
    head = ["primary comparison, worst group of test, points", "pairs", "difference (95 % interval)",
            f"interval of all {COMPARISONS} together", "p", "p, Holm", "groups against the bias",
            f"beside it: {BACKBONES[1]}"]  # fmt: skip
    body = [
        [f"{comparison['row']} − erm, {comparison['bed']}", f"{comparison['difference'].n} of {len(PRIMARY_SEEDS)}",
         format_difference(comparison["difference"]), format_difference(comparison["together"]),
         format_p(comparison["difference"].p),
         format_p(comparison["holm"]), format_difference(comparison["against"]),
         format_difference(comparison["second"])]
        for comparison in comparisons
    ]  # fmt: skip
    return format_table(head, body)


def format_rows(units: Sequence[Unit], selection: Selection, names: Sequence[str]) -> str | None:
    """Return a table of rows with accuracies and costs; None if there are no results."""
    cells_by_row = {name: cells for name in names if (cells := selection.cells(units, name))}
    if not cells_by_row:
        return None
    unit = next(iter(next(iter(cells_by_row.values())).values()))[0]
    groups = unit["data"]["groups"]
    head = [f"{selection.bed}, {selection.backbone}", "n", "uses", "worst group", "less erm", "against the bias",
            "less erm",
            "average", *groups, "steps", "added", "making, s", "a training, s"]  # fmt: skip
    if selection.bias != "biased":  # no group goes against anything
        head[5:7] = []
    body = []
    for name, cells in cells_by_row.items():
        kept_cells = [cell for _, cell in cells.values()]
        seeds = [result for cell in kept_cells for result in cell["seeds"]]
        made_facts = [unit["made"][ROWS[name].made] for unit, _ in cells.values() if ROWS[name].made]
        opposed = [
            format_mean(selection.values(units, name, against_bias)),
            _format_gain(units, selection, name, against_bias),
        ]
        body.append([
            name, str(len(cells)), ", ".join(kept_cells[0]["uses"]) or "–",
            format_mean(selection.values(units, name, worst_group)),
            _format_gain(units, selection, name, worst_group), *(opposed if selection.bias == "biased" else []),
            format_mean(selection.values(units, name, average_accuracy)),
            *(format_mean(selection.values(units, name, make_group_accuracy(i))) for i in range(len(groups))),
            format_mean_of(result["budget"] for result in seeds), format_mean_of(cell["added"] for cell in kept_cells),
            format_mean_of(facts["seconds"] for facts in made_facts),
            format_mean_of(result["seconds"] for result in seeds),
        ])  # fmt: skip
    return format_table(head, body)


def format_seeds(units: Sequence[Unit], selection: Selection) -> str | None:
    """Return a table of the primary rows' worst groups by pipeline seed; None if there are no results.

    Below: medians, means where ERM is below `WANTED_BELOW` and elsewhere, and the extremes of single trainings.
    """
    rows = {name: selection.values(units, name, worst_group) for name in ("erm", *PRIMARY)}
    seeds = [seed for seed in selection.seeds if all(seed in values for values in rows.values())]
    if not seeds:
        return None
    columns = [[values[seed] for seed in seeds] for values in rows.values()]
    columns += [[a - b for a, b in zip(column, columns[0], strict=True)] for column in columns[1:]]
    body = [
        [str(seed), *(f"{x:.1f}" for x in row)] for seed, row in zip(seeds, zip(*columns, strict=True), strict=True)
    ]
    body.append(["median", *(f"{statistics.median(column):.1f}" for column in columns)])
    for text, chosen in (
        (f"mean, erm below {WANTED_BELOW}", [value < WANTED_BELOW for value in columns[0]]),
        (f"mean, erm {WANTED_BELOW} or more", [value >= WANTED_BELOW for value in columns[0]]),
    ):
        if any(chosen):
            body.append([text, *(f"{statistics.fmean(itertools.compress(c, chosen)):.1f}" for c in columns)])
    trainings = [
        [worst_group(unit, result) for seed in seeds for unit, cell in [cells[seed]] for result in cell["seeds"]]
        for cells in (selection.cells(units, name) for name in rows)
    ]
    below = [f"{sum(a < b for a, b in zip(row, trainings[0], strict=True))} below erm" for row in trainings[1:]]
    body.append(["lowest single training", *(f"{min(row):.1f}" for row in trainings), *below])
    body.append(
        [
            "highest single training",
            *(f"{max(row):.1f}" for row in trainings),
            *([f"of {len(trainings[0])}"] * len(below)),
        ]
    )
    return format_table([f"{selection.bed}, {selection.backbone}", *rows, *(f"{name} − erm" for name in PRIMARY)], body)


def _format_gain(units: Sequence[Unit], selection: Selection, name: str, metric: Metric) -> str:
    return "" if name == "erm" else format_difference(selection.subtract_erm(units, name, metric))


def format_error_sets(units: Sequence[Unit]) -> str | None:
    """Return a table of precision and recall of the error sets, as sets of the groups against the bias."""
    sets_by_name: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for unit in units:
        if unit["bias"] != "biased":
            continue
        for name, made_facts in unit["made"].items():
            if "error_set" in made_facts:
                sets_by_name.setdefault((unit["bed"], name), []).append(made_facts["error_set"])
        if cell := unit["rows"].get("jtt", {}).get(BACKBONES[0], {}).get(PRIMARY_TABLE):
            sets_by_name.setdefault((unit["bed"], "jtt, first model"), []).extend(
                seed["error_set"] for seed in cell["seeds"]
            )
    body = [
        [name, bed, str(len(error_facts)), format_mean_of((facts["errors"] for facts in error_facts), digits=1),
         format_mean_of((facts.get("precision") for facts in error_facts), 100, 1),
         format_mean_of((facts.get("recall") for facts in error_facts), 100, 1)]
        for (bed, name), error_facts in sorted(sets_by_name.items())
    ]  # fmt: skip
    head = ["error set", "bed", "n", "errors", "precision, %", "recall, %"]
    return format_table(head, body) if body else None


def format_made_sets(units: Sequence[Unit]) -> str | None:
    """Return a table of made images by method: their number, and the share with a correct label."""
    sets_by_name: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for unit in units:
        for name, facts in unit["made"].items():
            sets_by_name.setdefault((unit["bed"], unit["bias"], name), []).append(facts)
    body = []
    for (bed, bias, name), made_facts in sorted(sets_by_name.items()):
        classes = list(made_facts[0]["by_class"])
        shares_by_class = [facts["oracle"]["by_class"] for facts in made_facts]
        labels = [
            f"{label} {format_mean_of((shares.get(label, {}).get('label') for shares in shares_by_class), 100, 1)}"
            for label in classes
        ]  # fmt: skip
        body.append([
            name, f"{bed}, {bias}", str(len(made_facts)), format_mean_of(facts["images"] for facts in made_facts),
            format_mean_of((facts.get("kept") for facts in made_facts), 100),
            format_mean_of((facts["oracle"]["label"] for facts in made_facts), 100, 1),
            ", ".join(labels), format_mean_of((facts["oracle"]["attribute"] for facts in made_facts), 100, 1),
            format_mean_of(facts["seconds"] for facts in made_facts),
        ])  # fmt: skip
    head = ["made images", "bed", "sets", "images", "kept, %", "label right, %", "by class, %", "attribute right, %",
            "seconds"]  # fmt: skip
    return format_table(head, body) if body else None


def format_convergence(units: Sequence[Unit]) -> str | None:
    """Return a table of how the losses of the trainings end, for rows whose results have them; see `beds.RULE`."""
    by_row: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for unit in units:
        for name, by_backbone in unit["rows"].items():
            for backbone, tables in by_backbone.items():
                endings = [seed["convergence"] for seed in tables[PRIMARY_TABLE]["seeds"] if seed.get("convergence")]
                if endings:
                    by_row.setdefault((unit["bed"], unit["bias"], name, backbone), []).extend(endings)
    body = []
    for (bed, bias, name, backbone), endings in sorted(by_row.items()):
        changes = [ending["change"] / ending["validation_loss"] for ending in endings]
        losses = [ending["training_loss"] for ending in endings]
        body.append([
            f"{name}, {backbone}", f"{bed}, {bias}", str(len(endings)), str(sum(e["converged"] for e in endings)),
            str(sum(change < 0 for change in changes)), str(sum(change > 0 for change in changes)),
            f"{100 * statistics.fmean(map(abs, changes)):.0f}", f"{statistics.fmean(losses):.4f}", f"{max(losses):.4f}",
        ])  # fmt: skip
    head = ["row", "bed", "trainings", "converged", "falling", "rising", "mean absolute change, %",
            "training loss, nats", "largest"]  # fmt: skip
    return format_table(head, body) if body else None


def format_longer(units: Sequence[Unit], longer_units: Sequence[Unit], bed: str) -> str | None:
    """Return a table that compares trainings of `--longer` with those of the usual length and the same training seed;
    None if there are no results.

    Differences are paired by pipeline seed; each has one training.
    """
    selection, body = Selection(bed, PRIMARY_TABLE, BACKBONES[0]), []
    by_row = {name: cells for name in ROWS if (cells := selection.cells(longer_units, name))}
    usual_by_row: dict[str, dict[int, float]] = {}
    longer_by_row: dict[str, dict[int, float]] = {}
    for name, cells in by_row.items():
        usual = {
            seed: worst_group(unit, result)
            for seed, (unit, cell) in selection.cells(units, name).items()
            for result in cell["seeds"]
            if seed in cells and result["seed"] == cells[seed][1]["seeds"][0]["seed"]
        }
        cells = {seed: cell for seed, cell in cells.items() if seed in usual}
        if not cells:
            continue
        longer = {seed: worst_group(unit, cell["seeds"][0]) for seed, (unit, cell) in cells.items()}
        usual_by_row[name], longer_by_row[name] = usual, longer
        gains = [_subtract_erm(by_row, name) for by_row in (usual_by_row, longer_by_row)]
        results = [cell["seeds"][0] for _, cell in cells.values()]
        endings = [result["convergence"] for result in results if result["convergence"]]
        body.append([
            name, str(len(cells)), format_mean_of(result["budget"] for result in results), format_mean(usual),
            format_mean(longer), format_difference(subtract(longer, usual)),
            *_format_gains(*gains),
            format_mean(selection.values(longer_units, name, against_bias)),
            _format_gain(longer_units, selection, name, against_bias),
            format_mean(selection.values(longer_units, name, average_accuracy)),
            format_mean_of(result["epoch"] for result in results),
            f"{sum(ending['converged'] for ending in endings)} of {len(endings)}",
            format_mean_of((ending["training_loss"] for ending in endings), digits=4),
        ])  # fmt: skip
    head = [bed, "n", "steps", "worst group, usual length", "worst group, longer", "longer − usual", "usual: less erm",
            "longer: less erm", "change", "against the bias", "less erm", "average", "epoch", "converged",
            "training loss, nats"]  # fmt: skip
    return format_table(head, body) if body else None


def _subtract_erm(by_row: Mapping[str, Mapping[int, float]], name: str) -> dict[int, float]:
    """Return a row's values less ERM's, by common seed; empty for ERM."""
    erm = by_row.get("erm", {}) if name != "erm" else {}
    return {seed: value - erm[seed] for seed, value in by_row[name].items() if seed in erm}


def _format_gains(usual: Mapping[int, float], longer: Mapping[int, float]) -> list[str]:
    """Return the mean gain over ERM at both lengths, and its change, as text; gains are by pipeline seed, and those of
    ERM are empty."""
    if not usual or not longer:
        return ["", "", ""]
    none = dict.fromkeys(usual, 0.0)
    return [format_difference(subtract(*pair)) for pair in ((usual, none), (longer, none), (longer, usual))]


def format_pairs(units: Sequence[Unit], bed: str) -> str | None:
    """Return a table of the primary methods less other rows but ERM, paired by pipeline seed: the worst group in each
    table, and the groups against the bias; None if there are no results."""
    others = [name for name in ROWS if name not in ("erm", *PRIMARY)]
    primary, other_table = (Selection(bed, name, BACKBONES[0]) for name in (PRIMARY_TABLE, *_other_tables()))
    pairs = {
        (method, other): difference
        for method in PRIMARY
        for other in others
        if (difference := primary.subtract(units, method, other, worst_group)) is not None
    }
    if not pairs:
        return None
    adjusted = holm([1.0 if difference.p is None else difference.p for difference in pairs.values()])
    body = []
    for ((method, other), difference), p in zip(pairs.items(), adjusted, strict=True):
        values = [primary.values(units, name, worst_group) for name in (method, other)]
        above = sum(values[0][seed] > values[1][seed] for seed in values[0].keys() & values[1].keys())
        body.append([
            f"{method} − {other}", str(difference.n), format_difference(difference), f"{above} of {difference.n}",
            format_p(difference.p), format_p(p),
            format_difference(primary.subtract(units, method, other, against_bias)),
            format_difference(other_table.subtract(units, method, other, worst_group)),
        ])  # fmt: skip
    head = [f"{bed}, points", "n", "worst group (95 % interval)", "seeds above 0", "p", f"p, Holm over {len(pairs)}",
            "groups against the bias", f"worst group, attributes {other_table.table}"]  # fmt: skip
    return format_table(head, body)


def _other_tables() -> list[str]:
    return [name for name in TABLES if name != PRIMARY_TABLE]


def format_tuning(kept: Path) -> str | None:
    """Return a table of the settings tried for each row, and their validation accuracy."""
    trials_by_row: dict[tuple[str, str, str], list[list[Mapping[str, Any]]]] = {}
    for path in sorted(kept.glob("tuning-*.json")):
        record = json.loads(path.read_text())
        for name, backbones in record["tried"].items():
            for backbone, tried in backbones.items():
                trials_by_row.setdefault((record["bed"], name, backbone), []).append(tried)
    body = []
    for (bed, name, backbone), seeds in trials_by_row.items():
        for tried in zip(*seeds, strict=False):
            numbers = [
                format_mean_of((trial["validation"].get(table_name) for trial in tried), 100, 1)
                for table_name in TABLES
            ]
            chosen = [table_name for table_name in ROWS[name].tables
                      if _is_chosen(kept, bed, name, backbone, table_name, tried[0]["change"])]  # fmt: skip
            body.append([name, f"{bed}, {backbone}", format_settings(tried[0]["change"]), *numbers, ", ".join(chosen)])
    head = ["row", "bed", "tried", *(f"{name}: {RULES[rule]}" for name, rule in TABLES.items()), "chosen in"]
    return format_table(head, body) if body else None


def _is_chosen(kept: Path, bed: str, name: str, backbone: str, table_name: str, change: Mapping[str, Any]) -> bool:
    try:
        return dict(choose_settings(kept, bed, ROWS[name], table_name, backbone)) == dict(change)
    except FiguregroundError:
        return False


def note_unequal_steps(units: Sequence[Unit]) -> list[str]:
    """Return a note if rows of one bed took different numbers of optimiser steps, which they must not."""
    steps_by_bed: dict[tuple[str, str], dict[int, set[str]]] = {}
    for unit in units:
        steps = steps_by_bed.setdefault((unit["bed"], unit["bias"]), {})
        for name, backbones in unit["rows"].items():
            for tables in backbones.values():
                for cell in tables.values():
                    for result in cell["seeds"]:
                        steps.setdefault(result["budget"], set()).add(name)
    notes = []
    for (bed, _), steps in steps_by_bed.items():
        if len(steps) > 1:
            summary = "; ".join(f"{n:,}: {', '.join(sorted(names))}" for n, names in sorted(steps.items()))
            notes.append(
                f"**The rows of {bed} took different numbers of optimiser steps ({summary}), so they can't be "
                "compared.**"
            )
    return notes


def to_markdown(units: Sequence[Unit], kept: Path, longer_units: Sequence[Unit] = ()) -> str:
    """Return all tables."""
    all_units = [*units, *longer_units]
    origins = [origin for unit in all_units for origin in unit["origins"]]
    plan, commits = units[0]["plan"], sorted({str(origin["commit"])[:12] for origin in origins})
    weights = ", ".join(f"{name} {sha.removeprefix('sha256:')[:12]}" for name, sha in origins[0]["weights"].items())
    blocks = [
        "# Worst-group accuracy of mitigation methods",
        f"{plural(len(units), 'unit')} of `benchmarks/mitigate.py`, dataset format {origins[0]['format']}, weights "
        f"{weights}, commits {', '.join(commits)}. All rows take as many optimiser steps as {plan['epochs']} passes "
        f"over the real images (dfr then fits its last layer). The {plan['trainings']} classifiers of a pipeline seed "
        f"are averaged first, so n counts pipeline seeds{', except in *Longer training*' if longer_units else ''}. "
        "Numbers are test accuracies in %, mean ± sample standard deviation, with 95 % intervals of paired "
        "differences (Student's t).",
        *note_unequal_steps(units),
        *note_unequal_steps(longer_units),
        "The minimum of several groups is biased low, the more so the more they vary by chance. So all groups are "
        "listed, and the mean of the groups against the bias, which are fixed in advance.",
        "## Primary comparisons",
        f"Fixed before these beds were measured, but after results on easier ones: {' and '.join(PRIMARY)} − erm, "
        f"both beds, {BACKBONES[0]}, attributes {PRIMARY_TABLE} in validation, {len(PRIMARY_SEEDS)} pipeline seeds. "
        f"Holm's p and the wider intervals (Bonferroni) are over all {COMPARISONS}; unmeasured ones count with p = 1. "
        f"Results with {BACKBONES[1]} are not among them.",
        format_primary(compare_primary(units)),
    ]
    for bed in BEDS:
        for name in TABLES:
            selection = Selection(bed, name, BACKBONES[0], seeds=PRIMARY_SEEDS)
            text = format_rows(units, selection, ("erm", *PRIMARY))
            blocks += [f"Rows of these comparisons, attributes {name} in validation:", text] if text else []
        text = format_seeds(units, Selection(bed, PRIMARY_TABLE, BACKBONES[0], seeds=PRIMARY_SEEDS))
        blocks += [f"Worst group by pipeline seed, attributes {PRIMARY_TABLE}:", text] if text else []
    seeds = f"{len(EXPLORATORY_SEEDS)} pipeline seeds, {len(MASK_SEEDS)} for rows with other regions"
    for name, rule in TABLES.items():
        blocks.append(f"## Attributes {name} in validation")
        blocks.append(
            f"Exploratory, uncorrected: {seeds}. The {RULES[rule]} of validation chooses epochs and settings."
        )
        for bed in BEDS:
            for backbone in BACKBONES:
                text = format_rows(units, Selection(bed, name, backbone), list(ROWS))
                blocks += [text] if text else []
    unbiased = [
        text
        for bed in BEDS for backbone in BACKBONES
        if (text := format_rows(units, Selection(bed, PRIMARY_TABLE, backbone, "unbiased"), UNBIASED))
    ]  # fmt: skip
    if unbiased:
        blocks += ["## Beds without a bias", "Exploratory, uncorrected: a method must do no harm.", *unbiased]
    if pairs := [text for bed in BEDS if (text := format_pairs(units, bed))]:
        blocks += [
            "## Methods less other rows",
            f"Exploratory: {len(EXPLORATORY_SEEDS)} pipeline seeds, attributes {PRIMARY_TABLE} in validation unless "
            "the column's head says otherwise. Intervals and p are uncorrected.",
            *pairs,
        ]
    if longer_tables := [text for bed in BEDS if (text := format_longer(units, longer_units, bed))]:
        blocks += [
            "## Longer training",
            f"Exploratory, uncorrected: {longer_units[0]['plan']['epochs']} epochs with the same added images, one "
            f"training per pipeline seed. Attributes {PRIMARY_TABLE} in validation.",
            *longer_tables,
        ]
    for title, text in (
        ("## Error sets", format_error_sets(units)), ("## Labels of made images", format_made_sets(units)),
        ("## Validation loss in the last fifth of the epochs", format_convergence(units)),
        ("## Tried settings", format_tuning(kept)),
    ):  # fmt: skip
        blocks += [title, text] if text else []
    if any(unit.get("failed") for unit in all_units):
        blocks.append("## Failed")
        blocks += [f"- {unit['file']}, {row}: {reason}" for unit in all_units for row, reason in unit["failed"].items()]
    return "\n\n".join(blocks) + "\n"


# Chart and report


def draw_chart(path: Path, units: Sequence[Unit]) -> None:
    """Draw the worst group less ERM's, with intervals, by method and bed, for the first backbone."""
    places = {bed: Selection(bed, PRIMARY_TABLE, BACKBONES[0]) for bed in BEDS}
    rows_by_bed = {
        bed: [name for name in ROWS if name != "erm" and selection.subtract_erm(units, name, worst_group)]
        for bed, selection in places.items()
    }
    names = [name for name in ROWS if any(name in rows for rows in rows_by_bed.values())]
    places = {bed: selection for bed, selection in places.items() if rows_by_bed[bed]}
    if not names:
        return

    def draw(axis: Any, y: float, difference: Difference, colour: str) -> None:
        end = difference.mean
        if difference.low is not None and difference.high is not None and difference.n >= MIN_PAIRS_DRAWN:
            axis.plot([difference.low, difference.high], [y, y], color=colour, linewidth=1.6)
            end = difference.high
        axis.plot([difference.mean], [y], "o", color=colour, markersize=5)
        axis.annotate(f"n = {difference.n}", (end, y), (4, 0), textcoords="offset points", va="center", fontsize=7)

    def plot(figure: Any, axes: Any) -> None:
        for axis, (bed, selection) in zip(axes.flat, places.items(), strict=True):
            axis.axvline(0, color="#9aa3ad", linewidth=0.8)
            all_seeds = Selection(bed, PRIMARY_TABLE, BACKBONES[0], seeds=PRIMARY_SEEDS)
            for y, name in enumerate(names):
                if (difference := selection.subtract_erm(units, name, worst_group)) is not None:
                    draw(axis, y, difference, "#2c6fad")
                if name in PRIMARY and (difference := all_seeds.subtract_erm(units, name, worst_group)) is not None:
                    draw(axis, y + 0.4, difference, "#c2410c")
            axis.set_title(bed, fontsize=10)
            axis.set_yticks(range(len(names)), names)
            axis.set_ylim(len(names) - 0.3, -0.7)
            axis.margins(x=0.1)
            axis.set_xlabel("worst group minus ERM's, points", fontsize=9)
        for axis in axes.flat[1:]:
            axis.set_yticklabels([])
        title = f"95 % intervals of paired differences: {len(EXPLORATORY_SEEDS)} seeds blue, primary comparisons red"
        figure.suptitle(title, fontsize=9)

    draw_charts(path, (1.2 + 4.2 * len(places), 1.4 + 0.38 * len(names)), plot, columns=len(places))


def make_rows(units: Sequence[Unit]) -> list[Measured]:
    """Return the targets: all primary intervals above 0; and the failure of ERM."""
    rows = []
    for bed in BEDS:
        for name in ("erm", *PRIMARY):
            values = Selection(bed, PRIMARY_TABLE, BACKBONES[0], seeds=PRIMARY_SEEDS).values(units, name, worst_group)
            if values:
                rows.append(Measured(f"{name}, worst group, {bed}", statistics.fmean(values.values()), "%",
                                     min(values.values()), max(values.values())))  # fmt: skip
    for comparison in compare_primary(units):
        difference, name = comparison["difference"], f"{comparison['row']} − erm, {comparison['bed']}"
        rows.append(Measured(name, difference.mean, "points", difference.low, difference.high))
        if difference.low is not None:
            rows.append(Measured(f"{name}: lower end of the interval", difference.low, "points", at_least=0))
    return rows


def write_report(kept: Path, args: argparse.Namespace, began: float) -> None:
    """Write `mitigate.md`, `mitigate.png` and `mitigate.json` from the units in a folder, and print the first.

    With `--quick` they go beside the units, and the JSON only to `--out`.
    """
    units = read_units(kept)
    longer = find_longer(kept)
    longer_units = [
        {**unit, "file": f"{longer.name}/{unit['file']}"} for unit in (read_units(longer) if longer.exists() else [])
    ]
    refuse_mixed_rows([*units, *longer_units])
    text = to_markdown(units, kept, longer_units)
    print("\n" + text)
    out = args.out or (kept / "mitigate.json" if args.quick else RESULTS.parent / "mitigate.json")
    folder = out.parent if not args.quick or args.out else kept.parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mitigate.md").write_text(text)
    draw_chart(folder / "mitigate.png", units)
    comparisons = [
        {**comparison, **{name: asdict(comparison[name]) for name in ("difference", "together", "against", "second")
                          if comparison[name]}}
        for comparison in compare_primary(units)
    ]  # fmt: skip
    report(
        "mitigate", args, make_rows(units),
        {
            "plan": units[0]["plan"], "primary": {"rows": PRIMARY, "table": PRIMARY_TABLE, "seeds": PRIMARY_SEEDS},
            "exploratory_seeds": EXPLORATORY_SEEDS, "tuned_with_seeds": TUNED_WITH,
            "rows": {name: {"tried": list(row.tried), "training": row.training, "made": row.made,
                            "fixed": dict(row.fixed)} for name, row in ROWS.items()},
        },
        began, units=[unit["file"] for unit in units], longer_units=[unit["file"] for unit in longer_units],
        origins=_list_origins([*units, *longer_units]), primary=comparisons,
    )  # fmt: skip


def _list_origins(units: Sequence[Unit]) -> list[Any]:
    """Return the origins of all units, without duplicates."""
    origins: list[Any] = []
    for origin in (o for unit in units for o in unit["origins"]):
        if origin not in origins:
            origins.append(origin)
    return origins
