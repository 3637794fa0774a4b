"""Label Studio: tasks to import there with a labeling configuration, and its export in the format JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from figureground.annotation.answers import ANSWERS, FLAGS, QUESTIONS
from figureground.annotation.exchange.exchange import Exchange, Result, Results, Task
from figureground.annotation.exchange.mturk import as_utc
from figureground.core.errors import FiguregroundError, printable
from figureground.core.files import read_json

NOT_ASKED = "(nothing to answer here)"


class LabelStudio(Exchange):
    """See the module."""

    NAME = "label-studio"
    SUFFIX = ".json"

    def files(self, tasks: Sequence[Task], names: Sequence[str]) -> dict[str, str]:
        """Return `tasks.json` and `config.xml`."""
        entries = [
            {"data": {
                "image": task.url, "image_id": task.id, "dataset": task.dataset,
                **{name: task.questions.get(name, NOT_ASKED) for name in names},
            }}
            for task in tasks
        ]  # fmt: skip
        lines = ["<View>", '  <Image name="image" value="$image" zoom="true"/>']
        for name in names:
            needed = str(all(name in task.questions for task in tasks)).lower()
            lines.append(f"  <Header value={quoteattr(f'${name}')}/>")
            lines.append(f'  <Choices name="{name}" toName="image" choice="single-radio" required="{needed}">')
            lines += [f'    <Choice value="{answer}"/>' for answer in ANSWERS]
            lines.append("  </Choices>")
        lines.append('  <Choices name="flags" toName="image" choice="multiple">')
        lines += [f'    <Choice value="{flag}"/>' for flag in FLAGS]
        lines += ["  </Choices>", "</View>"]
        return {
            "tasks.json": json.dumps(entries, indent=1, ensure_ascii=False) + "\n",
            "config.xml": "\n".join(lines) + "\n",
        }

    def results(self, path: Path) -> Results:
        try:
            tasks = read_json(path)
        except OSError as error:
            raise FiguregroundError(f"{printable(path)} can't be read: {error.strerror or error}.") from None
        if not isinstance(tasks, list):
            raise FiguregroundError(f"{printable(path)}: it is not a list of tasks. Export in the format JSON.")
        results = Results()
        for number, task in enumerate(tasks, 1):
            where = f"{printable(path.name)}, task {number}"
            data = task.get("data") if isinstance(task, dict) else None
            if not isinstance(data, dict) or not isinstance(task.get("annotations"), list):
                raise FiguregroundError(f"{where} lacks data or annotations. Export in the format JSON, not JSON-MIN.")
            for field in ("image_id", "dataset"):
                if not isinstance(data.get(field), str):
                    raise FiguregroundError(
                        f"{where}: data lacks {field}, which the exported tasks have. Import those."
                    )
            for annotation in task["annotations"]:
                if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
                    results.left_out["skipped"] += 1
                    continue
                answers = dict(_read_choices(annotation, where))
                if not answers:
                    results.left_out["without an answer"] += 1
                seconds = annotation.get("lead_time")
                time = as_utc(str(annotation.get("updated_at") or annotation.get("created_at") or ""))
                results.answers += [
                    Result(
                        where, _read_annotator(annotation.get("completed_by"), where), data["image_id"],
                        data["dataset"], question, answer, time,
                        seconds / len(answers) if isinstance(seconds, int | float) and seconds >= 0 else None,
                    )
                    for question, answer in _with_unset_flags(answers).items()
                    if data.get(question) != NOT_ASKED
                ]  # fmt: skip
        return results


def _read_choices(annotation: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    """Yield question and answer for each choice of an annotation."""
    for entry in annotation.get("result") or []:
        name = entry.get("from_name") if isinstance(entry, dict) else None
        value = entry.get("value") if isinstance(entry, dict) else None
        choices = value.get("choices") if isinstance(value, dict) else None
        if name not in (*QUESTIONS, "flags") or not isinstance(choices, list):
            continue  # another tag that was added to the configuration
        if name == "flags":
            yield from ((str(flag), "yes") for flag in choices)
        elif len(choices) == 1:
            yield name, str(choices[0])
        else:
            raise FiguregroundError(f"{where}: {printable(name)} has {len(choices)} answers. Keep one.")


def _with_unset_flags(answers: Mapping[str, str]) -> dict[str, str]:
    """Return the answers of an annotation, if there are any, with `no` for the flags that aren't set."""
    return {**dict.fromkeys(FLAGS, "no"), **answers} if answers else {}


def _read_annotator(value: Any, where: str) -> str:
    """Return the name of who made an annotation: an e-mail address, or a number that Label Studio gave."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise FiguregroundError(
            f"{where}: an annotation lacks completed_by, the annotator. Export again in the format JSON."
        )
    return f"label-studio-{value}" if isinstance(value, int) else value
