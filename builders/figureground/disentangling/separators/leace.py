"""Least-squares concept erasure in closed form (Belrose et al. 2023, arXiv 2306.03819), by their library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from figureground.disentangling.separator import Eraser

if TYPE_CHECKING:
    from torch import Tensor

    from figureground.disentangling.settings import Disentangling

CUT_OFF = 1e-6
"""Singular values of the whitened cross-covariance that count as 0. The library's default, 0.01, would leave a label
that is weakly correlated with the features in them."""


class LEACE(Eraser):
    """Removes all that a linear classifier could read on the fitted images, with the least change of the features."""

    NAME = "leace"
    TEXT = "least-squares concept erasure in closed form (Belrose et al. 2023)"
    NEEDS = ("concept_erasure",)

    def erase(
        self, features: Tensor, label: Tensor, classes: int, settings: Disentangling, seed: int
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        import warnings

        from torch.nn import functional as F

        with warnings.catch_warnings():  # it uses torch.jit.script, which torch deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            from concept_erasure import LeaceFitter

        one_hot = F.one_hot(label, classes).to(features)
        eraser = LeaceFitter.fit(features, one_hot, svd_tol=CUT_OFF).eraser
        matrix, mean = eraser.P, features.mean(0)
        rank = int((eraser.proj_left.abs().sum(0) > 0).sum())
        return matrix, mean - mean @ matrix.T, {"removed_dimensions": rank}
