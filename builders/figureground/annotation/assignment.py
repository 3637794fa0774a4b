"""Who is asked about which image next, while several people answer at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from figureground.annotation.answers import ANSWERS, FLAGS, Answers, check_name, list_annotation_files
from figureground.annotation.answers_file import AnswerWriter
from figureground.annotation.gold import check_gold, read_gold
from figureground.annotation.questions import Question, Questions, ReviewItem
from figureground.annotation.sampling import ReviewSample, find_items, shuffle_keys
from figureground.core.errors import FiguregroundError
from figureground.core.hashing import digest
from figureground.shards.finished import FinishedDataset

IN_GRID = 12
"""Maximum number of images in a grid."""
AHEAD = 3
"""Number of further images that a page may load in advance."""
RESERVED = 900.0
"""Seconds for which an image that one person was shown is not shown to another who needn't see it."""
MAX_SECONDS = 86400.0


class BadRequest(FiguregroundError):
    """Raised for a request that the page doesn't make."""


def image_ids(identity: Mapping[str, Any], keys: Sequence[str]) -> dict[str, str]:
    """Return keys by the names that images have in pages and exports, in the order of the keys.

    A name tells neither the key nor whether the image is a reference.
    """
    salt = digest(dict(identity)).encode()[:64]
    return {blake2b(key.encode(), key=salt, digest_size=12).hexdigest(): key for key in keys}


@dataclass(frozen=True)
class Turn:
    """A question that someone is to answer about an image."""

    item: ReviewItem
    question: Question


