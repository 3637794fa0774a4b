"""A rule of `curate` whose thresholds are chosen from people's answers for a target share of wrong labels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from figureground.annotation.answers import Answer, read_answers
from figureground.annotation.gold import read_gold
from figureground.core.errors import FiguregroundError, UsageError, listed, nearest_or_all
from figureground.data.images import DatasetImages
from figureground.verification.scores_file import FILE, SavedScores, read_saved
from figureground.verification.thresholds import Choice, choose

WHATS = {"foreground": "foreground", "background": "background", "label": "foreground"}
"""Columns of labels by the question that people are asked about them."""


def choose_rule(directory: Path, scorers: Sequence[str], target: float, votes: int | None = None) -> Choice:
    """Choose thresholds of scorers that keep at most a share of wrong labels, by `verification.thresholds.choose`.

    Args:
        directory: A finished dataset with scores of `verify` and people's answers.
        scorers: Names of scorers in the scores file.
        target: Largest share of images of which people say that a label is wrong.
        votes: Number of scorers that must vote for an image; default: all.

    Raises:
        UsageError: No scorer is named, or the file doesn't have it.
        FiguregroundError: There are no answers or too few, or no thresholds reach the target.
    """
    if not scorers:
        raise UsageError("--scorer: name the scorers whose thresholds are chosen.")
    saved = read_saved(directory)
    for name in scorers:
        if name not in saved.scorers:
            hint = nearest_or_all(name, saved.scorers) if saved.scorers else ". Run figureground verify first."
            raise UsageError(f"--scorer: {FILE} has no scorer {name!r}{hint}")
    answers = [answer for answer in read_answers(directory) if answer.question in WHATS]
    if not answers:
        raise FiguregroundError(
            f"--target: {directory} has no answers about foregrounds or backgrounds. Run figureground review first."
        )
    images = DatasetImages(directory, column="foreground")
    right = right_images(answers, images.keys, {key for key, _ in read_gold(directory)})
    columns = sorted({WHATS[answer.question] for answer in answers}, reverse=True)
    scores = {name: _scores(saved, name, columns, images.keys) for name in dict.fromkeys(scorers)}
    return choose(scores, right, images.objects, target, votes)


def right_images(answers: Iterable[Answer], keys: Sequence[str], left_out: Collection[str] = ()) -> np.ndarray:
    """Return what people say about images: int8 (n,), 1 if all labels are right, 0 if one is wrong, else -1.

    The majority of "yes" and "no" counts for each question. An image with a tie, or with a question that no one
    answered by either, is -1 unless another of its labels is wrong.

    Args:
        keys: Keys of the images.
        left_out: Keys of images that aren't part of the random sample, such as gold items.
    """
    votes: dict[str, dict[str, int]] = {}
    questions: set[str] = set()
    for answer in answers:
        questions.add(answer.question)
        if answer.answer in ("yes", "no") and answer.key not in left_out:
            of_image = votes.setdefault(answer.key, {})
            of_image[answer.question] = of_image.get(answer.question, 0) + (1 if answer.answer == "yes" else -1)
    found = np.full(len(keys), -1, np.int8)
    for row, key in enumerate(keys):
        said = votes.get(key, {})
        if any(sum_ < 0 for sum_ in said.values()):
            found[row] = 0
        elif said and all(said.get(question, 0) > 0 for question in questions):
            found[row] = 1
    return found


def _scores(saved: SavedScores, name: str, whats: Sequence[str], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return a scorer's probabilities in the order of `keys`, by column."""
    rows = {key: row for row, key in enumerate(saved.keys)}
    columns = [f"{name}_{what}_p" for what in whats if f"{name}_{what}_p" in saved.columns]
    if not columns:
        known = listed(column for column in saved.columns if column.startswith(f"{name}_"))
        raise UsageError(f"--scorer: {name!r} has no probability of {listed(whats)}, only {known}.")
    found = {}
    for column in columns:
        values = saved.columns[column]
        given = [None if (row := rows.get(key)) is None else values[row] for key in keys]
        found[column] = np.array([np.nan if value is None else value for value in given], np.float64)
    return found
