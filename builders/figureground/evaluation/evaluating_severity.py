"""Evaluates classifiers along severity axes: on datasets that `build --severity` made. Writes JSON and an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.core.errors import FiguregroundError
from figureground.core.intervals import LEVEL, METHOD
from figureground.core.owned import refuse_output
from figureground.data.images import DatasetImages, open_images
from figureground.evaluation import severity
from figureground.evaluation.counterparts import LabelTable, find_counterparts, read_label_table
from figureground.evaluation.running import (
    BATCH_SIZE,
    FOLDER,
    JSON,
    PAGE,
    check_request,
    make_writable,
    open_all,
    run_each,
    write_results,
)
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
    zero_shot = check_request(classifiers, prompts, candidates, device, batch_size)
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

    place = choose_device(device)
    opened = open_all(classifiers, mildest, zero_shot, candidates)
    counterparts = find_counterparts(list(opened.values()), mildest.labels, occurring, table)
    make_writable([out], "Give another --out.")
    predictions: dict[str, dict[str, Predictions]] = {}
    told: dict[str, Any] = {}
    for name, answer in run_each(opened, counterparts, place, batch_size, show_progress):
        predictions[name] = {folder: answer(some) for folder, some in images.items()}
        known = answer(beside) if beside is not None else None
        measured = severity.measure(axes, images, predictions[name], known)
        told[name] = {"facts": public(opened[name].facts), **measured}
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
    write_results(out, write_page(evaluation, axes), report)
    return evaluation
