"""Two-stage training (Qraitem et al. 2023, arXiv 2308.04553): added images first, then real ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from figureground.core.errors import RecipeError, plural
from figureground.learn.ways.erm import ERM

if TYPE_CHECKING:
    from figureground.learn.epochs import Stage
    from figureground.learn.fit import Fit
    from figureground.learn.settings import Training
    from figureground.learn.training import Session


class TwoStage(ERM):
    """ERM on added images first, then on real ones; each stage has an optimiser and a schedule of its own."""

    NAME = "two-stage"
    TEXT = "ERM on added images first, then on real ones (Qraitem et al. 2023)"
    OWN: ClassVar[Mapping[str, Any]] = {"first_share": 0.5}

    def check(self, settings: Training) -> None:
        if settings.epochs < 2:
            raise RecipeError("epochs", "two-stage needs 2 or more, one for each stage.")
        if settings.add_weight != 1:
            raise RecipeError(
                "add_weight", "two-stage doesn't use it, because no epoch mixes added and real images. Leave it out."
            )

    def note(self, settings: Training) -> str:
        first, second = settings.stage_epochs
        return (
            f"{plural(first, 'epoch')} on added images, then {second:,} on real ones, each stage with an optimiser "
            "and schedule of its own; an epoch of the second stage is chosen."
        )

    def stages(self, session: Session) -> tuple[Stage, ...]:
        from figureground.learn.epochs import Stage

        added, (first, second) = session.training_data.added, session.settings.stage_epochs
        return Stage(np.flatnonzero(added), first), Stage(np.flatnonzero(~added), second)

    def count_steps(self, settings: Training, fit: Fit, steps: dict[str, int]) -> int:
        budget = fit.curve[-1].steps
        steps["main"], steps["added"] = budget, fit.steps_per_epoch * settings.stage_epochs[0]
        steps["main"] -= steps["added"]
        return budget
