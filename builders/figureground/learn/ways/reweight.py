"""Reweighting: every group has the same weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from figureground.learn.ways.erm import ERM
from figureground.learn.weights import balance

if TYPE_CHECKING:
    from figureground.data.groups import GroupedImages
    from figureground.learn.objective import Objective
    from figureground.learn.settings import Training
    from figureground.learn.training import Session
    from figureground.learn.training_data import TrainingData


class Reweight(ERM):
    """ERM in which groups, or classes if there are no attributes, have the same total weight."""

    NAME = "reweight"
    TEXT = "every group has the same weight, or every class if there are no attributes"
    BY_GROUP = True

    def refuse(self, settings: Training, groups: GroupedImages, training_data: TrainingData) -> None:
        from figureground.learn.training_data import refuse_unknown_groups

        refuse_unknown_groups(training_data, self.NAME)

    def uses(self, attributes: bool) -> tuple[bool, bool]:
        return attributes, False

    def objective(self, session: Session, weights: np.ndarray) -> tuple[Objective, np.ndarray | None]:
        train = session.training_data.train
        return super().objective(session, balance(weights, train.y if train.group is None else train.group))
