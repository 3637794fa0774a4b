"""Settings that every method's recipe has."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from figureground.core.devices import check_device
from figureground.core.errors import RecipeError, join_names, suggest_or_list
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
    "scheduler", "num_inference_steps", "strength", "noise", "guidance_scale", "true_cfg_scale", "guidance_interval",
    "negative_prompt", "eta", "size",
)  # fmt: skip
"""Fields that decide how images are sampled."""


@with_config(ConfigDict(extra="allow", strict=True, allow_inf_nan=False))  # `Config.check` names unknown entries
class LoraEntry(TypedDict, total=False):
    """A LoRA file in a recipe."""

    path: str
    scale: float


LORA_ENTRIES = ("path", "scale")


@settings()
class Config:
    """Settings that every method's recipe has. A field decides images unless it is marked `EXECUTION`."""

    name: str = "default"
    """Name of the config."""
    checkpoint: Annotated[Text, Names("path")] = "pocket"
    """`pocket`, a directory in diffusers' layout, a `.safetensors` file with all weights, or a Hub id."""
    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the Hub."""
    loras: Annotated[list[LoraEntry], Names("file")] = dataclasses.field(default_factory=list)
    """LoRA files to merge into the checkpoint: `[{path: FILE.safetensors, scale: 1.0}]`. Needs the extra `lora`."""
    quantization: Literal["int8", "fp8"] | None = None
    """Format of 8 bits in which the denoiser's linear layers are stored, to save memory: int8 or fp8; none stores them
    in `dtype`. Needs the extra `quantize`."""
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
    true_cfg_scale: Annotated[float, Field(ge=1, le=1000)] | None = None
    """Scale of classifier-free guidance for FLUX.1, whose `guidance_scale` is an input of its transformer: values
    above 1 apply `negative_prompt` and double the evaluations; none turns it off."""
    guidance_interval: list[Share] | None = None
    """Shares of the denoising steps between which guidance is applied, such as [0.4, 0.9]: a step outside costs one
    evaluation of the denoiser instead of two. none applies it in all steps."""
    negative_prompt: str = ""
    """Negative prompt for guidance."""
    scheduler: Scheduler = "ddim"
    """Sampler: ddim, ddpm, dpm++, euler, euler-a, pndm or unipc; or `own`, the checkpoint's, which is the default for
    flow matching and the only one for LCM checkpoints."""
    speed: Literal["exact", "fast"] = "exact"
    """`exact`, or `fast`, which takes scheduler, num_inference_steps, guidance_interval and dtype from a table of
    checkpoints for which these were measured to give as many right labels. The saved recipe holds these settings
    instead of `fast`."""
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

    checkpoint_config: Annotated[Text | None, Names("directory"), EXECUTION] = None
    """For a checkpoint in a single file, the directory of a diffusers checkpoint of the same kind, which has the
    configuration and the parts that the file lacks; none looks in the Hub's cache. Its content counts as part of
    `checkpoint`."""
    device: Annotated[str, EXECUTION] = "auto"
    """Device: auto, cpu, cuda, cuda:1 or mps."""
    dtype: Annotated[Literal["auto", "float32", "float16", "bfloat16"], EXECUTION] = "auto"
    """Precision: float32, float16 or bfloat16; auto on CUDA is float16 for UNets and bfloat16 for transformers, and
    float32 elsewhere."""
    offload: Annotated[Literal["none", "model", "sequential"], EXECUTION] = "none"
    """Whether networks are kept on the accelerator only while they are used: `model` moves one network at a time,
    `sequential` one layer at a time, which is much slower; `none` keeps all there."""
    batch_size: Annotated[Annotated[int, Field(ge=1, le=4096)] | None, EXECUTION] = None
    """Images per batch; none chooses a size that suits the device."""
    threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, EXECUTION] = None
    """CPU threads per worker; none divides the cores among the workers."""
    compile: Annotated[bool, EXECUTION] = False
    """Whether to compile the denoiser with torch.compile: slower to start, faster on large datasets."""
    workers: Annotated[Annotated[int, Field(ge=1, le=1024)], EXECUTION] = 1
    """Rendering processes, each with its own model; on CUDA they take devices in turn."""
    runner: Annotated[Text, EXECUTION] = "local"
    """Runner that renders the shards: `local` (processes on this machine), `rank`, `ray`, or one from another
    package."""
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
        if self.eta and self.scheduler not in ("ddim", "own"):
            raise RecipeError(
                "eta", f"it sets the noise of DDIM, but the scheduler is {self.scheduler}. Leave one of the two out."
            )
        self._check_interval()
        for i, lora in enumerate(self.loras):
            for entry in lora:
                if entry not in LORA_ENTRIES:
                    raise RecipeError(f"loras[{i}]", f"there is no {entry!r}{suggest_or_list(entry, LORA_ENTRIES)}")
            if not lora.get("path", "").strip():
                raise RecipeError(f"loras[{i}]", "it has no path. Write it as {path: FILE.safetensors, scale: 1.0}.")
        for name in ("keep", "formats"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise RecipeError(name, f"{join_names(values)} names the same one twice. Name each once.")
        if not self.formats:
            formats = ", ".join(FORMATS.names())
            raise RecipeError("formats", f"the list is empty; a dataset needs one or several of {formats}.")
        check_device(self.device)
        if self.offload != "none" and self.device == "cpu":
            raise RecipeError(
                "offload", f"{self.offload!r} needs an accelerator, but the device is cpu. Set offload to none."
            )
        if self.offload == "sequential" and self.quantization:
            raise RecipeError(
                "offload",
                "layers of 8 bits can't be moved one at a time. Set offload to model, or leave quantization out.",
            )
        if self.extended and self.limit is not None:
            raise RecipeError(
                "limit",
                "a dataset built with a limit can't be extended, because it isn't recorded which cells were "
                "cut. Build a larger dataset in another directory.",
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
                f"guidance_scale {self.guidance_scale:g} turns guidance off, so there is none to restrict. Leave out "
                "one of the two.",
            )
