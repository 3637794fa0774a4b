"""The separation of D3S's paper: Wasserstein dependences, estimated by critics (Kattakinda et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.disentangling.separator import PAPER_SHARE, Shape, TrainedSeparator

if TYPE_CHECKING:
    from figureground.disentangling.penalty import Penalty
    from figureground.disentangling.settings import Disentangling


class Wasserstein(TrainedSeparator):
    """Trains with the Wasserstein dependence of each part and the other label (arXiv 2211.10370, equations 9, 10)."""

    NAME = "wasserstein"
    TEXT = "critics estimate the Wasserstein dependence of each part and the other label (D3S's paper)"
    OWN: ClassVar[Mapping[str, Any]] = {
        "penalty": 1.0, "foreground_share": PAPER_SHARE, "hidden": 512, "label_steps": None, "critic_steps": 4,
        "critic_hidden": 256, "critic_learning_rate": 5e-4, "gradient_penalty": 10.0, "code_size": 64,
        "normalise": False,
    }  # fmt: skip

    def penalty(self, settings: Disentangling, shape: Shape, seed: int) -> Penalty:
        from figureground.disentangling.transport import Transport

        return Transport(
            shape, hidden=settings.critic_hidden or 1, code_size=settings.code_size or 1,
            gradient_weight=settings.gradient_penalty or 0.0, normalise=bool(settings.normalise),
            critic_steps=settings.critic_steps or 1, critic_learning_rate=settings.critic_learning_rate or 0.0,
            seed=seed,
        )  # fmt: skip
