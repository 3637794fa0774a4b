"""What SCGS and DDB are told: the settings that both recipes have, checked once at the door. Needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from figureground.core.errors import RecipeError, nearest_or_all
from figureground.core.shares import whole_part
from figureground.finetune.settings import unfilled
from figureground.learn.settings import Training
from figureground.recipe.config import Config, check_choice

TRAIN = "train"
"""The split that is read and made; also stands for a classifier that is trained on the data."""
ON_POCKET: dict[str, Any] = {
    "name": "pocket", "checkpoint": "pocket", "size": 64, "steps": 20, "strength": 0.9, "guidance_scale": 4.0,
    "shard_size": 100, "batch_size": 16,
}  # fmt: skip
"""What both methods' configs `pocket` say."""
ON_PHOTOGRAPHS: dict[str, Any] = {
    "name": "photographs", "checkpoint": "stable-diffusion-v1-5/stable-diffusion-inpainting", "size": 512,
    "guidance_scale": 7.5,
}  # fmt: skip
"""What both methods' configs `photographs` say."""


@dataclass
class RepaintConfig(Config):
    """A recipe of images that are made from a labelled training set."""

    data: str | None = None
    """The training set, as `figureground groups` reads it: a directory or a CSV."""
    layout: str | None = None
    """How it lies on the disk, where that isn't plain: table, imagefolder, waterbirds, celeba,
    dataset, metashift or folders."""
    root: str | None = None
    """Where the files lie that a table names."""
    y: str | None = None
    """The column or attribute of the class."""
    a: str | None = None
    """The same of the attribute. It labels what is made, and takes no part in how it is made."""
    file: str | None = None
    """The column of a table that names the files, where it isn't filename."""
    split_column: str | None = None
    """The column of a table that says the split, where it isn't split."""
    classifier: str = TRAIN
    """The classifier whose errors or losses count: `train` trains one on the data, else a transformers directory, a
    Hub id or `timm:NAME` that was trained on them."""
    training: Annotated[dict[str, Any], Training] = field(default_factory=dict)
    """Settings of that training, such as `{epochs: 10, backbone: microsoft/resnet-50}`; `figureground train --help`
    tells of all."""
    nouns: dict[str, str] = field(default_factory=dict)
    """What prompts call a class, where it isn't its name: `{landbird: bird of the forest}`."""
    prompt: str = "a photo of a {noun}"
    """What is painted; `{noun}` is the class's noun."""
    strength: float = 1.0
    outside: str = "source"
    """What stands where nothing is repainted: the `source` image itself, or what the autoencoder makes of it
    (`decoded`)."""

    PLACES: ClassVar[tuple[str, ...]] = ("{noun}",)
    """What is filled in a prompt."""

    def check(self) -> None:
        super().check()
        if self.extended:
            raise RecipeError("extended", f"such a set can't be extended: {self.extended!r}.")
        for name in ("data", "layout", "root", "y", "a", "file", "split_column"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise RecipeError(name, f"{value!r} is not a text.")
        if not isinstance(self.classifier, str) or not self.classifier.strip():
            raise RecipeError("classifier", f"{self.classifier!r} is not a text.")
        for name in ("training", "nouns"):
            if not isinstance(getattr(self, name), Mapping):
                raise RecipeError(name, f"{getattr(self, name)!r} is not a mapping.")
        for name, noun in self.nouns.items():
            check_text(f"nouns.{name}", noun)
        check_text("prompt", self.prompt)
        if stray := unfilled(self.prompt, self.PLACES):
            known = " and ".join(self.PLACES)
            raise RecipeError("prompt", f"nothing fills {stray!r} in {self.prompt!r}; known: {known}.")
        check_choice("outside", self.outside, ("source", "decoded"))
        if whole_part(self.steps, self.strength) < 1:
            raise RecipeError(
                "strength", f"{self.strength} of {self.steps} steps is not one step: nothing would change."
            )
        self.training_settings()

    def training_settings(self) -> Training:
        """How the classifier is trained.

        Raises:
            RecipeError: A value that can't be used.
        """
        known = {each.name for each in dataclasses.fields(Training)} - {"method"}
        for name in self.training:
            if name not in known:
                raise RecipeError(f"training.{name}", f"there is no such setting{nearest_or_all(str(name), known)}")
        try:
            return Training("erm", **self.training)
        except RecipeError as error:
            raise RecipeError(f"training.{error.field}", str(error).partition(": ")[2]) from None


def check_text(name: str, value: Any) -> None:
    """Raises RecipeError unless `value` is a text that says something."""
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(name, f"{value!r} is not a text.")


def check_whole(name: str, value: Any, least: int, most: int = 10**9, optional: bool = False) -> None:
    """Raises RecipeError unless `value` is a whole number in that range."""
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise RecipeError(name, f"{value!r} is not a whole number from {least:,} to {most:,}.")


def check_share(name: str, value: Any) -> None:
    """Raises RecipeError unless `value` is a number from 0 to 1."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise RecipeError(name, f"{value!r} is not a number from 0 to 1.")
