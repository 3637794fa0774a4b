"""An exchange: writes a review's images and questions for another place, and reads the answers that come from there."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from figureground.annotation.answers import ANSWERS, FLAGS, QUESTIONS, check_name
from figureground.annotation.answers_file import AnswerWriter
from figureground.annotation.assignment import Turns, image_ids
from figureground.annotation.images import ReviewImages
from figureground.annotation.sampling import ReviewSample, reference_keys
from figureground.core.errors import FiguregroundError, UsageError, join_names, printable, suggest_or_list
from figureground.core.files import replace_bytes, replace_text
from figureground.core.hashing import digest
from figureground.core.registry import Registry, check_subclass
from figureground.shards.finished import FinishedDataset, refuse_overlap

FOLDER = "images"
"""Directory of the images in an export."""

_URL = re.compile(r"(?:https?://|/)[^\s\"'<>\\]*")


@dataclass(frozen=True)
class Task:
    """An image with its questions, for an export."""

    id: str
    """Opaque name of the image, see `assignment.image_ids`."""
    url: str
    dataset: str
    """SHA-256 of the dataset's identity."""
    questions: dict[str, str]
    """Text of each question that is asked, by name."""


@dataclass(frozen=True)
class Result:
    """The answer of one person to one question, as another place reports it."""

    where: str
    """Place in the file, for errors."""
    annotator: str
    id: str
    dataset: str
    question: str
    answer: str
    """For a flag, `no` means that it isn't set; that is saved only where it was set before."""
    time: str | None = None
    """UTC, ISO 8601; None if it isn't known."""
    seconds: float | None = None


@dataclass
class Results:
    """All that a file of another place says."""

    answers: list[Result] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Number of rows that don't count, by reason."""


@dataclass(frozen=True)
class ImportSummary:
    """Outcome of an import."""

    saved: int
    duplicates: int
    """Answers that an earlier import had saved already."""
    annotators: list[str]
    left_out: dict[str, int]


class Exchange(ABC):
    """Another place where people answer."""

    NAME: ClassVar[str]
    SUFFIX: ClassVar[str]
    """Suffix of the files with results that it reads."""

    @abstractmethod
    def files(self, tasks: Sequence[Task], names: Sequence[str]) -> dict[str, str]:
        """Return the text files of an export, by name.

        Args:
            tasks: The images, in order.
            names: All questions that an image may have; a task may lack some.
        """

    @abstractmethod
    def results(self, path: Path) -> Results:
        """Read a file of results.

        Raises:
            FiguregroundError: It can't be read, or lacks something; names file, line and column.
        """


EXCHANGES: Registry[type[Exchange]] = Registry(
    "figureground.exchanges", "exchange",
    {
        "mturk": "figureground.annotation.exchange.mturk:MechanicalTurk",
        "label-studio": "figureground.annotation.exchange.label_studio:LabelStudio",
    },
    check_subclass(Exchange, "NAME"),
)  # fmt: skip


def export(dataset: FinishedDataset, sample: ReviewSample, name: str, out: Path, image_url: str | None) -> list[Path]:
    """Write a sample, with its gold items, for another place.

    Args:
        dataset: The dataset.
        sample: The images to ask about.
        name: A name in `EXCHANGES`.
        out: A new or empty directory, outside the dataset.
        image_url: Where the images will be found, without the file's name.

    Returns:
        The text files and the directory of the images.

    Raises:
        UsageError: The exchange doesn't exist, the URL is missing or isn't one, or `out` isn't empty.
        FiguregroundError: An image can't be read.
    """
    if name not in EXCHANGES:
        raise UsageError(f"--export: there is no {name!r}{suggest_or_list(name, EXCHANGES.names())}")
    if image_url is None or not _URL.fullmatch(image_url):
        raise UsageError(
            f"--image-url must say where the images will be found, such as https://example.org/{FOLDER}, not "
            f"{printable(image_url)!r}. The export writes them to OUT/{FOLDER}; put them there yourself."
        )
    refuse_overlap(out, [dataset.directory])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {printable(out)} exists and isn't an empty directory. Give another one.")
    turns, images, dataset_hash = Turns(dataset, sample), ReviewImages(dataset), digest(dataset.identity())
    tasks = []
    for id, key in turns.keys.items():
        item = turns.items[key]
        replace_bytes(out / FOLDER / f"{id}.png", images.read_png(item))
        questions = {question.name: question.text for question in turns.questions.about(item)}
        tasks.append(Task(id, f"{image_url.rstrip('/')}/{id}.png", dataset_hash, questions))
    paths = []
    for file, text in EXCHANGES[name]().files(tasks, turns.questions.names()).items():
        replace_text(out / file, text)
        paths.append(out / file)
    return [*paths, out / FOLDER]


