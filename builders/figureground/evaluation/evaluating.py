"""Evaluate classifiers on a dataset of this package; write metrics as JSON and an HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.core.errors import FiguregroundError, UsageError, join_names
from figureground.core.hashing import content_hash
from figureground.core.intervals import LEVEL, METHOD
from figureground.core.local_paths import strip_local_paths
from figureground.core.names import as_names
from figureground.data.images import SPURIOUS_FOR, DatasetImages, FolderImages, open_images
from figureground.data.objects import is_matched, iterate_identities
from figureground.evaluation import accuracy, robustness, spuriousness
from figureground.evaluation.counterparts import Counterparts, LabelTable
from figureground.evaluation.page import write_page
from figureground.evaluation.results import Evaluation
from figureground.evaluation.running import (
    BATCH_SIZE,
    MADE_BY,
    check_request,
    find_occurring,
    make_unique,
    make_writable,
    prepare,
    run_classifiers,
    write_results,
)
from figureground.evaluation.score_files import choose_score_files, write_score_files
from figureground.recipe.severity import FILE as AXES

if TYPE_CHECKING:
    from figureground.evaluation.predict import Predictions
    from figureground.vision.classifiers import Classifier

GENERATED, REFERENCES = "generated", "references"
"""Names of the dataset's own images and of the references, beside the names of controls."""


def evaluate(
    directory: Path | str,
    classifiers: str | Sequence[str | Classifier],
    *,
    references: Path | str | None = None,
    validation: Path | str | None = None,
    labels: Path | str | None = None,
    prompts: Path | str | None = None,
    candidates: str | None = None,
    controls: Sequence[Path | str] = (),
    splits: str | Sequence[str] = (),
    out: Path | str | None = None,
    save_scores: bool = False,
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    show_progress: bool = True,
) -> Evaluation:
    """Run classifiers on a dataset's images, and write `evaluation.json` and `evaluation.html`.

    Args:
        directory: A finished dataset. Labels are the column `spurious_for` for a class-wise spurious set (the classes
            k), and the column `foreground` for any other.
        classifiers: Names for `open_classifier`, `clip:ID` for zero-shot classifiers, or opened ones; or one name.
        references: Photographs in one folder per class, or a dataset, to compare accuracy with; for a spurious set,
            images of the spurious feature.
        validation: For a spurious set, images of the classes themselves, in the same layout.
        labels: A CSV `label,classifier_label` that maps labels to the classifiers' names.
        prompts: A .txt file with texts for zero-shot classifiers, one a line, with `{class}` and `{definition}`.
        candidates: A class list, such as `imagenet`, or a CSV, of further classes that zero-shot classifiers choose
            from; by default, they choose among the dataset's labels.
        controls: Datasets to measure in the same way: the control configs of a D3S recipe, or other spurious sets.
        splits: Splits of the dataset, and of controls that have them, to evaluate; all by default.
        out: Output directory; `_evaluation` in the dataset by default.
        save_scores: Whether to write per-image predictions to the dataset's `_figureground/scores/`.
        device: auto, cpu, cuda, cuda:1 or mps.
        batch_size: Images per batch; halved if memory doesn't suffice.
        show_progress: Whether to show progress bars.

    Raises:
        FiguregroundError: The dataset isn't finished; a classifier can't be opened or has no counterpart of any label;
            images contain none of the classes; the label table names an unknown label or class; or scores files of
            another program are in the way.
        UsageError: An option doesn't apply to this kind of dataset.
    """
    classifiers = [classifiers] if isinstance(classifiers, str) else classifiers
    splits = as_names(splits)
    zero_shot = check_request(classifiers, prompts, candidates, device, batch_size)
    directory = Path(directory)
    if (directory / AXES).exists():
        raise UsageError(f"{directory} holds several datasets of severity axes: `evaluate_severity` reads them.")
    images = DatasetImages.open(directory, splits=splits)
    spurious = images.column == SPURIOUS_FOR
    if validation is not None and not spurious:
        raise UsageError("--validation applies to class-wise spurious sets only; give photographs as --references.")
    occurring = find_occurring(images)
    other_images = _open_others(images, occurring, references, controls, splits)
    validation_images = None if validation is None else open_images(Path(validation), images.labels, occurring)
    prepared = prepare(
        directory, images, classifiers, zero_shot, labels=labels, candidates=candidates, out=out, device=device
    )
    opened, counterparts = prepared.classifiers, prepared.counterparts
    scores = choose_score_files(directory, opened, counterparts) if save_scores else {}
    make_writable(
        [prepared.out, *[file.path.parent for file in scores.values()]], "Give another --out, and omit --save-scores."
    )

    predictions: dict[str, dict[str, Predictions]] = {}
    positives: dict[str, Predictions] = {}
    for name, predict_images in run_classifiers(prepared, batch_size, show_progress):
        predictions[name] = {kind: predict_images(each) for kind, each in {GENERATED: images, **other_images}.items()}
        if validation_images is not None:
            positives[name] = predict_images(validation_images)

    measured = {
        name: spuriousness.measure(predictions[name], positives.get(name), images.labels)
        if spurious
        else _measure_accuracy(images, mapping, predictions[name])
        for name, mapping in zip(opened, counterparts, strict=True)
    }
    steered = _find_steered(images, opened)
    report = {
        **_describe_inputs(images, occurring, other_images, validation_images, prepared.table),
        "classifiers": {
            name: {
                "facts": strip_local_paths(classifier.facts),
                **({"steered": name in steered} if spurious else {}),
                **_describe_coverage(classifier, mapping, images, predictions[name][GENERATED]),
                **measured[name],
            }
            for (name, classifier), mapping in zip(opened.items(), counterparts, strict=True)
        },
    }
    independent = [name for name in opened if name not in steered] or list(opened)
    if not spurious and REFERENCES in other_images:
        report["robustness"] = robustness.measure(report["classifiers"])
    if spurious:
        report["mean"] = spuriousness.measure_mean(
            [predictions[name] for name in independent], [measured[name] for name in independent], images.labels
        )
    evaluation = Evaluation(
        images, report, opened, {name: by_kind[GENERATED] for name, by_kind in predictions.items()}, independent,
        prepared.out, tuple(file.path for file in scores.values()),
    )  # fmt: skip
    if scores:
        write_score_files(directory, scores, images, opened, evaluation.predictions)
    write_results(prepared.out, write_page(evaluation), report)
    return evaluation


