"""Findings of people and scorers about a dataset's labels, for the page: `labels.json` as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from figureground.annotation.answers import list_annotation_files
from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError, read_object
from figureground.core.shapes import Count, MapOf, Number, Optional, check_shape
from figureground.shards.card import QUESTION_TEXTS
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import LABELS

MAX_PARTS = 200
"""Number of parts of a dataset that the page lists by cell, those with the lowest shares first."""
_GROUPINGS = ("split", "foreground", "background", "cell")

_INTERVAL = {"value": Number, "low": Number, "high": Number}
_AGREEMENT = {"images": Count, "raw": (Number, None), "alpha": (Number, None), "ac1": (Number, None)}
_OUTCOME = {"kept": Number, "wrong": (Number, None), "good_lost": (Number, None)}
_RULES = {"unanimous": _OUTCOME, "majority": _OUTCOME}
_SHAPE = {
    "dataset": dict,
    "people": ({
        "annotators": Count, "images": Count, "answers": Count, "splits": [str],
        "questions": MapOf({
            "images": Count, "answers": Count, "unsure": Count, "agreement": _AGREEMENT,
            "corrected": Optional(_INTERVAL), "not_corrected": Optional(str),
            "rules": Optional({"images": Count, **_RULES, "expected": Optional(MapOf(_RULES))}),
        }),
        "flags": MapOf(Count),
    }, None),
    "shares": [{
        "question": str, "by": str, "split": Optional(str), "foreground": Optional(str), "background": Optional(str),
        "images": Count, "labels": Count, "wrong": Count, "people": _INTERVAL, "with_scorers": Optional(_INTERVAL),
    }],
    "scorers": MapOf(MapOf({"images": Count, "left_out": Count, "right": Number, "p": Number})),
}  # fmt: skip


class Labels(NamedTuple):
    """The page's section on labels."""

    why_no_people: str | None
    """Why there are no shares from people; None if there are."""
    people: Mapping[str, Any] | None
    questions: Sequence[Mapping[str, Any]]
    scorers: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


NOBODY = "No person has looked at this set."


def read_labels(directory: Path) -> Labels:
    """Read what is known of a dataset's labels. A file that can't be used is noted."""
    path = directory / LABELS
    try:
        summary = read_object(path, root=directory)
        check_shape(summary, _SHAPE)
        if unknown := sorted({share["question"] for share in summary["shares"]} - set(QUESTION_TEXTS)):
            raise ValueError(f"shares has the unknown question {unknown[0]!r}")
    except FileNotFoundError:
        summary = {"people": None, "shares": [], "scorers": {}}
        notes = []
    except (FileError, OSError, ValueError) as error:
        reason = error.reason if isinstance(error, FileError) else error
        summary = {"people": None, "shares": [], "scorers": {}}
        notes = [f"{LABELS} can't be used: {reason}. figureground review DIR --summary writes it anew."]
        return Labels(None, None, (), (), notes)
    else:
        notes = _note_outdated(directory, summary)
    why_no_people = None
    if summary["people"] is None:
        why_no_people = NOBODY
        if list_annotation_files(directory):
            why_no_people = "People have answered; figureground review DIR --summary says what their answers show."
    questions = [
        _describe_question(
            name,
            question,
            [{"with_scorers": None, **share} for share in summary["shares"] if share["question"] == name],
        )
        for name, question in (summary["people"] or {"questions": {}})["questions"].items()
        if name in QUESTION_TEXTS
    ]
    scorers = [
        {"name": name, "what": label, **facts}
        for name, by_label in summary["scorers"].items()
        for label, facts in by_label.items()
    ]
    return Labels(why_no_people, summary["people"], questions, scorers, notes)


def _note_outdated(directory: Path, summary: Mapping[str, Any]) -> list[str]:
    try:
        is_current = FinishedDataset(directory).identity() == summary["dataset"]
    except FiguregroundError:
        is_current = False
    if is_current:
        return []
    return [f"{LABELS} describes other images than those here. figureground review DIR --summary writes it anew."]


def _describe_question(name: str, question: Mapping[str, Any], shares: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rules = []
    if "rules" in question:
        outcomes = question["rules"]
        rules = [{"name": rule, "of": "the answers there are", **outcomes[rule]} for rule in ("unanimous", "majority")]
        rules += [
            {"name": rule, "of": f"{people} people, expected", **outcome}
            for people, by_rule in outcomes.get("expected", {}).items() for rule, outcome in by_rule.items()
        ]  # fmt: skip
    parts = [
        {"by": by, "rows": rows[:MAX_PARTS], "left": max(0, len(rows) - MAX_PARTS)}
        for by in _GROUPINGS
        if (rows := sorted((s for s in shares if s["by"] == by), key=lambda share: share["people"]["value"]))
    ]
    return {
        "corrected": None, "not_corrected": None, **question, "name": name, "asked": QUESTION_TEXTS[name],
        "rules": rules, "parts": parts,
        "all": next((share for share in shares if share["by"] == "all"), None),
        "several": question["agreement"]["images"],
    }  # fmt: skip
