"""Normalised HSIC of each part of the features and the other label, on each batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.disentangling.separator import PAPER_SHARE, Shape, TrainedSeparator

if TYPE_CHECKING:
    from figureground.disentangling.penalty import Penalty
    from figureground.disentangling.settings import Disentangling


class HSIC(TrainedSeparator):
    """Trains with the normalised HSIC of each part and the other label; it needs no critic."""

    NAME = "hsic"
    TEXT = "normalised HSIC (CKA) of each part and the other label, on each batch; no critic"
    OWN: ClassVar[Mapping[str, Any]] = {
        "penalty": 1.0, "foreground_share": PAPER_SHARE, "hidden": 512, "label_steps": None,
    }  # fmt: skip

    def penalty(self, settings: Disentangling, shape: Shape, seed: int) -> Penalty:
        from figureground.disentangling.independence import Independence

        return Independence(shape.classes)
