"""How classifiers are trained: the settings, which of them belong to which method, and their flags."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from figureground.core.errors import RecipeError, listed, nearest_or_all
from figureground.recipe.settings import Names, Share, Text, settings

METHODS = {
    "erm": "plain training: every image counts alike",
    "reweight": "every group counts alike, or every class where there are no attributes",
    "jtt": "what a first, early-stopped model gets wrong counts more (Liu et al. 2021)",
    "groupdro": "the groups with the largest losses come to count more (Sagawa et al. 2020)",
    "dfr": "ERM whose last layer is fitted again to group-balanced validation data (Kirichenko et al. 2023)",
    "two-stage": "ERM on added images first, then on real ones (Qraitem et al. 2023)",
}
"""The methods, and what each does."""

NEED_ATTRIBUTES = ("groupdro", "dfr")
"""Methods that can't do without the attribute."""
TWO_STAGE = "two-stage"

WORST_GROUP, WORST_CLASS, AVERAGE, LAST = "worst-group", "worst-class", "average", "last"
RULES = {WORST_GROUP: "worst group", WORST_CLASS: "worst class", AVERAGE: "average", LAST: "last epoch"}
"""What may choose the epoch, and how a sentence calls it: an accuracy on validation, or nothing but the budget."""
IN_TRAINING, IN_VALIDATION, MASKS = "training attributes", "validation attributes", "masks"
"""What a row of a comparison may use beyond images and classes."""

POCKET = "pocket"
"""The backbone that is trained from nothing, for small images."""
MOST_POCKET = 96
"""Edge of the largest images for which the pocket backbone is chosen unasked."""


class _Own(NamedTuple):
    """A setting that one method alone has a use for."""

    method: str
    default: float | bool | None


OWN = {
    "first_epochs": _Own("jtt", 2), "upweight": _Own("jtt", 20.0), "step_size": _Own("groupdro", 0.01),
    "adjustment": _Own("groupdro", 0.0), "draws": _Own("dfr", 10), "inverse_strength": _Own("dfr", None),
    "count_first": _Own("jtt", False), "first_share": _Own(TWO_STAGE, 0.5),
}  # fmt: skip
"""Settings that one method alone uses."""

_UNSAID: dict[str, Any] = {"select": None, "validate_every": 1, "count_first": False}
"""Values that `to_json` leaves out, so that what was trained before there were these settings is the same training."""


Epochs = Annotated[int, Field(ge=1, le=1_000_000)]


