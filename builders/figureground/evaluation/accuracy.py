"""Accuracy by foreground, background and cell; gap to other images; consistency of objects across backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.core.intervals import Interval, difference, mean
from figureground.data.images import DatasetImages
from figureground.data.objects import without_background

if TYPE_CHECKING:
    from figureground.evaluation.predict import Predictions

JsonDict = dict[str, Any]
"""Part of a report that is written as JSON."""


def interval_to_dict(interval: Interval, objects: Sequence[np.ndarray] | None = None) -> JsonDict:
    """Return an interval for JSON.

    Args:
        objects: Object ids of the underlying images, by group; they give `samples`, and `objects` if there are fewer
            objects than samples.
    """
    summary: JsonDict = interval._asdict()
    if objects is not None:
        samples, num_objects = sum(map(len, objects)), len(np.unique(np.concatenate(objects)))
        summary |= {"samples": samples, **({"objects": num_objects} if num_objects < samples else {})}
    return summary


def measure_by_group(images: DatasetImages, predictions: Predictions) -> JsonDict:
    """Return accuracy overall, by split, foreground, background and cell, and of the worst group, with intervals.

    Images of one object aren't independent, so intervals count objects. The worst group's interval ignores that it was
    selected: the minimum over many small groups is biased low.

    Returns:
        `accuracy`; `by_split`, `by_foreground` and `by_background`, by name; `by_cell`, a list with `foreground` and
        `background`; `worst_group`, one of those cells. Each has `value`, `low`, `high` (shares, 0 to 1), `samples`,
        and `objects` if there are fewer. Groups without a judged sample are omitted.
    """
    judged = predictions.judged
    correct, objects = predictions.correct[judged], predictions.objects_in(judged)
    foregrounds, backgrounds = images.source.columns.foregrounds, images.source.columns.backgrounds
    axes = {
        "by_split": (images.split[judged], images.splits),
        "by_foreground": (images.foreground[judged], foregrounds),
        "by_background": (images.background[judged], backgrounds),
    }
    report: JsonDict = {"accuracy": _measure_share(correct, objects)}
    for name, (groups, names) in axes.items():
        report[name] = {names[group]: entry for group, entry in _measure_shares(groups, correct, objects).items()}
    cells = images.foreground[judged] * len(backgrounds) + images.background[judged]
    report["by_cell"] = [
        {
            "foreground": foregrounds[cell // len(backgrounds)],
            "background": backgrounds[cell % len(backgrounds)],
            **entry,
        }
        for cell, entry in _measure_shares(cells, correct, objects).items()
    ]
    report["worst_group"] = min(report["by_cell"], key=lambda cell: (cell["value"], -cell["samples"]))
    return report


def _measure_share(correct: np.ndarray, objects: np.ndarray) -> JsonDict:
    return interval_to_dict(mean([correct], [objects]), [objects])


def _measure_shares(groups: np.ndarray, correct: np.ndarray, objects: np.ndarray) -> dict[int, JsonDict]:
    """Return the accuracy of each group that has samples, by group number."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {int(g): _measure_share(correct[rows], objects[rows]) for g, rows in zip(present, parts, strict=True)}


def group_by_class(predictions: Predictions) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return, by label, the correctness (bool) and the objects of each class's judged images, if it has any."""
    labels = np.unique(predictions.label[predictions.judged]).tolist()
    return {
        k: (predictions.correct[predictions.mask_of(k)], predictions.objects_in(predictions.mask_of(k))) for k in labels
    }


def compare_accuracy(predictions: Predictions, references: Predictions | None = None) -> JsonDict:
    """Return class-averaged accuracy, and its drop from the references.

    Returns:
        `accuracy`, and `classes`, the number of classes averaged. With references also `references`, their accuracy,
        and `drop`, the references' accuracy minus this one (negative if this one is higher); all over the shared
        classes. `single` is the number of classes with a single object on either side. If no class is shared, only
        `classes`: 0.
    """
    own = group_by_class(predictions)
    reference_classes = own if references is None else group_by_class(references)
    shared = sorted(set(own) & set(reference_classes))
    if not shared:
        return {"classes": 0}
    correct, objects = zip(*(own[k] for k in shared), strict=True)
    report: JsonDict = {"classes": len(shared), "accuracy": interval_to_dict(mean(correct, objects), objects)}
    single = {k for k, class_objects in zip(shared, objects, strict=True) if len(np.unique(class_objects)) == 1}
    if references is not None:
        reference_correct, reference_objects = zip(*(reference_classes[k] for k in shared), strict=True)
        report["references"] = interval_to_dict(mean(reference_correct, reference_objects), reference_objects)
        has_objects = predictions.objects is not None and references.objects is not None
        report["drop"] = interval_to_dict(
            difference(reference_correct, correct, (reference_objects, objects) if has_objects else None)
        )
        single |= {
            k for k, class_objects in zip(shared, reference_objects, strict=True) if len(np.unique(class_objects)) == 1
        }
    return {**report, "single": len(single)}


def measure_consistency(keys: Sequence[str], outcomes: np.ndarray, predictions: Predictions) -> JsonDict | None:
    """Measure, for a matched set, how often a classifier's prediction for an object is the same on all backgrounds.

    An object is identified by its key without the background: the same cut-out, place and noise. If several objects
    show one cut-out, the intervals count cut-outs.

    Args:
        keys: `{split}-{foreground}-{background}-{i}`.
        outcomes: int (n,): the predicted class; equal numbers count as the same prediction.

    Returns:
        `objects`, the number of objects judged on at least two backgrounds; `alike`, the share with the same prediction
        on all of them; `right`, the share predicted correctly on all of them. None if no object qualifies.
    """
    objects: dict[str, list[int]] = {}
    for row in np.flatnonzero(predictions.judged).tolist():
        if (name := without_background(keys[row])) is not None:
            objects.setdefault(name, []).append(row)
    repeated = [rows for rows in objects.values() if len(rows) > 1]
    if not repeated:
        return None
    same = np.array([len(np.unique(outcomes[rows])) == 1 for rows in repeated])
    right = np.array([bool(predictions.correct[rows].all()) for rows in repeated])
    cutouts = np.arange(len(repeated))
    if predictions.objects is not None:
        cutouts = predictions.objects[[rows[0] for rows in repeated]]
    return {
        "objects": len(repeated),
        "alike": interval_to_dict(mean([same], [cutouts])),
        "right": interval_to_dict(mean([right], [cutouts])),
    }
