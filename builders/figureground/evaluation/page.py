"""HTML page of an evaluation: tables, and the images with the highest and lowest class probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from figureground.core.data_urls import encode_thumbnail, is_small
from figureground.core.pages import render_page
from figureground.evaluation.accuracy import JsonDict
from figureground.evaluation.plots import plot_robustness
from figureground.evaluation.results import Evaluation
from figureground.evaluation.spuriousness import METRICS, average_predictions
from figureground.evaluation.summary import format_drop, format_percent, format_sample_size, format_share, list_notes

if TYPE_CHECKING:
    from figureground.evaluation.predict import Predictions

EACH_END = 6
"""Number of images shown per class with the highest p, and again with the lowest."""
MAX_CLASSES = 40
"""Maximum number of classes whose images are shown, and of rows in a table of cells."""
THUMBNAIL = 192
"""Maximum edge of an image in pixels; displayed at half size."""


def write_page(evaluation: Evaluation) -> str:
    """Return a self-contained HTML page."""
    report = evaluation.report
    spurious = report["kind"] == "spurious"
    mean = average_predictions([evaluation.predictions[name] for name in evaluation.independent])
    return render_page(
        "evaluation.html.jinja",
        {"percent": format_percent, "spread": format_share, "points": format_drop, "shown": format_sample_size},
        report=report,
        spurious=spurious,
        notes=list_notes(report),
        overview=_make_overview(report) if spurious else [],
        classes=_make_class_tables(report) if spurious else [],
        cells=[] if spurious else [_make_cell_table(name, entry) for name, entry in report["classifiers"].items()],
        compared=[] if spurious else _list_comparisons(report),
        robustness=report.get("robustness"),
        plot=plot_robustness(report["robustness"], report["dataset"]["name"]) if report.get("robustness") else "",
        strips=_choose_strips(evaluation, mean),
        most_classes=MAX_CLASSES,
        judged=len(np.unique(mean.label[mean.judged])),
    )


# Tables


def _make_overview(report: JsonDict) -> list[dict[str, Any]]:
    """Return a table per metric for a spurious set: kinds of images down, classifiers across."""
    columns = [*(entry["mean"] for entry in report["classifiers"].values()), report["mean"]["mean"]]
    kinds = list(report["mean"]["mean"])
    tables = []
    for metric, title in METRICS.items():
        rows = [
            {"name": kind, "values": [_format_cell(entry.get(kind, {}), metric) for entry in columns]} for kind in kinds
        ]
        if any(value for row in rows for value in row["values"]):
            tables.append({"title": title, "metric": metric, "rows": rows})
    return tables


def _make_class_tables(report: JsonDict) -> list[dict[str, Any]]:
    """Return a table per metric for a spurious set: classes down, classifiers across, then means of other kinds."""
    mean = report["mean"]
    kinds = list(mean["mean"])
    own, others = kinds[0], kinds[1:]
    names = sorted(mean["classes"], key=lambda name: -mean["classes"][name][own]["predicted"]["value"])
    features = report["dataset"].get("features", {})
    tables = []
    for metric, title in METRICS.items():
        rows = []
        for name in names:
            cells = [entry["classes"].get(name, {}).get(own, {}) for entry in report["classifiers"].values()]
            cells += [mean["classes"][name].get(kind, {}) for kind in (own, *others)]
            rows.append({
                "name": name, "feature": features.get(name, ""), "images": mean["classes"][name][own]["images"],
                "values": [_format_cell(entry, metric) for entry in cells],
            })  # fmt: skip
        if any(value for row in rows for value in row["values"]):
            columns = [*report["classifiers"], "mean", *(f"{kind}, mean" for kind in others)]
            tables.append({"title": title, "columns": columns, "rows": rows})
    return tables


def _format_cell(metrics: JsonDict, metric: str) -> dict[str, Any] | None:
    """Return a number as shown in a table, and its closeness to the worst value, 0 to 1."""
    if metric not in metrics:
        return None
    value = metrics[metric]
    if metric in ("predicted", "p"):
        number = value["value"]
        format_number = format_percent if metric == "predicted" else "{:.3f}".format
        low, high = format_number(value["low"]), format_number(value["high"])
        return {"text": format_number(number), "more": f"{low} to {high}", "worst": number}
    return {"text": f"{value:.3f}", "more": "", "worst": 1 - value}


def _make_cell_table(name: str, results: JsonDict) -> dict[str, Any]:
    """Return a classifier's accuracies, foregrounds down, backgrounds across; if too many, only the lowest ones."""
    foregrounds = list(results["by_foreground"])
    if len(foregrounds) > MAX_CLASSES:
        foregrounds = sorted(foregrounds, key=lambda f: results["by_foreground"][f]["value"])[:MAX_CLASSES]
    cells = {(cell["foreground"], cell["background"]): cell for cell in results["by_cell"]}
    backgrounds = list(results["by_background"])
    return {
        "name": name,
        "of": len(results["by_foreground"]),
        "backgrounds": backgrounds,
        "rows": [
            {"name": f, "values": [cells.get((f, b)) for b in backgrounds], "all": results["by_foreground"][f]}
            for f in foregrounds
        ],
        "sums": [results["by_background"][b] for b in backgrounds],
        "accuracy": results["accuracy"],
    }  # fmt: skip


