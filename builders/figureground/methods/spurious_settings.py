"""Settings of the recipes of class-wise spurious images. Needs no torch."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field

from figureground.core.errors import RecipeError
from figureground.core.values import FieldsOf
from figureground.finetune.settings import LORA_RANK, Finetuning, settings_for
from figureground.finetune.settings import POCKET as POCKET_FINETUNING
from figureground.methods.concept_stages import GIVEN_ELSEWHERE
from figureground.models.footprint import SMALL, estimate_footprint
from figureground.recipe.config import Config
from figureground.recipe.features import FeatureEntry
from figureground.recipe.settings import EXECUTION, MAX_INTEGER, Names, Text, field_names, settings, suggest_setting
from figureground.recipe.table import MAX_PER_CELL

POCKET = "pocket"
MANY = 10
"""More concepts of a full-size checkpoint than this are kept as adapters, unless the recipe sets `lora_rank`."""
NOT_GIVEN = "not given"

Images = Annotated[int, Field(ge=0, le=MAX_PER_CELL)]
"""Images per cell."""


@settings()
class SpuriousConfig(Config):
    """Settings of a recipe of class-wise spurious images."""

    checkpoint: Annotated[Text, Names("directory")] = "CompVis/stable-diffusion-v1-4"
    features: Annotated[str | dict[str, str | FeatureEntry], Names("file")] = "spurious-imagenet"
    """Spurious feature of each class: a file in `prompts/features/`, the path of a CSV
    `class,noun[,feature][,component]`, or a mapping of classes to nouns."""
    classes: list[str] | None = None
    """Classes to select from `features`, a list; none selects all."""
    labels: Annotated[str | list[str] | dict[str, str | None], Names("file")] = "imagenet"
    """Classes of the classifiers to be fooled, in the order of their logits: a file in `prompts/classes/`, the path of
    a CSV with a column `name`, or `feature-model` for the classes of the feature network."""
    references: Annotated[Text | None, Names("directory", source=True)] = None
    """Images of each feature without its class: a directory with one folder per class, or with the folders of
    Spurious ImageNet; `pocket` draws them."""
    reference_count: Annotated[int, Field(ge=3, le=MAX_INTEGER)] | None = None
    """References per class: the number that `pocket` draws (16 if none), or the most to take from a directory (all if
    none)."""
    backgrounds: Annotated[str | list[str] | dict[str, str | None], Names("file")] = "spurious"
    """Scenes in which prompts place the noun: a file in `prompts/backgrounds/`, a CSV `name,phrase`, a list of names
    from the config's file, or a mapping of names to phrases. The scene `plain` adds nothing to the prompt."""
    per_cell: Images | dict[str, Images] = 20
    """Images of each class in each scene: one number, or one per scene. Scenes that a mapping leaves out get none."""
    feature_model: Annotated[Text | None, Names("file")] = None
    """Adversarially robust classifier whose features SFSL compares: `pocket`, a file of ResNet weights, a
    transformers directory, a Hub id or `timm:NAME`."""
    components: Annotated[Text | None, Names("directory")] = None
    """Neural-PCA components of each class, for the fine-tuning's `features: neural-pca`: a directory with one folder
    per class, as written by `figureground components --out DIR/CLASS`."""
    finetuning: Annotated[dict[str, Any], FieldsOf(Finetuning, GIVEN_ELSEWHERE), Names("file")] = field(
        default_factory=dict
    )
    """Settings of the fine-tuning that differ from the checkpoint's defaults, such as
    `{max_train_steps: 400, sfsl_weight: 0.1}`; `figureground finetune --help` lists them. With more than ten concepts
    of a full-size checkpoint, `lora_rank` is 16 unless given."""
    size: Annotated[int, Field(ge=8, le=16384)] = 512
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 7.5
    extended: list[dict[str, Images]] = field(default_factory=list)
    """Images per scene after each `extend`; written by that command."""
    concepts: Annotated[Text | None, Names("directory", is_created=True), EXECUTION] = None
    """Directory of fine-tuned concepts, for builds to share; none keeps them in the dataset's
    `_figureground/stages/concepts`."""

    def check(self) -> None:
        super().check()
        if self.keep:
            raise RecipeError("keep", f"{self.keep[0]!r} can't be kept: images are drawn from prompts alone.")
        if self.noise is not None:
            raise RecipeError("noise", "images are drawn from prompts, and start from noise alone. Leave it out.")
        self._check_finetuning()

    def _check_finetuning(self) -> None:
        for name in self.finetuning:
            if name in GIVEN_ELSEWHERE:
                raise RecipeError(f"finetuning.{name}", f"{name} is a setting of the recipe itself: --set {name}=….")
            if name not in field_names(Finetuning):
                known = set(field_names(Finetuning)) - {*GIVEN_ELSEWHERE}
                raise RecipeError(f"finetuning.{name}", f"there is no such setting{suggest_setting(str(name), known)}")
        self.settings(1)

    def settings(self, concepts: int) -> Finetuning:
        """Return the settings of the fine-tuning for a number of concepts.

        Raises:
            RecipeError: A value is invalid.
        """
        changes = dict(self.finetuning)
        if (
            "lora_rank" not in changes
            and concepts > MANY
            and estimate_footprint(self.checkpoint, self.revision).finished > SMALL
        ):
            changes["lora_rank"] = LORA_RANK
        default = POCKET_FINETUNING.feature_model if self.checkpoint == POCKET else None
        changes["feature_model"] = self.feature_model or default or NOT_GIVEN  # reported before a build
        try:
            return settings_for(self.checkpoint, revision=self.revision, size=self.size, **changes)
        except RecipeError as error:
            is_finetuning = error.field.split("[")[0] in self.finetuning
            raise (error.within("finetuning") if is_finetuning else error) from None
        except TypeError as error:
            raise RecipeError("finetuning", f"{dict(self.finetuning)!r} can't be used: {error}.") from None
