"""Steps that all evaluations share: check the request, open and run classifiers, write the results."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.core.devices import check_device
from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.core.files import replace_text
from figureground.core.owned import refuse_output
from figureground.data.images import DatasetImages, FolderImages
from figureground.evaluation.counterparts import Counterparts, LabelTable, find_counterparts, read_label_table
from figureground.evaluation.texts import default_prompts, list_classes, read_prompts, write_texts
from figureground.models.needs import ZERO_SHOT, refuse_absent_classifier
from figureground.recipe.prompts import Template

if TYPE_CHECKING:
    import torch

    from figureground.evaluation.predict import Predictions
    from figureground.vision.classifiers import Classifier

    PredictImages = Callable[[DatasetImages | FolderImages], Predictions]

BATCH_SIZE = 64
"""Images per batch."""
FOLDER = "_evaluation"
"""Output folder inside a dataset: `load_dataset` ignores it, and it is not published."""
JSON, PAGE = "evaluation.json", "evaluation.html"
MADE_BY = "figureground evaluate"


@dataclass(frozen=True)
class PreparedEvaluation:
    """What an evaluation needs besides its images, checked and opened."""

    table: LabelTable
    out: Path
    """Output directory."""
    classifiers: dict[str, Classifier]
    """By a unique name, on the CPU."""
    counterparts: list[Counterparts]
    """One for each classifier."""
    device: torch.device
    """Where the classifiers run."""


def check_request(
    classifiers: Sequence[str | Classifier],
    prompts: Path | str | None,
    candidates: str | None,
    device: str,
    batch_size: int,
) -> dict[str, tuple[Template, ...]]:
    """Check what every evaluation is given, before anything is opened; arguments as for `evaluate`.

    Returns:
        By name, the templates of the classifiers that are zero-shot.

    Raises:
        FiguregroundError: A directory is missing or holds no model, or the batch size or device can't be used.
        UsageError: There is no classifier, the prompts can't be used, or no classifier uses prompts or candidates.
    """
    if not classifiers:
        raise UsageError("--classifier: name at least one.")
    if batch_size < 1:
        raise RecipeError("--batch-size", f"{batch_size} is not a whole number of at least 1.")
    check_device(device, "--device")
    templates = {}
    for classifier in classifiers:
        if isinstance(classifier, str):
            if classifier != f"{ZERO_SHOT}pocket":
                refuse_absent_classifier("--classifier", classifier)
            if classifier.startswith(ZERO_SHOT):
                templates[classifier] = read_prompts(default_prompts(classifier, prompts))
    for option, value in (("--prompts", prompts), ("--candidates", candidates)):
        if value is not None and not templates:
            raise UsageError(f"{option} is for zero-shot classifiers, --classifier clip:ID.")
    return templates


def find_occurring(images: DatasetImages) -> list[str]:
    """Return the labels that images have, in label order."""
    return [images.labels[k] for k in np.unique(images.label)]


def prepare(
    directory: Path,
    images: DatasetImages,
    classifiers: Sequence[str | Classifier],
    zero_shot: Mapping[str, Sequence[Template]],
    *,
    labels: Path | str | None,
    candidates: str | None,
    out: Path | str | None,
    device: str,
) -> PreparedEvaluation:
    """Check and open what all evaluations need, after the images were opened and before anything is written.

    Args:
        directory: What is evaluated; the default output directory lies in it.
        images: A dataset with the labels that classifiers are asked about.
        zero_shot: From `check_request`.
        classifiers, labels, candidates, out, device: See `evaluate`.

    Raises:
        FiguregroundError: The label table names an unknown label or class; the output directory holds other files; or a
            classifier can't be opened or has no counterpart of any label.
    """
    table = LabelTable() if labels is None else read_label_table(Path(labels), images.labels)
    out = directory / FOLDER if out is None else Path(out)
    refuse_output(out, directory, FOLDER, JSON, PAGE)

    # Imports that need torch come last, so that mistakes are reported at once.
    from figureground.core.accelerator import choose_device

    torch_device = choose_device(device)
    opened = open_classifiers(classifiers, images, zero_shot, candidates)
    counterparts = find_counterparts(list(opened.values()), images.labels, find_occurring(images), table)
    return PreparedEvaluation(table, out, opened, counterparts, torch_device)


def open_classifiers(
    classifiers: Sequence[str | Classifier],
    images: DatasetImages,
    zero_shot: Mapping[str, Sequence[Template]],
    candidates: str | None,
) -> dict[str, Classifier]:
    """Open all classifiers on the CPU, so that errors are reported before the first one runs.

    Args:
        images: The dataset, whose labels zero-shot classifiers choose from.
        zero_shot: From `check_request`.
        candidates: See `evaluate`.
    """
    from figureground.vision.classifiers import open_classifier
    from figureground.vision.zero_shot import open_zero_shot

    classes = list_classes(images, candidates) if zero_shot else []
    opened: dict[str, Classifier] = {}
    for item in classifiers:
        if isinstance(item, str) and item in zero_shot:
            texts = write_texts(classes, zero_shot[item])
            classifier = open_zero_shot(item, [entry.name for entry in classes], texts)
        else:
            classifier = open_classifier(item) if isinstance(item, str) else item
        opened[make_unique(classifier.name, opened)] = classifier
    return opened


def run_classifiers(
    prepared: PreparedEvaluation, batch_size: int, show_progress: bool
) -> Iterator[tuple[str, PredictImages]]:
    """Yield each classifier's name, and the function that returns its predictions for images.

    Only one classifier is on the device at a time: it is moved back when the next one is asked for.

    Args:
        batch_size, show_progress: See `evaluate`.
    """
    from figureground.evaluation.predict import predict

    for (name, classifier), mapping in zip(prepared.classifiers.items(), prepared.counterparts, strict=True):
        home_device = next(classifier.parameters()).device
        classifier.to(prepared.device)
        predict_images = functools.partial(
            predict, classifier, counterparts=mapping, batch_size=batch_size, show_progress=show_progress
        )
        yield name, predict_images
        classifier.to(home_device)


def make_writable(folders: Sequence[Path], remedy: str) -> None:
    """Create folders, and check that files can be written to them, before classifiers run.

    Args:
        remedy: What to do if they can't, a sentence.

    Raises:
        FiguregroundError: A folder isn't writable.
    """
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise FiguregroundError(f"{folder} isn't writable. {remedy}")


def write_results(out: Path, page: str, report: Mapping[str, Any]) -> None:
    """Write `evaluation.html`, and then `evaluation.json`."""
    replace_text(out / PAGE, page)
    replace_text(out / JSON, json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def make_unique(name: str, taken: Container[str]) -> str:
    """Return the name, with a number appended if it is taken."""
    return name if name not in taken else next(f"{name} ({n})" for n in range(2, 10**6) if f"{name} ({n})" not in taken)
