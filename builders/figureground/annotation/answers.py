"""Answers of annotators, one append-only file per annotator in `_figureground/annotations/NAME.jsonl`.

The first line of a file is its header, `{"figureground": "annotations", "version": 1, "dataset": …, "annotator": …}`
with the identity of the dataset (`FinishedDataset.identity`). Each further line is an answer, or takes one back:

    {"n": 1, "key": "train-0000-00-00003", "question": "foreground", "answer": "yes", "time": "2026-01-05T10:00:00Z",
     "seconds": 1.2}
    {"n": 2, "undo": 1, "time": "2026-01-05T10:00:03Z"}

`n` counts the lines of one file and gives their order; the time is recorded, but a clock may run back.
"""

from __future__ import annotations

from dataclasses import dataclass

ANNOTATIONS = "_figureground/annotations"

ANSWERS = ("yes", "no", "unsure")
"""Possible answers to a question."""
FLAGS = ("unsafe", "artefacts")
"""Questions that ask for nothing unless an annotator sets them; an answer to them is `yes`, or `no` once unset."""
QUESTIONS = ("foreground", "background", "label", "class", "feature", "photograph", *FLAGS)
"""Questions about an image: is its foreground label right, its background label; is its label right (SCGS, DDB); does
it show the class that it is spurious for, does it show the feature, is it a photograph (class-wise spurious sets)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of one annotator to one question about one image; later answers replace earlier ones."""

    n: int
    """Number of the line in the annotator's file, from 1."""
    annotator: str
    key: str
    """Key of the sample; `reference:PATH` for a reference image that is mixed in."""
    question: str
    answer: str
    time: str
    """UTC, ISO 8601."""
    seconds: float | None = None
    """Seconds from showing the image to the answer, if known."""
