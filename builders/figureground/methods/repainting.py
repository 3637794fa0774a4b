"""What SCGS and DDB are told: the settings that both recipes have, checked once at the door. Needs no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from figureground.core.errors import RecipeError
from figureground.core.shares import whole_part
from figureground.core.values import FieldsOf
from figureground.finetune.settings import unfilled
from figureground.learn.settings import Training
from figureground.recipe.config import Config
from figureground.recipe.settings import Names, Share, Text, name_nearest, settings

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


@settings()
class RepaintConfig(Config):
    """A recipe of images that are made from a labelled training set."""

    data: Annotated[Text | None, Names("path", source=True)] = None
    """The training set, as `figureground groups` reads it: a directory or a CSV."""
    layout: Text | None = None
    """How it lies on the disk, where that isn't plain: table, imagefolder, waterbirds, celeba,
    dataset, metashift or folders."""
    root: Annotated[Text | None, Names("path")] = None
    """Where the files lie that a table names."""
    y: Text | None = None
    """The column or attribute of the class."""
    a: Text | None = None
    """The same of the attribute. It labels what is made, and takes no part in how it is made."""
    file: Text | None = None
    """The column of a table that names the files, where it isn't filename."""
    split_column: Text | None = None
    """The column of a table that says the split, where it isn't split."""
    classifier: Annotated[Text, Names("file")] = TRAIN
    """The classifier whose errors or losses count: `train` trains one on the data, else a transformers directory, a
    Hub id or `timm:NAME` that was trained on them."""
    training: Annotated[dict[str, Any], FieldsOf(Training), Names("file")] = field(default_factory=dict)
    """Settings of that training, such as `{epochs: 10, backbone: microsoft/resnet-50}`; `figureground train --help`
    tells of all."""
    nouns: dict[str, Text] = field(default_factory=dict)
    """What prompts call a class, where it isn't its name: `{landbird: bird of the forest}`."""
    prompt: Text = "a photo of a {noun}"
    """What is painted; `{noun}` is the class's noun."""
    strength: Share = 1.0
    outside: Literal["source", "decoded"] = "source"
    """What stands where nothing is repainted: the `source` image itself, or what the autoencoder makes of it
    (`decoded`)."""

    PLACES: ClassVar[tuple[str, ...]] = ("{noun}",)
    """What is filled in a prompt."""

    def check(self) -> None:
        super().check()
        if self.extended:
            raise RecipeError("extended", f"such a set can't be extended: {self.extended!r}.")
        if stray := unfilled(self.prompt, self.PLACES):
            known = " and ".join(self.PLACES)
            raise RecipeError("prompt", f"nothing fills {stray!r} in {self.prompt!r}; known: {known}.")
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
                raise RecipeError(f"training.{name}", f"there is no such setting{name_nearest(str(name), known)}")
        try:
            return Training("erm", **self.training)
        except RecipeError as error:
            raise RecipeError(f"training.{error.field}", str(error).partition(": ")[2]) from None
