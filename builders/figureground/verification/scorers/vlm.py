"""Yes-or-no questions to a vision-language model, one for each label.

The probability of "yes" is read from the probabilities of the first token of the answer: that of all ways to write
"yes", divided by that of all ways to write "yes" or "no". The model runs here, or on a server (`Options.endpoint`).

By default, each image gets one question about its own foreground and one about its own background. With
`Options.ask_all` it gets one about every label, the own one among them; only then are there `margin`, `rank` and `top`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, UsageError
from figureground.verification.endpoint import Endpoint, check_url
from figureground.verification.models import find_model, refuse_absent
from figureground.verification.questions import LabelQuestion
from figureground.verification.scorer import VERDICT_COLUMNS, Batch, Kind, Options, Scorer, Values
from figureground.verification.verdicts import judge

MAX_UNCLEAR = 16
"""Number of first answers that may be neither yes nor no, before the model is given up."""


class Asker(Protocol):
    """A vision-language model."""

    def ask(self, pairs: Sequence[tuple[Image.Image, str]]) -> tuple[list[float | None], list[str]]:
        """Return the probability of "yes" for each image and question, None for an answer that is neither yes nor no;
        and the texts of such answers."""

    def close(self) -> None:
        """Free the model, or end the connections."""


class VlmScorer(Scorer):
    """Asks a model; `id` is a directory or a Hub id, or the server's name of a model."""

    KIND: ClassVar[str] = "vlm"
    USES: ClassVar[frozenset[str]] = frozenset({"endpoint", "ask_all"})

    def __init__(self, id: str, questions: Sequence[LabelQuestion], options: Options):
        super().__init__(id, questions, options)
        self.flag = f"--scorer {self.KIND}:{id}"
        self._asker: Asker | None = None
        self._num_answers, self._num_unclear = 0, 0
        if not id.strip():
            raise UsageError("--scorer vlm needs a model, as vlm:ID.")
        if options.endpoint is None:
            refuse_absent(self.flag, id)
        else:
            check_url(options.endpoint)

    def identify(self) -> dict[str, Any]:
        self._texts = {question.what: question.texts("question-") for question in self.questions}
        self.left_out = {
            q.what: [name for name, texts in zip(q.labels, self._texts[q.what], strict=True) if not texts]
            for q in self.questions
        }
        facts = {"questions": self._texts, "all": self.options.ask_all}
        if self.options.endpoint is not None:
            from figureground.core.hashing import digest

            # The address itself may be confidential.
            return {**facts, "endpoint": digest(self.options.endpoint)}
        self._folder, sha256 = find_model(self.flag, self.id, "AutoModelForImageTextToText")
        return {**facts, "sha256": sha256}

    def open(self) -> None:
        if self.options.endpoint is not None:
            self._asker = Endpoint(self.options.endpoint, self.id)
            return
        from figureground.verification.local_vlm import LocalModel

        self._asker = LocalModel(self._folder, self.flag, self.options.device)

    def close(self) -> None:
        if self._asker is not None:
            self._asker.close()
        self._asker = None

    def answerable_questions(self) -> list[LabelQuestion]:
        """Return the questions with labels that can be asked about."""
        return [question for question in self.questions if self.knows(question).any()]

    def columns(self) -> dict[str, Kind]:
        kinds: dict[str, Kind] = VERDICT_COLUMNS if self.options.ask_all else {"p": VERDICT_COLUMNS["p"]}
        return {f"{q.what}_{name}": kind for q in self.answerable_questions() for name, kind in kinds.items()}

    def expected(self, labels: Mapping[str, np.ndarray], guided: np.ndarray) -> dict[str, np.ndarray]:
        return {f"{q.what}_p": self.knows(q)[labels[q.what]] for q in self.answerable_questions()}

    def score(self, batch: Batch) -> Values:
        assert self._asker is not None
        positions: list[tuple[str, int, int]] = []
        pairs: list[tuple[Image.Image, str]] = []
        for question in self.answerable_questions():
            texts = self._texts[question.what]
            for i, own in enumerate(batch.labels[question.what].tolist()):
                for label in range(len(texts)) if self.options.ask_all else [own]:
                    if texts[label]:
                        positions.append((question.what, i, label))
                        pairs.append((batch.images[i], texts[label][0]))
        answers, unclear = self._asker.ask(pairs)
        self._refuse_nonsense(answers, unclear)
        p = {q.what: np.full((len(batch.keys), len(q.labels)), np.nan) for q in self.answerable_questions()}
        for (what, i, label), answer in zip(positions, answers, strict=True):
            if answer is not None:
                p[what][i, label] = answer
        scores: dict[str, Sequence[Any]] = {}
        for question in self.answerable_questions():
            verdicts = judge(p[question.what], batch.labels[question.what], question.labels)
            scores |= {
                f"{question.what}_{name}": values
                for name, values in verdicts.items()
                if f"{question.what}_{name}" in self.columns()
            }
        return scores

    def _refuse_nonsense(self, answers: Sequence[float | None], unclear: Sequence[str]) -> None:
        """Stop if none of the first answers is yes or no; a model that was understood once may miss some."""
        self._num_answers += len(answers)
        self._num_unclear += sum(answer is None for answer in answers)
        if self._num_unclear == self._num_answers >= MAX_UNCLEAR:
            example = f", such as {unclear[0]!r}" if unclear else ""
            raise FiguregroundError(
                f"{self.flag}: none of its first {self._num_answers} answers is yes or no{example}. Give a model that "
                "follows instructions about images."
            )
