"""Results of evaluations: on one dataset, and along severity axes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.data.images import DatasetImages

if TYPE_CHECKING:
    from figureground.evaluation.predict import Predictions
    from figureground.vision.classifiers import Classifier


@dataclass
class Evaluation:
    """Results of classifiers on a dataset."""

    images: DatasetImages
    report: dict[str, Any]
    """Contents of `evaluation.json`; see `docs/evaluate.md`."""
    classifiers: dict[str, Classifier]
    predictions: dict[str, Predictions]
    """By classifier, predictions for the dataset's own images."""
    independent: list[str]
    """Classifiers included in means: those that steered no fine-tuning of these images, or all if none remain."""
    out: Path
    """Output directory."""
    scores: tuple[Path, ...] = ()
    """Scores files that were written."""


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