def import_results(dataset: FinishedDataset, path: Path) -> ImportSummary:
    """Read the answers of another place into the files of their annotators. Importing a file twice adds nothing.

    An answer that is older than the one its annotator has saved to the same question is left out and counted.

    Args:
        dataset: The dataset that was exported.
        path: A file of results; its suffix says from where.

    Raises:
        FiguregroundError: The file can't be read, is about another dataset, or has an answer that can't be; nothing
            is saved then.
        NotSaved: The answers of an annotator couldn't be written; import the file again.
    """
    kinds = {kind.SUFFIX: kind for _, kind in EXCHANGES.items()}
    if path.suffix.lower() not in kinds:
        supported = join_names(f"{suffix} ({kind.NAME})" for suffix, kind in kinds.items())
        raise UsageError(f"--import {printable(path)}: give a file of results with one of the suffixes {supported}.")
    results = kinds[path.suffix.lower()]().results(path)
    matched = sorted(_match_images(dataset, results.answers), key=lambda pair: pair[0].time or "")  # the latest counts
    writers: dict[str, AnswerWriter] = {}
    new_answers: dict[str, list[dict[str, Any]]] = {}
    latest: dict[tuple[str, str, str], str] = {}
    duplicates = 0
    for result, key in matched:
        name = check_name(result.annotator).casefold()
        if name not in writers:
            writers[name] = AnswerWriter(dataset.directory, dataset.identity(), check_name(result.annotator))
            new_answers[name] = []
        saved = writers[name].answers.get(key, result.question)
        current = latest.get((name, key, result.question), saved.answer if saved is not None else None)
        if result.question in FLAGS and result.answer == "no" and current in (None, "no"):
            continue
        if writers[name].answers.has(key, result.question, result.answer, result.time):
            duplicates += 1
        elif saved is not None and result.time is not None and result.time < saved.time:
            results.left_out["older than the saved answer"] += 1  # an earlier export that is imported later
        else:
            new_answers[name].append(
                {"key": key, "question": result.question, "answer": result.answer, "time": result.time,
                 "seconds": result.seconds}
            )  # fmt: skip
            latest[name, key, result.question] = result.answer
    for name, answers in new_answers.items():
        if answers:
            writers[name].add(answers)
    num_saved = sum(map(len, new_answers.values()))
    annotators = sorted(writer.answers.annotator for writer in writers.values())
    return ImportSummary(num_saved, duplicates, annotators, dict(results.left_out))


def _match_images(dataset: FinishedDataset, results: Sequence[Result]) -> Iterator[tuple[Result, str]]:
    """Yield results with the keys of their images."""
    identity = dataset.identity()
    own_hash, keys = digest(identity), None
    for result in results:
        if result.dataset != own_hash:
            raise FiguregroundError(
                f"{result.where}: it is about another dataset, or about this one before its images changed "
                f"({printable(result.dataset[:12])}…, not {own_hash[:12]}…). Give results of an export of this dataset."
            )
        if keys is None:
            sample_keys = [row["key"] for shard in dataset.shards for row in dataset.rows(shard)]
            keys = image_ids(identity, [*sample_keys, *reference_keys(dataset)])
        if result.id not in keys:
            raise FiguregroundError(f"{result.where}: this dataset has no image {printable(result.id)!r}.")
        if result.question not in QUESTIONS or result.answer not in ANSWERS:
            raise FiguregroundError(
                f"{result.where}: {printable(result.answer)!r} can't answer {printable(result.question)!r}; answers "
                f"are {join_names(ANSWERS)}."
            )
        check_name(result.annotator)
        yield result, keys[result.id]


def is_set(value: Any) -> bool:
    """Whether a checkbox or radio button is set, as places report it: true, "true", "on", or {"yes": true}."""
    if isinstance(value, dict):
        return any(is_set(each) for each in value.values())
    return value is True or str(value).strip().lower() in ("true", "on", "yes", "1")
