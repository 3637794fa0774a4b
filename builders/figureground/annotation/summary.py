"""The summary of `review --summary` as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from figureground.core.errors import plural
from figureground.core.text import printable
from figureground.shards.card import QUESTION_TEXTS

WORST = 5
"""Number of parts of a dataset that are named, those with the lowest shares first."""


def describe(summary: Mapping[str, Any]) -> str:
    """Return the content of `labels.json` as lines of text."""
    return "\n".join(printable(line) for line in _summary_lines(summary))


def _summary_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    people = summary["people"]
    if people is None:
        yield "No person has looked at these images."
    else:
        gold = f", {plural(people['gold'], 'answer')} to gold items" if people["gold"] else ""
        yield (
            f"{plural(people['annotators'], 'annotator')}, {plural(people['images'], 'image')}, "
            f"{plural(people['answers'], 'answer')}{gold}; splits: {', '.join(people['splits']) or 'none'}"
        )
        for name, question in people["questions"].items():
            yield ""
            yield from _question_lines(
                name, question, [share for share in summary["shares"] if share["question"] == name]
            )
        for flag, images in people["flags"].items():
            if images:
                yield f"{plural(images, 'image')} flagged: {flag}"
        for kind, facts in people.get("photograph", {}).items():
            answers = plural(facts["answers"], "answer")
            yield f"called photographs, of {answers} about {kind}: {_format_interval(facts)}"
    for name, scorer in summary["scorers"].items():
        for label, facts in scorer.items():
            left_out = f", {facts['left_out']:,} left out" if facts["left_out"] else ""
            yield (
                f"{name}: own {label} is the most probable for {_format_percent(facts['right'])} of "
                f"{plural(facts['images'], 'image')}{left_out}"
            )


def _question_lines(name: str, question: Mapping[str, Any], shares: list[Mapping[str, Any]]) -> Iterator[str]:
    unsure = f", {question['unsure']:,} can't tell" if question["unsure"] else ""
    answers, images = plural(question["answers"], "answer"), plural(question["images"], "image")
    yield f"{QUESTION_TEXTS[name]}: {answers} about {images}{unsure}"
    for share in shares:
        if share["by"] == "all":
            yield f"  people: {_format_share(share)}"
            if "with_scorers" in share:
                weight = share["with_scorers"].get("weight", 0)
                yield f"  people and scorers: {_format_interval(share['with_scorers'])}, scorers' weight {weight:.2f}"
    if "corrected" in question:
        yield f"  corrected for annotators' errors: {_format_interval(question['corrected'])}"
    else:
        yield f"  not corrected for annotators' errors: {question['not_corrected']}"
    agreement = question["agreement"]
    if agreement["images"]:
        yield (
            f"  agreement on {plural(agreement['images'], 'image')}: raw {_format_percent(agreement['raw'])}, "
            f"Krippendorff's alpha {_format_coefficient(agreement['alpha'])}, "
            f"Gwet's AC1 {_format_coefficient(agreement['ac1'])}"
        )
    yield from _rule_lines(question.get("rules"))
    for scorer, test in question.get("stand_in", {}).items():
        yield f"  {scorer} may stand in for a person: {_format_stand_in(test)}"
    parts = [share for share in shares if share["by"] != "all" and share["wrong"]]
    for share in sorted(parts, key=lambda share: share["people"]["value"])[:WORST]:
        labels = ", ".join(share[by] for by in ("split", "foreground", "background") if by in share)
        yield f"  {labels}: {_format_share(share)}"


def _format_share(share: Mapping[str, Any]) -> str:
    return f"{_format_interval(share['people'])}, {share['wrong']:,} of {share['labels']:,} called wrong"


def _rule_lines(rules: Mapping[str, Any] | None) -> Iterator[str]:
    if rules is None:
        return
    yield f"  rules, on {plural(rules['images'], 'image')} with several answers:"
    yield from (f"    {name}: {_format_outcome(rules[name])}" for name in ("unanimous", "majority"))
    for people, expected in rules.get("expected", {}).items():
        yield from (
            f"    {name} of {people}, expected: {_format_outcome(outcome)}" for name, outcome in expected.items()
        )


def _format_outcome(outcome: Mapping[str, Any]) -> str:
    text = f"keeps {_format_percent(outcome['kept'])}"
    if outcome["wrong"] is not None:
        text += f", of which {_format_percent(outcome['wrong'])} wrong"
    if outcome["good_lost"] is not None:
        text += f"; drops {_format_percent(outcome['good_lost'])} of the good images"
    return text


def _format_stand_in(test: Mapping[str, Any]) -> str:
    wrong_found = (
        f"; finds {_format_interval(test['wrong_found'])} of the wrong labels" if "wrong_found" in test else ""
    )
    if "reason" in test:
        return f"not computable ({test['reason']}){wrong_found}"
    return (
        f"{'yes' if test['passes'] else 'no'} (winning rate {test['winning_rate']:.2f} over "
        f"{plural(test['annotators'], 'annotator')}, advantage {test['advantage']:.2f}){wrong_found}"
    )


def _format_interval(share: Mapping[str, Any]) -> str:
    return f"{_format_percent(share['value'])} ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def _format_percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _format_coefficient(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
