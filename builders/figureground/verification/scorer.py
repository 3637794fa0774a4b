"""Scorers: models that say, from an image's pixels, how probable its labels are.

Another package adds a scorer with an entry point in the group `figureground.scorers`: a subclass of `LabelScorer` if it
gives a probability for every label, else of `Scorer`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError
from figureground.core.registry import Registry, check_subclass
from figureground.verification.questions import LabelQuestion
from figureground.verification.verdicts import judge

Kind = Literal["float", "int", "text"]
"""Type of a column of scores."""
Values = Mapping[str, Sequence[Any]]
"""Values of each column for the images of a batch; None for an absent value."""


@dataclass(frozen=True)
class Options:
    """Settings of `verify` that some scorers use."""

    label_table: Path | None = None
    """CSV `label,classifier_label` with a classifier's names for labels."""
    endpoint: str | None = None
    """URL of an OpenAI-compatible server that runs the vision-language model."""
    ask_all: bool = False
    """Whether `vlm` asks about all labels, rather than about the image's own."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


@dataclass(frozen=True)
class Batch:
    """Images to score, with what is known of them. A `LabelScorer` sees the images alone."""

    keys: tuple[str, ...]
    images: tuple[Image.Image, ...]
    """RGB."""
    labels: Mapping[str, np.ndarray]
    """int64 (n,): position of the image's own label, by column."""
    guides: tuple[Guided | None, ...]
    """The image that generation started from, if the scorer `NEEDS_GUIDES` and the dataset stores it."""

    def part(self, start: int, stop: int) -> Batch:
        """Return the images from `start` to `stop`, exclusive."""
        selected = slice(start, stop)
        labels = {column: label[selected] for column, label in self.labels.items()}
        return Batch(self.keys[selected], self.images[selected], labels, self.guides[selected])


@dataclass(frozen=True)
class Guided:
    """A guide with the region of its cut-out."""

    image: Image.Image
    """RGB."""
    mask: np.ndarray | None
    """bool (height, width): pixels of the pasted cut-out; None if the guide is a whole photograph."""


class Scorer(ABC):
    """Scores images, column by column.

    Args:
        id: What follows the colon in `--scorer KIND:ID`; empty without one.
        questions: Foreground and background labels.
        options: Settings.

    Raises:
        FiguregroundError: The id or an option doesn't fit. Nothing is opened yet, and torch isn't imported.
    """

    KIND: ClassVar[str]
    """Name in the registry."""
    VERSION: ClassVar[int] = 1
    """Raised when the code changes scores; earlier scores are then computed again."""
    NEEDS_GUIDES: ClassVar[bool] = False
    USES: ClassVar[frozenset[str]] = frozenset()
    """Fields of `Options` that apply, besides `device`."""

    def __init__(self, id: str, questions: Sequence[LabelQuestion], options: Options):
        self.id, self.questions, self.options = id, tuple(questions), options
        self.left_out: dict[str, list[str]] = {}
        """Labels that the scorer doesn't know, by column; set by `identify`."""

    @abstractmethod
    def identify(self) -> dict[str, Any]:
        """Return what scores depend on, as JSON: hashes of weights, texts, settings; no path, no device.

        Raises:
            FiguregroundError: The model is missing, damaged or of another kind, or knows no label of the dataset.
        """

    @abstractmethod
    def open(self) -> None:
        """Open the model on its device. Called once, after `identify`, if there is something to score."""

    def close(self) -> None:
        """Free what `open` took; also called after an error."""

    @abstractmethod
    def columns(self) -> dict[str, Kind]:
        """Return the columns, such as `foreground_p`; called after `identify`."""

    @abstractmethod
    def score(self, batch: Batch) -> Values:
        """Return the values of all columns.

        Raises:
            FiguregroundError: The model gives numbers that aren't finite; names the image.
        """

    def expected(self, labels: Mapping[str, np.ndarray], guided: np.ndarray) -> dict[str, np.ndarray]:
        """Return for some columns, bool (n,), which images must have a value; an image that lacks one is scored again.

        Args:
            labels: int64 (n,), own labels by column.
            guided: bool (n,), whether the dataset stores the image's guide.
        """
        return {name: np.ones(len(guided), bool) for name in self.columns()}

    def knows(self, question: LabelQuestion) -> np.ndarray:
        """Return which labels the scorer knows, bool (labels,)."""
        left_out = self.left_out.get(question.what, ())
        return np.array([name not in left_out for name in question.labels])


