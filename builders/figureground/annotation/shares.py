"""Shares of right labels: of a whole dataset, and of each split, foreground, background and cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from figureground.annotation.correction import Corrected, correct, identified
from figureground.annotation.inference import Labelled, Share, share_of_people, share_with_scorers
from figureground.annotation.population import Population, Scorer, predict
from figureground.annotation.responses import Responses

WHAT = {"foreground": "foreground", "label": "foreground", "background": "background"}
"""The label that a question is about, as scorers name it."""


@dataclass(frozen=True)
class Domain:
    """A part of a dataset."""

    by: str
    """`all`, `split`, `foreground`, `background` or `cell`."""
    of: Mapping[str, str]
    """Names of the labels that its images share."""
    inside: np.ndarray
    """bool (images,)"""


def domains(population: Population, among: np.ndarray, labelled: np.ndarray) -> Iterator[Domain]:
    """Yield the dataset and its parts, as far as they have labelled images.

    Args:
        among: bool (images,): images that the question is about.
        labelled: int (n,): positions of the labelled ones among all images.
    """
    yield Domain("all", {}, among)
    columns: dict[str, tuple[Sequence[str], np.ndarray]] = {
        "split": (population.splits, population.split),
        "foreground": (population.foregrounds, population.foreground),
        "background": (population.backgrounds, population.background),
    }
    for by, (names, numbers) in columns.items():
        for number in np.unique(numbers[labelled]):
            yield Domain(by, {by: names[number]}, among & (numbers == number))
    cells = population.cells()
    for cell in np.unique(cells[labelled]):
        inside = among & (cells == cell)
        first = int(inside.argmax())
        yield Domain("cell", {by: names[numbers[first]] for by, (names, numbers) in columns.items()}, inside)


def of_question(
    responses: Responses, population: Population, scorers: Sequence[Scorer], among: np.ndarray
) -> list[dict[str, Any]]:
    """Return the shares of right labels that answers to one question tell, one for each part that has an answer.

    Args:
        responses: The answers.
        population: All images of the dataset.
        scorers: What scorers say about this label.
        among: bool (images,): images that the question is about.

    Returns:
        For each part: `question`, `by`, the names of its labels, `images`, `labels` (images with a *yes* or *no*),
        `wrong` (those that at least half of their annotators call wrong), `people` and, if there are scores,
        `with_scorers`.
    """
    responses, predictions, parts = responses.decided, predict(scorers), population.parts()
    found: list[dict[str, Any]] = []
    if not len(responses.images):
        return found
    for domain in domains(population, among, responses.images):
        held = domain.inside[responses.images]
        values = responses.values[held]
        place = np.cumsum(domain.inside) - 1  # position of an image in the part
        sample = Labelled.of(
            values, place[responses.images[held]], parts[:, domain.inside],
            None if predictions is None else predictions[domain.inside],
        )  # fmt: skip
        entry: dict[str, Any] = {
            "question": responses.question, "by": domain.by, **domain.of, "images": int(domain.inside.sum()),
            "labels": int(held.sum()), "wrong": int((values <= 0.5).sum()), "people": _share(share_of_people(sample)),
        }  # fmt: skip
        if predictions is not None:
            entry["with_scorers"] = {
                **_share(share_with_scorers(sample)), "scorers": [scorer.name for scorer in scorers],
            }  # fmt: skip
        found.append(entry)
    return found


def corrected(responses: Responses, population: Population, among: np.ndarray) -> Corrected | str:
    """Return the true share of right labels of the whole dataset, or why it can't be computed."""
    responses = responses.decided
    if not len(responses.images):
        return "no image has a yes or no"
    if reason := identified(responses.said, responses.gold):
        return reason
    place = np.cumsum(among) - 1
    sample = Labelled.of(responses.values, place[responses.images], population.parts()[:, among])
    left = 1 - len(responses.images) / int(among.sum())
    return correct(responses.said, responses.gold, sample.weights, unlabelled=left)


def _share(share: Share) -> dict[str, Any]:
    value, low, high = share.interval
    said = {"value": value, "low": low, "high": high, "interval": share.method}
    return {**said, "weight": share.weight} if share.weight else said
