"""Who is asked about which image next, while several people answer at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from figureground.annotation.answers import ANSWERS, FLAGS, Answers, annotation_files, check_name
from figureground.annotation.gold import check_gold, read_gold
from figureground.annotation.questions import Item, Question, Questions
from figureground.annotation.sampling import Sample, in_turn, items
from figureground.annotation.writing import AnswerWriter
from figureground.core.errors import FiguregroundError
from figureground.core.hashing import digest
from figureground.shards.finished import FinishedDataset

IN_GRID = 12
"""Maximum number of images in a grid."""
AHEAD = 3
"""Number of further images that a page may load in advance."""
RESERVED = 900.0
"""Seconds for which an image that one person was shown is not shown to another who needn't see it."""
MOST_SECONDS = 86400.0


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

    item: Item
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

    def __init__(self, dataset: FinishedDataset, sample: Sample):
        self.dataset, self.sample = dataset, sample
        self.identity = dataset.identity()
        gold = read_gold(dataset.directory)
        self.gold = frozenset(key for key, _ in gold)
        found = items(dataset, [*sample.keys, *self.gold])
        self.questions = Questions(dataset, any(item.is_reference for item in found.values()))
        check_gold(gold, found, self.questions.names())
        self.missing = sum(key not in found for key in sample.keys)
        """Images of the sample that aren't there any more, such as references."""
        order = in_turn(
            [key for key in {**dict.fromkeys(sample.keys), **dict.fromkeys(self.gold)} if key in found],
            sample.wanted.seed,
        )
        self.items = {key: found[key] for key in order}
        self.keys = image_ids(self.identity, order)
        """Keys by the names that pages use."""
        self._ids = {key: name for name, key in self.keys.items()}
        self._asked = {key: self.questions.about(item) for key, item in self.items.items()}
        self._for_all = {key for key in self.items if key in self.gold or sample.shared(key)}
        self._done: dict[str, tuple[Answers, set[str]]] = {}
        """By annotator, the answers as they were last read, and the keys of the images that are completely answered."""
        self._writers: dict[str, AnswerWriter] = {}
        self._shown: dict[str, tuple[str, str, float]] = {}
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

    def next(self, annotator: str, browser: str, grid: bool = False, first: Sequence[str] = ()) -> dict[str, Any]:
        """Return what an annotator is shown next: one image with all its questions, or a grid with one question.

        Args:
            annotator: The name.
            browser: A name of the page that asks: two pages of one annotator are shown different images.
            grid: Whether to return images with the same question, up to `IN_GRID`.
            first: Keys of images that come first, if they still lack an answer.

        Raises:
            FiguregroundError: The name can't be used, or a file of answers is damaged.
        """
        with self._lock:
            return self._next(self._writer(annotator), browser, grid, first)

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
            made = [self._checked(said) for said in answers]
            if not made:
                raise BadRequest("there is no answer.")
            writer = self._writer(annotator)
            before = writer.answers.replaced
            writer.add(made, together=grid)
            self.saved += len(made)
            shown = self._next(writer, browser, grid, [] if grid else [made[-1]["key"]])
            return {**shown, "saved": len(made), "replaced": writer.answers.replaced - before}

    def undo(self, annotator: str, browser: str, grid: bool = False) -> dict[str, Any]:
        """Take back the last answer, or those of the last grid, and return what is shown next: the same image again.

        Raises:
            NotSaved: It couldn't be written, so the answers still count.
        """
        with self._lock:
            writer = self._writer(annotator)
            undone = writer.undo()
            shown = self._next(writer, browser, grid, [answer.key for answer in undone])
            return {**shown, "undone": len(undone)}

    # --- whose turn it is -------------------------------------------------------------------------

    def _writer(self, annotator: str) -> AnswerWriter:
        self._read_others()
        name = check_name(annotator)
        if name.casefold() not in self._writers:
            self._writers[name.casefold()] = AnswerWriter(self.dataset.directory, self.identity, name)
        return self._writers[name.casefold()]

    def _read_others(self) -> None:
        """Read what other processes have written, such as a second server or an import."""
        for path in annotation_files(self.dataset.directory):
            if path.stem.casefold() not in self._writers:
                self._writers[path.stem.casefold()] = AnswerWriter(self.dataset.directory, self.identity, path.stem)
        for writer in self._writers.values():
            writer.refresh()

    def _complete(self, writer: AnswerWriter) -> set[str]:
        """Return the keys of the images about which an annotator has answered all questions."""
        answers = writer.answers
        read, done = self._done.get(answers.annotator, (None, set()))
        if read is not answers:  # read again as a whole
            done, answers.touched = set(), set(self.items)
        for key in answers.touched & self.items.keys():
            if all(answers.of(key, question.name) for question in self._asked[key]):
                done.add(key)
            else:
                done.discard(key)
        answers.touched.clear()
        self._done[answers.annotator] = (answers, done)
        return done

    def _left(self, writer: AnswerWriter, first: Sequence[str] = ()) -> Iterator[str]:
        """Yield the keys of the images that an annotator has still to answer."""
        mine, all_done = self._complete(writer), self._anybody()
        for key in dict.fromkeys([*(key for key in first if key in self.items), *self.items]):
            if key not in mine and (key in self._for_all or key not in all_done):
                yield key

    def _anybody(self) -> set[str]:
        """Return the keys of the images that anybody has answered completely."""
        return set().union(*map(self._complete, self._writers.values()))

    def _next(self, writer: AnswerWriter, browser: str, grid: bool, first: Sequence[str]) -> dict[str, Any]:
        name, now = writer.answers.annotator, time.monotonic()
        free, waiting, elsewhere = [], [], 0
        for key in self._left(writer, first):
            who, where, when = self._shown.get(key, (name, browser, now))
            if now - when > RESERVED or (who, where) == (name, browser) or key in first:
                free.append(key)
            elif who == name:  # in another of this annotator's browsers
                waiting.append(key)
            elif key in self._for_all:
                free.append(key)
            else:
                elsewhere += 1
        left = free + waiting
        turns = self._turns(writer, left, grid)
        for turn in turns:
            self._shown[turn.item.key] = (name, browser, now)
        keys = list(dict.fromkeys(turn.item.key for turn in turns))
        return {
            "annotator": name,
            "guides": self.questions.kind != "spurious",
            "items": [self._shown_item(writer, key, [t.question for t in turns if t.item.key == key]) for key in keys],
            "ahead": [self._ids[key] for key in left if key not in keys][: IN_GRID if grid else AHEAD],
            "progress": {**self._progress(writer), "left": len(left), "elsewhere": elsewhere},
        }

    def _turns(self, writer: AnswerWriter, left: Sequence[str], grid: bool) -> list[Turn]:
        """Return the questions to show: all of one image, or one that several images share."""
        if not left:
            return []
        if not grid:
            return [Turn(self.items[left[0]], question) for question in self._asked[left[0]]]
        open_turns = (
            Turn(self.items[key], question)
            for key in left for question in self._asked[key] if not writer.answers.of(key, question.name)
        )  # fmt: skip
        found: list[Turn] = []
        for turn in open_turns:
            if not found or turn.question.text == found[0].question.text:
                found.append(turn)
            if len(found) == IN_GRID:
                break
        return found

    def _shown_item(self, writer: AnswerWriter, key: str, asked: Collection[Question]) -> dict[str, Any]:
        """Return an image for the page, without anything that tells its key or where it comes from."""
        said = {name: answer.answer for name in _names(asked) if (answer := writer.answers.of(key, name))}
        return {
            "id": self._ids[key],
            "asked": [
                {"question": q.name, "text": q.text, "hint": q.hint, "usual": q.usual, "answer": said.get(q.name)}
                for q in asked
            ],
            "flags": {flag: said.get(flag) == "yes" for flag in FLAGS},
        }

    def _progress(self, writer: AnswerWriter) -> dict[str, int]:
        return {
            "mine": len(self._complete(writer)),
            "images": len(self.items),
            "done": len(self._anybody()),
            "replaced": writer.answers.replaced,
        }

    def _checked(self, said: Mapping[str, Any]) -> dict[str, Any]:
        key = self.keys.get(said.get("id", ""))
        if key is None:
            raise BadRequest("there is no such image in this review.")
        name, answer, seconds = said.get("question"), said.get("answer"), said.get("seconds")
        allowed = ("yes", "no") if name in FLAGS else ANSWERS
        if name not in _names(self._asked[key]) or answer not in allowed:
            raise BadRequest("there is no such question or answer about this image.")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MOST_SECONDS:
            seconds = None  # the page was suspended, or a clock is wrong
        return {"key": key, "question": name, "answer": answer, "seconds": seconds}


def _names(asked: Collection[Question]) -> list[str]:
    return [*(question.name for question in asked), *FLAGS]
