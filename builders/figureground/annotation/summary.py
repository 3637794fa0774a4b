"""The summary of `review --summary` as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from figureground.core.errors import counted
from figureground.core.text import printable
from figureground.shards.card import ASKED

WORST = 5
"""Number of parts of a dataset that are named, those with the lowest shares first."""


def describe(said: Mapping[str, Any]) -> str:
    """Return the content of `labels.json` as lines of text."""
    return "\n".join(printable(line) for line in _lines(said))


def _lines(said: Mapping[str, Any]) -> Iterator[str]:
    people = said["people"]
    if people is None:
        yield "No person has looked at these images."
    else:
        gold = f", {counted(people['gold'], 'answer')} to gold items" if people["gold"] else ""
        yield (
            f"{counted(people['annotators'], 'annotator')}, {counted(people['images'], 'image')}, "
            f"{counted(people['answers'], 'answer')}{gold}; splits: {', '.join(people['splits']) or 'none'}"
        )
        for name, question in people["questions"].items():
            yield ""
            yield from _question(name, question, [share for share in said["shares"] if share["question"] == name])
        for flag, images in people["flags"].items():
            if images:
                yield f"{counted(images, 'image')} flagged: {flag}"
        for kind, each in people.get("photograph", {}).items():
            yield f"called photographs, of {counted(each['answers'], 'answer')} about {kind}: {_interval(each)}"
    for name, scorer in said["scorers"].items():
        for what, each in scorer.items():
            left = f", {each['left_out']:,} left out" if each["left_out"] else ""
            yield (
                f"{name}: own {what} is the most probable for {_percent(each['right'])} of "
                f"{counted(each['images'], 'image')}{left}"
            )


def _question(name: str, question: Mapping[str, Any], shares: list[Mapping[str, Any]]) -> Iterator[str]:
    unsure = f", {question['unsure']:,} can't tell" if question["unsure"] else ""
    answers, images = counted(question["answers"], "answer"), counted(question["images"], "image")
    yield f"{ASKED[name]}: {answers} about {images}{unsure}"
    for share in shares:
        if share["by"] == "all":
            yield f"  people: {_interval(share['people'])}, {share['wrong']:,} of {share['labels']:,} called wrong"
            if "with_scorers" in share:
                weight = share["with_scorers"].get("weight", 0)
                yield f"  people and scorers: {_interval(share['with_scorers'])}, scorers' weight {weight:.2f}"
    if "corrected" in question:
        yield f"  corrected for annotators' errors: {_interval(question['corrected'])}"
    else:
        yield f"  not corrected for annotators' errors: {question['not_corrected']}"
    agreement = question["agreement"]
    if agreement["images"]:
        yield (
            f"  agreement on {counted(agreement['images'], 'image')}: raw {_percent(agreement['raw'])}, "
            f"Krippendorff's alpha {_coefficient(agreement['alpha'])}, Gwet's AC1 {_coefficient(agreement['ac1'])}"
        )
    yield from _rules(question.get("rules"))
    for scorer, test in question.get("stand_in", {}).items():
        yield f"  {scorer} may stand in for a person: {_stand_in(test)}"
    parts = [share for share in shares if share["by"] != "all" and share["wrong"]]
    for share in sorted(parts, key=lambda share: share["people"]["value"])[:WORST]:
        of = ", ".join(share[by] for by in ("split", "foreground", "background") if by in share)
        yield f"  {of}: {_interval(share['people'])}, {share['wrong']:,} of {share['labels']:,} called wrong"


def _rules(rules: Mapping[str, Any] | None) -> Iterator[str]:
    if rules is None:
        return
    yield f"  rules, on {counted(rules['images'], 'image')} with several answers:"
    yield from (f"    {name}: {_kept(rules[name])}" for name in ("unanimous", "majority"))
    for people, expected in rules.get("expected", {}).items():
        yield from (f"    {name} of {people}, expected: {_kept(each)}" for name, each in expected.items())


def _kept(kept: Mapping[str, Any]) -> str:
    told = f"keeps {_percent(kept['kept'])}"
    if kept["wrong"] is not None:
        told += f", of which {_percent(kept['wrong'])} wrong"
    if kept["good_lost"] is not None:
        told += f"; drops {_percent(kept['good_lost'])} of the good images"
    return told


def _stand_in(test: Mapping[str, Any]) -> str:
    found = f"; finds {_interval(test['wrong_found'])} of the wrong labels" if "wrong_found" in test else ""
    if "reason" in test:
        return f"not computable ({test['reason']}){found}"
    return (
        f"{'yes' if test['passes'] else 'no'} (winning rate {test['winning_rate']:.2f} over "
        f"{counted(test['annotators'], 'annotator')}, advantage {test['advantage']:.2f}){found}"
    )


def _interval(share: Mapping[str, Any]) -> str:
    return f"{_percent(share['value'])} ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _coefficient(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
