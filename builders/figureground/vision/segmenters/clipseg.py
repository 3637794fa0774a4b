"""CLIPSeg (Lüddecke and Ecker 2022, arXiv 2112.10003): a transformers directory, a Hub id, or the bundled one."""

from __future__ import annotations

from typing import Any, ClassVar

from figureground.core.errors import FiguregroundError
from figureground.models.bundled import SEGMENTER
from figureground.models.need import Need
from figureground.models.needs import missing_model, refuse_absent_model
from figureground.models.segmenter_files import SegmenterKind, shorten_name
from figureground.models.weights import fingerprint_files


class ClipsegKind(SegmenterKind):
    """`clipseg:DIR_OR_ID`, or the directory or id alone."""

    KIND: ClassVar[str] = "clipseg"

    def called(self, rest: str) -> str:
        return shorten_name(rest)

    def refuse_absent(self, field: str, rest: str) -> None:
        refuse_absent_model(field, rest)

    def needs(self, field: str, rest: str) -> list[Need]:
        return missing_model(field, rest)

    def open(self, rest: str, device: Any) -> Any:
        from figureground.vision.segmentation import open_clipseg

        return open_clipseg(rest, device)


class PocketKind(SegmenterKind):
    """`pocket`, the bundled CLIPSeg for the drawn world's nouns."""

    KIND: ClassVar[str] = "pocket"

    def models(self, rest: str) -> list[str]:
        if rest:
            raise FiguregroundError(f"segmenter 'pocket:{rest}': 'pocket' takes no id. Give 'pocket' alone.")
        return [self.KIND]

    def called(self, rest: str) -> str:
        return self.models(rest)[0]

    def contents(self, rest: str) -> list[str]:
        self.models(rest)
        return [fingerprint_files(SEGMENTER) if SEGMENTER.is_dir() else self.KIND]

    def refuse_absent(self, field: str, rest: str) -> None:
        self.models(rest)

    def open(self, rest: str, device: Any) -> Any:
        from figureground.vision.segmentation import open_pocket

        self.models(rest)
        return open_pocket(device)
