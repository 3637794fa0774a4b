"""Evaluates classifiers along severity axes: on datasets that `build --severity` made. Writes JSON and an HTML page."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.core.devices import check_device
from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.core.files import replace_text
from figureground.core.intervals import LEVEL, METHOD
from figureground.core.owned import refuse_output
from figureground.data.images import DatasetImages, open_images
from figureground.evaluation import severity
from figureground.evaluation.counterparts import LabelTable, find_counterparts, read_label_table
from figureground.evaluation.evaluating import BATCH_SIZE, FOLDER, JSON, PAGE, check_classifiers, open_all
from figureground.evaluation.severity_page import write_page
from figureground.recipe.severity import MILDEST, load_axes
from figureground.shards.card import public

if TYPE_CHECKING:
    from figureground.evaluation.predict import Predictions
    from figureground.vision.classifiers import Classifier


@dataclass
class SeverityEvaluation:
    """Results of classifiers along severity axes."""

    images: dict[str, DatasetImages]
    """By folder."""
    report: dict[str, Any]
    """Contents of `evaluation.json`; see `docs/evaluate.md`."""
    predictions: dict[str, dict[str, Predictions]]
    """By classifier, then by folder."""
    out: Path
    """Output directory."""


def evaluate_severity(
    directory: Path | str,
    classifiers: Sequence[str | Classifier],
    *,
    references: Path | str | None = None,
    labels: Path | str | None = None,
    prompts: Path | str | None = None,
    candidates: str | None = None,
    splits: Sequence[str] = (),
    out: Path | str | None = None,
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    show_progress: bool = True,
) -> SeverityEvaluation:
    """Run classifiers on the datasets of severity axes, and write `evaluation.json` and `evaluation.html`.

    Args:
        directory: What `build --severity` wrote; all its datasets must be finished.
        references: Photographs in one folder per class, or a dataset: a classifier fails where its accuracy is below
            half of that on them. By default, that on the mildest dataset counts.
        classifiers, labels, prompts, candidates, splits, device, batch_size, show_progress: See `evaluate`.
        out: Output directory; `_evaluation` in `directory` by default.

    Raises:
        FiguregroundError: A dataset isn't finished or has other labels; or as for `evaluate`.
    """
    if not classifiers:
        raise UsageError("--classifier: name at least one.")
    if batch_size < 1:
        raise RecipeError("--batch-size", f"{batch_size} is not a whole number of at least 1.")
    check_device(device, "--device")
    zero_shot = check_classifiers(classifiers, prompts, candidates)
    directory = Path(directory)
    axes = load_axes(directory)
    folders = list(dict.fromkeys(folder for axis in axes for folder in axis.folders))
    images = {folder: DatasetImages(directory / folder, splits=splits) for folder in folders}
    mildest = images[MILDEST]
    for folder, some in images.items():
        if some.labels != mildest.labels:
            raise FiguregroundError(f"{directory / folder} has other labels than {directory / MILDEST}.")
    occurring = [mildest.labels[k] for k in np.unique(mildest.label)]
    beside = None if references is None else open_images(Path(references), mildest.labels, occurring)
    table = LabelTable() if labels is None else read_label_table(Path(labels), mildest.labels)
    out = directory / FOLDER if out is None else Path(out)
    refuse_output(out, directory, FOLDER, JSON, PAGE)

    # Imports that need torch come last, so that mistakes are reported at once.
    from figureground.core.accelerator import choose_device
    from figureground.evaluation.predict import predict

    place = choose_device(device)
    opened = open_all(classifiers, mildest, zero_shot, candidates)
    counterparts = find_counterparts(list(opened.values()), mildest.labels, occurring, table)
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise FiguregroundError(f"{out} isn't writable. Give another --out.")
    predictions: dict[str, dict[str, Predictions]] = {}
    told: dict[str, Any] = {}
    for (name, classifier), own in zip(opened.items(), counterparts, strict=True):
        before = next(classifier.parameters()).device
        classifier.to(place)
        answer = functools.partial(
            predict, classifier, counterparts=own, batch_size=batch_size, show_progress=show_progress
        )
        predictions[name] = {folder: answer(some) for folder, some in images.items()}
        known = answer(beside) if beside is not None else None
        classifier.to(before)
        told[name] = {
            "facts": public(classifier.facts), **severity.measure(axes, images, predictions[name], known),
        }  # fmt: skip
    report = {
        "made_by": "figureground evaluate",
        "kind": "severity",
        "dataset": {
            "name": directory.resolve().name,
            "datasets": {folder: some.source.recipe["sha256"] for folder, some in images.items()},
            "samples": {folder: len(some.keys) for folder, some in images.items()},
        },
        "axes": [{"axis": axis.name, "field": axis.field, "values": list(axis.values)} for axis in axes],
        "references": None if beside is None else {"name": beside.name, "images": int((beside.label >= 0).sum())},
        "intervals": {"method": METHOD, "level": LEVEL},
        "chance": 1 / len(occurring),
        "classifiers": told,
    }
    evaluation = SeverityEvaluation(images, report, predictions, out)
    replace_text(out / PAGE, write_page(evaluation, axes))
    replace_text(out / JSON, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return evaluation