def _open_others(
    images: DatasetImages, occurring: Sequence[str], references: Path | str | None, controls: Sequence[Path | str],
    splits: Sequence[str],
) -> dict[str, DatasetImages | FolderImages]:  # fmt: skip
    """Open the images to compare a dataset with, by name: `REFERENCES`, and the config or folder of each control."""
    others: dict[str, DatasetImages | FolderImages] = {}
    if references is not None:
        column = None if images.column == SPURIOUS_FOR else "foreground"
        others[REFERENCES] = open_images(Path(references), images.labels, occurring, column)
    for control in map(Path, controls):
        control_images = _open_control(control, images, occurring, splits)
        name = _name_config(control_images) or control_images.name
        others[make_unique(name, (*others, GENERATED, REFERENCES))] = control_images
    return others


def _find_steered(images: DatasetImages, classifiers: Mapping[str, Classifier]) -> set[str]:
    """Return the classifiers whose features steered the fine-tuning (SFSL); their predictions prove nothing."""
    concepts = images.source.facts.concepts or []
    networks = {concept["feature_model"]["sha256"] for concept in concepts if concept.get("feature_model")}
    return {name for name, classifier in classifiers.items() if classifier.facts.get("sha256") in networks}


def _open_control(
    directory: Path, images: DatasetImages, occurring: Sequence[str], splits: Sequence[str]
) -> DatasetImages:
    """Open a control, restricted to the requested splits if it has any of them."""
    control = DatasetImages.open(directory, images.labels, occurring)
    if control.column != images.column:
        raise UsageError(
            f"--control {directory} is labelled by the column {control.column}, but {images.name} by "
            f"{images.column}: they can't be compared."
        )
    if not (control.label >= 0).any():
        raise FiguregroundError(
            f"--control {directory} has none of the classes of {images.name}, only {join_names(control.unknown, 5)}."
        )
    shared_splits = [split for split in splits if split in control.splits]
    return DatasetImages.open(directory, images.labels, occurring, splits=shared_splits) if shared_splits else control


def _name_config(images: DatasetImages) -> str:
    """Return the config that a dataset was built with, or those of its source datasets."""
    return " and ".join(dict.fromkeys(name for name, _ in iterate_identities(images.source.recipe) if name))


CONTROLLED_FIELDS = (
    "checkpoint", "revision", "size", "num_inference_steps", "guidance_scale", "negative_prompt", "scheduler", "eta",
    "prompt", "image_format",
)  # fmt: skip
"""Recipe fields in which a control must equal the set, since differences here would also change its accuracy."""


