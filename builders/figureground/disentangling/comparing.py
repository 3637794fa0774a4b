"""`figureground disentangle --compare`: finished runs side by side, as JSON, Markdown and a chart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.core.charts import draw_charts
from figureground.core.errors import FiguregroundError, RecipeError, join_names
from figureground.core.files import FileError, read_object, replace_text
from figureground.core.owned import refuse_foreign_files
from figureground.core.text import markdown
from figureground.disentangling.correlation import PARTS
from figureground.disentangling.probes import KINDS
from figureground.disentangling.reporting import CROSSINGS, NAMES, OWN, REPORT, TESTS
from figureground.learn.training_results import format_mean_and_std, percent_number

SUFFIXES = (".json", ".md", ".png")
"""Files that a comparison writes, beside each other."""
MADE_BY = "figureground disentangle --compare"
HEAD = "<!-- made by figureground disentangle --compare -->"
"""First line of the Markdown, which identifies an earlier table."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    name: str
    """Name of its directory."""
    report: dict[str, Any]

    @property
    def method(self) -> str:
        return str(self.report["method"])

    @property
    def is_fine_tuned(self) -> bool:
        return bool(self.report["settings"]["fine_tune"])

    @property
    def penalty(self) -> float | None:
        value = self.report["settings"].get("penalty")
        return None if value is None else float(value)

    @property
    def title(self) -> str:
        """Method, penalty and whether the backbone was fine-tuned."""
        suffix = ", fine-tuned" if self.is_fine_tuned else ""
        return self.method + ("" if self.penalty is None else f", λ = {self.penalty:g}") + suffix

    def probe_accuracy(self, crossing: str, kind: str) -> float:
        """Return the mean accuracy of a probe, 0 to 1."""
        return float(self.report["over_seeds"]["probes"][crossing]["accuracy"][kind]["mean"])


def read_run(path: Path) -> Run:
    """Read the report of a run.

    Raises:
        FiguregroundError: The directory holds no finished run.
    """
    if not (path / REPORT).is_file():
        raise FiguregroundError(
            f"--compare {path}: there is no {REPORT}. Give the --out of a finished figureground disentangle."
        )
    try:
        report = read_object(path / REPORT)
    except (OSError, FileError) as error:
        raise FiguregroundError(f"--compare {path}: {error}") from None
    if report.get("made_by") != "figureground disentangle":
        raise FiguregroundError(
            f"--compare {path}: its {REPORT} wasn't written by figureground disentangle. Give the --out of a finished "
            "run of it."
        )
    return Run(path.resolve().name, report)


