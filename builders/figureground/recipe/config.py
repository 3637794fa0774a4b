"""Settings that every method's recipe has."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from figureground.core.devices import check_device
from figureground.core.errors import RecipeError, listed
from figureground.core.shares import steps_between
from figureground.recipe.formats import DEFAULT_FORMATS, FORMATS
from figureground.recipe.settings import (
    EXECUTION,
    Count,
    Names,
    OneOf,
    Share,
    Text,
    describe_fields,
    execution_names,
    field_names,
    settings,
)

Sampler = Literal["ddim", "ddpm", "dpm++", "euler", "euler-a", "pndm", "unipc"]
"""Samplers of DDPM's noise levels."""
Scheduler = Literal[Sampler, "own"]
SAMPLING = (
    "scheduler", "num_inference_steps", "strength", "noise", "guidance_scale", "guidance_interval", "negative_prompt",
    "eta", "size",
)  # fmt: skip
"""Fields that decide how images are sampled."""


@settings()
class Config:
    """Settings that every method's recipe has. A field decides images unless it is marked `EXECUTION`."""

    name: str = "default"
    """Name of the config."""
    checkpoint: Annotated[Text, Names("directory")] = "pocket"
    """`pocket`, a directory in diffusers' layout, or a Hub id."""
    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the Hub."""
    size: Annotated[int, Field(ge=8, le=16384)] = 64
    """Edge of the square images in pixels."""
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Denoising steps; with a guide, only the share `strength` of them is run."""
    strength: Share = 0.9
    """Share of the steps that are run on a guide, 0 to 1."""
    noise: Share | None = None
    """Share of noise in the latents at which drawing on a guide starts, instead of `strength`; 0 to 1, and comparable
    between families of models."""
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 5.0
    """Scale of classifier-free guidance; 1 or less turns it off."""
    guidance_interval: list[Share] | None = None
    """Shares of the denoising steps between which guidance is applied, such as [0.4, 0.9]: a step outside costs one
    evaluation of the denoiser instead of two. none applies it in all steps."""
    negative_prompt: str = ""
    """Negative prompt for guidance."""
    scheduler: Scheduler = "ddim"
    """Sampler: ddim, ddpm, dpm++, euler, euler-a, pndm or unipc; for flow matching `own`, the checkpoint's, which is
    then the default."""
    speed: Literal["exact", "fast"] = "exact"
    """`exact`, or `fast`: takes scheduler, num_inference_steps, guidance_interval and dtype from a table of measured
    checkpoints, with labels as right. The saved recipe holds these settings in its place."""
    eta: Share = 0.0
    """Share of fresh noise in each DDIM step, 0 to 1."""
    safety: Literal["reject", "off"] = "reject"
    """`reject` images that the checkpoint's safety checker flags, or `off`."""
    seed: Annotated[int, Field(ge=0, le=2**128 - 1)] = 0
    """Seed for everything random; each image's seed is derived from it and the image's key."""
    shard_size: Count | None = None
    """Images per shard; none chooses a number from the size and count of images, and the saved recipe holds it."""
    limit: Count | None = None
    """Largest number of images in total; none makes the whole table."""
    extended: list[dict[str, int]] = dataclasses.field(default_factory=list)
    """Images per cell after each `extend`; written by that command."""
    image_format: Literal["jpg", "webp", "png"] = "jpg"
    """File format of images: jpg (quality 95, 4:4:4), webp (quality 95) or png."""
    keep: list[Literal["guide", "mask"]] = dataclasses.field(default_factory=list)
    """Further image columns to keep: `guide`, `mask`."""

    device: Annotated[str, EXECUTION] = "auto"
    """Device: auto, cpu, cuda, cuda:1 or mps."""
    dtype: Annotated[Literal["auto", "float32", "float16", "bfloat16"], EXECUTION] = "auto"
    """Precision: float32, float16 or bfloat16; auto on CUDA is float16 for UNets and bfloat16 for transformers, and
    float32 elsewhere."""
    batch_size: Annotated[Annotated[int, Field(ge=1, le=4096)] | None, EXECUTION] = None
    """Images per batch; none chooses a size that suits the device."""
    threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, EXECUTION] = None
    """CPU threads per worker; none divides the cores among the workers."""
    compile: Annotated[bool, EXECUTION] = False
    """Whether to compile the denoiser with torch.compile: slower to start, faster on large datasets."""
    workers: Annotated[Annotated[int, Field(ge=1, le=1024)], EXECUTION] = 1
    """Rendering processes, each with its own model; on CUDA they take devices in turn."""
    runner: Annotated[Text, EXECUTION] = "local"
    """Runner that renders the shards: `local` (processes on this machine), `rank`, `ray`, or one of another package."""
    formats: Annotated[list[Annotated[str, OneOf(FORMATS)]], EXECUTION] = dataclasses.field(
        default_factory=lambda: list(DEFAULT_FORMATS)
    )
    """Formats of the shards: parquet, webdataset or both."""
    allow_mixed_numerics: Annotated[bool, EXECUTION] = False
    """Whether shards may differ in device, dtype, batch size or versions; the card then says so."""

    @classmethod
    def field_names(cls) -> list[str]:
        """Return the fields that a recipe may set."""
        return [name for name in field_names(cls) if name != "name"]

    @classmethod
    def execution_names(cls) -> list[str]:
        """Return the fields that affect no image."""
        return execution_names(cls)

    @classmethod
    def field_help(cls) -> dict[str, str]:
        """Return the text of each field that a recipe may set, in one line."""
        texts = describe_fields(cls)
        return {name: texts[name] for name in cls.field_names()}

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise RecipeError for fields that don't fit together."""
        if self.scheduler == "pndm" and self.num_inference_steps < 4:
            raise RecipeError(
                "num_inference_steps", f"{self.num_inference_steps} is too few: the scheduler pndm needs 4 or more."
            )
        self._check_interval()
        for name in ("keep", "formats"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise RecipeError(name, f"{listed(values)} names one twice.")
        if not self.formats:
            known = ", ".join(FORMATS.names())
            raise RecipeError("formats", f"the list is empty; a dataset needs one or several of {known}.")
        check_device(self.device)
        if self.extended and self.limit is not None:
            raise RecipeError(
                "limit", "a dataset built with a limit can't be extended, as the cells that it cut aren't recorded."
            )

    def _check_interval(self) -> None:
        interval, steps = self.guidance_interval, self.num_inference_steps
        if interval is None:
            return
        if len(interval) != 2 or interval[0] >= interval[1]:
            raise RecipeError("guidance_interval", f"{interval!r} is not an interval [from, to] of shares, from < to.")
        if not steps_between(steps, interval):
            raise RecipeError(
                "guidance_interval", f"{interval!r} contains none of the {steps} steps. Give a wider one."
            )
        if self.guidance_scale <= 1:
            raise RecipeError(
                "guidance_interval",
                f"guidance_scale {self.guidance_scale:g} turns guidance off. Leave one of them out.",
            )
