"""How classifiers are trained: the settings, which of them belong to which method, and their flags."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import field
from typing import Annotated, Any

from pydantic import Field

from figureground.core.errors import RecipeError, listed, nearest_or_all
from figureground.core.values import Setting, convert
from figureground.learn.way import WAYS
from figureground.recipe.settings import Names, Share, Text, field_names, settings

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


_UNSAID: dict[str, Any] = {"select": None, "validate_every": 1, "count_first": False, "options": {}}
"""Values that `to_json` leaves out, so that what was trained before there were these settings is the same training."""


Epochs = Annotated[int, Field(ge=1, le=1_000_000)]


@settings(frozen=True)
class Training:
    """What decides a trained classifier, beside its data and its seed.

    Raises:
        RecipeError: A value that can't be used, or one that the method has no use for.
    """

    method: str
    """Name of a way of training: erm, reweight, jtt, groupdro, dfr, two-stage, or one of another package."""
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
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of a way of training that another package brings."""

    def __post_init__(self) -> None:
        if self.method not in WAYS:
            raise RecipeError("method", f"there is no {self.method!r}{nearest_or_all(self.method, WAYS.names())}")
        way = WAYS[self.method]
        for name, owner in own_settings().items():
            if owner == self.method and getattr(self, name) is None:
                object.__setattr__(self, name, way.OWN[name])
            elif owner != self.method and getattr(self, name) is not None:
                raise RecipeError(name, f"{self.method} has no use for it: it is of {owner}.")
        known = set(way.OWN) - set(own_settings())
        for name in self.options:
            if name not in known:
                raise RecipeError(f"options.{name}", f"{self.method} has no such option{nearest_or_all(name, known)}")
        options = {n: _like(default, self.options[n], n) if n in self.options else default
                   for n, default in way.OWN.items() if n in known}  # fmt: skip
        object.__setattr__(self, "options", options)
        self._check_select()
        way().check(self)

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

    @property
    def needs_attributes(self) -> bool:
        return WAYS[self.method].NEEDS_ATTRIBUTES

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
        by_group, validated = WAYS[self.method]().uses(attributes)
        validated = validated or self.rules(attributes)[0] == WORST_GROUP
        return [name for name, used in ((IN_TRAINING, by_group), (IN_VALIDATION, validated)) if used]

    @property
    def stage_epochs(self) -> tuple[int, int]:
        """Return, for two-stage, the epochs on added images and on real ones, each 1 or more; together `epochs`."""
        first = min(max(round((self.first_share or 0.0) * self.epochs), 1), self.epochs - 1)
        return first, self.epochs - first

    def to_json(self) -> dict[str, Any]:
        """All fields that the method has a use for, but for those of `_UNSAID`."""
        said, owners = dataclasses.asdict(self), own_settings()
        return {
            name: v
            for name, v in said.items()
            if owners.get(name, self.method) == self.method and (name not in _UNSAID or v != _UNSAID[name])
        }


def _like(default: Any, value: Any, name: str) -> Any:
    """An option as its default's type has it, where it came as text."""
    typed = isinstance(value, str) and default is not None
    return convert(Setting(value), type(default), f"options.{name}") if typed else value


@functools.cache
def own_settings() -> dict[str, str]:
    """By field of `Training` that one way alone uses, that way's name."""
    names = set(field_names(Training))
    return {name: way.NAME for _, way in WAYS.items() for name in way.OWN if name in names}


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
    others = listed(name for name, way in WAYS.items() if not way.NEEDS_ATTRIBUTES)
    return (
        f"{settings.method} needs the attribute of each image, and {name} says none. Give a table filename,split,y,a "
        f"(--a NAME takes another column), or a method that does without: {others}."
    )
