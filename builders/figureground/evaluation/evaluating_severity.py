"""Evaluates classifiers along severity axes: on datasets that `build --severity` made. Writes JSON and an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.core.errors import FiguregroundError
from figureground.core.intervals import LEVEL, METHOD
from figureground.core.local_paths import strip_local_paths
from figureground.data.images import DatasetImages, open_images
from figureground.evaluation import severity
from figureground.evaluation.results import SeverityEvaluation
from figureground.evaluation.running import (
    BATCH_SIZE,
    MADE_BY,
    check_request,
    find_occurring,
    make_writable,
    prepare,
    run_classifiers,
    write_results,
)
from figureground.evaluation.severity_page import write_page
from figureground.recipe.severity import MILDEST, load_axes

if TYPE_CHECKING:
    from figureground.evaluation.predict import Predictions
    from figureground.vision.classifiers import Classifier


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
    images = {folder: DatasetImages.open(directory / folder, splits=splits) for folder in folders}
    mildest = images[MILDEST]
    for folder, dataset_images in images.items():
        if dataset_images.labels != mildest.labels:
            raise FiguregroundError(
                f"{directory / folder}: its labels differ from those of {directory / MILDEST}. Rebuild all datasets "
                "with one --severity command."
            )
    occurring = find_occurring(mildest)
    reference_images = None if references is None else open_images(Path(references), mildest.labels, occurring)
    prepared = prepare(
        directory, mildest, classifiers, zero_shot, labels=labels, candidates=candidates, out=out, device=device
    )
    make_writable([prepared.out], "Give another --out.")
    predictions: dict[str, dict[str, Predictions]] = {}
    results: dict[str, Any] = {}
    by_classifier = zip(prepared.counterparts, run_classifiers(prepared, batch_size, show_progress), strict=True)
    for mapping, (name, predict_images) in by_classifier:
        predictions[name] = {folder: predict_images(dataset_images) for folder, dataset_images in images.items()}
        reference_predictions = predict_images(reference_images) if reference_images is not None else None
        measured = severity.measure(axes, images, predictions[name], reference_predictions)
        facts = strip_local_paths(prepared.classifiers[name].facts)
        results[name] = {"facts": facts, "chance": mapping.chance(), **measured}
    report = {
        "made_by": MADE_BY,
        "kind": "severity",
        "dataset": {
            "name": directory.resolve().name,
            "datasets": {folder: dataset_images.source.recipe["sha256"] for folder, dataset_images in images.items()},
            "samples": {folder: len(dataset_images.keys) for folder, dataset_images in images.items()},
        },
        "axes": [{"axis": axis.name, "field": axis.field, "values": list(axis.values)} for axis in axes],
        "references": None
        if reference_images is None
        else {"name": reference_images.name, "images": int((reference_images.label >= 0).sum())},
        "intervals": {"method": METHOD, "level": LEVEL},
        "classifiers": results,
    }
    evaluation = SeverityEvaluation(images, report, predictions, prepared.out)
    write_results(prepared.out, write_page(evaluation, axes), report)
    return evaluation
