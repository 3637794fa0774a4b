"""Text summary of an evaluation: the command's output, and notes on how to read the numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from figureground.core.errors import join_names, plural
from figureground.core.text_width import pad, text_width
from figureground.evaluation import robustness
from figureground.evaluation.spuriousness import METRICS

MAX_GROUPS = 12
"""Maximum number of printed groups of one kind; of more, those with the lowest accuracy."""

MAX_LETTERS = 24
"""Maximum number of characters of a recipe's value that a note quotes."""

JsonMapping = Mapping[str, Any]


def format_percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def format_share(interval: JsonMapping) -> str:
    """Return a share with its interval: `71.2% (60.0 to 81.0)`."""
    return f"{format_percent(interval['value'])} ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"


def format_drop(interval: JsonMapping) -> str:
    """Return a drop in words: `drop 24.1 points (10.0 to 31.4)`, or if negative `gain 20.8 points (4.0 to 35.0)`."""
    word, sign, low, high = ("drop", 1, "low", "high") if interval["value"] >= 0 else ("gain", -1, "high", "low")
    value, first, last = (sign * 100 * interval[name] + 0.0 for name in ("value", low, high))
    return f"{word} {value:.1f} points ({first:.1f} to {last:.1f})"


def format_sample_size(entry: JsonMapping) -> str:
    """Return the sample size of a number: `12 images`, or `12 images of 3 objects`."""
    return plural(entry["samples"], "image") + (
        f" of {plural(entry['objects'], 'object')}" if "objects" in entry else ""
    )


def list_notes(report: JsonMapping) -> list[str]:
    """Return notes on omissions and on limits of the numbers, a sentence or two each."""
    lines = []
    for name, entry in report["classifiers"].items():
        if missing := entry["without_counterpart"]:
            lines.append(
                f"{name} has no class for {plural(len(missing), 'label')}: {join_names(missing, 8)}. "
                f"Left out: {plural(entry['left_out'], 'sample')}."
            )
        for class_name, labels in _find_shared_classes(entry["counterparts"]).items():
            lines.append(
                f"{name}: its class {class_name} counts as right for {join_names(labels, 8)}, so mistaking one of them "
                "for another isn't counted."
            )
    if steered := [name for name, entry in report["classifiers"].items() if entry.get("steered")]:
        alone = len(steered) == len(report["classifiers"])
        lines.append(
            f"These images were generated towards the features of {join_names(steered)} (SFSL), so its predictions for "
            + ("them prove nothing. Use other classifiers." if alone else "them prove nothing; means exclude it.")
        )
    for kind, entry in _iter_other_images(report):
        if unreadable := entry["unreadable"]:
            first = f"{unreadable[0]['file']}: {unreadable[0]['reason']}"
            lines.append(f"{kind}: {plural(len(unreadable), 'file')} can't be read, such as {first}.")
        if missing := entry["without_images"]:
            lines.append(f"{kind}: no images of {plural(len(missing), 'class')}: {join_names(missing, 8)}.")
        if differs := entry.get("differs"):
            fields = [
                f"{field['field']} ({_format_values(field['dataset'])}, here {_format_values(field['control'])})"
                for field in differs
            ]
            lines.append(
                f"{kind} differs from {report['dataset']['name']} in {join_names(fields, len(fields))}. So a "
                "difference between the two may have other causes than the one that it controls for."
            )
        if ignored := entry["other_classes"]:
            lines.append(f"{kind}: ignored {join_names(ignored, 5)}, which the dataset doesn't have.")
    lines += _note_zero_shot(report)
    lines += robustness.list_notes(report.get("robustness"))
    lines += _note_intervals(report)
    if report["kind"] == "spurious" and report["validation"]:
        lines.append(
            "Average precision and ROC-AUC rank by p_k: real images of class k against these. Lower is more spurious. "
            "Spurious ImageNet's README says AUC, but its code computes average precision; both are given."
        )
    return lines