class Turns:
    """A review that goes on: the sample, the answers so far, and who is asked what next. Safe for threads.

    Gold items are asked of everybody, at random places among the others.

    Args:
        dataset: The dataset.
        sample: The images to look at.

    Raises:
        FiguregroundError: A file of answers or the gold items are damaged or about another dataset.
    """

    def __init__(self, dataset: FinishedDataset, sample: ReviewSample):
        self.dataset, self.sample = dataset, sample
        self.identity = dataset.identity()
        gold = read_gold(dataset.directory)
        self.gold = frozenset(key for key, _ in gold)
        available = find_items(dataset, [*sample.keys, *self.gold])
        self.questions = Questions(dataset, any(item.is_reference for item in available.values()))
        check_gold(gold, available, self.questions.names())
        self.missing = sum(key not in available for key in sample.keys)
        """Images of the sample that aren't there any more, such as references."""
        order = shuffle_keys(
            [key for key in {**dict.fromkeys(sample.keys), **dict.fromkeys(self.gold)} if key in available],
            sample.settings.seed,
        )
        self.items = {key: available[key] for key in order}
        self.keys = image_ids(self.identity, order)
        """Keys by the names that pages use."""
        self._ids = {key: name for name, key in self.keys.items()}
        self._questions_of = {key: self.questions.about(item) for key, item in self.items.items()}
        self._for_all = {key for key in self.items if key in self.gold or sample.is_shared(key)}
        self._completed: dict[str, tuple[Answers, set[str]]] = {}
        """By annotator, the answers as they were last read, and the keys of the images that are completely answered."""
        self._writers: dict[str, AnswerWriter] = {}
        self._last_shown: dict[str, tuple[str, str, float]] = {}
        """By key, to whom an image was last shown: annotator, browser, time."""
        self._lock = threading.Lock()
        self.saved = 0
        """Answers saved since the start."""
        self._read_others()

    # --- what the page asks for -------------------------------------------------------------------

    def annotators(self) -> list[str]:
        """Return the names of all who have answered, sorted."""
        with self._lock:
            self._read_others()
            return sorted(writer.answers.annotator for writer in self._writers.values() if writer.answers.lines)

    def next(self, annotator: str, browser: str, grid: bool = False) -> dict[str, Any]:
        """Return what an annotator is shown next: one image with all its questions, or a grid with one question.

        Args:
            annotator: The name.
            browser: A name of the page that asks: two pages of one annotator are shown different images.
            grid: Whether to return images with the same question, up to `IN_GRID`.

        Raises:
            FiguregroundError: The name can't be used, or a file of answers is damaged.
        """
        with self._lock:
            return self._make_response(self._get_writer(annotator), browser, grid)

    def answer(
        self, annotator: str, browser: str, answers: Sequence[Mapping[str, Any]], grid: bool = False
    ) -> dict[str, Any]:
        """Save answers, and return what is shown next.

        Args:
            annotator, browser, grid: See `next`.
            answers: Each with `id`, `question`, `answer`, and `seconds` or None.

        Raises:
            BadRequest: An image, question or answer is none of this review's.
            NotSaved: They couldn't be written.
        """
        with self._lock:
            checked = [self._parse_answer(answer) for answer in answers]
            if not checked:
                raise BadRequest("there is no answer.")
            writer = self._get_writer(annotator)
            replaced_before = writer.answers.replaced
            writer.add(checked, together=grid)
            self.saved += len(checked)
            response = self._make_response(writer, browser, grid, [] if grid else [checked[-1]["key"]])
            return {**response, "saved": len(checked), "replaced": writer.answers.replaced - replaced_before}

    def undo(self, annotator: str, browser: str, grid: bool = False) -> dict[str, Any]:
        """Take back the last answer, or those of the last grid, and return what is shown next: the same image again.

        Raises:
            NotSaved: It couldn't be written, so the answers still count.
        """
        with self._lock:
            writer = self._get_writer(annotator)
            undone = writer.undo()
            response = self._make_response(writer, browser, grid, [answer.key for answer in undone])
            return {**response, "undone": len(undone)}

    # --- whose turn it is -------------------------------------------------------------------------

    def _get_writer(self, annotator: str) -> AnswerWriter:
        self._read_others()
        name = check_name(annotator)
        if name.casefold() not in self._writers:
            self._writers[name.casefold()] = AnswerWriter(self.dataset.directory, self.identity, name)
        return self._writers[name.casefold()]

    def _read_others(self) -> None:
        """Read what other processes have written, such as a second server or an import."""
        for path in list_annotation_files(self.dataset.directory):
            if path.stem.casefold() not in self._writers:
                self._writers[path.stem.casefold()] = AnswerWriter(self.dataset.directory, self.identity, path.stem)
        for writer in self._writers.values():
            writer.refresh()

    def _find_complete(self, writer: AnswerWriter) -> set[str]:
        """Return the keys of the images about which an annotator has answered all questions."""
        answers = writer.answers
        answers_before, complete = self._completed.get(answers.annotator, (None, set()))
        if answers_before is not answers:  # read again as a whole
            complete, answers.touched = set(), set(self.items)
        for key in answers.touched & self.items.keys():
            if all(answers.get(key, question.name) for question in self._questions_of[key]):
                complete.add(key)
            else:
                complete.discard(key)
        answers.touched.clear()
        self._completed[answers.annotator] = (answers, complete)
        return complete

    def _iter_open(self, writer: AnswerWriter, first: Sequence[str]) -> Iterator[str]:
        """Yield the keys of the images that an annotator has still to answer."""
        own_complete, complete_by_anybody = self._find_complete(writer), self._find_complete_by_anybody()
        for key in dict.fromkeys([*(key for key in first if key in self.items), *self.items]):
            if key not in own_complete and (key in self._for_all or key not in complete_by_anybody):
                yield key

    def _find_complete_by_anybody(self) -> set[str]:
        """Return the keys of the images that anybody has answered completely."""
        return set().union(*map(self._find_complete, self._writers.values()))

    def _make_response(
        self, writer: AnswerWriter, browser: str, grid: bool, first: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return what is shown next; `first` are the keys of images that come first, if they still lack an answer."""
        name, now = writer.answers.annotator, time.monotonic()
        free, waiting, elsewhere = [], [], 0
        for key in self._iter_open(writer, first):
            last_annotator, last_browser, last_time = self._last_shown.get(key, (name, browser, now))
            if now - last_time > RESERVED or (last_annotator, last_browser) == (name, browser) or key in first:
                free.append(key)
            elif last_annotator == name:  # in another of this annotator's browsers
                waiting.append(key)
            elif key in self._for_all:
                free.append(key)
            else:
                elsewhere += 1
        open_keys = free + waiting
        turns = self._choose_turns(writer, open_keys, grid)
        for turn in turns:
            self._last_shown[turn.item.key] = (name, browser, now)
        keys = list(dict.fromkeys(turn.item.key for turn in turns))
        return {
            "annotator": name,
            "guides": self.questions.kind != "spurious",
            "items": [
                self._describe_item(writer, key, [t.question for t in turns if t.item.key == key]) for key in keys
            ],
            "ahead": [self._ids[key] for key in open_keys if key not in keys][: IN_GRID if grid else AHEAD],
            "progress": {**self._count_progress(writer), "left": len(open_keys), "elsewhere": elsewhere},
        }

    def _choose_turns(self, writer: AnswerWriter, open_keys: Sequence[str], grid: bool) -> list[Turn]:
        """Return the questions to show: all of one image, or one that several images share."""
        if not open_keys:
            return []
        if not grid:
            return [Turn(self.items[open_keys[0]], question) for question in self._questions_of[open_keys[0]]]
        open_turns = (
            Turn(self.items[key], question)
            for key in open_keys for question in self._questions_of[key] if not writer.answers.get(key, question.name)
        )  # fmt: skip
        chosen: list[Turn] = []
        for turn in open_turns:
            if not chosen or turn.question.text == chosen[0].question.text:
                chosen.append(turn)
            if len(chosen) == IN_GRID:
                break
        return chosen

    def _describe_item(self, writer: AnswerWriter, key: str, questions: Collection[Question]) -> dict[str, Any]:
        """Return an image for the page, without anything that tells its key or where it comes from."""
        answers = {
            name: answer.answer for name in _question_names(questions) if (answer := writer.answers.get(key, name))
        }
        return {
            "id": self._ids[key],
            "asked": [
                {"question": q.name, "text": q.text, "hint": q.hint, "usual": q.usual, "answer": answers.get(q.name)}
                for q in questions
            ],
            "flags": {flag: answers.get(flag) == "yes" for flag in FLAGS},
        }

    def _count_progress(self, writer: AnswerWriter) -> dict[str, int]:
        return {
            "mine": len(self._find_complete(writer)),
            "images": len(self.items),
            "done": len(self._find_complete_by_anybody()),
            "replaced": writer.answers.replaced,
        }

    def _parse_answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        key = self.keys.get(request.get("id", ""))
        if key is None:
            raise BadRequest("there is no such image in this review.")
        name, answer, seconds = request.get("question"), request.get("answer"), request.get("seconds")
        allowed = ("yes", "no") if name in FLAGS else ANSWERS
        if name not in _question_names(self._questions_of[key]) or answer not in allowed:
            raise BadRequest("there is no such question or answer about this image.")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_SECONDS:
            seconds = None  # the page was suspended, or a clock is wrong
        return {"key": key, "question": name, "answer": answer, "seconds": seconds}


def _question_names(questions: Collection[Question]) -> list[str]:
    return [*(question.name for question in questions), *FLAGS]
