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
from figureground.annotation.alternative_annotator import alternative_annotator
from figureground.annotation.answers import FLAGS, REFERENCE, Answer, read_answers
from figureground.annotation.correction import CorrectedShare
from figureground.annotation.population import Population, ScorerJudgements, find_asked, read_scorers
from figureground.annotation.responses import Responses, group_responses, read_gold_items
from figureground.annotation.shares import LABEL_OF_QUESTION, estimate_corrected, estimate_shares
from figureground.core.files import replace_text
from figureground.core.intervals import Interval, mean
from figureground.shards.finished import FinishedDataset
from figureground.shards.index import rewrite_with_labels
from figureground.shards.shard import LABELS

VERSION = 1
PANEL_SIZES = (3, 5)
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
    summary = compute_summary(dataset)
    path = directory / LABELS
    if summary["people"] is None and not summary["scorers"]:
        path.unlink(missing_ok=True)
        rewrite_with_labels(directory, {})
        return summary
    replace_text(path, json.dumps(summary, indent=1, ensure_ascii=False) + "\n", root=directory)
    rewrite_with_labels(directory, shorten(summary))
    return summary


def compute_summary(dataset: FinishedDataset) -> dict[str, Any]:
    """Return the content of `labels.json`, without writing anything; raises as `summarise`."""
    population = Population.from_dataset(dataset)
    answers = read_answers(dataset.directory)
    by_question = group_responses(answers, population, read_gold_items(dataset, population))
    scorers = read_scorers(dataset.directory, population)
    people, shares = None, []
    if answers:
        people = _summarise_people(answers, by_question)
        for name, responses in by_question.items():
            own_scorers = [scorer for scorer in scorers if scorer.label == LABEL_OF_QUESTION.get(name)]
            eligible = _find_eligible(dataset, population, responses)
            shares += estimate_shares(responses, population, own_scorers, eligible)
            people["questions"][name] = _summarise_question(responses, population, own_scorers, eligible)
        answered = [responses for responses in by_question.values() if len(responses.images)]
        split_numbers = {
            int(split) for responses in answered for split in np.unique(population.split[responses.images])
        }
        people["splits"] = [population.splits[split] for split in sorted(split_numbers)]
    return _round_numbers(
        {
            "version": VERSION, "dataset": dataset.identity(), "people": people, "shares": shares,
            "scorers": _summarise_scorers(scorers),
        }
    )  # fmt: skip


def _find_eligible(dataset: FinishedDataset, population: Population, responses: Responses) -> np.ndarray:
    """Return the images that a sample stands for, bool (images,): those of the splits that people looked at, if the
    question can be asked about them."""
    eligible = np.isin(population.split, np.unique(population.split[responses.images]))
    eligible &= find_asked(dataset, population, responses.question)
    eligible[responses.images] = True
    return eligible


def _summarise_people(answers: Sequence[Answer], by_question: Mapping[str, Responses]) -> dict[str, Any]:
    label_answers = [answer for answer in answers if answer.question not in FLAGS]
    return {
        "annotators": len({answer.annotator for answer in answers}),
        "images": len({answer.key for answer in label_answers if not answer.key.startswith(REFERENCE)}),
        "answers": len(label_answers),
        "gold": sum(int(each.gold.right.sum() + each.gold.wrong.sum()) for each in by_question.values()),
        "questions": {},
        "flags": {
            flag: len({answer.key for answer in answers if (answer.question, answer.answer) == (flag, "yes")})
            for flag in FLAGS
        },
        **_summarise_photographs(answers),
    }


def _summarise_photographs(answers: Iterable[Answer]) -> dict[str, Any]:
    """Return how often images and references were called photographs, if that was asked."""
    called_photograph: dict[str, list[tuple[str, bool]]] = {"images": [], "references": []}
    for answer in answers:
        if answer.question == "photograph" and answer.answer != "unsure":
            called_photograph["references" if answer.key.startswith(REFERENCE) else "images"].append(
                (answer.key, answer.answer == "yes")
            )
    summary = {
        kind: {"answers": len(pairs), **_measure_share(pairs)._asdict()}
        for kind, pairs in called_photograph.items() if pairs
    }  # fmt: skip
    return {"photograph": summary} if summary else {}


def _measure_share(pairs: Sequence[tuple[str, bool]]) -> Interval:
    """Return the share of true values, whose interval counts images: several answers about one aren't independent."""
    keys, values = zip(*pairs, strict=True)
    return mean([np.array(values)], [np.unique(keys, return_inverse=True)[1]])


