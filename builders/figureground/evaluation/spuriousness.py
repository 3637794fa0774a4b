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
from figureground.evaluation.accuracy import Told, told
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


def measure(kinds: Mapping[str, Predictions], real: Predictions | None, labels: Sequence[str]) -> Told:
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
    found: dict[str, dict[str, Told]] = {}
    groups: dict[str, list[_Group]] = {}
    first = next(iter(kinds.values()))
    for k in np.unique(first.label[first.judged]).tolist():
        positive = np.empty(0) if real is None else real.p[real.of(k)]
        for kind, answers in kinds.items():
            rows = answers.of(k)
            if not rows.any():
                continue
            p, group = answers.p[rows], _Group(answers.p[rows], answers.correct[rows], answers.objects_in(rows))
            groups.setdefault(kind, []).append(group)
            own = found.setdefault(labels[k], {})[kind] = _spread([group])
            own["images"] = len(p)
            if len(positive):
                own["average_precision"] = average_precision(positive, p)
                own["roc_auc"] = roc_auc(positive, p)
                own["positives"] = len(positive)
    mean = {kind: {**_spread(some), **_ranked(found, kind)} for kind, some in groups.items()}
    return {"classes": found, "mean": mean}


def measure_mean(each: Sequence[Mapping[str, Predictions]], told_each: Sequence[Told], labels: Sequence[str]) -> Told:
    """Return the metrics of `measure` for the mean over classifiers, skipping classifiers that lack a class.

    Args:
        each: For each classifier, its predictions by kind.
        told_each: For each classifier, the result of `measure`.
    """
    report = measure({kind: mean_of([some[kind] for some in each]) for kind in each[0]}, None, labels)
    for name, kinds in report["classes"].items():
        for kind, own in kinds.items():
            theirs = [some["classes"].get(name, {}).get(kind, {}) for some in told_each]
            for metric in ("average_precision", "roc_auc"):
                values = [some[metric] for some in theirs if metric in some]
                if values:
                    own[metric] = float(np.mean(values))
    report["mean"] = {kind: {**own, **_ranked(report["classes"], kind)} for kind, own in report["mean"].items()}
    return report


def mean_of(each: Sequence[Predictions]) -> Predictions:
    """Return the means over the classifiers that judged an image; `correct` becomes a float share of them."""

    judged = np.stack([some.judged for some in each])
    by_any = judged.sum(axis=0) > 0
    count = np.maximum(judged.sum(axis=0), 1)
    p = np.where(judged, np.stack([some.p for some in each]), 0).sum(axis=0) / count
    correct = (judged & np.stack([some.correct for some in each])).sum(axis=0) / count
    return dataclasses.replace(each[0], judged=by_any, p=p, correct=correct)


def _spread(groups: Sequence[_Group]) -> Told:
    objects = [group.objects for group in groups]
    return {
        "predicted": told(mean_interval([group.predicted for group in groups], objects)),
        "p": told(mean_interval([group.p for group in groups], objects)),
    }


def _ranked(classes: Mapping[str, Mapping[str, Told]], kind: str) -> dict[str, Any]:
    """Return the means over classes of the ranking metrics, and the numbers of classes and images."""
    there = [kinds[kind] for kinds in classes.values() if kind in kinds]
    found: dict[str, Any] = {"classes": len(there), "images": sum(own["images"] for own in there)}
    for metric in ("average_precision", "roc_auc"):
        values = [own[metric] for own in there if metric in own]
        if values:
            found[metric] = float(np.mean(values))
    return found
