"""Text summary of an evaluation: the command's output, and notes on how to read the numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from figureground.core.columns import pad, text_width
from figureground.core.errors import counted, listed
from figureground.evaluation import robustness
from figureground.evaluation.spuriousness import METRICS

MOST_GROUPS = 12
"""Maximum number of printed groups of one kind; of more, those with the lowest accuracy."""

MOST_LETTERS = 24
"""Maximum number of characters of a recipe's value that a note quotes."""

Told = Mapping[str, Any]


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def spread(told: Told) -> str:
    """Return a share with its interval: `71.2% (60.0 to 81.0)`."""
    return f"{percent(told['value'])} ({100 * told['low']:.1f} to {100 * told['high']:.1f})"


def points(told: Told) -> str:
    """Return a drop in words: `drop 24.1 points (10.0 to 31.4)`, or if negative `gain 20.8 points (4.0 to 35.0)`."""
    word, sign, low, high = ("drop", 1, "low", "high") if told["value"] >= 0 else ("gain", -1, "high", "low")
    value, first, last = (sign * 100 * told[name] + 0.0 for name in ("value", low, high))
    return f"{word} {value:.1f} points ({first:.1f} to {last:.1f})"


def shown(told: Told) -> str:
    """Return the sample size of a number: `12 images`, or `12 images of 3 objects`."""
    return counted(told["samples"], "image") + (
        f" of {counted(told['objects'], 'object')}" if "objects" in told else ""
    )


def notes(report: Told) -> list[str]:
    """Return notes on omissions and on limits of the numbers, a sentence or two each."""
    lines = []
    for name, told in report["classifiers"].items():
        if lacking := told["without_counterpart"]:
            lines.append(
                f"{name} has no class for {counted(len(lacking), 'label')}: {listed(lacking, 8)}. "
                f"Left out: {counted(told['left_out'], 'sample')}."
            )
    if steered := [name for name, told in report["classifiers"].items() if told.get("steered")]:
        alone = len(steered) == len(report["classifiers"])
        lines.append(
            f"These images were generated towards the features of {listed(steered)} (SFSL), so its predictions for "
            + ("them prove nothing. Use other classifiers." if alone else "them prove nothing; means exclude it.")
        )
    for kind, told in _beside(report):
        if unreadable := told["unreadable"]:
            first = f"{unreadable[0]['file']}: {unreadable[0]['reason']}"
            lines.append(f"{kind}: {counted(len(unreadable), 'file')} can't be read, such as {first}.")
        if lacking := told["without_images"]:
            lines.append(f"{kind}: no images of {_classes_of(len(lacking))}: {listed(lacking, 8)}.")
        if differs := told.get("differs"):
            each = [f"{one['field']} ({_values(one['dataset'])}, here {_values(one['control'])})" for one in differs]
            lines.append(
                f"{kind} differs from {report['dataset']['name']} in {listed(each, len(each))}. So a difference "
                "between the two may have other causes than the one that it controls for."
            )
        if others := told["other_classes"]:
            lines.append(f"{kind}: ignored {listed(others, 5)}, which the dataset doesn't have.")
    lines += _notes_on_zero_shot(report)
    lines += robustness.notes(report.get("robustness"))
    lines += _notes_on_intervals(report)
    if report["kind"] == "spurious" and report["validation"]:
        lines.append(
            "Average precision and ROC-AUC rank by p_k: real images of class k against these. Lower is more spurious. "
            "Spurious ImageNet's README says AUC, but its code computes average precision; both are given."
        )
    return lines


def _notes_on_zero_shot(report: Told) -> Iterator[str]:
    """Yield a note that zero-shot classifiers choose among other classes than ordinary ones."""
    choices = {name: told["facts"].get("classes") for name, told in report["classifiers"].items()}
    zero = [name for name, told in report["classifiers"].items() if told["facts"].get("zero_shot")]
    if zero and len(set(choices.values())) > 1:
        each = [f"{name} {n:,}" for name, n in choices.items() if n]
        yield (
            f"The classifiers choose among different numbers of classes ({listed(each, 8)}), and fewer are easier. "
            "--candidates gives zero-shot classifiers more."
        )


def _values(values: Sequence[Any]) -> str:
    """Return the values of a recipe, or of the recipes of a dataset's sources; long ones are shortened."""
    return " and ".join(_short(value) for value in values) or "unknown"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"


def _notes_on_intervals(report: Told) -> Iterator[str]:
    """Yield notes on what the intervals count, and where they say little."""
    images, reuse = report["dataset"]["samples"], report["intervals"]
    if reuse.get("objects", images) < images:
        yield (
            f"The {counted(images, 'image')} show {counted(reuse['objects'], 'object')}. Intervals count objects, "
            "because images of one cut-out or source aren't independent."
        )
    if reuse.get("scenes", images) < images:
        yield (
            f"They were generated from {counted(reuse['scenes'], 'background image')}. Intervals treat these as fixed "
            "and don't cover the variation over other scenes."
        )
    if report["kind"] != "foreground":
        return
    for name, told in report["classifiers"].items():
        cells = [cell for cell in told["by_cell"] if cell.get("objects", cell["samples"]) == 1]
        if cells:
            yield f"{name}: {len(cells):,} of {len(told['by_cell']):,} cells have only one image or object."
        for kind, compared in told.get("compared", {}).items():
            if single := compared.get("single"):
                yield (
                    f"{name}, {'this set' if kind == 'generated' else kind}: {single:,} of "
                    f"{_classes_of(compared['classes'])} have only one image or object. Their spread is unknown, so "
                    "the largest possible one is assumed."
                )


