"""HTML page of an evaluation: tables, and the images with the highest and lowest class probabilities."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from figureground.core.pages import render_page
from figureground.evaluation.accuracy import Told
from figureground.evaluation.plots import plot_robustness
from figureground.evaluation.spuriousness import METRICS, mean_of
from figureground.evaluation.summary import notes, percent, points, shown, spread

if TYPE_CHECKING:
    from figureground.evaluation.evaluating import Evaluation
    from figureground.evaluation.predict import Predictions

EACH_END = 6
"""Number of images shown per class with the highest p, and again with the lowest."""
MOST_CLASSES = 40
"""Maximum number of classes whose images are shown, and of rows in a table of cells."""
THUMBNAIL = 192
"""Maximum edge of an image in pixels; displayed at half size."""
_SMALL = 96


def write_page(evaluation: Evaluation) -> str:
    """Return a self-contained HTML page."""
    report = evaluation.report
    spurious = report["kind"] == "spurious"
    mean = mean_of([evaluation.predictions[name] for name in evaluation.independent])
    return render_page(
        "evaluation.html.jinja",
        {"percent": percent, "spread": spread, "points": points, "shown": shown},
        report=report,
        spurious=spurious,
        notes=notes(report),
        overview=_overview(report) if spurious else [],
        classes=_class_tables(report) if spurious else [],
        cells=[] if spurious else [_cells(name, told) for name, told in report["classifiers"].items()],
        compared=[] if spurious else _compared(report),
        robustness=report.get("robustness"),
        plot=plot_robustness(report["robustness"], report["dataset"]["name"]) if report.get("robustness") else "",
        strips=_strips(evaluation, mean),
        most_classes=MOST_CLASSES,
        judged=len(np.unique(mean.label[mean.judged])),
    )


# Tables


def _overview(report: Told) -> list[dict[str, Any]]:
    """Return a table per metric for a spurious set: kinds of images down, classifiers across."""
    each = [*(told["mean"] for told in report["classifiers"].values()), report["mean"]["mean"]]
    kinds = list(report["mean"]["mean"])
    tables = []
    for metric, title in METRICS.items():
        rows = [{"name": kind, "values": [_value(told.get(kind, {}), metric) for told in each]} for kind in kinds]
        if any(value for row in rows for value in row["values"]):
            tables.append({"title": title, "metric": metric, "rows": rows})
    return tables


def _class_tables(report: Told) -> list[dict[str, Any]]:
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
            each = [told["classes"].get(name, {}).get(own, {}) for told in report["classifiers"].values()]
            each += [mean["classes"][name].get(kind, {}) for kind in (own, *others)]
            rows.append({
                "name": name, "feature": features.get(name, ""), "images": mean["classes"][name][own]["images"],
                "values": [_value(told, metric) for told in each],
            })  # fmt: skip
        if any(value for row in rows for value in row["values"]):
            columns = [*report["classifiers"], "mean", *(f"{kind}, mean" for kind in others)]
            tables.append({"title": title, "columns": columns, "rows": rows})
    return tables


def _value(told: Told, metric: str) -> dict[str, Any] | None:
    """Return a number as shown in a table, and its closeness to the worst value, 0 to 1."""
    if metric not in told:
        return None
    value = told[metric]
    if metric in ("predicted", "p"):
        number = value["value"]
        show = percent if metric == "predicted" else "{:.3f}".format
        low, high = show(value["low"]), show(value["high"])
        return {"text": show(number), "more": f"{low} to {high}", "worst": number}
    return {"text": f"{value:.3f}", "more": "", "worst": 1 - value}


def _cells(name: str, told: Told) -> dict[str, Any]:
    """Return a classifier's accuracies, foregrounds down, backgrounds across; if too many, only the lowest ones."""
    foregrounds = list(told["by_foreground"])
    if len(foregrounds) > MOST_CLASSES:
        foregrounds = sorted(foregrounds, key=lambda f: told["by_foreground"][f]["value"])[:MOST_CLASSES]
    cells = {(cell["foreground"], cell["background"]): cell for cell in told["by_cell"]}
    backgrounds = list(told["by_background"])
    return {
        "name": name,
        "of": len(told["by_foreground"]),
        "backgrounds": backgrounds,
        "rows": [
            {"name": f, "values": [cells.get((f, b)) for b in backgrounds], "all": told["by_foreground"][f]}
            for f in foregrounds
        ],
        "sums": [told["by_background"][b] for b in backgrounds],
        "accuracy": told["accuracy"],
    }  # fmt: skip


def _compared(report: Told) -> list[dict[str, Any]]:
    """Return the comparisons of the set and its controls with the references, a row per classifier and kind."""
    return [
        {"classifier": name, "kind": kind, **compared}
        for name, told in report["classifiers"].items() for kind, compared in told.get("compared", {}).items()
    ]  # fmt: skip


# Images


def _strips(evaluation: Evaluation, mean: Predictions) -> list[dict[str, Any]]:
    """Return each class's images with the highest and the lowest p, worst classes first."""
    labels = evaluation.images.labels
    spurious = evaluation.report["kind"] == "spurious"
    hits = {k: float(mean.correct[mean.of(k)].mean()) for k in np.unique(mean.label[mean.judged]).tolist()}
    shown = sorted(hits, key=lambda k: -hits[k] if spurious else hits[k])[:MOST_CLASSES]
    ends: dict[int, tuple[list[int], list[int]]] = {}
    for k in shown:
        rows = np.flatnonzero(mean.of(k))
        order = rows[np.argsort(-mean.p[rows], kind="stable")].tolist()
        half = min(EACH_END, (len(order) + 1) // 2)
        ends[k] = order[:half], order[max(half, len(order) - EACH_END) :]
    wanted = np.array([row for high, low in ends.values() for row in (*high, *low)], np.int64)
    drawn = {row: draw() for row, draw in evaluation.images.read(wanted)}

    def tell(rows: Sequence[int]) -> list[dict[str, Any]]:
        return [_example(evaluation, mean, row, drawn[row]) for row in rows]

    return [
        {"name": labels[k], "feature": evaluation.images.features.get(labels[k], ""), "hits": hits[k],
         "high": tell(high), "low": tell(low)}
        for k, (high, low) in ends.items()
    ]  # fmt: skip


def _example(evaluation: Evaluation, mean: Predictions, row: int, image: Image.Image) -> dict[str, Any]:
    images = evaluation.images
    said = {
        name: (evaluation.classifiers[name].labels[int(some.predicted[row])], float(some.p[row]))
        for name, some in evaluation.predictions.items() if some.judged[row]
    }  # fmt: skip
    votes = Counter(_short(label) for label, _ in said.values())
    label, most = votes.most_common(1)[0]
    columns = images.source.columns
    return {
        "url": data_url(image),
        "small": max(image.size) < _SMALL,
        "p": float(mean.p[row]),
        "right": float(mean.correct[row]) > 0.5,
        "said": label if most == len(said) else f"{label} ({most} of {len(said)})",
        "shows": f"{columns.foregrounds[images.foreground[row]]} × {columns.backgrounds[images.background[row]]}",
        "more": "\n".join([images.keys[row], *(f"{name}: {label}, p {p:.3f}" for name, (label, p) in said.items())]),
    }


def _short(label: str) -> str:
    """Return the first of ImageNet's synonyms."""
    return label.split(",")[0].strip()


def data_url(image: Image.Image) -> str:
    """Return an image as a data URL, WebP, at most `THUMBNAIL` wide and high; the image is shrunk in place."""
    small = max(image.size) < _SMALL
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85, method=4, lossless=small)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
