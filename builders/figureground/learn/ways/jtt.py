"""Just Train Twice (Liu et al. 2021, arXiv 2107.09044): errors of a first model get a larger weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from figureground.core.errors import RecipeError
from figureground.learn.jtt import summarise_errors, weigh_errors
from figureground.learn.way import Prepared
from figureground.learn.ways.erm import ERM

if TYPE_CHECKING:
    from figureground.learn.epochs import Stage
    from figureground.learn.fit import Fit
    from figureground.learn.settings import Training
    from figureground.learn.training import Session


class JTT(ERM):
    """ERM twice: the second training weighs the errors of the first, early-stopped one."""

    NAME = "jtt"
    TEXT = "errors of a first, early-stopped model get a larger weight (Liu et al. 2021)"
    OWN: ClassVar[Mapping[str, Any]] = {"first_epochs": 2, "upweight": 20.0, "count_first": False}

    def check(self, settings: Training) -> None:
        first = settings.first_epochs or 1
        if first > settings.epochs:
            raise RecipeError("first_epochs", f"{first} is more than epochs, which is {settings.epochs}.")
        if settings.count_first and first == settings.epochs:
            raise RecipeError(
                "count_first", f"first_epochs takes all {settings.epochs} epochs and leaves none for the second model."
            )

    def prepare(self, session: Session, seed: int, weights: np.ndarray) -> Prepared:
        errors, steps = session.find_first_errors(seed)
        training_data = session.training_data
        facts = summarise_errors(errors, training_data.added, training_data.train.group, session.count_groups())
        return Prepared(weights * weigh_errors(errors, session.settings.upweight or 1.0), {"first": steps}, facts)

    def stages(self, session: Session) -> tuple[Stage, ...]:
        from figureground.learn.epochs import Stage

        if not session.settings.count_first:
            return ()
        return (Stage(np.arange(len(session.training_data.train)), self.epochs(session.settings)),)

    def epochs(self, settings: Training) -> int:
        return settings.epochs - (settings.first_epochs or 0 if settings.count_first else 0)

    def count_steps(self, settings: Training, fit: Fit, steps: dict[str, int]) -> int:
        steps["main"] = fit.curve[-1].steps
        return steps["main"] + (steps["first"] if settings.count_first else 0)
