"""Facts about a dataset's labels: `_figureground/labels.json`, its short form in the card, and as text.

`docs/labels.md` lists the fields of the file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figureground.annotation import rules
from figureground.annotation.agreement import measure
from figureground.annotation.answers import FLAGS, REFERENCE, Answer, read_answers
from figureground.annotation.correction import Corrected
from figureground.annotation.population import Population, Scorer, read_scorers
from figureground.annotation.responses import Responses, read_known, sort_responses
from figureground.annotation.shares import WHAT, corrected, of_question
from figureground.annotation.standin import alternative_annotator
from figureground.core.files import replace_text
from figureground.core.intervals import wilson
from figureground.shards.finished import FinishedDataset
from figureground.shards.index import finish_with_labels
from figureground.shards.shard import LABELS

VERSION = 1
UNKNOWN = "unknown"
"""Background of repainted images whose attribute isn't known; nobody is asked about it."""
PEOPLE = (3, 5)
"""Numbers of annotators for which the summary reports what a rule would keep."""


def summarise(directory: Path) -> dict[str, Any]:
    """Compute what is known of a dataset's labels, write it to `labels.json`, and write the card anew.

    Without answers and scores, a `labels.json` of before is removed.

    Args:
        directory: A finished dataset. Answers and scores may be missing.

    Returns:
        The content of `labels.json`.

    Raises:
        FiguregroundError: The dataset isn't finished, or answers, gold items or scores can't be used; names the file.
    """
    dataset = FinishedDataset(directory)
    said = compute(dataset)
    path = directory / LABELS
    if said["people"] is None and not said["scorers"]:
        path.unlink(missing_ok=True)
        finish_with_labels(directory, {})
        return said
    replace_text(path, json.dumps(said, indent=1, ensure_ascii=False) + "\n", root=directory)
    finish_with_labels(directory, shorten(said))
    return said


def compute(dataset: FinishedDataset) -> dict[str, Any]:
    """Return the content of `labels.json`, without writing anything; raises as `summarise`."""
    population = Population.of(dataset)
    answers = read_answers(dataset.directory)
    responses = sort_responses(answers, population, read_known(dataset.directory, population))
    scorers = read_scorers(dataset.directory, population)
    people, shares = None, []
    if answers:
        people = _people(answers, responses)
        for name, each in responses.items():
            mine = [scorer for scorer in scorers if scorer.what == WHAT.get(name)]
            among = _asked(dataset, population, each)
            shares += of_question(each, population, mine, among)
            people["questions"][name] = _question(each, population, mine, among)
        looked = [each for name, each in responses.items() if len(each.images)]
        seen = {int(split) for each in looked for split in np.unique(population.split[each.images])}
        people["splits"] = [population.splits[split] for split in sorted(seen)]
    return _rounded(
        {
            "version": VERSION, "dataset": dataset.identity(), "people": people, "shares": shares,
            "scorers": _scorers(scorers),
        }
    )  # fmt: skip


def _asked(dataset: FinishedDataset, population: Population, responses: Responses) -> np.ndarray:
    """Return the images that a sample stands for, bool (images,): those of the splits that people looked at.

    Repainted images of unknown background aren't asked about it.
    """
    asked = np.isin(population.split, np.unique(population.split[responses.images]))
    if responses.question == "background" and "source" in dataset.columns.texts and UNKNOWN in population.backgrounds:
        asked &= population.background != list(population.backgrounds).index(UNKNOWN)
        asked[responses.images] = True
    return asked


def _people(answers: Sequence[Answer], responses: Mapping[str, Responses]) -> dict[str, Any]:
    shown = [answer for answer in answers if answer.question not in FLAGS]
    return {
        "annotators": len({answer.annotator for answer in answers}),
        "images": len({answer.key for answer in shown if not answer.key.startswith(REFERENCE)}),
        "answers": len(shown),
        "gold": sum(int(each.gold.right.sum() + each.gold.wrong.sum()) for each in responses.values()),
        "questions": {},
        "flags": {
            flag: len({answer.key for answer in answers if (answer.question, answer.answer) == (flag, "yes")})
            for flag in FLAGS
        },
        **_photographs(answers),
    }


def _photographs(answers: Iterable[Answer]) -> dict[str, Any]:
    """Return how often images and references were called photographs, if that was asked."""
    said: dict[str, list[bool]] = {"images": [], "references": []}
    for answer in answers:
        if answer.question == "photograph" and answer.answer != "unsure":
            said["references" if answer.key.startswith(REFERENCE) else "images"].append(answer.answer == "yes")
    told = {
        kind: {"answers": len(each), **wilson(float(np.mean(each)), len(each))._asdict()}
        for kind, each in said.items() if each
    }  # fmt: skip
    return {"photograph": told} if told else {}


