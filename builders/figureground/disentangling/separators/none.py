"""Features as they are, for comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from figureground.disentangling.separator import Eraser

if TYPE_CHECKING:
    from torch import Tensor

    from figureground.disentangling.settings import Disentangling


class Untouched(Eraser):
    """Removes nothing: both parts are all features."""

    NAME = "none"
    TEXT = "both parts are all features, for comparison"

    def erase(
        self, features: Tensor, label: Tensor, classes: int, settings: Disentangling, seed: int
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        import torch

        d = features.shape[1]
        return torch.eye(d, dtype=features.dtype), features.new_zeros(d), {}