@settings(frozen=True)
class Training:
    """What decides a trained classifier, beside its data and its seed.

    Raises:
        RecipeError: A value that can't be used, or one that the method has no use for.
    """

    method: str
    """One of `METHODS`."""
    backbone: Annotated[Text | None, Names("directory")] = None
    """`pocket`, a transformers directory or Hub id, or `timm:NAME`; none is `pocket` for small images."""
    revision: Text | None = None
    """Branch, tag or commit of a backbone on the Hub."""
    from_scratch: bool = False
    """Whether the backbone begins with random weights instead of its own."""
    augment: bool = True
    """Whether training images are cropped and mirrored at random."""
    epochs: Epochs = 20
    """Passes over the real training images: the optimiser takes epochs × ceil(real images / batch size) steps, whatever
    was added."""
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 32
    """Images a step, at most."""
    learning_rate: Annotated[float, Field(ge=1e-9, le=10)] | None = None
    """Largest learning rate of AdamW; none is 1e-3 for random weights and 1e-4 for others."""
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.01
    """AdamW weight decay. GroupDRO needs a strong one (Sagawa et al. 2020): try 1."""
    add_weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Weight of an added image's loss, relative to a real one's."""
    add_steps: bool = False
    """Whether added images lengthen an epoch, and so add optimiser steps: an epoch is then a pass over all images."""
    select: str | None = None
    """Rule that chooses the epoch, one of `RULES`; none is `worst-group`, or `worst-class` without attributes.
    Several, with commas between: the first chooses the classifier that is kept, and test is judged by each."""
    validate_every: Epochs = 1
    """The validation split is judged after every so many epochs, and after the last: only those can be chosen."""
    first_epochs: Epochs | None = None
    """jtt: epochs of the model whose errors are taken."""
    upweight: Annotated[float, Field(ge=1, le=1e6)] | None = None
    """jtt: how many times an error counts."""
    count_first: bool | None = None
    """jtt: whether the first model's epochs are taken off the second's, so that both together have as many as
    another method's one."""
    step_size: Annotated[float, Field(ge=0, le=100)] | None = None
    """groupdro: η, how fast the groups' weights change."""
    adjustment: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """groupdro: C, where C/√n is added to the loss of a group of n training images."""
    draws: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """dfr: group-balanced draws over which the last layer is averaged."""
    inverse_strength: Annotated[float, Field(ge=1e-6, le=1e6)] | None = None
    """dfr: C, the inverse of the strength of the ℓ1 penalty; none chooses it on a part of validation."""
    first_share: Share | None = None
    """two-stage: the share of the epochs in which added images are shown, 0 to 1, rounded to whole epochs; each
    stage has at least one."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RecipeError("method", f"there is no {self.method!r}{nearest_or_all(self.method, METHODS)}")
        for name, own in OWN.items():
            if own.method == self.method and getattr(self, name) is None:
                object.__setattr__(self, name, own.default)
            elif own.method != self.method and getattr(self, name) is not None:
                raise RecipeError(name, f"{self.method} has no use for it: it is of {own.method}.")
        if self.first_epochs is not None and self.first_epochs > self.epochs:
            raise RecipeError("first_epochs", f"{self.first_epochs} is more than epochs, which is {self.epochs}.")
        if self.count_first and self.first_epochs == self.epochs:
            raise RecipeError(
                "count_first", f"first_epochs takes all {self.epochs} epochs, and leaves the second model none."
            )
        if self.method == TWO_STAGE and self.epochs < 2:
            raise RecipeError("epochs", "two-stage needs 2 or more, one for each stage.")
        if self.method == TWO_STAGE and self.add_weight != 1:
            raise RecipeError(
                "add_weight", "two-stage has no use for it: added images are never shown beside real ones."
            )
        self._check_select()

    def _check_select(self) -> None:
        if self.select is None:
            return
        rules = [name.strip() for name in self.select.split(",")]
        for name in rules:
            if name not in RULES:
                raise RecipeError("select", f"there is no {name!r}{nearest_or_all(name, RULES)}")
            if rules.count(name) > 1:
                raise RecipeError("select", f"{name!r} is named twice.")
        object.__setattr__(self, "select", ",".join(rules))
        if self.method == "dfr" and len(rules) > 1:
            raise RecipeError("select", "dfr takes one rule: its last layer is fitted for the epoch that is chosen.")
        if self.method == "dfr" and rules[0] in (WORST_CLASS, AVERAGE):
            raise RecipeError(
                "select",
                f"dfr fits the last layer to the groups of validation, so {rules[0]!r} would hide attributes that it "
                "uses all the same. Choose worst-group or last, or leave dfr out.",
            )

    @property
    def needs_attributes(self) -> bool:
        return self.method in NEED_ATTRIBUTES

    def rules(self, attributes: bool) -> tuple[str, ...]:
        """Return the rules that choose epochs, names of `RULES`; the first chooses the classifier that is kept.

        Args:
            attributes: Whether the data say attributes.
        """
        if self.select is not None:
            return tuple(self.select.split(","))
        return (WORST_GROUP if attributes else WORST_CLASS,)

    def uses(self, attributes: bool) -> list[str]:
        """Return which attributes the kept classifier depends on: `IN_TRAINING`, `IN_VALIDATION`, both or none.

        Args:
            attributes: Whether the data say attributes.
        """
        by_group = self.method == "groupdro" or (self.method == "reweight" and attributes)
        validated = self.method == "dfr" or self.rules(attributes)[0] == WORST_GROUP
        return [name for name, used in ((IN_TRAINING, by_group), (IN_VALIDATION, validated)) if used]

    @property
    def stage_epochs(self) -> tuple[int, int]:
        """Return, for two-stage, the epochs on added images and on real ones, each 1 or more; together `epochs`."""
        first = min(max(round((self.first_share or 0.0) * self.epochs), 1), self.epochs - 1)
        return first, self.epochs - first

    def to_json(self) -> dict[str, Any]:
        """All fields that the method has a use for, but for those of `_UNSAID`."""
        said = dataclasses.asdict(self)
        return {
            name: v
            for name, v in said.items()
            if (name not in OWN or OWN[name].method == self.method) and (name not in _UNSAID or v != _UNSAID[name])
        }


def choose_backbone(settings: Training, edge: int) -> str:
    """Return the backbone's name: as asked for, or `pocket` for small images.

    Args:
        edge: The longer one of an image, in pixels.

    Raises:
        RecipeError: None is named, and the images are large.
    """
    if settings.backbone is not None:
        return settings.backbone
    if edge <= MOST_POCKET:
        return POCKET
    raise RecipeError(
        "backbone",
        f"name one, since the images have {edge} px, and the pocket backbone is for at most {MOST_POCKET}: "
        "--backbone with a transformers directory, a Hub id such as microsoft/resnet-50, or timm:NAME.",
    )


def why_no_attributes(settings: Training, name: str) -> str:
    """What to say where a method needs the attribute and the data don't have it."""
    others = listed(method for method in METHODS if method not in NEED_ATTRIBUTES)
    return (
        f"{settings.method} needs the attribute of each image, and {name} says none. Give a table filename,split,y,a "
        f"(--a NAME takes another column), or a method that does without: {others}."
    )
