"""Accuracy by group: foregrounds, backgrounds and their cells; gaps to other pictures; objects on all backgrounds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from figureground.sample import derive_seed
from figureground.vision.metrics import Interval, bootstrap, shares
from figureground.vision.pictures import DatasetPictures
from figureground.vision.predict import Predictions

Told = dict[str, Any]
"""JSON-able."""

_KEY = re.compile(r"(?P<before>.+-\d+)-\d+-(?P<i>\d+)")


def told(interval: Interval, samples: int | None = None) -> Told:
    """An interval for JSON, with the number of samples that it stands on."""
    return {**interval._asdict(), **({} if samples is None else {"samples": samples})}


def by_group(pictures: DatasetPictures, predictions: Predictions, seed: int = 0) -> Told:
    """Accuracy in all, by split, foreground, background and cell, each with a bootstrap interval, and the worst group.

    The interval of a group is of its own samples drawn again. That of the worst group takes no account of its having
    been chosen: the least of many small groups is lower than any group truly is.

    Returns:
        `accuracy`; `by_split`, `by_foreground` and `by_background`, by name; `by_cell`, a list with `foreground` and
        `background`; `worst_group`, one of those. Each has `value`, `low`, `high`, shares from 0 to 1, and `samples`.
        Groups without a judged sample are left out.
    """
    judged = predictions.judged
    correct = predictions.correct[judged]
    foregrounds, backgrounds = pictures.source.columns.foregrounds, pictures.source.columns.backgrounds
    axes = {
        "by_split": (pictures.split[judged], pictures.splits),
        "by_foreground": (pictures.foreground[judged], foregrounds),
        "by_background": (pictures.background[judged], backgrounds),
    }
    report: Told = {"accuracy": told(bootstrap([correct], seed=derive_seed(seed, "accuracy")), int(correct.size))}
    for name, (groups, names) in axes.items():
        found = _shares(groups, len(names), correct, derive_seed(seed, name))
        report[name] = {names[group]: some for group, some in found.items()}
    cells = pictures.foreground[judged] * len(backgrounds) + pictures.background[judged]
    found = _shares(cells, len(foregrounds) * len(backgrounds), correct, derive_seed(seed, "by_cell"))
    report["by_cell"] = [
        {"foreground": foregrounds[f], "background": backgrounds[b], **some}
        for (f, b), some in ((divmod(cell, len(backgrounds)), some) for cell, some in found.items())
    ]
    report["worst_group"] = min(report["by_cell"], key=lambda cell: (cell["value"], -cell["samples"]))
    return report


def _shares(groups: np.ndarray, count: int, correct: np.ndarray, seed: int) -> dict[int, Told]:
    """Accuracy of each group that has samples."""
    samples = np.bincount(groups, minlength=count)
    hits = np.bincount(groups, weights=correct, minlength=count).astype(np.int64)
    there = np.flatnonzero(samples)
    found = shares(hits[there], samples[there], seed=seed)
    return {int(g): told(interval, int(samples[g])) for g, interval in zip(there, found, strict=True)}


def by_class(predictions: Predictions) -> dict[int, np.ndarray]:
    """Which pictures of each class were judged right, bool, by label; classes of which none was judged are left out."""
    seen = np.unique(predictions.label[predictions.judged]).tolist()
    return {k: predictions.correct[predictions.of(k)] for k in seen}


def compare(here: Predictions, references: Predictions | None = None, seed: int = 0) -> Told:
    """Accuracy with each class counting alike, and how far it lies below that on references.

    Returns:
        `accuracy` and `classes`, over how many; with references also `references`, their accuracy, and `drop`, theirs
        less this one, all over the classes that both have. Where they share no class, only `classes`: 0.
    """
    own = by_class(here)
    theirs = own if references is None else by_class(references)
    shared = sorted(set(own) & set(theirs))
    groups = [*(own[k] for k in shared), *(theirs[k] for k in shared)]
    if not shared:
        return {"classes": 0}

    def accuracy(means: np.ndarray) -> np.ndarray:
        return means[..., : len(shared)].mean(axis=-1)

    def of_references(means: np.ndarray) -> np.ndarray:
        return means[..., len(shared) :].mean(axis=-1)

    def drop(means: np.ndarray) -> np.ndarray:
        return of_references(means) - accuracy(means)

    statistics = {"accuracy": accuracy}
    if references is not None:
        statistics |= {"references": of_references, "drop": drop}
    seed = derive_seed(seed, "compare")
    return {
        "classes": len(shared),
        **{name: told(bootstrap(groups, some, seed=seed)) for name, some in statistics.items()},
    }


def alike(keys: Sequence[str], outcomes: np.ndarray, predictions: Predictions, seed: int = 0) -> Told | None:
    """Of a matched set, on how many objects a classifier says the same whatever the background.

    An object is what a key names without its background: the same cut-out, place and noise.

    Args:
        keys: `{split}-{foreground}-{background}-{i}`.
        outcomes: int (n,): the predicted class; equal numbers are the same answer.

    Returns:
        `objects`, how many were judged on two backgrounds or more; `alike`, the share that got one answer on all of
        theirs; `right`, the share that got the right one on all. None where there is no such object.
    """
    objects: dict[str, list[int]] = {}
    for row in np.flatnonzero(predictions.judged).tolist():
        if found := _KEY.fullmatch(keys[row]):
            objects.setdefault(f"{found['before']}-{found['i']}", []).append(row)
    several = [rows for rows in objects.values() if len(rows) > 1]
    if not several:
        return None
    same = np.array([len(np.unique(outcomes[rows])) == 1 for rows in several])
    right = np.array([bool(predictions.correct[rows].all()) for rows in several])
    return {
        "objects": len(several),
        "alike": told(bootstrap([same], seed=derive_seed(seed, "alike"))),
        "right": told(bootstrap([right], seed=derive_seed(seed, "right"))),
    }


def settings(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Config and identity of a dataset, or of those that it was made from."""
    for source in recipe.get("sources", ()):
        yield from settings(source)
    if not recipe.get("sources"):
        yield str(recipe.get("config") or recipe.get("builder") or ""), recipe.get("identity") or {}
