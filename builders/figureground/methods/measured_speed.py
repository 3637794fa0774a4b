"""The speed at which a dataset was drawn, as a forecast for a recipe that samples in the same way. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.core.errors import RecipeError, plural
from figureground.core.numerics import read_numerics
from figureground.recipe.config import SAMPLING
from figureground.recipe.document import read_saved_recipe
from figureground.shards.progress import Watch
from figureground.shards.shard import NUMERICS, RECIPE

if TYPE_CHECKING:
    from figureground.methods.base import Method

SPEED = (*SAMPLING, "guide", "edit", "quantization")
"""Settings that decide how long an image takes; `guide` and `edit` are those of D3S."""


@dataclass(frozen=True)
class Measured:
    """A measured speed and where it is from."""

    images_per_second: float
    directory: Path
    """The dataset, finished or not."""
    workers: int
    """The setting of the build that wrote the recipe."""
    numerics: Mapping[str, Any]

    @property
    def source(self) -> str:
        """The origin of the speed, for people."""
        numerics = self.numerics
        return (
            f"measured while {self.directory} was drawn by {plural(self.workers, 'worker')} on "
            f"{numerics.get('processor', numerics['device'])}, in {numerics['dtype']}, in batches of "
            f"{numerics['batch_size']}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        names = ("device", "processor", "dtype", "batch_size")
        numerics = {name: self.numerics.get(name) for name in names}
        return {"directory": str(self.directory), "workers": self.workers, **numerics}


def dataset_of(recipe: Path) -> Path | None:
    """Return the dataset in which a recipe file lies; None if it lies in none."""
    return recipe.parent.parent if recipe.parts[-2:] == tuple(RECIPE.split("/")) else None


def read_measured(directory: Path, method: Method) -> Measured | None:
    """Return the speed of the shards that a build has finished; None before the first one.

    Args:
        directory: A dataset's directory; its build may still run.
        method: The method to forecast, which must sample as the dataset's does.

    Raises:
        RecipeError: It samples in another way, so the speed says nothing; names the first setting that differs.
        FiguregroundError: It isn't a dataset's directory, or its files can't be read.
    """
    watch = Watch(directory)
    saved = read_saved_recipe(directory / RECIPE)
    fields = method.init_fields()
    own_settings = {"METHOD": method.METHOD, "checkpoint": method.checkpoint_fingerprint}
    saved_settings = {"METHOD": saved["builder"], "checkpoint": saved["content"].get("checkpoint")}
    for settings, values in ((own_settings, fields), (saved_settings, saved["identity"])):
        settings |= {name: values[name] for name in SPEED if values.get(name)}
    for name in dict.fromkeys([*own_settings, *saved_settings]):
        if own_settings.get(name) != saved_settings.get(name):
            raise RecipeError(
                "--images-per-second",
                f"{directory} was drawn with {name}={saved_settings.get(name)}, but the recipe has "
                f"{own_settings.get(name)}, so the speed may differ. Give a number, or a dataset that was drawn in the "
                "same way.",
            )
    rate = watch.read().total_rate
    if not rate:
        return None
    numerics = read_numerics(directory / NUMERICS)
    return Measured(rate, directory, int(saved["execution"].get("workers", 1)), numerics)