def _question(
    responses: Responses, population: Population, scorers: Sequence[Scorer], among: np.ndarray
) -> dict[str, Any]:
    counts = responses.counts()
    true = corrected(responses, population, among)
    decided = responses.decided
    posterior = np.full(len(counts), np.nan)
    if isinstance(true, Corrected):
        posterior[(responses.said != -1).any(1)] = true.posterior
    said: dict[str, Any] = {
        "images": len(responses.images),
        "answers": int(counts.sum()),
        "unsure": int(responses.unsure.sum()),
        "agreement": dataclasses.asdict(measure(counts)),
        "agreement_by_label": _by_label(responses, population),
        **_told(true),
    }
    several = (counts.sum(1) >= 2) & (~np.isnan(posterior) | isinstance(true, str))
    if several.any():
        known = posterior[several] if isinstance(true, Corrected) else None
        kept = rules.observed(counts[several, 0], counts[several].sum(1), known)
        said["rules"] = {"images": int(several.sum()), **_kept(kept)}
        if isinstance(true, Corrected):
            rates = float(true.sensitivity.mean()), true.specificity
            said["rules"]["expected"] = {
                str(people): _kept(rules.expected(people, true.interval.value, *rates)) for people in PEOPLE
            }
    if scorers:
        said["stand_in"] = {
            scorer.name: _stand_in(decided, scorer) for scorer in scorers if scorer.known[decided.images].any()
        }
    return said


def _told(true: Corrected | str) -> dict[str, Any]:
    if isinstance(true, str):
        return {"not_corrected": true}
    rates = {"sensitivity": sorted(true.sensitivity.tolist()), "specificity": true.specificity}
    return {"corrected": {**true.interval._asdict(), **rates}}


def _kept(kept: Mapping[str, rules.Kept]) -> dict[str, Any]:
    return {name: dataclasses.asdict(each) for name, each in kept.items()}


def _stand_in(responses: Responses, scorer: Scorer) -> dict[str, Any]:
    found = dataclasses.asdict(alternative_annotator(responses.said, scorer.right[responses.images]))
    found["wrong_found"] = found["wrong_found"] and found["wrong_found"]._asdict()
    return {name: value for name, value in found.items() if value is not None}


def _by_label(responses: Responses, population: Population) -> dict[str, Any]:
    """Return the agreement about the images of each label: of each background, or else of each foreground."""
    of_background = responses.question == "background"
    names = population.backgrounds if of_background else population.foregrounds
    numbers = (population.background if of_background else population.foreground)[responses.images]
    counts = responses.counts()
    found = {names[number]: measure(counts[numbers == number]) for number in np.unique(numbers)}
    return {name: dataclasses.asdict(each) for name, each in found.items() if each.images}


def _scorers(scorers: Sequence[Scorer]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for scorer in scorers:
        known = scorer.known
        if known.any():
            found.setdefault(scorer.name, {})[scorer.what] = {
                "images": int(known.sum()), "left_out": int((~known).sum()),
                "right": float(scorer.right[known].mean()), "p": float(np.nanmean(scorer.p)),
            }  # fmt: skip
    return found


def _rounded(value: Any) -> Any:
    """Return a document with numbers to six digits, so that it is the same on every machine."""
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


# The short form


def shorten(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the card tells, in the shape of `index_shape.LABELS`: whole dataset and splits, no cells."""
    short: dict[str, Any] = {
        "scorers": [
            {"name": name, "what": what, "images": each["images"], "right": each["right"]}
            for name, some in said["scorers"].items() for what, each in some.items()
        ]
    }  # fmt: skip
    if (people := said["people"]) is None:
        return short
    short["people"] = {name: people[name] for name in ("annotators", "images", "answers")}
    short["shares"] = []
    for share in said["shares"]:
        if share["by"] == "all" or (share["by"] == "split" and len(people["splits"]) > 1):
            entry = {name: share[name] for name in ("question", "images", "labels", "wrong")}
            entry |= {"split": share["split"]} if share["by"] == "split" else {}
            for kind in ("people", "with_scorers"):
                if kind in share:
                    entry[kind] = {name: share[kind][name] for name in ("value", "low", "high")}
            if share["by"] == "all":
                question = people["questions"][share["question"]]
                if "corrected" in question:
                    entry["corrected"] = {name: question["corrected"][name] for name in ("value", "low", "high")}
                if question["agreement"]["images"]:
                    entry["agreement"] = question["agreement"]
            short["shares"].append(entry)
    return short
