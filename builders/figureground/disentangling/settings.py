"""Settings of a separation, and which of them belong to which method."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Annotated, Any

from pydantic import Field

from figureground.core.errors import RecipeError, listed, nearest_or_all
from figureground.core.values import Setting, convert
from figureground.disentangling.separator import SEPARATORS
from figureground.learn.settings import POCKET
from figureground.recipe.settings import Names, Share, Text, field_names, settings

PRETRAIN_STEPS = 400
"""Default steps of pretraining for a backbone of random weights."""

Steps = Annotated[int, Field(ge=0, le=10_000_000)]
Size = Annotated[int, Field(ge=1, le=65536)]


@settings(frozen=True)
class Disentangling:
    """Settings that decide separated features, besides their data and seed.

    Raises:
        RecipeError: A value is invalid, or the method doesn't use the setting.
    """

    method: str
    """Name of a separator: wasserstein, adversarial, hsic, inlp, leace, none, or one of another package."""
    backbone: Annotated[Text | None, Names("directory")] = None
    """Backbone: `pocket`, a transformers directory or Hub id, or `timm:NAME`; none is `pocket` for small images."""
    revision: Text | None = None
    """Branch, tag or commit of a backbone on the Hub."""
    from_scratch: bool = False
    """Whether the backbone starts from random weights instead of its pretrained ones."""
    fine_tune: bool = False
    """Whether the backbone is trained too. Otherwise its features stay as they are, and a small network on top of them
    is trained."""
    pretrain_steps: Steps | None = None
    """Steps that train the backbone on both labels before its features are frozen; none is 400 for random weights, and
    0 otherwise. Not with fine_tune."""
    max_train_steps: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    """Steps of the model, those on the labels alone included. inlp, leace and none take them with fine_tune only, on
    both labels, before they erase."""
    batch_size: Annotated[int, Field(ge=8, le=65536)] = 64
    """Images per step."""
    learning_rate: Annotated[float, Field(ge=1e-9, le=10)] | None = None
    """Peak learning rate of AdamW; none is 1e-4 for a pretrained backbone that is fine-tuned, and 1e-3 otherwise."""
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.01
    """AdamW weight decay."""
    augment: bool = True
    """Whether training images are randomly cropped and mirrored; frozen features are of whole images."""
    photograph_share: Share = 0.25
    """Number of real photographs in a step, if some are given, as a share of batch_size."""
    penalty: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """wasserstein, adversarial, hsic: weight λ of the penalty beside the two cross-entropies; the paper's α is 1/λ. 0
    trains on the labels alone."""
    foreground_share: Share | None = None
    """wasserstein, adversarial, hsic: share of the dimensions that the foreground gets; the background gets the
    others."""
    hidden: Size | None = None
    """wasserstein, adversarial, hsic: hidden units of the network on top of frozen features."""
    label_steps: Steps | None = None
    """wasserstein, adversarial, hsic: first steps, which train on the labels alone; none is a fifth of
    max_train_steps."""
    critic_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """wasserstein (4), adversarial (10): steps of the critics to one step of the model."""
    critic_hidden: Size | None = None
    """wasserstein, adversarial: units of each of the two hidden layers of a critic."""
    critic_learning_rate: Annotated[float, Field(ge=1e-9, le=10)] | None = None
    """wasserstein (5e-4), adversarial (1e-3): learning rate of the critics."""
    gradient_penalty: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """wasserstein: weight of the critics' gradient penalty."""
    code_size: Size | None = None
    """wasserstein: length of the random code of a label."""
    normalise: bool | None = None
    """wasserstein: whether critics see features of zero mean and unit variance over the batch, so that small features
    don't look independent. The paper doesn't mention it."""
    inverse_strength: Annotated[float, Field(ge=1e-6, le=1e6)] | None = None
    """inlp, leace, none: C, the inverse strength of the ℓ2 penalty of the heads, which are fitted to erased
    features."""
    rounds: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """inlp: maximum number of classifiers whose directions are removed one after the other."""
    tolerance: Share | None = None
    """inlp: it stops once a classifier is no more than this above the majority rate, on a tenth of the images."""
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    """Settings of a separator from another package."""

    def __post_init__(self) -> None:
        if self.method not in SEPARATORS:
            raise RecipeError("method", f"there is no {self.method!r}{nearest_or_all(self.method, SEPARATORS.names())}")
        separator = SEPARATORS[self.method]
        owners = own_settings()
        for name, users in owners.items():
            if self.method in users and getattr(self, name) is None:
                object.__setattr__(self, name, separator.OWN[name])
            elif self.method not in users and getattr(self, name) is not None:
                raise RecipeError(name, f"{self.method} doesn't use it; only {listed(users)} does.")
        known = set(separator.OWN) - set(owners)
        for name in self.options:
            if name not in known:
                others = nearest_or_all(name, known) if known else ": it has none."
                raise RecipeError(f"options.{name}", f"{self.method} has no such option{others}")
        options = {n: _like(default, self.options[n], n) if n in self.options else default
                   for n, default in separator.OWN.items() if n in known}  # fmt: skip
        object.__setattr__(self, "options", options)
        if "label_steps" in separator.OWN:
            self._check_steps()
        if self.fine_tune and self.pretrain_steps:
            raise RecipeError(
                "pretrain_steps", "with fine_tune the whole training is of the backbone. Raise max_train_steps instead."
            )
        if self.foreground_share is not None and not 0 < self.foreground_share < 1:
            raise RecipeError(
                "foreground_share", f"{self.foreground_share} leaves one part without a dimension; give more than 0 "
                "and less than 1."
            )  # fmt: skip
        separator().check(self)

    def _check_steps(self) -> None:
        if self.label_steps is None:
            object.__setattr__(self, "label_steps", self.max_train_steps // 5)
        elif self.label_steps >= self.max_train_steps and self.penalty:
            raise RecipeError(
                "label_steps", f"{self.label_steps} leaves none of the {self.max_train_steps} max_train_steps for the "
                "penalty."
            )  # fmt: skip

    @property
    def trained(self) -> bool:
        """Whether the method trains the features, rather than erasing from them."""
        return SEPARATORS[self.method].TRAINED

    def pretraining(self, pretrained: bool) -> int:
        """Return the steps that train the backbone on both labels before its features are frozen, 0 or more.

        Args:
            pretrained: Whether the backbone comes with pretrained weights.

        Raises:
            RecipeError: Features of random weights would be frozen.
        """
        if self.fine_tune:
            return 0 if self.trained else self.max_train_steps
        if self.pretrain_steps == 0 and not pretrained:
            raise RecipeError(
                "pretrain_steps",
                f"0 would freeze the features of random weights ({self.backbone or POCKET}). Give more steps, "
                "fine_tune (--fine-tune), or a trained backbone: a directory of a classifier that `figureground train` "
                "saved, a Hub id or timm:NAME.",
            )
        return self.pretrain_steps if self.pretrain_steps is not None else 0 if pretrained else PRETRAIN_STEPS

    def to_json(self) -> dict[str, Any]:
        """Return the fields that the method uses."""
        said, owners = dataclasses.asdict(self), own_settings()
        return {name: v for name, v in said.items() if self.method in owners.get(name, [self.method])}


def _like(default: Any, value: Any, name: str) -> Any:
    """Return an option as its default's type, if it was given as text."""
    typed = isinstance(value, str) and default is not None
    return convert(Setting(value), type(default), f"options.{name}") if typed else value


def own_settings() -> dict[str, list[str]]:
    """Return, for each field of `Disentangling` that not every separator uses, the names of those that do."""
    owners: dict[str, list[str]] = {}
    names = set(field_names(Disentangling))
    for name, separator in SEPARATORS.items():
        for each in names & set(separator.OWN):
            owners.setdefault(each, []).append(name)
    return owners
