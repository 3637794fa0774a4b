"""Settings of the recipes of D3S, and its configs. Needs no torch."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from figureground.core.errors import RecipeError, join_names
from figureground.core.shares import whole_part
from figureground.materials.settings import FromPhotographs, is_from_photographs
from figureground.methods.cutout_stage import CutStage
from figureground.recipe.config import Config
from figureground.recipe.settings import Names, Share, Text, settings
from figureground.recipe.table import MAX_PER_CELL, Correlation

POCKET = "pocket"
EDIT_STARTS_FROM_NOISE = (
    "an edited image starts from noise alone, whatever its guide, so it has no effect. Leave it out."
)

Scale = Annotated[float, Field(ge=0.05, le=1)]
PerCell = dict[str, Annotated[int, Field(ge=0, le=MAX_PER_CELL)]]
"""Images per cell, by split."""


@settings()
class D3SConfig(Config):
    """Settings of a D3S recipe. The defaults are the authors' settings."""

    checkpoint: Annotated[Text, Names("path")] = "CompVis/stable-diffusion-v1-4"
    classes: Annotated[str | list[str] | dict[str, str | None], Names("file")] = "imagenet"
    """Foreground classes: a file in `prompts/classes/`, the path of a CSV, a list of names from the config's file, a
    mapping of names to definitions, or `folders` for the folder names in `cutouts`, or in `photographs` if the recipe
    starts from those."""
    definitions: Annotated[str | None, Names("file")] = None
    """CSV `name,definition` with definitions of the classes."""
    backgrounds: Annotated[str | list[str] | dict[str, str | None], Names("file")] = "d3s"
    """Backgrounds: a file in `prompts/backgrounds/`, the path of a CSV, a list of names from the file `d3s`, a mapping
    of names to phrases, or `folders` for the folder names in `scenes`, with prompts such as `beach background`."""
    prompt: Annotated[str, Names("file")] = "d3s"
    """Prompt template, or the name or path of a file of templates."""
    cutouts: Annotated[str | FromPhotographs | dict[str, str] | None, Names("directory", source=True)] = None
    """Cut-outs, `<dir>/<class>/*`: a directory, or one for each split; `pocket` for the bundled ones. `{from: DIR,
    segmenter: NAME}` cuts them out of photographs, `<dir>/<class>/*`, as a stage of the build; further keys are the
    settings of `figureground cutouts`, and `marks`, the CSV that its page saves."""
    scenes: Annotated[str | dict[str, str] | None, Names("directory", source=True)] = None
    """Background images, `<dir>/<background>/*`: a directory, or one for each split; `pocket` for the bundled ones."""
    photographs: Annotated[str | dict[str, str] | None, Names("directory", source=True)] = None
    """Photographs, `<dir>/<class>/*` or `<dir>/<class>/<background>/*`, for the controls that start from them; given
    like `cutouts`."""
    guide: Literal["paste", "none", "photograph"] = "paste"
    """Guide of image-to-image: `paste` a cut-out on a scene, `none`, or a whole `photograph`."""
    edit: bool = False
    """Whether the prompts are instructions for editing the guide, instead of prompts for image-to-image. It needs a
    checkpoint made for editing, and a guide that is a composite (`guide: paste`) or a `photograph`, on any
    background."""
    known_background: bool = False
    """Whether photographs must be in a folder of their background."""
    paste: Literal["mask", "square"] = "square"
    """Pasted part of a cut-out: `mask`, the part shown by its transparency or mask, or its centre `square`, as in the
    paper."""
    cutout_scale: Scale | list[Scale] = 0.4
    """Edge of the cut-out's box as a share of the canvas's edge, 0.05 to 1, or a range [low, high]."""
    position: Literal["uniform", "ground"] | Share = "uniform"
    """Position of the cut-out: `uniform` inside the canvas, on the `ground`, or a number, 0 to 1: its distance from the
    centre in a random direction, where 1 touches an edge of the canvas."""
    match: Literal["none", "foreground"] = "none"
    """`foreground` uses the same cut-out, position and noise on every background."""
    table: Annotated[str | Correlation | dict[str, str | Correlation], Names("file")] = "uniform"
    """Images of each foreground on each background: `uniform`; `{bias_aligned_share: 95%}` or `{correlation: 0.9}`,
    with a `pairing`, for correlated labels; `{split_pair: true}` for the splits `correlated` and `anti_correlated`; a
    CSV `foreground,background,count[,split]`; or any of these by split."""
    per_cell: PerCell = field(default_factory=lambda: {"train": 10, "validation": 2})
    """Images per cell of the uniform table, by split; correlated tables have the same totals."""
    allow_empty: bool = False
    """Whether cells may have no images."""
    size: Annotated[int, Field(ge=8, le=16384)] = 512
    extended: list[PerCell] = field(default_factory=list)
    """Images per cell after each `extend`; written by that command."""

    def check(self) -> None:
        super().check()
        available = {"paste": ("guide", "mask"), "photograph": ("guide",), "none": ()}[self.guide]
        for name in self.keep:
            if name not in available:
                raise RecipeError("keep", f"{name!r} can't be kept: guide={self.guide} has none.")
        if isinstance(self.cutout_scale, list) and len(self.cutout_scale) != 2:
            raise RecipeError("cutout_scale", f"{self.cutout_scale!r} is not a number or a range [low, high].")
        low, high = self.scale_range()
        if low > high:
            raise RecipeError("cutout_scale", f"{self.cutout_scale!r}: a range is [low, high].")
        if is_from_photographs(self.cutouts):
            CutStage(self.cutouts)
        if not self.per_cell:
            raise RecipeError("per_cell", "it names no split; write it as {train: 10, validation: 2}.")
        for split in self.per_cell:
            if not re.fullmatch(r"_*[a-z0-9][a-z0-9_]*", split):
                raise RecipeError("per_cell", f"{split!r} is not a split name: use lowercase letters, digits and '_'.")
            if split == "all":
                raise RecipeError("per_cell", "'all' is no split name: in load_dataset, it stands for all splits.")
        for per_cell in self.extended:
            if list(per_cell) != list(self.per_cell):
                raise RecipeError("extended", f"it must name the splits {join_names(self.per_cell)}, as per_cell does.")
        if self.edit:
            self._check_edit()
            return
        if self.guide == "none" and self.noise is not None:
            raise RecipeError(
                "noise", "images without a guide start from noise alone, so it has no effect. Leave it out."
            )
        if self.guide != "none" and self.noise is None and whole_part(self.num_inference_steps, self.strength) < 1:
            raise RecipeError(
                "strength",
                f"{self.num_inference_steps} steps × strength {self.strength} is less than one step, so nothing would "
                f"be drawn. Give a strength of at least {math.ceil(1000 / self.num_inference_steps) / 1000:g}, or more "
                "steps.",
            )

    def _check_edit(self) -> None:
        if self.guide == "none":
            raise RecipeError("edit", "guide=none leaves nothing to edit. Give guide=photograph or guide=paste.")
        if self.noise is not None:
            raise RecipeError("noise", EDIT_STARTS_FROM_NOISE)
        if self.known_background:
            raise RecipeError("known_background", "with edit, photographs are put on other backgrounds. Leave it out.")

    def scale_range(self) -> tuple[float, float]:
        """Return the smallest and largest edge of a cut-out's box, as shares of the canvas's edge."""
        value = self.cutout_scale
        return (value[0], value[1]) if isinstance(value, list) else (value, value)


