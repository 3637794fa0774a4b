"""Amazon Mechanical Turk: a CSV with one HIT a row, a layout, and the CSV of results that the requester's site gives.

The layout is pasted into a project of the requester's site, and the CSV is published as its batch; how many people
answer each image is chosen there. Results come in the columns `Answer.QUESTION`, `Answer.QUESTION.ANSWER` (radio
buttons of a `crowd-form`) or, as JSON, in `Answer.taskAnswers`; all three are read.
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from figureground.annotation.answers import ANSWERS, FLAGS, QUESTIONS
from figureground.annotation.exchange.exchange import Exchange, Result, Results, Task, is_set
from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError, parse_json
from figureground.core.pages import render_page
from figureground.core.tables import TextTable

REJECTED = "Rejected"
_ZONES = {"PST": -8, "PDT": -7, "UTC": 0, "GMT": 0}
"""Hours by name, in which Mechanical Turk gives times."""


class MechanicalTurk(Exchange):
    """See the module."""

    NAME = "mturk"
    SUFFIX = ".csv"

    def files(self, tasks: Sequence[Task], names: Sequence[str]) -> dict[str, str]:
        """Return `batch.csv` and `layout.html`."""
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            ["image_url", "image_id", "dataset", *(column for name in names for column in (name, f"{name}_asked"))]
        )
        for task in tasks:
            cells = []
            for name in names:  # pasted into the layout as they are
                cells += [html.escape(task.questions.get(name, "")), "yes" if name in task.questions else "no"]
            writer.writerow([task.url, task.id, task.dataset, *cells])
        answers = [("yes", "Yes"), ("no", "No"), ("unsure", "Can’t tell")]
        return {
            "batch.csv": out.getvalue(),
            "layout.html": render_page("mturk.html.jinja", {}, names=names, answers=answers),
        }

    def results(self, path: Path) -> Results:
        table = TextTable(path)
        table.require("WorkerId", "Input.image_id", "Input.dataset")
        results = Results()
        for line, row in table.records():
            if row.get("AssignmentStatus") == REJECTED:
                results.left_out["rejected"] += 1
                continue
            where = f"{table.name}, line {line}"
            answers = read_answers(row, where)
            if not answers:
                results.left_out["without an answer"] += 1
            seconds = _parse_number(row.get("WorkTimeInSeconds", ""))
            results.answers += [
                Result(
                    where, row["WorkerId"], row["Input.image_id"], row["Input.dataset"], question, answer,
                    as_utc(row.get("SubmitTime", "")), None if seconds is None else seconds / len(answers),
                )
                for question, answer in answers.items()
            ]  # fmt: skip
        return results


def read_answers(row: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the answers of one assignment, by question.

    Raises:
        FiguregroundError: One question has two answers, or a cell isn't JSON.
    """
    fields: dict[str, Any] = {
        name.removeprefix("Answer."): value for name, value in row.items() if name.startswith("Answer.") and value
    }
    if text := fields.pop("taskAnswers", None):
        try:
            parsed = parse_json(text, f"{where}, Answer.taskAnswers")
        except FileError as error:
            raise FiguregroundError(f"{where}: Answer.taskAnswers is not JSON: {error.reason}.") from None
        for entry in parsed if isinstance(parsed, list) else [parsed]:
            fields |= entry if isinstance(entry, dict) else {}
    answers = {}
    for question in QUESTIONS:
        parts = {answer: fields[f"{question}.{answer}"] for answer in ANSWERS if f"{question}.{answer}" in fields}
        if isinstance(value := fields.get(question), dict):
            parts |= value
        if question in FLAGS:
            if is_set(parts) or is_set(value):
                answers[question] = "yes"
            continue
        chosen = [answer for answer, entry in parts.items() if is_set(entry)]
        if len(chosen) > 1:
            raise FiguregroundError(f"{where}: {question} has {len(chosen)} answers. Keep one.")
        if chosen or isinstance(value, str):
            answers[question] = chosen[0] if chosen else str(value)
    return answers


def as_utc(text: str) -> str | None:
    """Return a time such as `Tue Mar 10 09:12:33 PDT 2026` in ISO 8601; None if it can't be read."""
    words = text.split()
    try:
        if len(words) == 6 and words[4] in _ZONES:
            zone = timezone(timedelta(hours=_ZONES[words[4]]))
            time = datetime.strptime(" ".join([*words[1:4], words[5]]), "%b %d %H:%M:%S %Y").replace(tzinfo=zone)
        else:
            time = datetime.fromisoformat(text)
    except ValueError:
        return None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse_number(text: str) -> float | None:
    try:
        return max(0.0, float(text))
    except ValueError:
        return None