def compare_runs(runs: Sequence[Path | str], out: Path | str) -> dict[str, Any]:
    """Compare finished runs on the same data and division; write `OUT.json`, `OUT.md` and `OUT.png`.

    Args:
        runs: Their directories.
        out: Path of the table; a suffix .json, .md or .png is left out.

    Returns:
        The table, as in the JSON.

    Raises:
        FiguregroundError: A run isn't finished or is on other data, or another program's file is in the way.
        RecipeError: A run is given twice.
    """
    out = Path(out)
    base = out.with_suffix("") if out.suffix in SUFFIXES else out
    paths = [base.with_name(base.name + suffix) for suffix in SUFFIXES]
    finished = [read_run(Path(path)) for path in runs]
    resolved = [Path(path).resolve() for path in runs]
    for path in runs:
        if resolved.count(Path(path).resolve()) > 1:
            raise RecipeError("--compare", f"{path} is given twice. Name it once.")
    for run in finished[1:]:
        for field, noun in (("content", "images"), ("division", "division into parts")):
            if run.report[field] != finished[0].report[field]:
                raise FiguregroundError(
                    f"--compare: {run.name} ({run.report['data']}) differs from {finished[0].name} "
                    f"({finished[0].report['data']}) in its {noun}, so their numbers can't be compared. Give runs on "
                    "the same data."
                )
    refuse_foreign_files(paths[0])
    _refuse_markdown(paths[1])
    _refuse_png(paths[2])
    finished.sort(key=lambda run: (run.method, run.is_fine_tuned, run.penalty or 0.0))
    table = {
        "made_by": MADE_BY, "data": finished[0].report["data"], "images": finished[0].report["images"],
        "runs": [_summarise_run(run) for run in finished], "notes": list(_note_differences(finished)),
    }  # fmt: skip
    base.parent.mkdir(parents=True, exist_ok=True)
    replace_text(paths[0], json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    replace_text(paths[1], to_markdown(finished) + "\n")
    draw_comparison(paths[2], finished)
    return table


def format_files(out: Path) -> str:
    """Return the Markdown of a comparison, and the paths of its files, as text to print."""
    base = out.with_suffix("") if out.suffix in SUFFIXES else out
    paths = [base.with_name(base.name + suffix) for suffix in SUFFIXES]
    text = paths[1].read_text(encoding="utf-8").removeprefix(HEAD).strip()
    return "\n".join([text, "", *(str(path) for path in paths if path.exists())])


def _refuse_markdown(path: Path) -> None:
    if path.exists() and not (path.is_file() and path.read_text(errors="replace").startswith(HEAD)):
        raise FiguregroundError(
            f"{path} exists and wasn't written by a comparison, so it was left as it is. Give another --out."
        )


def _refuse_png(path: Path) -> None:
    """Refuse a chart that could be someone else's: one without a table beside it."""
    if path.exists() and not path.with_suffix(".json").exists():
        raise FiguregroundError(
            f"{path} exists without a table beside it, so it was left as it is. Give another --out."
        )


def _summarise_run(run: Run) -> dict[str, Any]:
    report = run.report
    return {
        "name": run.name, "method": run.method, "penalty": run.penalty, "fine_tune": run.is_fine_tuned,
        "backbone": report["backbone"], "seeds": [result["seed"] for result in report["seeds"]],
        "steps": report["seeds"][0]["steps"], **report["over_seeds"],
    }  # fmt: skip


def _note_differences(runs: Sequence[Run]) -> Iterator[str]:
    """Yield notes on what runs differ in besides method, penalty and fine-tuning, which name the rows."""
    for field, values in (
        ("backbone", {run.name: run.report["settings"].get("backbone") or run.report["backbone"] for run in runs}),
        ("seeds", {run.name: [result["seed"] for result in run.report["seeds"]] for run in runs}),
    ):
        yield from _note_difference("The runs", field, values)
    for method in dict.fromkeys(run.method for run in runs):
        settings = {run.name: run.report["settings"] for run in runs if run.method == method}
        fields = dict.fromkeys(field for each in settings.values() for field in each)
        for field in fields:
            if field not in ("method", "penalty", "fine_tune", "backbone"):
                values = {name: each.get(field) for name, each in settings.items()}
                yield from _note_difference(f"The runs of {method}", field, values)


def _note_difference(subject: str, field: str, values: Mapping[str, Any]) -> Iterator[str]:
    if len({json.dumps(value) for value in values.values()}) > 1:
        spelled = join_names([f"{json.dumps(value)} in {name}" for name, value in values.items()], len(values))
        yield f"{subject} differ in {field} ({spelled}), so a difference between rows may come from it."


def to_markdown(runs: Sequence[Run]) -> str:
    """Return the comparison as Markdown: cross-probes, and the task."""
    probes = runs[0].report["over_seeds"]["probes"]
    header = ["run", "seeds", *(f"{name}, {NAMES[kind]}" for name in CROSSINGS for kind in KINDS)]
    rows = [
        [run.title, str(len(run.report["seeds"])),
         *(format_mean_and_std(run.report["over_seeds"]["probes"][name]["accuracy"][kind])
           for name in CROSSINGS for kind in KINDS)]
        for run in runs
    ]  # fmt: skip
    chances = "; ".join(
        f"{name} {percent_number(probes[name]['chance'])} ({percent_number(probes[name]['majority'])})"
        for name in ("foreground from background", "background from foreground")
    )
    blocks = [
        HEAD, f"Separated features on {runs[0].report['data']}: accuracy of probes on held-out images, %, mean ± "
        "standard deviation over seeds.", _format_table(header, rows), f"Chance (majority rate): {chances}.",
    ]  # fmt: skip
    with_task = [run for run in runs if run.report["over_seeds"]["task"] is not None]
    if with_task:
        measures = ("correlated", "anti-correlated", "worst")
        header = ["run", *(f"{part}: {measure}" for part in PARTS for measure in measures)]
        rows = []
        for run in with_task:
            parts = run.report["over_seeds"]["task"]["parts"]
            cells = [
                format_mean_and_std(value)
                for part in PARTS
                for value in (*(parts[part][test]["accuracy"] for test in TESTS),
                              parts[part]["anti_correlated"]["worst_group"])
            ]  # fmt: skip
            rows.append([run.title, *cells])
        blocks += [
            "Heads trained on each class on its own background: accuracy on correlated and on anti-correlated images, "
            "and on the worst anti-correlated group, %.", _format_table(header, rows),
        ]  # fmt: skip
    if notes := list(_note_differences(runs)):
        blocks.append("\n".join(f"- {markdown(note)}" for note in notes))
    return "\n\n".join(blocks)


def _format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


_MARKERS = "osD^vPX"
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
DRAWN = "mlp"
"""Kind of the probes whose accuracies are drawn."""
LABEL_DISTANCE = 3.0
"""Minimum distance of two labels in a chart, along one of the axes, in percentage points."""


def draw_comparison(path: Path, runs: Sequence[Run]) -> None:
    """Draw, for each part, the accuracy for its own label over that for the other label; and the task's accuracies.

    Runs of one method form a line as the penalty grows.
    """
    lines: dict[str, list[Run]] = {}
    for run in runs:
        lines.setdefault(run.method + (", fine-tuned" if run.is_fine_tuned else ""), []).append(run)
    crossings = ((OWN[0], "background from foreground"), (OWN[1], "foreground from background"))
    styles = _choose_styles({name: line[0] for name, line in lines.items()})

    def plot(figure: Any, axes: Any) -> None:
        for axis, (own, other) in zip(axes.flat, crossings, strict=False):
            own_accuracies: list[float] = []
            labelled: list[tuple[float, float]] = []
            for name, line in lines.items():
                points = [
                    (100 * run.probe_accuracy(other, DRAWN), 100 * run.probe_accuracy(own, DRAWN)) for run in line
                ]
                axis.plot(*zip(*points, strict=True), label=name, **styles[name])
                own_accuracies += [y for _, y in points]
                for run, (x, y) in zip(line, points, strict=True):
                    is_free = all(abs(x - x2) > LABEL_DISTANCE or abs(y - y2) > LABEL_DISTANCE for x2, y2 in labelled)
                    if run.penalty is not None and len(line) > 1 and is_free:
                        labelled.append((x, y))
                        axis.annotate(f"{run.penalty:g}", (x, y), fontsize=6, xytext=(2, 3), textcoords="offset points")
            chance = runs[0].report["over_seeds"]["probes"][other]["chance"]
            axis.axvline(100 * chance, color="k", linestyle="--", linewidth=1)
            axis.set_xlabel(f"leaked: {other}, %", fontsize=8)
            axis.set_ylabel(f"kept: {own}, %", fontsize=8)
            axis.set_xlim(0, 105)
            axis.set_ylim(min(80, min(own_accuracies) - 5), 102)
        axes.flat[0].set_title(f"foreground features, {NAMES[DRAWN]} probe (numbers: λ)", fontsize=9)
        axes.flat[1].set_title(f"background features, {NAMES[DRAWN]} probe (numbers: λ)", fontsize=9)
        _draw_task(axes.flat[2], lines, styles)
        figure.legend(*axes.flat[0].get_legend_handles_labels(), fontsize=8, frameon=False, ncols=len(lines),
                      loc="outside lower center")  # fmt: skip

    draw_charts(path, (13, 4), plot, columns=3)


def _choose_styles(runs: Mapping[str, Run]) -> dict[str, dict[str, Any]]:
    """Return how lines are drawn: a method has one colour and marker, which is filled where it was fine-tuned."""
    methods = sorted({run.method for run in runs.values()})
    styles = {}
    for name, run in runs.items():
        i = methods.index(run.method)
        colour = _COLOURS[i % len(_COLOURS)]
        styles[name] = {
            "color": colour, "marker": _MARKERS[i % len(_MARKERS)], "markersize": 6, "linewidth": 1.2,
            "markerfacecolor": colour if run.is_fine_tuned else "none",
        }  # fmt: skip
    return styles


def _draw_task(axis: Any, lines: Mapping[str, Sequence[Run]], styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw anti-correlated over correlated accuracy of heads on foreground features."""
    drawn = False
    for name, line in lines.items():
        tasks = [run.report["over_seeds"]["task"] for run in line]
        points = [
            tuple(100 * task["parts"]["foreground"][test]["accuracy"]["mean"] for test in TESTS)
            for task in tasks if task is not None
        ]  # fmt: skip
        if points:
            drawn = True
            axis.plot(*zip(*points, strict=True), **styles[name])
    if not drawn:
        axis.remove()
        return
    axis.set_xlim(0, 105)
    axis.set_ylim(0, 105)
    axis.set_xlabel("correlated, %", fontsize=8)
    axis.set_ylabel("anti-correlated, %", fontsize=8)
    axis.set_title("heads on foreground features", fontsize=9)