def _summarise_question(
    responses: Responses, population: Population, scorers: Sequence[ScorerJudgements], eligible: np.ndarray
) -> dict[str, Any]:
    counts = responses.counts()
    correction = estimate_corrected(responses, population, eligible)
    decided = responses.decided
    posterior = np.full(len(counts), np.nan)
    if isinstance(correction, CorrectedShare):
        posterior[(responses.votes != -1).any(1)] = correction.posterior
    summary: dict[str, Any] = {
        "images": len(responses.images),
        "answers": int(counts.sum()),
        "unsure": int(responses.unsure.sum()),
        "agreement": dataclasses.asdict(measure(counts)),
        "agreement_by_label": _measure_by_label(responses, population),
        **_correction_to_dict(correction),
    }
    has_several = (counts.sum(1) >= 2) & (~np.isnan(posterior) | isinstance(correction, str))
    if has_several.any():
        probabilities = posterior[has_several] if isinstance(correction, CorrectedShare) else None
        outcomes = rules.measure_outcomes(counts[has_several, 0], counts[has_several].sum(1), probabilities)
        summary["rules"] = {"images": int(has_several.sum()), **_outcomes_to_dict(outcomes)}
        if isinstance(correction, CorrectedShare):
            rates = float(correction.sensitivity.mean()), correction.specificity
            summary["rules"]["expected"] = {
                str(people): _outcomes_to_dict(rules.predict_outcomes(people, correction.interval.value, *rates))
                for people in PANEL_SIZES
            }
    if scorers:
        summary["stand_in"] = {
            scorer.name: _test_stand_in(decided, scorer) for scorer in scorers if scorer.known[decided.images].any()
        }
    return summary


def _correction_to_dict(correction: CorrectedShare | str) -> dict[str, Any]:
    if isinstance(correction, str):
        return {"not_corrected": correction}
    rates = {"sensitivity": sorted(correction.sensitivity.tolist()), "specificity": correction.specificity}
    return {"corrected": {**correction.interval._asdict(), **rates}}


def _outcomes_to_dict(outcomes: Mapping[str, rules.RuleOutcome]) -> dict[str, Any]:
    return {name: dataclasses.asdict(outcome) for name, outcome in outcomes.items()}


def _test_stand_in(responses: Responses, scorer: ScorerJudgements) -> dict[str, Any]:
    result = dataclasses.asdict(alternative_annotator(responses.votes, scorer.right[responses.images]))
    result["wrong_found"] = result["wrong_found"] and result["wrong_found"]._asdict()
    return {name: value for name, value in result.items() if value is not None}


def _measure_by_label(responses: Responses, population: Population) -> dict[str, Any]:
    """Return the agreement about the images of each label: of each background, or else of each foreground."""
    of_background = responses.question == "background"
    names = population.backgrounds if of_background else population.foregrounds
    numbers = (population.background if of_background else population.foreground)[responses.images]
    counts = responses.counts()
    agreements = {names[number]: measure(counts[numbers == number]) for number in np.unique(numbers)}
    return {name: dataclasses.asdict(agreement) for name, agreement in agreements.items() if agreement.images}


def _summarise_scorers(scorers: Sequence[ScorerJudgements]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for scorer in scorers:
        has_label = scorer.known
        if has_label.any():
            summary.setdefault(scorer.name, {})[scorer.label] = {
                "images": int(has_label.sum()), "left_out": int((~has_label).sum()),
                "right": float(scorer.right[has_label].mean()), "p": float(np.nanmean(scorer.p)),
            }  # fmt: skip
    return summary


def _round_numbers(value: Any) -> Any:
    """Return a document with numbers to six digits, so that it is the same on every machine."""
    if isinstance(value, Mapping):
        return {name: _round_numbers(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_round_numbers(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


# The short form


def shorten(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the card tells, in the shape of `index_shape.LABELS`: whole dataset and splits, no cells."""
    short: dict[str, Any] = {
        "scorers": [
            {"name": name, "what": label, "images": facts["images"], "right": facts["right"]}
            for name, by_label in summary["scorers"].items() for label, facts in by_label.items()
        ]
    }  # fmt: skip
    if (people := summary["people"]) is None:
        return short
    short["people"] = {name: people[name] for name in ("annotators", "images", "answers")}
    short["shares"] = []
    for share in summary["shares"]:
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
