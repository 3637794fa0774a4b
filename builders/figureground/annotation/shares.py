"""Shares of right labels: of a whole dataset, and of each split, foreground, background and cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from figureground.annotation.correction import CorrectedShare, correct_share, explain_unidentified
from figureground.annotation.inference import Share, StratifiedLabels, share_of_people, share_with_scorers
from figureground.annotation.population import Population, ScorerJudgements, predict
from figureground.annotation.responses import Responses

LABEL_OF_QUESTION = {"foreground": "foreground", "label": "foreground", "background": "background"}
"""The label that a question is about, as scorers name it."""


@dataclass(frozen=True)
class Domain:
    """A part of a dataset."""

    by: str
    """`all`, `split`, `foreground`, `background` or `cell`."""
    labels: Mapping[str, str]
    """Names of the labels that its images share."""
    inside: np.ndarray
    """bool (images,): the images that belong to it."""


def iter_domains(population: Population, eligible: np.ndarray, labelled: np.ndarray) -> Iterator[Domain]:
    """Yield the dataset and its parts, as far as they have labelled images.

    Args:
        eligible: bool (images,): images that the question is about.
        labelled: int (n,): positions of the labelled ones among all images.
    """
    yield Domain("all", {}, eligible)
    columns: dict[str, tuple[Sequence[str], np.ndarray]] = {
        "split": (population.splits, population.split),
        "foreground": (population.foregrounds, population.foreground),
        "background": (population.backgrounds, population.background),
    }
    for by, (names, numbers) in columns.items():
        for number in np.unique(numbers[labelled]):
            yield Domain(by, {by: names[number]}, eligible & (numbers == number))
    cells = population.cells()
    for cell in np.unique(cells[labelled]):
        inside = eligible & (cells == cell)
        first = int(inside.argmax())
        yield Domain("cell", {by: names[numbers[first]] for by, (names, numbers) in columns.items()}, inside)


def estimate_shares(
    responses: Responses, population: Population, scorers: Sequence[ScorerJudgements], eligible: np.ndarray
) -> list[dict[str, Any]]:
    """Return the shares of right labels that answers to one question tell, one for each part that has an answer.

    Args:
        responses: The answers.
        population: All images of the dataset.
        scorers: What scorers say about this label.
        eligible: bool (images,): images that the question is about.

    Returns:
        For each part: `question`, `by`, the names of its labels, `images`, `labels` (images with a *yes* or *no*),
        `wrong` (those that at least half of their annotators call wrong), `people` and, if there are scores,
        `with_scorers`.
    """
    responses, predictions, parts = responses.decided, predict(scorers), population.parts()
    shares: list[dict[str, Any]] = []
    if not len(responses.images):
        return shares
    for domain in iter_domains(population, eligible, responses.images):
        labelled_inside = domain.inside[responses.images]
        values = responses.values[labelled_inside]
        position = np.cumsum(domain.inside) - 1  # position of an image in the part
        sample = StratifiedLabels.from_population(
            values, position[responses.images[labelled_inside]], parts[:, domain.inside],
            None if predictions is None else predictions[domain.inside],
        )  # fmt: skip
        entry: dict[str, Any] = {
            "question": responses.question, "by": domain.by, **domain.labels, "images": int(domain.inside.sum()),
            "labels": int(labelled_inside.sum()), "wrong": int((values <= 0.5).sum()),
            "people": _share_to_dict(share_of_people(sample)),
        }  # fmt: skip
        if predictions is not None:
            entry["with_scorers"] = {
                **_share_to_dict(share_with_scorers(sample)), "scorers": [scorer.name for scorer in scorers],
            }  # fmt: skip
        shares.append(entry)
    return shares


def estimate_corrected(responses: Responses, population: Population, eligible: np.ndarray) -> CorrectedShare | str:
    """Return the true share of right labels of the whole dataset, or why it can't be computed."""
    responses = responses.decided
    if not len(responses.images):
        return "no image has a yes or no"
    if reason := explain_unidentified(responses.votes, responses.gold):
        return reason
    position = np.cumsum(eligible) - 1
    sample = StratifiedLabels.from_population(
        responses.values, position[responses.images], population.parts()[:, eligible]
    )
    unlabelled = 1 - len(responses.images) / int(eligible.sum())
    return correct_share(responses.votes, responses.gold, sample.weights, unlabelled=unlabelled)


def _share_to_dict(share: Share) -> dict[str, Any]:
    value, low, high = share.interval
    fields = {"value": value, "low": low, "high": high, "interval": share.method}
    return {**fields, "weight": share.weight} if share.weight else fields
