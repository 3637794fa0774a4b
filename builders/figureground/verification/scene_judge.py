"""Checks with a scorer that drawn scenes show their own background and no object of the given classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from figureground.core.devices import check_device
from figureground.core.errors import FiguregroundError, UsageError
from figureground.recipe.classes import ClassEntry
from figureground.verification.questions import BACKGROUND, FOREGROUND, LabelQuestion
from figureground.verification.requests import parse_scorers
from figureground.verification.scorer import SCORERS, Batch, LabelScorer, Options, Scorer

MAX_PROBABILITY = 0.5
"""Largest probability of a class with which a scene counts as empty."""


class SceneJudge:
    """Says why a scene can't be used: it shows an object of a class, or another background.

    A scorer of all labels at once, such as `clip`, compares each scene with the classes and with "{background}, without
    any object"; it needs an answer that means none of the classes. One that answers yes or no, `vlm`, is asked about
    each class.

    Args:
        scorer: `KIND`, `KIND:ID` or `NAME=KIND:ID`, as for `verify`.
        classes: What scenes shouldn't show.
        backgrounds: What they should show, in the order of positions.
        endpoint: See `Options.endpoint`.
        device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UsageError: The scorer is unknown, or can't say that an image shows none of the classes.
        FiguregroundError: It can't be used.
    """

    def __init__(
        self, scorer: str, classes: Sequence[ClassEntry], backgrounds: Sequence[ClassEntry], *,
        endpoint: str | None = None, device: str = "auto",
    ):  # fmt: skip
        check_device(device, "--device")
        request = parse_scorers([scorer])[0]
        self._classes = tuple(classes)
        class_names = {entry.name for entry in classes}
        empty_scenes = [
            ClassEntry(f"empty {background.name}", f"{_spell_out(background)} without any object")
            for background in backgrounds
        ]
        self._empty_scenes = [entry for entry in empty_scenes if entry.name not in class_names]
        self._backgrounds = tuple(backgrounds)
        kind = SCORERS[request.kind]
        options = Options(endpoint=endpoint, device=device)
        labels = [*classes, *self._empty_scenes] if issubclass(kind, LabelScorer) else list(classes)
        self._scorer = kind(
            request.id, (_make_question(FOREGROUND, labels), _make_question(BACKGROUND, backgrounds)), options
        )
        self.identity = {"scorer": request.kind, "most": MAX_PROBABILITY, **self._scorer.identify()}
        if not self._can_find_none():
            raise UsageError(
                f"--scorer {scorer} can't tell that a scene shows none of the classes. Give clip:ID, vlm:ID, or "
                "pocket for the pocket model's scenes."
            )
        self._opened = False

    def _can_find_none(self) -> bool:
        scorer = self._scorer
        if isinstance(scorer, LabelScorer):
            return bool(
                scorer.knows_none(scorer.questions[0]) or self._known_classes(scorer)[len(self._classes) :].any()
            )
        return f"{FOREGROUND}_p" in scorer.columns() and not scorer.NEEDS_GUIDES

    @staticmethod
    def _known_classes(scorer: Scorer) -> np.ndarray:
        return scorer.knows(scorer.questions[0])

    def __call__(self, images: Sequence[Image.Image], positions: Sequence[int]) -> list[str]:
        """Return for each scene the reason for not using it, or an empty text.

        Args:
            images: RGB.
            positions: Position of each scene's background.
        """
        if not self._opened:
            self._scorer.open()
            self._opened = True
        if isinstance(self._scorer, LabelScorer):
            return self._compare_labels(self._scorer, images, positions)
        return [self._ask_questions(image, position) for image, position in zip(images, positions, strict=True)]

    def close(self) -> None:
        """Free the scorer."""
        if self._opened:
            self._scorer.close()
        self._opened = False

    def _compare_labels(
        self, scorer: LabelScorer, images: Sequence[Image.Image], positions: Sequence[int]
    ) -> list[str]:
        probabilities, is_known = scorer.probabilities(images), self._known_classes(scorer)[: len(self._classes)]
        reasons = []
        for row, position in enumerate(positions):
            p = probabilities[FOREGROUND][row, : len(self._classes)][is_known]
            if not np.isfinite(p).all():
                raise FiguregroundError(f"The scorer {scorer.KIND} returned NaN or infinity. Its weights are damaged.")
            reason = self._explain_foreground(np.nan_to_num(probabilities[FOREGROUND][row, : len(self._classes)]))
            if not reason and BACKGROUND in probabilities:
                background_p = probabilities[BACKGROUND][row]
                best = int(np.nanargmax(background_p))
                if best != position and np.isfinite(background_p[position]):
                    lookalike = self._backgrounds[best].name if best < len(self._backgrounds) else "something else"
                    reason = f"the background looks like {lookalike}"
            reasons.append(reason)
        return reasons

    def _ask_questions(self, image: Image.Image, position: int) -> str:
        """Ask a yes-or-no scorer about each class, and about the background."""
        n = len(self._classes)
        labels = {FOREGROUND: np.arange(n), BACKGROUND: np.full(n, position)}
        batch = Batch(tuple(map(str, range(n))), (image,) * n, labels, (None,) * n)
        answers = self._scorer.score(batch)
        reason = self._explain_foreground(np.array([0.0 if p is None else p for p in answers[f"{FOREGROUND}_p"]]))
        background_p = answers.get(f"{BACKGROUND}_p", [None])[0]
        if not reason and background_p is not None and background_p < MAX_PROBABILITY:
            reason = f"the background doesn't look like {self._backgrounds[position].name}"
        return reason

    def _explain_foreground(self, p: np.ndarray) -> str:
        """Return the reason from the probabilities of the classes: their sum for a softmax, each for answers."""
        probability = float(p.sum()) if isinstance(self._scorer, LabelScorer) else float(p.max(initial=0.0))
        return f"shows {self._classes[int(p.argmax())].name}" if probability > MAX_PROBABILITY else ""


def _make_question(column: str, entries: Sequence[ClassEntry]) -> LabelQuestion:
    return LabelQuestion(column, tuple(entry.name for entry in entries), tuple(entries))


def _spell_out(entry: ClassEntry) -> str:
    """Return an entry's name as words."""
    return entry.name.replace("_", " ")
