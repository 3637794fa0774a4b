"""Settings that the recipes of SCGS and DDB share. Needs no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from figureground.core.errors import RecipeError
from figureground.core.shares import whole_part
from figureground.core.values import FieldsOf
from figureground.data.data_source import DataSource
from figureground.learn.settings import Training
from figureground.recipe.config import Config
from figureground.recipe.prompts import find_unfilled
from figureground.recipe.settings import Names, Share, Text, settings, suggest_setting

TRAIN = "train"
"""The split that is read and written; as `classifier`, one to be trained on the data."""
ON_POCKET: dict[str, Any] = {
    "name": "pocket", "checkpoint": "pocket", "size": 64, "num_inference_steps": 20, "strength": 0.9,
    "guidance_scale": 4.0,
    "shard_size": 100, "batch_size": 16,
}  # fmt: skip
"""Settings shared by both methods' configs `pocket`."""
ON_PHOTOGRAPHS: dict[str, Any] = {
    "name": "photographs", "checkpoint": "stable-diffusion-v1-5/stable-diffusion-inpainting", "size": 512,
    "guidance_scale": 7.5, "training": {"backbone": "microsoft/resnet-50"},
}  # fmt: skip
"""Settings shared by both methods' configs `photographs`. Both papers train an ImageNet ResNet-50."""


@settings()
class RepaintConfig(Config):
    """Settings of a recipe that makes images from a labelled training set."""

    data: Annotated[Text | None, Names("path", source=True)] = None
    """Training set, in a form that `figureground groups` reads: a directory or a CSV."""
    layout: Text | None = None
    """Layout of the training set, if it isn't detected: table, imagefolder, waterbirds, celeba, dataset, metashift or
    folders."""
    root: Annotated[Text | None, Names("path")] = None
    """Directory of the files that a table names; the directory of the table if none."""
    y: Text | None = None
    """Column or attribute that holds the class."""
    a: Text | None = None
    """Column or attribute that holds the bias attribute. It is used to label the images, not to generate them."""
    file: Text | None = None
    """Column of a table that names the files; `filename` if none."""
    split_column: Text | None = None
    """Column of a table that holds the split; `split` if none."""
    classifier: Annotated[Text, Names("file")] = TRAIN
    """Classifier whose errors or losses select images: `train` to train one on the data, or a transformers directory,
    a Hub id or `timm:NAME` that was trained on the data."""
    training: Annotated[dict[str, Any], FieldsOf(Training, ("method",)), Names("file")] = field(default_factory=dict)
    """Settings for training the classifier, such as `{epochs: 10, backbone: microsoft/resnet-50}`;
    `figureground train --help` lists them."""
    nouns: dict[str, Text] = field(default_factory=dict)
    """Nouns for classes in prompts, if not their names: `{landbird: bird of the forest}`."""
    prompt: Text = "a photo of a {noun}"
    """Prompt for the repainted region; `{noun}` is the class's noun."""
    strength: Share = 1.0
    outside: Literal["source", "decoded"] = "source"
    """Pixels outside the repainted region: those of the `source` image, or `decoded` by the autoencoder from its
    latents."""

    PLACES: ClassVar[tuple[str, ...]] = ("{noun}",)
    """Placeholders that a prompt may contain."""

    def check(self) -> None:
        super().check()
        if self.extended:
            raise RecipeError("extended", f"a set made from a training set can't be extended: {self.extended!r}.")
        if stray := find_unfilled(self.prompt, self.PLACES):
            known = " and ".join(self.PLACES)
            raise RecipeError("prompt", f"nothing fills {stray!r} in {self.prompt!r}; known: {known}.")
        if self.noise is None and whole_part(self.num_inference_steps, self.strength) < 1:
            raise RecipeError(
                "strength",
                f"{self.strength} of {self.num_inference_steps} steps is less than one step, so nothing would change. "
                "Give a larger strength, or more steps.",
            )
        self.training_settings()

    def data_source(self) -> DataSource | None:
        """Return where the training set is and how to read it; None if none is given."""
        if self.data is None:
            return None
        return DataSource.of(
            self.data, self.layout, root=self.root, y=self.y, a=self.a, file=self.file, split_column=self.split_column
        )

    def training_settings(self) -> Training:
        """Return the settings for training the classifier.

        Raises:
            RecipeError: A value is invalid.
        """
        known = {each.name for each in dataclasses.fields(Training)} - {"method"}
        for name in self.training:
            if name not in known:
                raise RecipeError(f"training.{name}", f"there is no such setting{suggest_setting(str(name), known)}")
        try:
            return Training("erm", **self.training)
        except RecipeError as error:
            raise error.within("training") from None
