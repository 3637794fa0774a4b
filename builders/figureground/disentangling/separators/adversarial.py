"""Gradient reversal: adversaries predict the other label, and the features are trained against them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.disentangling.separator import PAPER_SHARE, Shape, TrainedSeparator

if TYPE_CHECKING:
    from figureground.disentangling.penalty import Penalty
    from figureground.disentangling.settings import Disentangling


class Adversarial(TrainedSeparator):
    """Trains against classifiers of the other label, whose gradient is reversed (Ganin et al. 2016)."""

    NAME = "adversarial"
    TEXT = "adversaries predict the other label; their gradient is reversed (Ganin et al. 2016)"
    OWN: ClassVar[Mapping[str, Any]] = {
        "penalty": 1.0, "foreground_share": PAPER_SHARE, "hidden": 512, "label_steps": None, "critic_steps": 10,
        "critic_hidden": 256, "critic_learning_rate": 1e-3,
    }  # fmt: skip

    def penalty(self, settings: Disentangling, shape: Shape, seed: int) -> Penalty:
        from figureground.disentangling.adversaries import Adversaries

        return Adversaries(
            shape, hidden=settings.critic_hidden or 1, critic_steps=settings.critic_steps or 1,
            critic_learning_rate=settings.critic_learning_rate or 0.0, seed=seed,
        )  # fmt: skip
