"""Findings of people and scorers about a dataset's labels, for the page: `labels.json` as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from figureground.annotation.answers import list_annotation_files
from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError, read_object
from figureground.core.shapes import Count, Each, Number, Optional, check_shape
from figureground.shards.card import ASKED
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import LABELS

MOST_PARTS = 200
"""Number of parts of a dataset that the page lists by cell, those with the lowest shares first."""
_BY = ("split", "foreground", "background", "cell")

_INTERVAL = {"value": Number, "low": Number, "high": Number}
_AGREEMENT = {"images": Count, "raw": (Number, None), "alpha": (Number, None), "ac1": (Number, None)}
_KEPT = {"kept": Number, "wrong": (Number, None), "good_lost": (Number, None)}
_RULES = {"unanimous": _KEPT, "majority": _KEPT}
_SHAPE = {
    "dataset": dict,
    "people": ({
        "annotators": Count, "images": Count, "answers": Count, "splits": [str],
        "questions": Each({
            "images": Count, "answers": Count, "unsure": Count, "agreement": _AGREEMENT,
            "corrected": Optional(_INTERVAL), "not_corrected": Optional(str),
            "rules": Optional({"images": Count, **_RULES, "expected": Optional(Each(_RULES))}),
        }),
        "flags": Each(Count),
    }, None),
    "shares": [{
        "question": str, "by": str, "split": Optional(str), "foreground": Optional(str), "background": Optional(str),
        "images": Count, "labels": Count, "wrong": Count, "people": _INTERVAL, "with_scorers": Optional(_INTERVAL),
    }],
    "scorers": Each(Each({"images": Count, "left_out": Count, "right": Number, "p": Number})),
}  # fmt: skip


class Labels(NamedTuple):
    """The page's section on labels."""

    looked: str | None
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
        said = read_object(path, root=directory)
        check_shape(said, _SHAPE)
        if unknown := sorted({share["question"] for share in said["shares"]} - set(ASKED)):
            raise ValueError(f"shares has the unknown question {unknown[0]!r}")
    except FileNotFoundError:
        said = {"people": None, "shares": [], "scorers": {}}
        notes = []
    except (FileError, OSError, ValueError) as error:
        reason = error.reason if isinstance(error, FileError) else error
        said = {"people": None, "shares": [], "scorers": {}}
        notes = [f"{LABELS} can't be used: {reason}. figureground review DIR --summary writes it anew."]
        return Labels(None, None, (), (), notes)
    else:
        notes = _outdated(directory, said)
    looked = None
    if said["people"] is None:
        looked = NOBODY
        if list_annotation_files(directory):
            looked = "People have answered; figureground review DIR --summary says what their answers show."
    questions = [
        _question(
            name, question, [{"with_scorers": None, **share} for share in said["shares"] if share["question"] == name]
        )
        for name, question in (said["people"] or {"questions": {}})["questions"].items()
        if name in ASKED
    ]
    scorers = [
        {"name": name, "what": what, **each} for name, some in said["scorers"].items() for what, each in some.items()
    ]
    return Labels(looked, said["people"], questions, scorers, notes)


def _outdated(directory: Path, said: Mapping[str, Any]) -> list[str]:
    try:
        same = FinishedDataset(directory).identity() == said["dataset"]
    except FiguregroundError:
        same = False
    if same:
        return []
    return [f"{LABELS} describes other images than those here. figureground review DIR --summary writes it anew."]


def _question(name: str, question: Mapping[str, Any], shares: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rules = []
    if "rules" in question:
        of = question["rules"]
        rules = [{"name": rule, "of": "the answers there are", **of[rule]} for rule in ("unanimous", "majority")]
        rules += [
            {"name": rule, "of": f"{people} people, expected", **each}
            for people, some in of.get("expected", {}).items() for rule, each in some.items()
        ]  # fmt: skip
    parts = [
        {"by": by, "rows": rows[:MOST_PARTS], "left": max(0, len(rows) - MOST_PARTS)}
        for by in _BY
        if (rows := sorted((s for s in shares if s["by"] == by), key=lambda share: share["people"]["value"]))
    ]
    return {
        "corrected": None, "not_corrected": None, **question, "name": name, "asked": ASKED[name],
        "rules": rules, "parts": parts,
        "all": next((share for share in shares if share["by"] == "all"), None),
        "several": question["agreement"]["images"],
    }  # fmt: skip
