"""A rule of `curate` whose thresholds are chosen from people's answers for a target share of wrong labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

import numpy as np

from figureground.annotation.answers import Answer, read_answers
from figureground.annotation.population import Population, find_asked
from figureground.annotation.responses import read_gold_items
from figureground.core.errors import FiguregroundError, UsageError, join_names, suggest_or_list
from figureground.data.images import DatasetImages
from figureground.shards.finished import FinishedDataset
from figureground.verification.scores_file import FILE, SavedScores, read_saved
from figureground.verification.thresholds import Choice, choose_thresholds

LABEL_COLUMNS = {"foreground": "foreground", "background": "background", "label": "foreground"}
"""Columns of labels by the question that people are asked about them."""


def choose_rule(directory: Path, scorers: Sequence[str], target: float, votes: int | None = None) -> Choice:
    """Choose thresholds of scorers that keep at most a share of wrong labels; see `thresholds.choose_thresholds`.

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
            hint = suggest_or_list(name, saved.scorers) if saved.scorers else ". Run figureground verify first."
            raise UsageError(f"--scorer: {FILE} has no scorer {name!r}{hint}")
    answers = [answer for answer in read_answers(directory) if answer.question in LABEL_COLUMNS]
    if not answers:
        raise FiguregroundError(
            f"--target: {directory} has no answers about foregrounds or backgrounds. Run figureground review first."
        )
    images = DatasetImages.open(directory, column="foreground")
    dataset = FinishedDataset(directory)
    population = Population.from_dataset(dataset)
    asked = {question: find_asked(dataset, population, question) for question in {each.question for each in answers}}
    verdicts = judge_by_majority(answers, population.keys, asked, read_gold_items(dataset, population).keys)
    columns = sorted({LABEL_COLUMNS[answer.question] for answer in answers}, reverse=True)
    scores = {name: _align_scores(saved, name, columns, images.keys) for name in dict.fromkeys(scorers)}
    return choose_thresholds(scores, verdicts, images.objects, target, votes, population.parts())


def judge_by_majority(
    answers: Iterable[Answer], keys: Sequence[str], asked: Mapping[str, np.ndarray], excluded: Set[str] = frozenset()
) -> np.ndarray:
    """Judge images by people's answers: int8 (n,), 1 if all labels are right, 0 if one is wrong, else -1.

    The majority of "yes" and "no" counts for each question. An image with a tie, or with a question that is asked about
    it and that no one answered by either, is -1, whatever else is said of it: otherwise wrong images would be judged
    more often than right ones.

    Args:
        keys: Keys of the images.
        asked: By question, bool (n,): whether it is asked about an image.
        excluded: Keys of images that aren't part of the random sample, such as gold items.
    """
    balances_by_key: dict[str, dict[str, int]] = {}
    for answer in answers:
        if answer.answer in ("yes", "no") and answer.key not in excluded:
            balances = balances_by_key.setdefault(answer.key, {})
            balances[answer.question] = balances.get(answer.question, 0) + (1 if answer.answer == "yes" else -1)
    verdicts = np.full(len(keys), -1, np.int8)
    for row, key in enumerate(keys):
        balances = balances_by_key.get(key, {})
        own = [balances.get(question, 0) for question, is_asked in asked.items() if is_asked[row]]
        if own and all(own):
            verdicts[row] = min(own) > 0
    return verdicts


def _align_scores(
    saved: SavedScores, name: str, label_columns: Sequence[str], keys: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return a scorer's probabilities in the order of `keys`, by column."""
    rows = {key: row for row, key in enumerate(saved.keys)}
    columns = [f"{name}_{what}_p" for what in label_columns if f"{name}_{what}_p" in saved.columns]
    if not columns:
        available = join_names(column for column in saved.columns if column.startswith(f"{name}_"))
        raise UsageError(f"--scorer: {name!r} has no probability of {join_names(label_columns)}, only {available}.")
    aligned = {}
    for column in columns:
        values = saved.columns[column]
        entries = [None if (row := rows.get(key)) is None else values[row] for key in keys]
        aligned[column] = np.array([np.nan if value is None else value for value in entries], np.float64)
    return aligned
