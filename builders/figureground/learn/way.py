"""Ways of training a classifier: what they share, and the registry that other packages extend. Needs no torch.

A way says how images are weighed, what is minimised, and what happens before and after the epochs. The training itself
is one loop for all (`learn.fit.Fit`), which `learn.training` runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from figureground.core.registry import Registry, check_subclass

if TYPE_CHECKING:
    from figureground.data.groups import GroupedImages
    from figureground.learn.backbones import Backbone
    from figureground.learn.epochs import Stage
    from figureground.learn.fit import Fit
    from figureground.learn.objective import Objective
    from figureground.learn.settings import Training
    from figureground.learn.training import Session
    from figureground.learn.training_data import TrainingData


@dataclass
class Prepared:
    """Outcome of `Way.prepare`."""

    weights: np.ndarray
    """float64 (n,): weight of each training image."""
    steps: dict[str, int] = field(default_factory=dict)
    """Optimiser steps taken so far, by what took them."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Facts for the seed's report, under the way's name; JSON-able."""


class Way(ABC):
    """A way of training. One that changes little of empirical risk minimisation inherits from `ways.erm.ERM`.

    Hooks are called in this order: `check` with the settings alone, `refuse` with the data, then for each seed
    `prepare`, `objective`, `stages` and `epochs`, the training, `count_steps` and `finish`.
    """

    NAME: ClassVar[str]
    """Its name on the command line."""
    TEXT: ClassVar[str]
    """A line of help."""
    NEEDS_ATTRIBUTES: ClassVar[bool] = False
    """Whether it requires the attribute of each image."""
    BY_GROUP: ClassVar[bool] = False
    """Whether it counts training images by group, so that added images must have known attributes."""
    CHANGES_TRAINED: ClassVar[bool] = False
    """Whether `finish` changes the network, so that its accuracy on validation is measured again."""
    OWN: ClassVar[Mapping[str, Any]] = {}
    """Settings that no other way uses, with their defaults. Those of this package's ways are fields of `Training`, and
    those of others entries of `Training.options`."""

    def check(self, settings: Training) -> None:
        """Raise RecipeError for settings that don't fit together."""

    def refuse(self, settings: Training, groups: GroupedImages, training_data: TrainingData) -> None:
        """Raise FiguregroundError if it can't work with the data."""

    def uses(self, attributes: bool) -> tuple[bool, bool]:
        """Whether it uses the attributes of training images, and those of validation images.

        Args:
            attributes: Whether the data have attributes.
        """
        return False, False

    def note(self, settings: Training) -> str | None:
        """A sentence for the report; None for none."""
        return None

    def prepare(self, session: Session, seed: int, weights: np.ndarray) -> Prepared:
        """Weigh the training images, after whatever has to be trained first.

        Args:
            weights: float64 (n,), 1 for real images and `add_weight` for added ones.
        """
        return Prepared(weights)

    @abstractmethod
    def objective(self, session: Session, weights: np.ndarray) -> tuple[Objective, np.ndarray | None]:
        """Return what is minimised, and how often each training image is drawn: float64 (n,), or None for passes."""

    def stages(self, session: Session) -> tuple[Stage, ...]:
        """The stages of the training; none shows all images together."""
        return ()

    def epochs(self, settings: Training) -> int:
        """Epochs of the training, without what `prepare` took of the budget."""
        return settings.epochs

    def count_steps(self, settings: Training, fit: Fit, steps: dict[str, int]) -> int:
        """Enter the steps of the training into `steps`, and return the budget: all steps that count."""
        steps["main"] = fit.curve[-1].steps
        return steps["main"]

    def finish(
        self, session: Session, backbone: Backbone, seed: int, objective: Objective, steps: dict[str, int]
    ) -> dict[str, Any]:
        """Change the trained classifier, and return what the report says of it under the way's name."""
        return {}


WAYS: Registry[type[Way]] = Registry(
    "figureground.training", "way of training",
    {
        "erm": "figureground.learn.ways.erm:ERM",
        "reweight": "figureground.learn.ways.reweight:Reweight",
        "jtt": "figureground.learn.ways.jtt:JTT",
        "groupdro": "figureground.learn.ways.groupdro:GroupDROWay",
        "dfr": "figureground.learn.ways.dfr:DFR",
        "two-stage": "figureground.learn.ways.two_stage:TwoStage",
    },
    check_subclass(Way, "NAME"),
)  # fmt: skip
