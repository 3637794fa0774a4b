"""Whether drawn scenes show none of some classes, and their own background, as scorers see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from figureground.core.devices import check_device
from figureground.core.errors import FiguregroundError, UsageError
from figureground.recipe.classes import ClassEntry
from figureground.verification.asked import read_asked
from figureground.verification.questions import BACKGROUND, FOREGROUND, Question
from figureground.verification.scorer import SCORERS, Batch, LabelScorer, Options, Scorer

MOST = 0.5
"""Largest probability of a class with which a scene counts as empty."""


class EmptyScenes:
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
        asked = read_asked([scorer])[0]
        self._classes = tuple(classes)
        known = {entry.name for entry in classes}
        empty = [ClassEntry(f"empty {g.name}", f"{_place(g)} without any object") for g in backgrounds]
        self._empty = [entry for entry in empty if entry.name not in known]
        self._backgrounds = tuple(backgrounds)
        kind = SCORERS[asked.kind]
        options = Options(endpoint=endpoint, device=device)
        labels = [*classes, *self._empty] if issubclass(kind, LabelScorer) else list(classes)
        self._scorer = kind(asked.id, (_question(FOREGROUND, labels), _question(BACKGROUND, backgrounds)), options)
        self.identity = {"scorer": asked.kind, "most": MOST, **self._scorer.identify()}
        if not self._says_none():
            raise UsageError(
                f"--scorer {scorer} can't tell that a scene shows none of the classes. Give clip:ID, vlm:ID, or "
                "pocket for the pocket model's scenes."
            )
        self._opened = False

    def _says_none(self) -> bool:
        scorer = self._scorer
        if isinstance(scorer, LabelScorer):
            return bool(scorer.knows_none(scorer.questions[0]) or self._known(scorer)[len(self._classes) :].any())
        return f"{FOREGROUND}_p" in scorer.columns() and not scorer.NEEDS_GUIDES

    @staticmethod
    def _known(scorer: Scorer) -> np.ndarray:
        return scorer.knows(scorer.questions[0])

    def __call__(self, images: Sequence[Image.Image], grounds: Sequence[int]) -> list[str]:
        """Return for each scene the reason for not using it, or an empty text.

        Args:
            images: RGB.
            grounds: Position of each scene's background.
        """
        if not self._opened:
            self._scorer.open()
            self._opened = True
        if isinstance(self._scorer, LabelScorer):
            return self._compare(self._scorer, images, grounds)
        return [self._ask(image, ground) for image, ground in zip(images, grounds, strict=True)]

    def close(self) -> None:
        """Free the scorer."""
        if self._opened:
            self._scorer.close()
        self._opened = False

    def _compare(self, scorer: LabelScorer, images: Sequence[Image.Image], grounds: Sequence[int]) -> list[str]:
        found, known = scorer.probabilities(images), self._known(scorer)[: len(self._classes)]
        reasons = []
        for row, ground in enumerate(grounds):
            p = found[FOREGROUND][row, : len(self._classes)][known]
            if not np.isfinite(p).all():
                raise FiguregroundError(f"The scorer {scorer.KIND} returned NaN or infinity. Its weights are damaged.")
            reason = self._shown(np.nan_to_num(found[FOREGROUND][row, : len(self._classes)]))
            if not reason and BACKGROUND in found:
                behind = found[BACKGROUND][row]
                best = int(np.nanargmax(behind))
                if best != ground and np.isfinite(behind[ground]):
                    other = self._backgrounds[best].name if best < len(self._backgrounds) else "something else"
                    reason = f"the background looks like {other}"
            reasons.append(reason)
        return reasons

    def _ask(self, image: Image.Image, ground: int) -> str:
        """Ask a yes-or-no scorer about each class, and about the background."""
        n = len(self._classes)
        labels = {FOREGROUND: np.arange(n), BACKGROUND: np.full(n, ground)}
        batch = Batch(tuple(map(str, range(n))), (image,) * n, labels, (None,) * n)
        said = self._scorer.score(batch)
        reason = self._shown(np.array([0.0 if p is None else p for p in said[f"{FOREGROUND}_p"]]))
        behind = said.get(f"{BACKGROUND}_p", [None])[0]
        if not reason and behind is not None and behind < MOST:
            reason = f"the background doesn't look like {self._backgrounds[ground].name}"
        return reason

    def _shown(self, p: np.ndarray) -> str:
        """Return the reason from the probabilities of the classes: their sum for a softmax, each for answers."""
        shown = float(p.sum()) if isinstance(self._scorer, LabelScorer) else float(p.max(initial=0.0))
        return f"shows {self._classes[int(p.argmax())].name}" if shown > MOST else ""


def _question(what: str, entries: Sequence[ClassEntry]) -> Question:
    return Question(what, tuple(entry.name for entry in entries), tuple(entries))


def _place(ground: ClassEntry) -> str:
    """Return a background's name as words."""
    return ground.name.replace("_", " ")
