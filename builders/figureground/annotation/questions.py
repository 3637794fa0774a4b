"""Questions that people are asked about an image, by kind of dataset, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from figureground.annotation.answers import REFERENCE
from figureground.core.errors import FiguregroundError
from figureground.recipe.classes import read_nouns
from figureground.shards.finished import FinishedDataset

UNKNOWN = "unknown"
"""Background of repainted images whose attribute isn't known (SCGS, DDB); nobody is asked about it."""


@dataclass(frozen=True)
class ReviewItem:
    """An image that people are asked about."""

    key: str
    """Key of the sample, or `reference:PATH`."""
    split: str
    labels: Mapping[str, str]
    """Names of its labels, by column; of a spurious set's image also `feature`."""
    shard: int = -1
    """Position of its shard in the dataset; -1 for a reference."""
    row: int = -1

    @property
    def is_reference(self) -> bool:
        return self.key.startswith(REFERENCE)


@dataclass(frozen=True)
class Question:
    """A question about one image."""

    name: str
    """One of `answers.QUESTIONS`."""
    text: str
    hint: str = ""
    """Definition of the label, or a remark; shown small."""
    usual: str | None = "yes"
    """The answer of images in a grid that aren't marked; None: each has to be marked."""


class Questions:
    """The questions of one dataset.

    Args:
        dataset: The dataset. Its columns say which questions there are: `spurious_for` those of class-wise spurious
            sets, `source` those of repainted images, anything else those of foreground and background.
        references: Whether references are mixed in; otherwise nobody is asked for photographs.
    """

    def __init__(self, dataset: FinishedDataset, references: bool = False):
        self.references = references
        if "spurious_for" in dataset.columns.labels:
            self.kind = "spurious"
        elif "source" in dataset.columns.texts:
            self.kind = "repainted"
        else:
            self.kind = "both"
        self._phrases = _read_texts(dataset, "backgrounds", "text")
        self._definitions = _read_texts(dataset, "classes", "definition")

    def names(self) -> tuple[str, ...]:
        """Return the names of the questions that images of this dataset can have."""
        if self.kind == "spurious":
            return ("class", "feature", "photograph") if self.references else ("class", "feature")
        return ("label", "background") if self.kind == "repainted" else ("foreground", "background")

    def about(self, item: ReviewItem) -> Sequence[Question]:
        """Return the questions about an image, in the order in which they are asked."""
        labels = item.labels
        if self.kind == "spurious":
            questions = [
                Question("class", f"Does it show {add_article(labels['spurious_for'])}?", usual="no"),
                Question("feature", f"Does it show this: {labels['feature']}?"),
            ]
            if self.references:
                questions.append(Question("photograph", "Is it a photograph?", "No: it was generated.", usual=None))
            return questions
        name = labels["foreground"]
        background = Question("background", self._ask_background(labels["background"]))
        if self.kind == "repainted":
            questions = [Question("label", f"Does it show {add_article(name)}?", self._definitions.get(name, ""))]
            return questions if labels["background"] == UNKNOWN else [*questions, background]
        return [Question("foreground", f"Is there {add_article(name)}?", self._definitions.get(name, "")), background]

    def _ask_background(self, background: str) -> str:
        phrase = self._phrases.get(background, background)
        return f"Is it {phrase}?" if phrase not in ("", background) else f"Is the background this: {background}?"


def add_article(noun: str) -> str:
    """Return a noun with its indefinite article, by its first letter."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def _read_texts(dataset: FinishedDataset, field: str, attribute: str) -> dict[str, str]:
    """Return phrases or definitions by name, as far as the recipe's lists are there."""
    texts: dict[str, str] = {}
    recipe = dataset.recipe
    for source in [recipe, *recipe.get("sources", [])]:
        builder, value = source.get("builder"), source.get("identity", {}).get(field)
        if value is None:
            continue
        default = "imagenet" if field == "classes" else "spurious" if builder == "spurious" else "d3s"
        with suppress(FiguregroundError, OSError):
            texts.update({entry.name: getattr(entry, attribute) for entry in read_nouns(field, value, field, default)})
    return texts
