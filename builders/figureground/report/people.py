"""People's answers about single images, for the page. No name of an annotator is shown."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from figureground.annotation.answers import FLAGS, REFERENCE, list_annotation_files, read_answers
from figureground.annotation.responses import RIGHT_ANSWERS

STATES = ("not asked", "right", "wrong", "disagree", "can't tell")
"""People's verdict on an image: nobody was asked; a label is called right, and none wrong; a label is called wrong, and
nobody contradicts; answers about a label contradict each other; nobody could tell."""
FLAGGED = 8
"""Added to the number of a state if somebody set a flag."""


class AnswerCounts:
    """Answers about the images of a dataset."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[tuple[str, str]]] = {}

    @classmethod
    def read(cls, directory: Path) -> AnswerCounts:
        """Read all answers; none if nobody has answered.

        Raises:
            FiguregroundError: The dataset isn't finished, or a file of answers can't be used.
        """
        result = cls()
        if list_annotation_files(directory):
            for answer in read_answers(directory):
                if not answer.key.startswith(REFERENCE):
                    result._counts.setdefault(answer.key, Counter())[answer.question, answer.answer] += 1
        return result

    def __bool__(self) -> bool:
        return bool(self._counts)

    def state(self, key: str) -> int:
        """Return the position in `STATES`, plus `FLAGGED` if somebody set a flag."""
        counts = self._counts.get(key)
        if not counts:
            return 0
        flag_bit = FLAGGED if any(counts[flag, "yes"] for flag in FLAGS) else 0
        verdict = "not asked"
        sides = [
            (counts[question, right], counts[question, "no" if right == "yes" else "yes"])
            for question, right in RIGHT_ANSWERS.items()
        ]
        if any(right and wrong for right, wrong in sides):
            verdict = "disagree"
        elif any(wrong for _, wrong in sides):
            verdict = "wrong"
        elif any(right for right, _ in sides):
            verdict = "right"
        elif any(counts[question, "unsure"] for question in RIGHT_ANSWERS):
            verdict = "can't tell"
        return STATES.index(verdict) + flag_bit

    def describe(self, key: str) -> list[tuple[str, str]]:
        """Return what was answered to each question about an image."""
        by_question: dict[str, list[str]] = {}
        for (question, answer), count in sorted(self._counts.get(key, Counter()).items()):
            if question not in FLAGS or answer == "yes":
                word = "can't tell" if answer == "unsure" else answer
                by_question.setdefault(question, []).append(f"{word}: {count} {'person' if count == 1 else 'people'}")
        return [(question, ", ".join(answers)) for question, answers in by_question.items()]