def _find_shared_classes(counterparts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the labels of each class that stands for several."""
    labels_by_class: dict[str, list[str]] = {}
    for label, class_names in counterparts.items():
        for class_name in class_names:
            labels_by_class.setdefault(class_name, []).append(label)
    return {class_name: labels for class_name, labels in labels_by_class.items() if len(labels) > 1}


def _note_zero_shot(report: JsonMapping) -> Iterator[str]:
    """Yield a note that zero-shot classifiers choose among other classes than ordinary ones."""
    choices = {name: entry["facts"].get("classes") for name, entry in report["classifiers"].items()}
    zero_shot = [name for name, entry in report["classifiers"].items() if entry["facts"].get("zero_shot")]
    if zero_shot and len(set(choices.values())) > 1:
        counts = [f"{name} {n:,}" for name, n in choices.items() if n]
        yield (
            f"The classifiers choose among different numbers of classes ({join_names(counts, 8)}), and fewer are "
            "easier. --candidates gives zero-shot classifiers more."
        )


def _format_values(values: Sequence[Any]) -> str:
    """Return the values of a recipe, or of the recipes of a dataset's sources; long ones are shortened."""
    return " and ".join(_shorten(value) for value in values) or "unknown"


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS - 1]}…"


def _note_intervals(report: JsonMapping) -> Iterator[str]:
    """Yield notes on what the intervals count, and where they say little."""
    images, reuse = report["dataset"]["samples"], report["intervals"]
    if reuse.get("objects", images) < images:
        yield (
            f"The {plural(images, 'image')} show {plural(reuse['objects'], 'object')}. Intervals count objects, "
            "because images of one cut-out or source aren't independent."
        )
    if reuse.get("scenes", images) < images:
        yield (
            f"They were generated from {plural(reuse['scenes'], 'background image')}. Intervals treat these as fixed "
            "and don't cover the variation over other scenes."
        )
    if report["kind"] != "foreground":
        return
    for name, entry in report["classifiers"].items():
        cells = [cell for cell in entry["by_cell"] if cell.get("objects", cell["samples"]) == 1]
        if cells:
            yield f"{name}: {len(cells):,} of {len(entry['by_cell']):,} cells have only one image or object."
        for kind, comparison in entry.get("compared", {}).items():
            if single := comparison.get("single"):
                yield (
                    f"{name}, {'this set' if kind == 'generated' else kind}: {single:,} of "
                    f"{plural(comparison['classes'], 'class')} have only one image or object. Their spread is "
                    "unknown, so the largest possible one is assumed."
                )


def _iter_other_images(report: JsonMapping) -> Iterator[tuple[str, JsonMapping]]:
    yield from report["beside"].items()
    if report["validation"]:
        yield "validation", report["validation"]


def summarise(report: JsonMapping) -> str:
    """Summarise an evaluation for the terminal."""
    dataset = report["dataset"]
    splits = ", ".join(f"{split} {n:,}" for split, n in dataset["splits"].items())
    lines = [
        f"{dataset['name']}: {plural(dataset['samples'], 'image')}"
        + (f" ({splits})" if len(dataset["splits"]) < 6 else "")
    ]
    make_lines = _spurious_lines if report["kind"] == "spurious" else _foreground_lines
    return "\n".join([*lines, *make_lines(report), *(["", *list_notes(report)] if list_notes(report) else [])])


