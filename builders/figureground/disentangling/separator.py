"""Methods that separate features: what they share, and the registry that other packages extend. Needs no torch.

There are two kinds. A `TrainedSeparator` adds a penalty to the training of a map of the features, or of the network
itself. An `Eraser` removes a label from features that stay as they are, by an affine map in closed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core.registry import Registry, check_subclass

if TYPE_CHECKING:
    from torch import Tensor

    from figureground.disentangling.penalty import Penalty
    from figureground.disentangling.settings import Disentangling


PAPER_SHARE = 1798 / 2048
"""Share of the foreground dimensions in the paper's ResNet-50."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a separation."""

    widths: tuple[int, int]
    """Dimensions of the foreground part and of the background part."""
    classes: tuple[int, int]
    """Number of foreground labels and of background labels."""


class Separator(ABC):
    """A method that separates features. Another package adds a `TrainedSeparator` or an `Eraser`."""

    NAME: ClassVar[str]
    """Its name on the command line."""
    TEXT: ClassVar[str]
    """A line of help."""
    TRAINED: ClassVar[bool]
    """Whether the features are trained; otherwise they are only erased from."""
    NEEDS: ClassVar[Sequence[str]] = ()
    """Modules that it imports and that are not installed with this package."""
    OWN: ClassVar[Mapping[str, Any]] = {}
    """Settings that not every separator uses, with their defaults. Those of this package's separators are fields of
    `Disentangling`, and those of others entries of `Disentangling.options`."""

    def check(self, settings: Disentangling) -> None:
        """Raise RecipeError for settings that don't fit together."""


class TrainedSeparator(Separator):
    """Trains the features with a penalty on each part's information about the other label."""

    TRAINED = True

    @abstractmethod
    def penalty(self, settings: Disentangling, shape: Shape, seed: int) -> Penalty:
        """Return the penalty, with its critics if it has some; random weights and codes depend on the seed alone."""


class Eraser(Separator):
    """Removes a label from features by an affine map. A subclass with settings of its own adds them to these."""

    TRAINED = False
    OWN: ClassVar[Mapping[str, Any]] = {"inverse_strength": 1.0}

    @abstractmethod
    def erase(
        self, features: Tensor, label: Tensor, classes: int, settings: Disentangling, seed: int
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Return the map x ↦ x @ matrix.T + bias that removes a label, and facts for the report.

        Args:
            features: float64 (n, d), of the images that the erasure is fitted on.
            label: int64 (n,), 0 to classes − 1: the label to remove.
            classes: Number of labels, 2 or more.
            settings: The method's settings.
            seed: Seed of all randomness.

        Returns:
            Matrix, float64 (d, d); bias, float64 (d,); and facts, JSON-serialisable.
        """


SEPARATORS: Registry[type[Separator]] = Registry(
    "figureground.separators", "separator",
    {
        "wasserstein": "figureground.disentangling.separators.wasserstein:Wasserstein",
        "adversarial": "figureground.disentangling.separators.adversarial:Adversarial",
        "hsic": "figureground.disentangling.separators.hsic:HSIC",
        "inlp": "figureground.disentangling.separators.inlp:INLP",
        "leace": "figureground.disentangling.separators.leace:LEACE",
        "none": "figureground.disentangling.separators.none:Untouched",
    },
    check_subclass(Separator, "NAME"),
)  # fmt: skip
"""Separators by the name that `--method` gives."""
