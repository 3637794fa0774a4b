"""Metrics for images that show a class's spurious feature but not the class: how strongly the class is predicted.

The metrics follow Spurious ImageNet (Neuhaus et al. 2023, arXiv 2212.04871): how often and how confidently class k is
predicted, and how well p_k separates images of k from these. Its README calls the latter AUC, but its code computes
average precision; both are reported here by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from figureground.core.intervals import mean as mean_interval
from figureground.evaluation.accuracy import JsonDict, interval_to_dict
from figureground.evaluation.metrics import average_precision, roc_auc

if TYPE_CHECKING:
    from figureground.evaluation.predict import Predictions

METRICS = {
    "predicted": "share predicted k",
    "p": "mean p_k",
    "average_precision": "average precision",
    "roc_auc": "ROC-AUC",
}
"""Metrics and their titles in tables. For the last two, lower is more spurious: they separate real k from these."""


class _Group(NamedTuple):
    """The images of a class."""

    p: np.ndarray
    """float64 (n,): p_k."""
    predicted: np.ndarray
    """bool (n,): whether k is predicted; or float (n,), 0 to 1: the share of classifiers that predict it."""
    objects: np.ndarray
    """int64 (n,): object ids."""


def measure(kinds: Mapping[str, Predictions], real: Predictions | None, labels: Sequence[str]) -> JsonDict:
    """Return one classifier's metrics by class and kind of images.

    Args:
        kinds: Predictions for images that show features: first the measured set, which determines the classes, then
            others such as the references.
        real: Predictions for images of the classes themselves, the positives of the rankings.
        labels: Names of the classes.

    Returns:
        `classes`, by name, then by kind: `images`, `predicted` and `p` with intervals, and, if there are images of the
        class, `average_precision`, `roc_auc` and the number of `positives`. `mean`, by kind: the same averaged over
        classes with equal weight, and `classes`, their number.
    """
    by_class: dict[str, dict[str, JsonDict]] = {}
    groups: dict[str, list[_Group]] = {}
    first = next(iter(kinds.values()))
    for k in np.unique(first.label[first.judged]).tolist():
        positive = np.empty(0) if real is None else real.p[real.mask_of(k)]
        for kind, predictions in kinds.items():
            rows = predictions.mask_of(k)
            if not rows.any():
                continue
            p, group = (
                predictions.p[rows],
                _Group(predictions.p[rows], predictions.correct[rows], predictions.objects_in(rows)),
            )
            groups.setdefault(kind, []).append(group)
            metrics = by_class.setdefault(labels[k], {})[kind] = _average_metrics([group])
            metrics["images"] = len(p)
            if len(positive):
                metrics["average_precision"] = average_precision(positive, p)
                metrics["roc_auc"] = roc_auc(positive, p)
                metrics["positives"] = len(positive)
    mean = {
        kind: {**_average_metrics(kind_groups), **_average_rankings(by_class, kind)}
        for kind, kind_groups in groups.items()
    }
    return {"classes": by_class, "mean": mean}


def measure_mean(
    predictions: Sequence[Mapping[str, Predictions]], results: Sequence[JsonDict], labels: Sequence[str]
) -> JsonDict:
    """Return the metrics of `measure` for the mean over classifiers, skipping classifiers that lack a class.

    Args:
        predictions: For each classifier, its predictions by kind.
        results: For each classifier, the result of `measure`.
    """
    report = measure(
        {kind: average_predictions([by_kind[kind] for by_kind in predictions]) for kind in predictions[0]}, None, labels
    )
    for name, kinds in report["classes"].items():
        for kind, metrics in kinds.items():
            entries = [result["classes"].get(name, {}).get(kind, {}) for result in results]
            for metric in ("average_precision", "roc_auc"):
                values = [entry[metric] for entry in entries if metric in entry]
                if values:
                    metrics[metric] = float(np.mean(values))
    report["mean"] = {
        kind: {**metrics, **_average_rankings(report["classes"], kind)} for kind, metrics in report["mean"].items()
    }
    return report


def average_predictions(predictions: Sequence[Predictions]) -> Predictions:
    """Return the means over the classifiers that judged an image; `correct` becomes a float share of them."""

    judged = np.stack([each.judged for each in predictions])
    by_any = judged.sum(axis=0) > 0
    count = np.maximum(judged.sum(axis=0), 1)
    p = np.where(judged, np.stack([each.p for each in predictions]), 0).sum(axis=0) / count
    correct = (judged & np.stack([each.correct for each in predictions])).sum(axis=0) / count
    return dataclasses.replace(predictions[0], judged=by_any, p=p, correct=correct)


def _average_metrics(groups: Sequence[_Group]) -> JsonDict:
    objects = [group.objects for group in groups]
    return {
        "predicted": interval_to_dict(mean_interval([group.predicted for group in groups], objects)),
        "p": interval_to_dict(mean_interval([group.p for group in groups], objects)),
    }


def _average_rankings(classes: Mapping[str, Mapping[str, JsonDict]], kind: str) -> dict[str, Any]:
    """Return the means over classes of the ranking metrics, and the numbers of classes and images."""
    entries = [kinds[kind] for kinds in classes.values() if kind in kinds]
    means: dict[str, Any] = {"classes": len(entries), "images": sum(metrics["images"] for metrics in entries)}
    for metric in ("average_precision", "roc_auc"):
        values = [metrics[metric] for metrics in entries if metric in metrics]
        if values:
            means[metric] = float(np.mean(values))
    return means
