"""The scorer `clip` with the bundled matcher of the pocket world's images and captions."""

from __future__ import annotations

from typing import ClassVar

from figureground.models.bundled import MATCHER
from figureground.verification.scorers.clip import ClipScorer


class PocketScorer(ClipScorer):
    """Knows drawn images only: its answers about photographs mean nothing."""

    KIND: ClassVar[str] = "pocket"
    TEXTS: ClassVar[str] = "pocket-"

    @property
    def model(self) -> str:
        return str(MATCHER)
