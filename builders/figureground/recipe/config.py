"""What every method's recipe has, checked once at the door."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from figureground.core.devices import check_device
from figureground.core.errors import RecipeError, listed, nearest
from figureground.recipe.fields import MOST, texts_below
from figureground.recipe.sample import IMAGE_FORMATS

SCHEDULER_NAMES = ("ddim", "ddpm", "dpm++", "euler", "euler-a", "pndm", "unipc")
SAMPLING = ("scheduler", "steps", "strength", "guidance_scale", "negative_prompt", "eta", "size")
"""Fields that say how images are drawn."""

WHOLE: dict[str, tuple[int, int | None]] = {
    "size": (8, 16384), "steps": (1, 1000), "shard_size": (1, None), "seed": (0, 2**128 - 1), "workers": (1, 1024),
    "limit": (1, None), "batch_size": (1, 4096), "threads": (1, 1024),
}  # fmt: skip
"""Fields that are whole numbers, with the least and the most that they may be. Checkpoints know 1000 noise levels."""
MAY_BE_NONE = ("limit", "batch_size", "threads")


def check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raises RecipeError unless `value` is one of `known`."""
    if value not in known:
        raise RecipeError(name, f"{value!r} is not one of {', '.join(known)}{nearest(str(value), known)}")


def _check_number(name: str, value: Any, least: float, most: float | None, whole: bool = False) -> None:
    kinds = int if whole else int | float
    if whole and most is None:
        most = MOST
    good = (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
        and value >= least
        and (most is None or value <= most)
    )
    if not good:
        span = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise RecipeError(name, f"{value!r} is not a {'whole ' if whole else ''}number {span}.")


@dataclass
class Config:
    """What every method's recipe has. Fields are identity, unless `EXECUTION` names them."""

    name: str = "default"
    checkpoint: str = "pocket"
    """`pocket`, a directory in diffusers' layout, or a Hub id."""
    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the Hub."""
    size: int = 64
    """Edge in pixels."""
    steps: int = 50
    """Steps of the scheduler; with a guide, `strength` of them are run."""
    strength: float = 0.9
    """Share of the steps that are run on a guide, 0 to 1."""
    guidance_scale: float = 5.0
    """How literally the prompt is taken (classifier-free guidance); 1 or less is none."""
    negative_prompt: str = ""
    """What guidance leads away from."""
    scheduler: str = "ddim"
    """ddim, ddpm, dpm++, euler, euler-a, pndm or unipc."""
    eta: float = 0.0
    """Share of fresh noise in each DDIM step, 0 to 1."""
    safety: str = "reject"
    """`reject` what a checkpoint's safety checker flags, or `off`."""
    seed: int = 0
    """Everything random comes from it and from an image's key."""
    shard_size: int = 1000
    """Images a shard."""
    limit: int | None = None
    """Most images in all; None for the whole table."""
    extended: list[dict[str, int]] = dataclasses.field(default_factory=list)
    """What `per_cell` became with each `extend`."""
    image_format: str = "jpg"
    """jpg (quality 95, 4:4:4), webp (quality 95) or png."""
    keep: list[str] = dataclasses.field(default_factory=list)
    """Further image columns: `guide`, `mask`."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    dtype: str = "auto"
    """float32, float16, bfloat16; auto is float16 on CUDA and float32 elsewhere."""
    batch_size: int | None = None
    """Images a batch; None finds one that suits the device."""
    threads: int | None = None
    """CPU threads a worker; None shares the cores among the workers."""
    compile: bool = False
    """Whether the denoiser goes through torch.compile: slower to begin, faster on large sets."""
    workers: int = 1
    """Processes that render, each with the model; on CUDA each takes a device in turn."""
    formats: list[str] = dataclasses.field(default_factory=lambda: ["parquet", "webdataset"])
    """What shards are written as: parquet, webdataset or both."""
    allow_mixed_numerics: bool = False
    """Whether shards may be made on other devices, dtypes, batch sizes or versions than the first; the card says so."""

    EXECUTION: ClassVar[tuple[str, ...]] = (
        "device", "dtype", "batch_size", "threads", "compile", "workers", "formats", "allow_mixed_numerics",
    )  # fmt: skip

    @classmethod
    def field_names(cls) -> list[str]:
        """The fields that a recipe may set."""
        return [f.name for f in dataclasses.fields(cls) if f.name != "name"]

    @classmethod
    def told(cls) -> dict[str, str]:
        """What each field is, by name: the texts that stand below the fields in the source."""
        texts: dict[str, str] = {}
        for kind in reversed(cls.__mro__):
            if issubclass(kind, Config):
                texts |= texts_below(kind)
        return {name: texts.get(name, "") for name in cls.field_names()}

    def check(self) -> None:
        """Raises RecipeError for the first value that can't be used."""
        for name, (least, most) in WHOLE.items():
            if getattr(self, name) is not None or name not in MAY_BE_NONE:
                _check_number(name, getattr(self, name), least, most, whole=True)
        _check_number("strength", self.strength, 0, 1)
        _check_number("guidance_scale", self.guidance_scale, 0, 1000)
        _check_number("eta", self.eta, 0, 1)
        for name, known in (
            ("image_format", IMAGE_FORMATS), ("safety", ("reject", "off")), ("scheduler", SCHEDULER_NAMES),
            ("dtype", ("auto", "float32", "float16", "bfloat16")),
        ):  # fmt: skip
            check_choice(name, getattr(self, name), known)
        if self.scheduler == "pndm" and self.steps < 4:
            raise RecipeError("steps", f"{self.steps} is too few: the scheduler pndm needs 4 or more.")
        for name, known in (("keep", ("guide", "mask")), ("formats", ("parquet", "webdataset"))):
            values = getattr(self, name)
            if not isinstance(values, list | tuple):
                raise RecipeError(name, f"{values!r} is not a list; write it as [{', '.join(known)}].")
            if len(set(map(str, values))) < len(values):
                raise RecipeError(name, f"{listed(values)} names one twice.")
            for value in values:
                check_choice(name, value, known)
        if not self.formats:
            raise RecipeError("formats", "the list is empty; a dataset needs parquet, webdataset or both.")
        for name in ("compile", "allow_mixed_numerics"):
            if not isinstance(getattr(self, name), bool):
                raise RecipeError(name, f"{getattr(self, name)!r} is not true or false.")
        for name in ("checkpoint", "device", "negative_prompt"):
            if not isinstance(getattr(self, name), str):
                raise RecipeError(name, f"{getattr(self, name)!r} is not a text.")
        check_device(self.device)
        if not self.checkpoint.strip():
            raise RecipeError("checkpoint", "the name is empty. Give 'pocket', a diffusers directory, or a Hub id.")
        if self.revision is not None and not isinstance(self.revision, str):
            raise RecipeError("revision", f"{self.revision!r} is not a text; put it in quotes.")
