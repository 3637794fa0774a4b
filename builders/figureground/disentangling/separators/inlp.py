"""Iterative null-space projection (Ravfogel et al. 2020, arXiv 2004.07667)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.disentangling.separator import Eraser

if TYPE_CHECKING:
    from torch import Tensor

    from figureground.disentangling.settings import Disentangling


class INLP(Eraser):
    """Removes the directions of one linear classifier after the other, until none does better than the majority."""

    NAME = "inlp"
    TEXT = "removes the directions of linear classifiers, one after the other (Ravfogel et al. 2020)"
    OWN: ClassVar[Mapping[str, Any]] = {**Eraser.OWN, "rounds": 20, "tolerance": 0.02}

    def erase(
        self, features: Tensor, label: Tensor, classes: int, settings: Disentangling, seed: int
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        from figureground.disentangling.nullspace import project

        return project(features, label, classes, settings.rounds or 1, settings.tolerance or 0.0, seed)