def _foreground_lines(report: JsonMapping) -> Iterator[str]:
    for name, entry in report["classifiers"].items():
        yield f"\n{name}: accuracy {format_share(entry['accuracy'])}, {format_sample_size(entry['accuracy'])}"
        worst = entry["worst_group"]
        yield f"  worst group: {_name_cell(worst)} {format_share(worst)}, {format_sample_size(worst)}"
        if entry.get("matched"):
            matched = entry["matched"]
            yield (
                f"  {plural(matched['objects'], 'object')} on several backgrounds: same prediction on all "
                f"{format_share(matched['alike'])}, correct on all {format_share(matched['right'])}"
            )
        for kind, comparison in entry.get("compared", {}).items():
            yield f"  {_format_comparison('this set' if kind == 'generated' else kind, comparison)}"
        if name in (effective := (report.get("robustness") or {}).get("effective", {})):
            yield f"  effective robustness {100 * effective[name]:+.1f} points (above the line of the classifiers)"
        for axis in ("split", "foreground", "background"):
            groups = entry[f"by_{axis}"]
            if axis != "split" or len(groups) > 1:
                yield from _group_lines(f"by {axis}", dict(groups))
        yield from _group_lines("by cell", {_name_cell(cell): cell for cell in entry["by_cell"]})


def _name_cell(cell: JsonMapping) -> str:
    return f"{cell['foreground']} on {cell['background']}"


def _format_comparison(kind: str, comparison: JsonMapping) -> str:
    if not comparison["classes"]:
        return f"{kind}: no class in common with the references"
    text = f"{kind}: accuracy {format_share(comparison['accuracy'])}, mean of {plural(comparison['classes'], 'class')}"
    text += f", {format_sample_size(comparison['accuracy'])}"
    if "drop" in comparison:
        text += f"; references {format_share(comparison['references'])}; {format_drop(comparison['drop'])}"
    return text


def _group_lines(title: str, groups: Mapping[str, JsonMapping]) -> Iterator[str]:
    selected = dict(groups)
    if len(groups) > MAX_GROUPS:
        lowest = sorted(groups, key=lambda name: (groups[name]["value"], -groups[name]["samples"]))[:MAX_GROUPS]
        selected, title = (
            {name: groups[name] for name in lowest},
            f"{title}, the lowest {MAX_GROUPS} of {len(groups):,}",
        )
    yield f"  {title}:"
    width = max(map(text_width, selected))
    for name, entry in selected.items():
        yield f"    {pad(name, width)}  {format_share(entry):24} {entry['samples']:7,}"


def _spurious_lines(report: JsonMapping) -> Iterator[str]:
    columns = {**report["classifiers"], **({"mean": report["mean"]} if len(report["classifiers"]) > 1 else {})}
    kinds = list(report["mean"]["mean"])
    measured = [metric for metric in METRICS if any(metric in entry["mean"].get(kind, {})
                for entry in columns.values() for kind in kinds)]  # fmt: skip
    width = max(map(text_width, kinds))
    for name, entry in columns.items():
        yield f"\n{name}: mean of {plural(entry['mean'][kinds[0]]['classes'], 'class')}"
        for kind in kinds:
            if kind in entry["mean"]:
                numbers = [f"{METRICS[metric]} {_format_metric(metric, entry['mean'][kind])}" for metric in measured]
                yield f"  {pad(kind, width)}  " + "; ".join(numbers)
        if name == next(reversed(columns)):
            yield from _class_lines(entry["classes"], kinds[0], report["dataset"].get("features", {}))


def _format_metric(metric: str, metrics: JsonMapping) -> str:
    if metric not in metrics:
        return "–"
    value = metrics[metric]
    if metric == "predicted":
        return format_share(value)
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})" if metric == "p" else f"{value:.3f}"


def _class_lines(classes: JsonMapping, kind: str, features: Mapping[str, str]) -> Iterator[str]:
    names = sorted(classes, key=lambda name: -classes[name][kind]["predicted"]["value"])
    yield "  by class, the share predicted:"
    width = max(map(text_width, names))
    for name in names[:MAX_GROUPS]:
        entry = classes[name][kind]
        numbers = f"{format_share(entry['predicted']):24} {entry['images']:7,}"
        yield f"    {pad(name, width)}  {numbers}  {features.get(name, '')}".rstrip()
    if len(names) > MAX_GROUPS:
        yield f"    … and {len(names) - MAX_GROUPS} more"
