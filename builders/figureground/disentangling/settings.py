"""Settings of a separation, and which of them belong to which method."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field

from figureground.core.errors import RecipeError
from figureground.disentangling.separator import SEPARATORS
from figureground.learn.backbone_settings import POCKET, BackboneSettings
from figureground.recipe import own_settings
from figureground.recipe.settings import Share, settings

PRETRAIN_STEPS = 400
"""Default steps of pretraining for a backbone of random weights."""

Steps = Annotated[int, Field(ge=0, le=10_000_000)]
Size = Annotated[int, Field(ge=1, le=65536)]


@settings(frozen=True)
class Disentangling(BackboneSettings):
    """Settings that decide separated features, besides their data and seed.

    Raises:
        RecipeError: A value is invalid, or the method doesn't use the setting.
    """

    method: str
    """Name of a separator: wasserstein, adversarial, hsic, inlp, leace, none, or one from another package."""
    fine_tune: bool = False
    """Whether the backbone is trained too. Otherwise its features stay as they are, and a small network on top of them
    is trained."""
    pretrain_steps: Steps | None = None
    """Steps that train the backbone on both labels before its features are frozen; none means 400 for random weights,
    and 0 otherwise. Can't be combined with fine_tune."""
    max_train_steps: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    """Training steps of the model, including those on the labels alone. inlp, leace and none train only with fine_tune:
    on both labels, before erasure."""
    batch_size: Annotated[int, Field(ge=8, le=65536)] = 64
    """Images per step."""
    learning_rate: Annotated[float, Field(ge=1e-9, le=10)] | None = None
    """Peak learning rate of AdamW; none means 1e-4 for a pretrained backbone that is fine-tuned, and 1e-3 otherwise."""
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.01
    """AdamW weight decay."""
    augment: bool = True
    """Whether training images are randomly cropped and mirrored; frozen features are computed from whole images."""
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
    """wasserstein, adversarial, hsic: number of first steps, which train on the labels alone; none means a fifth of
    max_train_steps."""
    critic_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """wasserstein (4), adversarial (10): steps of the critics per step of the model."""
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
    """inlp: removal stops once a classifier's accuracy, on a held-out tenth of the images, is at most this much above
    the majority rate."""
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    """Settings of a separator from another package."""

    def __post_init__(self) -> None:
        own_settings.apply_defaults(self, SEPARATORS)
        separator = SEPARATORS[self.method]
        if "label_steps" in separator.OWN:
            self._check_steps()
        if self.fine_tune and self.pretrain_steps:
            raise RecipeError(
                "pretrain_steps", "with fine_tune, all steps train the backbone. Raise max_train_steps instead."
            )
        if self.foreground_share is not None and not 0 < self.foreground_share < 1:
            raise RecipeError(
                "foreground_share", f"{self.foreground_share} leaves one part without a dimension; give a share above "
                "0 and below 1."
            )  # fmt: skip
        separator().check(self)

    def _check_steps(self) -> None:
        if self.label_steps is None:
            object.__setattr__(self, "label_steps", self.max_train_steps // 5)
        elif self.label_steps >= self.max_train_steps and self.penalty:
            raise RecipeError(
                "label_steps", f"{self.label_steps} leaves no step for the penalty; give fewer than max_train_steps, "
                f"{self.max_train_steps}."
            )  # fmt: skip

    @property
    def trains_features(self) -> bool:
        """Whether the method trains the features, rather than erasing from them."""
        return SEPARATORS[self.method].TRAINED

    def count_pretraining_steps(self, pretrained: bool) -> int:
        """Return the steps that train the backbone on both labels before its features are frozen, 0 or more.

        Args:
            pretrained: Whether the backbone comes with pretrained weights.

        Raises:
            RecipeError: Features of random weights would be frozen.
        """
        if self.fine_tune:
            return 0 if self.trains_features else self.max_train_steps
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
        return own_settings.used_settings(self, SEPARATORS)
