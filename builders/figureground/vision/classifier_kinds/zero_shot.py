"""Zero-shot classifiers, which `evaluate` opens with its list of classes; see `vision.zero_shot`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from figureground.core.errors import FiguregroundError
from figureground.models.classifier_files import POCKET
from figureground.models.needs import ZERO_SHOT
from figureground.vision.classifier_kinds.transformers import TransformersKind

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier


class ZeroShotKind(TransformersKind):
    """`clip:DIR_OR_ID`, or `clip:pocket` for the bundled one."""

    KIND: ClassVar[str] = "clip"
    NEEDS_CLASSES: ClassVar[bool] = True

    def identify(self, rest: str, revision: str | None) -> str:
        return f"{ZERO_SHOT}{super().identify(rest, revision)}"

    def refuse_absent(self, field: str, rest: str) -> None:
        if rest != POCKET:
            super().refuse_absent(field, rest)

    def open(self, rest: str, revision: str | None) -> Classifier:
        raise FiguregroundError(
            f"classifier {ZERO_SHOT + rest!r}: a zero-shot classifier needs a list of classes, which only `evaluate` "
            "gives it."
        )