def _list_comparisons(report: JsonDict) -> list[dict[str, Any]]:
    """Return the comparisons of the set and its controls with the references, a row per classifier and kind."""
    return [
        {"classifier": name, "kind": kind, **comparison}
        for name, entry in report["classifiers"].items() for kind, comparison in entry.get("compared", {}).items()
    ]  # fmt: skip


# Images


def _choose_strips(evaluation: Evaluation, mean: Predictions) -> list[dict[str, Any]]:
    """Return each class's images with the highest and the lowest p, worst classes first."""
    labels = evaluation.images.labels
    spurious = evaluation.report["kind"] == "spurious"
    hits = {k: float(mean.correct[mean.mask_of(k)].mean()) for k in np.unique(mean.label[mean.judged]).tolist()}
    classes = sorted(hits, key=lambda k: -hits[k] if spurious else hits[k])[:MAX_CLASSES]
    ends: dict[int, tuple[list[int], list[int]]] = {}
    for k in classes:
        rows = np.flatnonzero(mean.mask_of(k))
        order = rows[np.argsort(-mean.p[rows], kind="stable")].tolist()
        half = min(EACH_END, (len(order) + 1) // 2)
        ends[k] = order[:half], order[max(half, len(order) - EACH_END) :]
    chosen_rows = np.array([row for high, low in ends.values() for row in (*high, *low)], np.int64)
    pictures = {row: draw() for row, draw in evaluation.images.read(chosen_rows)}

    def describe_rows(rows: Sequence[int]) -> list[dict[str, Any]]:
        return [_describe_image(evaluation, mean, row, pictures[row]) for row in rows]

    return [
        {"name": labels[k], "feature": evaluation.images.features.get(labels[k], ""), "hits": hits[k],
         "high": describe_rows(high), "low": describe_rows(low)}
        for k, (high, low) in ends.items()
    ]  # fmt: skip


def _describe_image(evaluation: Evaluation, mean: Predictions, row: int, image: Image.Image) -> dict[str, Any]:
    images = evaluation.images
    answers = {
        name: (evaluation.classifiers[name].labels[int(predictions.predicted[row])], float(predictions.p[row]))
        for name, predictions in evaluation.predictions.items() if predictions.judged[row]
    }  # fmt: skip
    votes = Counter(_first_synonym(label) for label, _ in answers.values())
    label, count = votes.most_common(1)[0]
    columns = images.source.columns
    return {
        "url": encode_thumbnail(image, THUMBNAIL),
        "small": is_small(image),
        "p": float(mean.p[row]),
        "right": float(mean.correct[row]) > 0.5,
        "said": label if count == len(answers) else f"{label} ({count} of {len(answers)})",
        "shows": f"{columns.foregrounds[images.foreground[row]]} × {columns.backgrounds[images.background[row]]}",
        "more": "\n".join([images.keys[row], *(f"{name}: {label}, p {p:.3f}" for name, (label, p) in answers.items())]),
    }


def _first_synonym(label: str) -> str:
    """Return the first of ImageNet's synonyms."""
    return label.split(",")[0].strip()
