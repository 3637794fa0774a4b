"""Empirical risk minimisation: plain training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from figureground.learn.way import Way
from figureground.learn.weights import normalise

if TYPE_CHECKING:
    from figureground.learn.objective import Objective
    from figureground.learn.training import Session


class ERM(Way):
    """Plain training: every image has the same weight."""

    NAME = "erm"
    TEXT = "plain training: every image has the same weight"

    def objective(self, session: Session, weights: np.ndarray) -> tuple[Objective, np.ndarray | None]:
        from figureground.learn.objective import WeightedMean

        return WeightedMean(normalise(weights), session.device), None
