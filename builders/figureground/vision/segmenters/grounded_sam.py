"""Grounding DINO (Liu et al. 2023, arXiv 2303.05499) with SAM (Kirillov et al. 2023, arXiv 2304.02643)."""

from __future__ import annotations

from typing import Any, ClassVar

from figureground.core.errors import FiguregroundError
from figureground.models.need import Need
from figureground.models.needs import missing_model, refuse_absent_model
from figureground.models.segmenter_files import BOXES, MASKS, SegmenterKind, shorten_name


class GroundedSamKind(SegmenterKind):
    """`grounding-dino:ID_OR_DIR+sam:ID_OR_DIR`."""

    KIND: ClassVar[str] = "grounding-dino"

    def models(self, rest: str) -> list[str]:
        detector, _, masker = rest.partition(MASKS)
        if not detector or not masker:
            raise FiguregroundError(
                f"segmenter {BOXES + rest!r}: give both models, as in '{BOXES}ID_OR_DIRECTORY{MASKS}ID_OR_DIRECTORY'."
            )
        return [detector, masker]

    def called(self, rest: str) -> str:
        detector, masker = map(shorten_name, self.models(rest))
        return f"{BOXES}{detector}{MASKS}{masker}"

    def refuse_absent(self, field: str, rest: str) -> None:
        for model in self.models(rest):
            refuse_absent_model(field, model)

    def needs(self, field: str, rest: str) -> list[Need]:
        return [need for model in self.models(rest) for need in missing_model(field, model)]

    def open(self, rest: str, device: Any) -> Any:
        from figureground.vision.segmentation import open_grounded

        detector, masker = self.models(rest)
        return open_grounded(detector, masker, device)