class LabelScorer(Scorer):
    """Gives each label a probability, from the image alone.

    A column is asked about if there are at least two answers: one alone would always be certain.
    """

    @abstractmethod
    def probabilities(self, images: Sequence[Image.Image]) -> Mapping[str, np.ndarray]:
        """Return float64 (n, labels), or (n, labels + 1), by column of labels: probabilities that sum to 1.

        They are NaN for unknown labels. A further column is the probability that the image shows none of the labels.
        """

    def knows_none(self, question: LabelQuestion) -> bool:
        """Whether the scorer has an answer for an image that shows none of the labels."""
        return False

    def leave_out(self, unknown: Mapping[str, Sequence[str]]) -> None:
        """Set `left_out`, from `identify`: unknown labels by column, and all labels of columns that aren't asked about.

        Args:
            unknown: Labels that the scorer doesn't know, by column.
        """
        self.left_out = {what: list(names) for what, names in unknown.items()}
        answerable = {question.what for question in self.answerable_questions()}
        self.left_out |= {q.what: list(q.labels) for q in self.questions if q.what not in answerable}

    def answerable_questions(self) -> list[LabelQuestion]:
        """Return the questions with at least two known answers, one of them a label."""
        return [
            question for question in self.questions
            if (known := self.knows(question).sum()) and known + self.knows_none(question) > 1
        ]  # fmt: skip

    def columns(self) -> dict[str, Kind]:
        return {f"{q.what}_{name}": kind for q in self.answerable_questions() for name, kind in VERDICT_COLUMNS.items()}

    def score(self, batch: Batch) -> Values:
        scores: dict[str, Sequence[Any]] = {}
        p = self.probabilities(batch.images)
        for question in self.answerable_questions():
            label_p = p[question.what]
            names = [*question.labels, *[NONE] * self.knows_none(question)]
            known = np.append(self.knows(question), [True] * self.knows_none(question)).astype(bool)
            is_invalid = ~np.isfinite(label_p[:, known]).all(axis=1)
            if is_invalid.any():
                key = batch.keys[int(is_invalid.argmax())]
                raise FiguregroundError(
                    f"The scorer {self.KIND} {self.id} returned NaN or infinity for {key}. Its weights are damaged."
                )
            verdicts = judge(label_p, batch.labels[question.what], names)
            scores |= {f"{question.what}_{name}": values for name, values in verdicts.items()}
        return scores

    def expected(self, labels: Mapping[str, np.ndarray], guided: np.ndarray) -> dict[str, np.ndarray]:
        return {f"{q.what}_p": self.knows(q)[labels[q.what]] for q in self.answerable_questions()}


NONE = "none"
"""`top` of an image that shows none of the labels."""
VERDICT_COLUMNS: dict[str, Kind] = {"p": "float", "margin": "float", "rank": "int", "top": "text"}
"""Columns of a question; see `verdicts.judge`."""

SCORERS: Registry[type[Scorer]] = Registry(
    "figureground.scorers", "scorer",
    {
        "pocket": "figureground.verification.scorers.pocket:PocketScorer",
        "clip": "figureground.verification.scorers.clip:ClipScorer",
        "classifier": "figureground.verification.scorers.classifier:ClassifierScorer",
        "vlm": "figureground.verification.scorers.vlm:VlmScorer",
        "source": "figureground.verification.scorers.source:SourceScorer",
    },
    check_subclass(Scorer, "KIND"),
)  # fmt: skip
"""Scorers by the kind that `--scorer` names."""
