"""Answers of annotators, one append-only file per annotator in `_figureground/annotations/NAME.jsonl`.

The first line of a file is its header, `{"figureground": "annotations", "version": 1, "dataset": …, "annotator": …}`
with the identity of the dataset (`FinishedDataset.identity`). Each further line is an answer, or takes one back:

    {"n": 1, "key": "train-0000-00-00003", "question": "foreground", "answer": "yes", "time": "2026-01-05T10:00:00Z",
     "seconds": 1.2}
    {"n": 2, "undo": 1, "time": "2026-01-05T10:00:03Z"}

`n` counts the lines of one file and gives their order; the time is recorded, but a clock may run back. Answers that
were saved together from a grid of images also have `grid`, the `n` of the first of them.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, printable
from figureground.core.files import FileError, leads_outside, parse_json, read_bytes
from figureground.core.text import has_control_characters
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import PRIVATE

ANNOTATIONS = f"{PRIVATE}/annotations"

ANSWERS = ("yes", "no", "unsure")
"""Possible answers to a question."""
FLAGS = ("unsafe", "artefacts")
"""Questions that ask for nothing unless an annotator sets them; an answer to them is `yes`, or `no` once unset."""
QUESTIONS = ("foreground", "background", "label", "class", "feature", "photograph", *FLAGS)
"""Questions about an image: is its foreground label right, its background label; is its label right (SCGS, DDB); does
it show the class that it is spurious for, does it show the feature, is it a photograph (class-wise spurious sets)."""
REFERENCE = "reference:"
"""Prefix of the key of a reference image that is mixed in; the rest is its path below the saved references."""

SUFFIX = ".jsonl"
VERSION = 1
MAX_BYTES = 256 * 2**20
"""Maximum size of an annotator's file: about two million answers."""

_NAME = re.compile(r"[^\W_](?:[\w .@+-]{0,62}[\w@+-])?")


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
    grid: int | None = None
    """Number of the first answer that was saved with it, if it was given in a grid of images."""


@dataclass
class Answers:
    """Contents of one annotator's file, read line by line."""

    annotator: str
    lines: int = 0
    """Lines so far, without the header: the `n` of the last one."""
    replaced: int = 0
    """Answers that a later one to the same question about the same image replaced."""
    undone: int = 0
    clock_ran_back: int = 0
    """Lines whose time is earlier than that of the line before."""
    touched: set[str] = field(default_factory=set)
    """Keys of the images whose answers changed since the reader of this set last emptied it."""
    notes: list[str] = field(default_factory=list)
    """Faults of the file that were ignored."""
    _all: dict[int, Answer] = field(default_factory=dict)
    """Answers that aren't undone, by `n`, in order."""
    _stacks: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    """For each image and question, the `n` of its answers that aren't undone; the last one counts."""
    _time: str = ""

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in a line.

        Raises:
            ValueError: A field is missing or wrong; says which.
        """
        n = line.get("n")
        if not isinstance(n, int) or n != self.lines + 1:
            raise ValueError(f"n is {n!r} instead of {self.lines + 1}")
        if not isinstance(time := line.get("time"), str):
            raise ValueError("time is missing")
        if "undo" in line:
            self._undo(line["undo"])
        else:
            self._push(_parse_answer(line, n, self.annotator, time))
        self.lines = n
        self.clock_ran_back += time < self._time
        self._time = time

    def _push(self, answer: Answer) -> None:
        stack = self._stacks.setdefault((answer.key, answer.question), [])
        self.replaced += bool(stack)
        stack.append(answer.n)
        self.touched.add(answer.key)
        self._all[answer.n] = answer

    def _undo(self, number: Any) -> None:
        if not isinstance(number, int) or (answer := self._all.get(number)) is None:
            raise ValueError(f"undo is {number!r}, which isn't the number of an answer that can be undone")
        stack = self._stacks[answer.key, answer.question]
        stack.remove(number)
        self.replaced -= bool(stack)
        self.undone += 1
        self.touched.add(answer.key)
        del self._all[number]

    def iter_current(self) -> Iterator[Answer]:
        """Yield the answers that count, one to each question about an image, in order of the images."""
        for stack in self._stacks.values():
            if stack:
                yield self._all[stack[-1]]

    def get(self, key: str, question: str) -> Answer | None:
        """Return the answer that counts, if there is one."""
        stack = self._stacks.get((key, question))
        return self._all[stack[-1]] if stack else None

    def has(self, key: str, question: str, answer: str, time: str | None) -> bool:
        """Whether an answer is there and wasn't undone, even if a later one replaced it; at any time if None."""
        recorded = (self._all[n] for n in self._stacks.get((key, question), []))
        return any(earlier.answer == answer and time in (None, earlier.time) for earlier in recorded)

    def list_undoable(self) -> list[Answer]:
        """Return what an undo takes back: the last answer, or all of the grid that it was saved with."""
        if not self._all:
            return []
        last = self._all[next(reversed(self._all))]
        if last.grid is None:
            return [last]
        return [answer for answer in self._all.values() if answer.grid == last.grid]


def _parse_answer(line: Mapping[str, Any], n: int, annotator: str, time: str) -> Answer:
    for name, allowed in (("question", QUESTIONS), ("answer", ANSWERS)):
        if line.get(name) not in allowed:
            raise ValueError(f"{name} is {line.get(name)!r}, not one of {', '.join(allowed)}")
    if not isinstance(key := line.get("key"), str) or not key:
        raise ValueError("key is missing")
    seconds, grid = line.get("seconds"), line.get("grid")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
        raise ValueError(f"seconds is {seconds!r}, not a number")
    if grid is not None and not isinstance(grid, int):
        raise ValueError(f"grid is {grid!r}, not a whole number")
    return Answer(n, annotator, key, line["question"], line["answer"], time, seconds, grid)