def configs() -> dict[str, D3SConfig]:
    """Return the configs: the demo, the authors' settings, controls of both to tell artefacts from real drops, and one
    for checkpoints that edit.
    """
    imagenet = D3SConfig(name="imagenet")
    pocket = D3SConfig(
        name=POCKET, checkpoint=POCKET, classes=POCKET, cutouts=POCKET, scenes=POCKET, photographs=POCKET,
        paste="mask", cutout_scale=[0.45, 0.6], position="ground", per_cell={"train": 5, "validation": 1},
        size=64, num_inference_steps=16, strength=0.6, guidance_scale=5.0, shard_size=100,
    )  # fmt: skip
    edit = D3SConfig(
        name="edit", checkpoint="black-forest-labs/FLUX.2-klein-4B", scheduler="own", guide="photograph", edit=True,
        prompt="edit", size=1024, num_inference_steps=4, guidance_scale=1.0,
    )  # fmt: skip
    controls: dict[str, dict[str, Any]] = {
        "text-only": {"guide": "none"},
        "reconstruction": {"guide": "photograph", "strength": 0.2, "allow_empty": True},
        "same-background": {"guide": "photograph", "known_background": True, "allow_empty": True},
    }
    by_name = {"pocket": pocket, "imagenet": imagenet, "edit": edit}
    for name, changes in controls.items():
        for prefix, base in (("", imagenet), ("pocket-", pocket)):
            by_name[prefix + name] = dataclasses.replace(base, **changes)
            by_name[prefix + name].name = prefix + name
    return by_name
