"""GroupDRO (Sagawa et al. 2020, arXiv 1911.08731): groups with larger losses get larger weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from figureground.learn.way import Way
from figureground.learn.weights import balance

if TYPE_CHECKING:
    from figureground.data.groups import GroupedImages
    from figureground.learn.backbones import Backbone
    from figureground.learn.objective import Objective
    from figureground.learn.settings import Training
    from figureground.learn.training import Session
    from figureground.learn.training_data import TrainingData


class GroupDROWay(Way):
    """Training on the loss of `learn.groupdro.GroupDRO`, in batches that hold all groups."""

    NAME = "groupdro"
    TEXT = "groups with larger losses get larger weights during training (Sagawa et al. 2020)"
    NEEDS_ATTRIBUTES = True
    BY_GROUP = True
    OWN: ClassVar[Mapping[str, Any]] = {"step_size": 0.01, "adjustment": 0.0}

    def refuse(self, settings: Training, groups: GroupedImages, training_data: TrainingData) -> None:
        from figureground.learn.training_data import refuse_unknown_groups

        refuse_unknown_groups(training_data, self.NAME)

    def uses(self, attributes: bool) -> tuple[bool, bool]:
        return True, False

    def objective(self, session: Session, weights: np.ndarray) -> tuple[Objective, np.ndarray | None]:
        from figureground.learn.groupdro import GroupDRO

        train, settings = session.training_data.train, session.settings
        if train.group is None or settings.step_size is None or settings.adjustment is None:
            raise ValueError("GroupDRO needs groups, a step size and an adjustment.")
        # Batches hold all groups, as Algorithm 1 draws them: otherwise small groups would rarely be sampled.
        chances = balance(np.ones(len(train)), train.group)
        counts = np.bincount(train.group, minlength=len(session.training_data.group_names))
        loss = GroupDRO(train.group, weights, counts, settings.step_size, settings.adjustment, session.device)
        return loss, chances / chances.sum()

    def finish(
        self, session: Session, backbone: Backbone, seed: int, objective: Objective, steps: dict[str, int]
    ) -> dict[str, Any]:
        return {"group_weights": objective.state()}