def _classes_of(n: int) -> str:
    return f"{n:,} class" if n == 1 else f"{n:,} classes"


def _beside(report: Told) -> Iterator[tuple[str, Told]]:
    yield from report["beside"].items()
    if report["validation"]:
        yield "validation", report["validation"]


def summarise(report: Told) -> str:
    """Summarise an evaluation for the terminal."""
    about = report["dataset"]
    splits = ", ".join(f"{split} {n:,}" for split, n in about["splits"].items())
    lines = [
        f"{about['name']}: {counted(about['samples'], 'image')}" + (f" ({splits})" if len(about["splits"]) < 6 else "")
    ]
    tell = _spurious if report["kind"] == "spurious" else _foreground
    return "\n".join([*lines, *tell(report), *(["", *notes(report)] if notes(report) else [])])


def _foreground(report: Told) -> Iterator[str]:
    for name, told in report["classifiers"].items():
        yield f"\n{name}: accuracy {spread(told['accuracy'])}, {shown(told['accuracy'])}"
        worst = told["worst_group"]
        yield f"  worst group: {_cell(worst)} {spread(worst)}, {shown(worst)}"
        if told.get("matched"):
            matched = told["matched"]
            yield (
                f"  {counted(matched['objects'], 'object')} on several backgrounds: same prediction on all "
                f"{spread(matched['alike'])}, correct on all {spread(matched['right'])}"
            )
        for kind, compared in told.get("compared", {}).items():
            yield f"  {_compared('this set' if kind == 'generated' else kind, compared)}"
        if name in (effective := (report.get("robustness") or {}).get("effective", {})):
            yield f"  effective robustness {100 * effective[name]:+.1f} points (above the line of the classifiers)"
        for axis in ("split", "foreground", "background"):
            groups = told[f"by_{axis}"]
            if axis != "split" or len(groups) > 1:
                yield from _groups(f"by {axis}", dict(groups))
        yield from _groups("by cell", {_cell(cell): cell for cell in told["by_cell"]})


def _cell(cell: Told) -> str:
    return f"{cell['foreground']} on {cell['background']}"


def _compared(kind: str, told: Told) -> str:
    if not told["classes"]:
        return f"{kind}: no class in common with the references"
    text = f"{kind}: accuracy {spread(told['accuracy'])}, mean of {_classes_of(told['classes'])}"
    text += f", {shown(told['accuracy'])}"
    if "drop" in told:
        text += f"; references {spread(told['references'])}; {points(told['drop'])}"
    return text


def _groups(title: str, groups: Mapping[str, Told]) -> Iterator[str]:
    shown = dict(groups)
    if len(groups) > MOST_GROUPS:
        least = sorted(groups, key=lambda name: (groups[name]["value"], -groups[name]["samples"]))[:MOST_GROUPS]
        shown, title = {name: groups[name] for name in least}, f"{title}, the lowest {MOST_GROUPS} of {len(groups):,}"
    yield f"  {title}:"
    width = max(map(text_width, shown))
    for name, told in shown.items():
        yield f"    {pad(name, width)}  {spread(told):24} {told['samples']:7,}"


def _spurious(report: Told) -> Iterator[str]:
    columns = {**report["classifiers"], **({"mean": report["mean"]} if len(report["classifiers"]) > 1 else {})}
    kinds = list(report["mean"]["mean"])
    measured = [metric for metric in METRICS if any(metric in told["mean"].get(kind, {})
                for told in columns.values() for kind in kinds)]  # fmt: skip
    width = max(map(text_width, kinds))
    for name, told in columns.items():
        yield f"\n{name}: mean of {_classes_of(told['mean'][kinds[0]]['classes'])}"
        for kind in kinds:
            if kind in told["mean"]:
                numbers = [f"{METRICS[metric]} {_number(metric, told['mean'][kind])}" for metric in measured]
                yield f"  {pad(kind, width)}  " + "; ".join(numbers)
        if name == next(reversed(columns)):
            yield from _classes(told["classes"], kinds[0], report["dataset"].get("features", {}))


def _number(metric: str, told: Told) -> str:
    if metric not in told:
        return "–"
    value = told[metric]
    if metric == "predicted":
        return spread(value)
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})" if metric == "p" else f"{value:.3f}"


def _classes(classes: Told, kind: str, features: Mapping[str, str]) -> Iterator[str]:
    names = sorted(classes, key=lambda name: -classes[name][kind]["predicted"]["value"])
    yield "  by class, the share predicted:"
    width = max(map(text_width, names))
    for name in names[:MOST_GROUPS]:
        told = classes[name][kind]
        numbers = f"{spread(told['predicted']):24} {told['images']:7,}"
        yield f"    {pad(name, width)}  {numbers}  {features.get(name, '')}".rstrip()
    if len(names) > MOST_GROUPS:
        yield f"    … and {len(names) - MOST_GROUPS} more"
