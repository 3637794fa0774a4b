"""Accuracy by foreground, background and cell; gap to other images; consistency of objects across backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.core.intervals import Interval, difference, mean
from figureground.data.images import DatasetImages
from figureground.data.objects import settings, without_background

if TYPE_CHECKING:
    from figureground.evaluation.predict import Predictions

__all__ = ["Told", "alike", "by_class", "by_group", "compare", "settings", "told"]

Told = dict[str, Any]
"""JSON-able."""


def told(interval: Interval, objects: Sequence[np.ndarray] | None = None) -> Told:
    """Return an interval for JSON.

    Args:
        objects: Object ids of the underlying images, by group; they give `samples`, and `objects` if there are fewer
            objects than samples.
    """
    said: Told = interval._asdict()
    if objects is not None:
        samples, shown = sum(map(len, objects)), len(np.unique(np.concatenate(objects)))
        said |= {"samples": samples, **({"objects": shown} if shown < samples else {})}
    return said


def by_group(images: DatasetImages, predictions: Predictions) -> Told:
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
    report: Told = {"accuracy": _share(correct, objects)}
    for name, (groups, names) in axes.items():
        report[name] = {names[group]: some for group, some in _shares(groups, correct, objects).items()}
    cells = images.foreground[judged] * len(backgrounds) + images.background[judged]
    report["by_cell"] = [
        {
            "foreground": foregrounds[cell // len(backgrounds)],
            "background": backgrounds[cell % len(backgrounds)],
            **some,
        }
        for cell, some in _shares(cells, correct, objects).items()
    ]
    report["worst_group"] = min(report["by_cell"], key=lambda cell: (cell["value"], -cell["samples"]))
    return report


def _share(correct: np.ndarray, objects: np.ndarray) -> Told:
    return told(mean([correct], [objects]), [objects])


def _shares(groups: np.ndarray, correct: np.ndarray, objects: np.ndarray) -> dict[int, Told]:
    """Return the accuracy of each group that has samples, by group number."""
    order = np.argsort(groups, kind="stable")
    there, starts = np.unique(groups[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {int(g): _share(correct[rows], objects[rows]) for g, rows in zip(there, parts, strict=True)}


def by_class(predictions: Predictions) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return, by label, the correctness (bool) and the objects of each class's judged images, if it has any."""
    seen = np.unique(predictions.label[predictions.judged]).tolist()
    return {k: (predictions.correct[predictions.of(k)], predictions.objects_in(predictions.of(k))) for k in seen}


def compare(here: Predictions, references: Predictions | None = None) -> Told:
    """Return class-averaged accuracy, and its drop from the references.

    Returns:
        `accuracy`, and `classes`, the number of classes averaged. With references also `references`, their accuracy,
        and `drop`, the references' accuracy minus this one (negative if this one is higher); all over the shared
        classes. `single` is the number of classes with a single object on either side. If no class is shared, only
        `classes`: 0.
    """
    own = by_class(here)
    theirs = own if references is None else by_class(references)
    shared = sorted(set(own) & set(theirs))
    if not shared:
        return {"classes": 0}
    correct, objects = zip(*(own[k] for k in shared), strict=True)
    report: Told = {"classes": len(shared), "accuracy": told(mean(correct, objects), objects)}
    single = {k for k, each in zip(shared, objects, strict=True) if len(np.unique(each)) == 1}
    if references is not None:
        right, of_theirs = zip(*(theirs[k] for k in shared), strict=True)
        report["references"] = told(mean(right, of_theirs), of_theirs)
        known = here.objects is not None and references.objects is not None
        report["drop"] = told(difference(right, correct, (of_theirs, objects) if known else None))
        single |= {k for k, each in zip(shared, of_theirs, strict=True) if len(np.unique(each)) == 1}
    return {**report, "single": len(single)}


def alike(keys: Sequence[str], outcomes: np.ndarray, predictions: Predictions) -> Told | None:
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
    several = [rows for rows in objects.values() if len(rows) > 1]
    if not several:
        return None
    same = np.array([len(np.unique(outcomes[rows])) == 1 for rows in several])
    right = np.array([bool(predictions.correct[rows].all()) for rows in several])
    cutouts = np.arange(len(several))
    if predictions.objects is not None:
        cutouts = predictions.objects[[rows[0] for rows in several]]
    return {"objects": len(several), "alike": told(mean([same], [cutouts])), "right": told(mean([right], [cutouts]))}
