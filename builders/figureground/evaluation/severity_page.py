"""Text summary and HTML page of an evaluation along severity axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from figureground.core.data_urls import encode_thumbnail, is_small
from figureground.core.errors import join_names
from figureground.core.pages import render_page
from figureground.core.text_width import pad, text_width
from figureground.evaluation.page import THUMBNAIL
from figureground.evaluation.plots import plot_severity
from figureground.evaluation.results import SeverityEvaluation
from figureground.evaluation.summary import format_percent, format_share
from figureground.recipe.severity import Axis

EXAMPLES = 4
"""Objects whose images are shown along each axis."""

JsonMapping = Mapping[str, Any]


def write_page(evaluation: SeverityEvaluation, axes: Sequence[Axis]) -> str:
    """Return a self-contained HTML page."""
    report = evaluation.report
    parts = []
    for axis, axis_entry in zip(axes, report["axes"], strict=True):
        curves = {name: entry["axes"][axis.name] for name, entry in report["classifiers"].items()}
        parts.append({
            **axis_entry, "plot": plot_severity(axis_entry, curves), "curves": curves,
            "strips": _choose_strips(evaluation, axis),
        })  # fmt: skip
    return render_page(
        "severity.html.jinja", {"percent": format_percent, "spread": format_share, "failed": describe_failure},
        report=report, parts=parts, notes=list_notes(report),
    )  # fmt: skip


def describe_failure(failure: JsonMapping | None) -> str:
    """Return a failure point in words: `0.27 (severity 2.2)`, or `none`."""
    return "none" if failure is None else f"{failure['value']:.2g} (severity {failure['severity']:.1f})"


def list_notes(report: JsonMapping) -> list[str]:
    """Return notes on how to read the numbers."""
    lines = [
        "At high severity an image may no longer show its label, above all along strength: figureground verify says "
        "how often. A drop in accuracy there isn't the classifier's failure."
    ]
    low = [
        f"{name} ({format_percent(entry['chance'])})"
        for name, entry in report["classifiers"].items()
        if entry["half"] <= entry["chance"]
    ]
    if low:
        lines.append(
            f"Half of the reference accuracy is not above chance for {join_names(low, 8)}, so by this measure failure "
            "is hardly possible."
        )
    if report["references"] is None:
        lines.append("The reference is the mildest dataset; --references takes photographs instead.")
    return lines


def summarise(report: JsonMapping) -> str:
    """Summarise an evaluation along severity axes for the terminal."""
    total = sum(report["dataset"]["samples"].values())
    lines = [f"{report['dataset']['name']}: {len(report['dataset']['samples'])} datasets, {total:,} images"]
    for name, entry in report["classifiers"].items():
        lines.append(
            f"\n{name}: reference {format_share(entry['reference'])}; it fails below {format_percent(entry['half'])}"
        )
        for axis in report["axes"]:
            lines += _axis_lines(axis, entry["axes"][axis["axis"]])
    return "\n".join([*lines, "", *list_notes(report)])


def _axis_lines(axis: JsonMapping, results: JsonMapping) -> Iterator[str]:
    yield f"  {axis['axis']} ({axis['field']}): failure point {describe_failure(results['failure'])}"
    values = [f"{value:g}" for value in axis["values"]]
    width = max(map(text_width, values))
    first = results["first_wrong"]
    for k, (value, level) in enumerate(zip(values, results["accuracy"], strict=True)):
        wrong = f"first wrong {format_percent(first['share'][k - 1])}" if first and k else ""
        yield f"    {pad(value, width)}  {format_share(level):24} {level['samples']:7,}  {wrong}".rstrip()


def _choose_strips(evaluation: SeverityEvaluation, axis: Axis) -> list[list[dict[str, Any]]]:
    """Return some objects' images by severity: pictures, and how many classifiers are right."""
    images, predictions = evaluation.images, list(evaluation.predictions.values())
    rows = [{key: row for row, key in enumerate(images[folder].keys)} for folder in axis.folders]
    shared = [key for key in rows[0] if all(key in row_of for row_of in rows)]
    chosen = [shared[i] for i in np.linspace(0, len(shared) - 1, min(EXAMPLES, len(shared))).round().astype(int)]
    columns: list[dict[str, dict[str, Any]]] = []
    for folder, row_of in zip(axis.folders, rows, strict=True):
        chosen_rows = np.array(sorted(row_of[key] for key in chosen), np.int64)
        pictures = {images[folder].keys[row]: draw() for row, draw in images[folder].read(chosen_rows)}
        columns.append(
            {
                key: {
                    "url": encode_thumbnail(picture, THUMBNAIL), "small": is_small(picture), "key": key,
                    "right": sum(bool(own[folder].correct[row_of[key]]) for own in predictions),
                }
                for key, picture in pictures.items()
            }
        )  # fmt: skip
    return [[column[key] for column in columns] for key in chosen]
