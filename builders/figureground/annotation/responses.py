"""Answers to one question as numbers: who calls which label right, and what they say about gold items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from figureground.annotation.answers import ANNOTATIONS, QUESTIONS, REFERENCE, Answer
from figureground.annotation.correction import MISSING, Gold
from figureground.annotation.gold import check_gold, read_gold
from figureground.annotation.population import Population
from figureground.core.errors import FiguregroundError, printable

RIGHT_ANSWERS = {"foreground": "yes", "background": "yes", "label": "yes", "class": "no", "feature": "yes"}
"""Questions about labels, and the answer that says that the label is right. An image of a class-wise spurious set must
not show the class."""

GoldLabels = Mapping[tuple[str, str], bool]
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


def group_responses(answers: Iterable[Answer], population: Population, gold_labels: GoldLabels) -> dict[str, Responses]:
    """Return the answers to each question about labels that somebody answered.

    Gold items are counted apart: they were chosen, not drawn at random. References are left out.

    Args:
        answers: Output of `answers.read_answers`.
        gold_labels: Output of `read_gold_labels`.

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
        name: _group(name, by_question[name], positions, gold_labels) for name in RIGHT_ANSWERS if name in by_question
    }  # fmt: skip


def _group(
    question: str, answers: Sequence[Answer], positions: Mapping[str, int], gold_labels: GoldLabels
) -> Responses:
    names = sorted({answer.annotator for answer in answers})
    column = {name: i for i, name in enumerate(names)}
    gold = Gold.empty(len(names))
    ordinary = []
    for answer in answers:
        right = gold_labels.get((answer.key, question))
        if right is None:
            ordinary.append(answer)
        elif answer.answer != "unsure":
            (gold.right if right else gold.wrong)[
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
    return Responses(question, names, images, votes, unsure, gold)


def read_gold_labels(directory: Path, population: Population) -> dict[tuple[str, str], bool]:
    """Return whether the labels of the gold items are right; empty if there are none.

    Items that say nothing of a label (*can't tell*, photographs, flags) are left out.

    Raises:
        FiguregroundError: See `gold.read_gold`; or the dataset has no image of a key.
    """
    gold = read_gold(directory)
    positions = population.positions()
    check_gold(gold, [key for key, _ in gold if key in positions], QUESTIONS)
    return {
        (key, question): answer == RIGHT_ANSWERS[question]
        for (key, question), answer in gold.items()
        if question in RIGHT_ANSWERS and answer != "unsure"
    }