def make_header(identity: Mapping[str, Any], annotator: str) -> dict[str, Any]:
    """Return the first line of an annotator's file."""
    return {"figureground": "annotations", "version": VERSION, "dataset": dict(identity), "annotator": annotator}


def check_name(name: str) -> str:
    """Return an annotator's name as it is saved: composed Unicode, blanks collapsed.

    Raises:
        FiguregroundError: It can't be the name of a file, or is longer than 64 characters.
    """
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not _NAME.fullmatch(name) or has_control_characters(name):
        raise FiguregroundError(
            f"{printable(name)!r} can't be an annotator's name. Give 1 to 64 letters, digits, spaces or any of . @ + "
            "- _, beginning with a letter or digit."
        )
    return name


def find_answer_file(directory: Path, annotator: str) -> Path:
    """Return the path of an annotator's file. Names that differ only by case share the file that exists."""
    folder = directory / ANNOTATIONS
    for path in list_annotation_files(directory):
        if path.stem.casefold() == annotator.casefold():
            return path
    return folder / f"{annotator}{SUFFIX}"


def list_annotation_files(directory: Path) -> list[Path]:
    """Return the files of all annotators, by name."""
    folder = directory / ANNOTATIONS
    if not folder.is_dir() or leads_outside(folder, directory):
        return []
    return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX and not path.name.startswith("."))


def parse_answers(data: bytes, path: Path, identity: Mapping[str, Any]) -> tuple[Answers, int]:
    """Read an annotator's file.

    A last line that was cut off by a crash was never confirmed to the annotator; it is passed over, with a note.

    Args:
        data: Content of the file.
        path: Its path, for errors.
        identity: Identity of the dataset.

    Returns:
        The answers, and the number of bytes that they take: less than `len(data)` if the last line is cut off.

    Raises:
        FileError: It belongs to another dataset, or a line before the last one is damaged; names the line.
    """
    answers = Answers(path.stem)
    lines = data.split(b"\n")
    used = 0
    for number, line in enumerate(lines, 1):
        last = number == len(lines)
        if last and not line:
            break
        try:
            record = parse_json(line, f"{path}, line {number}")
            if not isinstance(record, dict):
                raise ValueError("it is not a JSON object")
            if number == 1:
                _check_header(record, path, identity)
                answers.annotator = check_name(str(record.get("annotator")))
                if answers.annotator.casefold() != unicodedata.normalize("NFC", path.stem).casefold():
                    raise NotUsable(
                        path,
                        f"its answers are those of {answers.annotator!r}, and would count twice beside that file. "
                        "Rename it, or remove the copy",
                    )
            else:
                answers.add(record)
        except NotUsable:
            raise
        except (ValueError, FiguregroundError) as error:
            if last:
                answers.notes.append(f"{printable(path.name)}: its last line is incomplete and was ignored.")
                break
            reason = error.reason if isinstance(error, FileError) else error
            raise FileError(
                path, f"line {number} is damaged: {reason}. Repair or remove the line, and renumber the lines after it"
            ) from None
        used += len(line) + (not last)
    return answers, used


class NotUsable(FileError):
    """Raised for answers about another dataset, under another name, or in a version that this release can't read."""


def _check_header(header: Mapping[str, Any], path: Path, identity: Mapping[str, Any]) -> None:
    if header.get("figureground") != "annotations":
        raise NotUsable(path, "its first line is not the header of an annotator's file")
    if header.get("version") != VERSION:
        raise NotUsable(path, f"it has version {header.get('version')!r}; this release reads {VERSION}")
    if header.get("dataset") != dict(identity):
        raise NotUsable(
            path,
            "its answers are about another dataset, or about this one before its images changed: the identity in its "
            "first line differs. Move the file away",
        )


def read_file(path: Path, directory: Path, identity: Mapping[str, Any]) -> Answers:
    """Read the answers of one annotator; raises as `parse_answers`, and OSError if the file can't be read."""
    return parse_answers(read_bytes(path, root=directory, max_bytes=MAX_BYTES), path, identity)[0]


def read_all(directory: Path, identity: Mapping[str, Any] | None = None) -> list[Answers]:
    """Read the files of all annotators, by name.

    Args:
        directory: A finished dataset.
        identity: Its identity; default: read from the dataset.

    Raises:
        FiguregroundError: There is no finished dataset, a file belongs to another one, or a file is damaged.
    """
    identity = FinishedDataset(directory).identity() if identity is None else identity
    all_answers = []
    for path in list_annotation_files(directory):
        try:
            all_answers.append(read_file(path, directory, identity))
        except OSError as error:
            raise FiguregroundError(f"{printable(path)} can't be read: {error.strerror or error}.") from None
    return all_answers


def read_answers(directory: str | os.PathLike[str]) -> list[Answer]:
    """Return the answers of all annotators that count: one for each annotator, image and question.

    Answers that were undone, or replaced by a later one of the same annotator, are left out.

    Args:
        directory: A finished dataset.

    Raises:
        FiguregroundError: See `read_all`.
    """
    return [answer for answers in read_all(Path(directory)) for answer in answers.iter_current()]
