"""Answers to one question as numbers: who calls which label right, and what they say about gold items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from figureground.annotation.answers import ANNOTATIONS, QUESTIONS, REFERENCE, Answer
from figureground.annotation.correction import MISSING, Gold
from figureground.annotation.gold import check_gold, read_gold
from figureground.annotation.population import Population
from figureground.annotation.sampling import load
from figureground.core.errors import FiguregroundError, printable
from figureground.shards.finished import FinishedDataset

RIGHT_ANSWERS = {"foreground": "yes", "background": "yes", "label": "yes", "class": "no", "feature": "yes"}
"""Questions about labels, and the answer that says that the label is right. An image of a class-wise spurious set must
not show the class."""


@dataclass(frozen=True)
class GoldItems:
    """Gold items that aren't in the random sample. They were chosen by hand, so that none of their answers counts in a
    share. Gold items in the sample are left out: they count like any other image of it."""

    keys: Set[str] = frozenset()
    labels: Mapping[tuple[str, str], bool] = field(default_factory=dict)
    """By key and question: whether the label is right."""


@dataclass(frozen=True)
class Responses:
    """Answers to one question about images whose labels aren't known to be right."""

    question: str
    annotators: Sequence[str]
    images: np.ndarray
    """int64 (n,): positions in the population of the images with an answer, ascending."""
    votes: np.ndarray
    """int8 (n, annotators): 1 if the annotator calls the label right, 0 if wrong, `MISSING` for *can't tell* and for no
    answer."""
    unsure: np.ndarray
    """bool (n, annotators): *can't tell*."""
    gold: Gold

    @property
    def decided(self) -> Responses:
        """The images with at least one *yes* or *no*."""
        keep = (self.votes != MISSING).any(1)
        return Responses(
            self.question, self.annotators, self.images[keep], self.votes[keep], self.unsure[keep], self.gold
        )

    @property
    def values(self) -> np.ndarray:
        """float64 (n,): share of each image's answers that call the label right; each image needs a decided one."""
        return (self.votes == 1).sum(1) / (self.votes != MISSING).sum(1)

    def counts(self) -> np.ndarray:
        """int64 (n, 3): annotators who call the label right, wrong, and can't tell."""
        return np.stack([(self.votes == 1).sum(1), (self.votes == 0).sum(1), self.unsure.sum(1)], axis=1)


def group_responses(answers: Iterable[Answer], population: Population, gold: GoldItems) -> dict[str, Responses]:
    """Return the answers to each question about labels that somebody answered.

    Answers about gold items are counted apart if they are about a known label, and left out otherwise. References are
    left out.

    Args:
        answers: Output of `answers.read_answers`.
        gold: Output of `read_gold_items`.

    Raises:
        FiguregroundError: An answer is about an image that the dataset lacks; names annotator and key.
    """
    positions = population.positions()
    by_question: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.question not in RIGHT_ANSWERS or answer.key.startswith(REFERENCE):
            continue
        if answer.key not in positions:
            raise FiguregroundError(
                f"{ANNOTATIONS}: {printable(answer.annotator)} answered about {printable(answer.key)}, an image that "
                "the dataset doesn't have. Remove that line, and renumber the lines after it."
            )
        by_question.setdefault(answer.question, []).append(answer)
    return {
        name: _group(name, by_question[name], positions, gold) for name in RIGHT_ANSWERS if name in by_question
    }  # fmt: skip


def _group(question: str, answers: Sequence[Answer], positions: Mapping[str, int], gold: GoldItems) -> Responses:
    names = sorted({answer.annotator for answer in answers})
    column = {name: i for i, name in enumerate(names)}
    counts = Gold.empty(len(names))
    ordinary = [answer for answer in answers if answer.key not in gold.keys]
    for answer in answers:
        right = gold.labels.get((answer.key, question))
        if right is not None and answer.answer != "unsure":
            (counts.right if right else counts.wrong)[
                column[answer.annotator], int(answer.answer == RIGHT_ANSWERS[question])
            ] += 1
    images = np.array(sorted({positions[answer.key] for answer in ordinary}), np.int64)
    row = {int(position): i for i, position in enumerate(images)}
    votes = np.full((len(images), len(names)), MISSING, np.int8)
    unsure = np.zeros((len(images), len(names)), bool)
    for answer in ordinary:
        at = row[positions[answer.key]], column[answer.annotator]
        if answer.answer == "unsure":
            unsure[at] = True
        else:
            votes[at] = answer.answer == RIGHT_ANSWERS[question]
    return Responses(question, names, images, votes, unsure, counts)


def read_gold_items(dataset: FinishedDataset, population: Population) -> GoldItems:
    """Return the gold items that aren't in the random sample.

    Known answers that say nothing of a label (*can't tell*, photographs, flags) give no label, but their images don't
    count in the shares either.

    Raises:
        FiguregroundError: See `gold.read_gold` and `sampling.load`; or the dataset has no image of a key.
    """
    gold = read_gold(dataset.directory)
    if not gold:
        return GoldItems()
    positions = population.positions()
    check_gold(gold, [key for key, _ in gold if key in positions], QUESTIONS)
    sample = load(dataset)
    keys = frozenset(key for key, _ in gold) - frozenset(sample.keys if sample else ())
    return GoldItems(keys, {
        (key, question): answer == RIGHT_ANSWERS[question]
        for (key, question), answer in gold.items()
        if key in keys and question in RIGHT_ANSWERS and answer != "unsure"
    })  # fmt: skip
