"""Settings of classifier training, and which of them belong to which method."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field

from figureground.core.errors import RecipeError, join_names, suggest_or_list
from figureground.learn.backbone_settings import BackboneSettings
from figureground.learn.way import WAYS
from figureground.recipe import own_settings
from figureground.recipe.settings import Share, settings

TWO_STAGE = "two-stage"

WORST_GROUP, WORST_CLASS, AVERAGE, LAST = "worst-group", "worst-class", "average", "last"
RULES = {WORST_GROUP: "worst group", WORST_CLASS: "worst class", AVERAGE: "average", LAST: "last epoch"}
"""Rules that choose the epoch, and their names in sentences: an accuracy on validation, or the last epoch."""
IN_TRAINING, IN_VALIDATION, MASKS = "training attributes", "validation attributes", "masks"
"""Information that a row of a comparison may use beyond images and classes."""

_OMITTED_DEFAULTS: dict[str, Any] = {"select": None, "validate_every": 1, "count_first": False, "options": {}}
"""Values that `to_json` leaves out, so that trainings from before these settings existed keep their identity."""

_OF_ADDED_IMAGES: dict[str, Any] = {"add_weight": 1.0, "add_steps": False}
"""Settings that have an effect only if images are added, with their defaults."""

Epochs = Annotated[int, Field(ge=1, le=1_000_000)]


@settings(frozen=True)
class Training(BackboneSettings):
    """Settings that decide a trained classifier, besides its data and seed.

    Raises:
        RecipeError: A value is invalid, or the method doesn't use the setting.
    """

    method: str
    """Name of a way of training: erm, reweight, jtt, groupdro, dfr, two-stage, or one from another package."""
    augment: bool = True
    """Whether training images are randomly cropped and mirrored."""
    epochs: Epochs = 20
    """Passes over the real training images. The optimiser takes epochs × ceil(real images / batch size) steps, even if
    images are added."""
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 32
    """Largest number of images per optimiser step."""
    learning_rate: Annotated[float, Field(ge=1e-9, le=10)] | None = None
    """Peak learning rate of AdamW; none means 1e-3 from random weights and 1e-4 otherwise."""
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.01
    """AdamW weight decay. A strong one, such as 1, helped GroupDRO (Sagawa et al. 2020)."""
    add_weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Weight of an added image's loss, relative to a real image's."""
    add_steps: bool = False
    """Whether added images lengthen an epoch, which adds optimiser steps: an epoch is then a pass over all images."""
    select: str | None = None
    """Rule that chooses the epoch: worst-group, worst-class, average (accuracy on validation) or last; none means
    worst-group, or worst-class without attributes. Several may be given, separated by commas: the first chooses the
    classifier that is kept, and test results are reported for each."""
    validate_every: Epochs = 1
    """Epochs between evaluations on validation; the last epoch is always evaluated. Only evaluated epochs can be
    chosen."""
    first_epochs: Epochs | None = None
    """jtt: epochs of the first model, whose errors are upweighted."""
    upweight: Annotated[float, Field(ge=1, le=1e6)] | None = None
    """jtt: weight of an error, relative to other images."""
    count_first: bool | None = None
    """jtt: whether the first model's epochs are subtracted from the second's, so that both together take as many
    epochs as another method."""
    step_size: Annotated[float, Field(ge=0, le=100)] | None = None
    """groupdro: η, the step size of the group weights."""
    adjustment: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """groupdro: C of the group adjustment, which adds C/√n to the loss of a group of n training images."""
    draws: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """dfr: number of group-balanced draws over which the last layer is averaged."""
    inverse_strength: Annotated[float, Field(ge=1e-6, le=1e6)] | None = None
    """dfr: C, the inverse strength of the ℓ1 penalty; none chooses it on a part of validation."""
    first_share: Share | None = None
    """two-stage: share of the epochs that train on added images, 0 to 1, rounded to whole epochs; each stage has at
    least one."""
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    """Settings of a way of training from another package."""

    def __post_init__(self) -> None:
        own_settings.apply_defaults(self, WAYS)
        self._check_select()
        WAYS[self.method]().check(self)

    def _check_select(self) -> None:
        if self.select is None:
            return
        rules = [name.strip() for name in self.select.split(",")]
        for name in rules:
            if name not in RULES:
                raise RecipeError("select", f"there is no {name!r}{suggest_or_list(name, RULES)}")
            if rules.count(name) > 1:
                raise RecipeError("select", f"{name!r} is named twice.")
        object.__setattr__(self, "select", ",".join(rules))

    @property
    def of_added_images(self) -> list[str]:
        """Names of the settings, other than their defaults, that have an effect only if images are added."""
        return [name for name, default in _OF_ADDED_IMAGES.items() if getattr(self, name) != default]

    @property
    def needs_attributes(self) -> bool:
        return WAYS[self.method].NEEDS_ATTRIBUTES

    def rules(self, attributes: bool) -> tuple[str, ...]:
        """Return the rules that choose epochs, names in `RULES`; the first chooses the kept classifier.

        Args:
            attributes: Whether the data have attributes.
        """
        if self.select is not None:
            return tuple(self.select.split(","))
        return (WORST_GROUP if attributes else WORST_CLASS,)

    def uses(self, attributes: bool) -> list[str]:
        """Return which attributes the kept classifier depends on: `IN_TRAINING`, `IN_VALIDATION`, both or none.

        Args:
            attributes: Whether the data have attributes.
        """
        by_group, by_validation = WAYS[self.method]().uses(attributes)
        by_validation = by_validation or self.rules(attributes)[0] == WORST_GROUP
        return [name for name, used in ((IN_TRAINING, by_group), (IN_VALIDATION, by_validation)) if used]

    @property
    def stage_epochs(self) -> tuple[int, int]:
        """Return, for two-stage, the epochs on added images and on real ones, each 1 or more; together `epochs`."""
        first = min(max(round((self.first_share or 0.0) * self.epochs), 1), self.epochs - 1)
        return first, self.epochs - first

    def to_json(self) -> dict[str, Any]:
        """Return the fields that the method uses, without the values in `_OMITTED_DEFAULTS`."""
        used = own_settings.used_settings(self, WAYS)
        return {
            name: value
            for name, value in used.items()
            if name not in _OMITTED_DEFAULTS or value != _OMITTED_DEFAULTS[name]
        }


def explain_missing_attributes(settings: Training, name: str) -> str:
    """Return the error message for a method that needs the attribute, and data without it."""
    methods = join_names(name for name, way in WAYS.items() if not way.NEEDS_ATTRIBUTES)
    return (
        f"{settings.method} needs each image's attribute, and {name} has none. Give a table filename,split,y,a "
        f"(--a NAME for another column), or a method that doesn't need it: {methods}."
    )