def _find_differences(images: DatasetImages, control: DatasetImages | FolderImages) -> list[dict[str, Any]]:
    """Return the `CONTROLLED_FIELDS` in which a control differs: `field`, and the values `dataset` and `control`."""
    if not isinstance(control, DatasetImages):
        return []
    differences = []
    for field in CONTROLLED_FIELDS:
        values, control_values = (_collect_values(dataset, field) for dataset in (images, control))
        if values != control_values:
            differences.append({"field": field, "dataset": values, "control": control_values})
    return differences


def _collect_values(images: DatasetImages, field: str) -> list[Any]:
    """Return the distinct values of a field in the recipes of a dataset and its sources."""
    values = [identity.get(field) for _, identity in iterate_identities(images.source.recipe)]
    return [json.loads(text) for text in sorted({json.dumps(value) for value in values})]


def _count_reuse(images: DatasetImages) -> dict[str, int]:
    """Return the numbers of distinct `objects` and, if images were guided by background images, `scenes`."""
    scenes = len(np.unique(images.scenes[images.scenes >= 0]))
    return {"objects": len(np.unique(images.objects)), **({"scenes": scenes} if scenes else {})}


def _describe_inputs(
    images: DatasetImages, occurring: Sequence[str], other_images: Mapping[str, DatasetImages | FolderImages],
    validation_images: DatasetImages | FolderImages | None, table: LabelTable,
) -> dict[str, Any]:  # fmt: skip
    """Return the report's entries on the images and labels that are compared."""
    return {
        "made_by": MADE_BY,
        "dataset": _describe_dataset(images),
        "kind": "spurious" if images.column == SPURIOUS_FOR else "foreground",
        "intervals": {"method": METHOD, "level": LEVEL, **_count_reuse(images)},
        "beside": {
            kind: {
                **_describe_images(each, occurring),
                **({} if kind == REFERENCES else {"differs": _find_differences(images, each)}),
            }
            for kind, each in other_images.items()
        },
        "validation": None if validation_images is None else _describe_images(validation_images, occurring),
        "label_table": None if table.path is None else {"name": table.path.name, "sha256": content_hash(table.path)},
    }


def _describe_dataset(images: DatasetImages) -> dict[str, Any]:
    source = images.source
    return {
        "name": source.name,
        "builder": source.facts.builder,
        "config": _name_config(images),
        "recipe_sha256": source.recipe["sha256"],
        "samples": len(images.keys),
        "splits": {split: int((images.split == number).sum()) for number, split in enumerate(images.splits)},
        **({"features": images.features} if images.features else {}),
    }


def _describe_images(images: DatasetImages | FolderImages, occurring: Sequence[str]) -> dict[str, Any]:
    """Return facts on references, controls or validation images: counts, missing classes, ignored files and classes."""
    unreadable = {} if isinstance(images, DatasetImages) else images.unreadable
    usable = images.label >= 0
    if unreadable:
        usable &= np.array([key not in unreadable for key in images.keys])
    present = {images.labels[k] for k in np.unique(images.label[usable])}
    return {
        "name": images.name,
        "images": int(usable.sum()),
        "unreadable": [{"file": name, "reason": reason} for name, reason in sorted(unreadable.items())],
        "without_images": [label for label in occurring if label not in present],
        "other_classes": images.unknown,
        **({"recipe_sha256": images.source.recipe["sha256"]} if isinstance(images, DatasetImages) else {}),
    }


def _describe_coverage(
    classifier: Classifier, counterparts: Counterparts, images: DatasetImages, predictions: Predictions
) -> dict[str, Any]:
    """Return which of the dataset's labels a classifier has, under what names, and how many samples are left out."""
    occurring = np.unique(images.label).tolist()
    groups = {images.labels[k]: counterparts.groups[k] for k in occurring}
    return {
        "samples": int(predictions.judged.sum()),
        "left_out": int((~predictions.judged).sum()),
        "without_counterpart": [label for label, group in groups.items() if not group],
        "counterparts": {label: [classifier.labels[c] for c in group] for label, group in groups.items() if group},
    }


def _measure_accuracy(
    images: DatasetImages, counterparts: Counterparts, predictions: Mapping[str, Predictions]
) -> dict[str, Any]:
    """Return one classifier's metrics on a set with foreground labels."""
    own_predictions, references = predictions[GENERATED], predictions.get(REFERENCES)
    report = accuracy.measure_by_group(images, own_predictions)
    if len(predictions) > 1:
        report["compared"] = {
            kind: accuracy.compare_accuracy(kind_predictions, references)
            for kind, kind_predictions in predictions.items()
            if kind != REFERENCES
        }
    if is_matched(images.source.recipe):
        outcomes = counterparts.outcomes(own_predictions.predicted, images.label)
        report["matched"] = accuracy.measure_consistency(images.keys, outcomes, own_predictions)
    return report
