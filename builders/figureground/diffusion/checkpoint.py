"""Opens Stable Diffusion checkpoints: the bundled pocket, a local directory, or a Hub id with a revision."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)

from figureground.errors import FiguregroundError, listed
from figureground.weights import fingerprint, local_directory

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-a": EulerAncestralDiscreteScheduler,
    "pndm": PNDMScheduler,
    "unipc": UniPCMultistepScheduler,
}
"""Samplers by the names that recipes use."""

FAMILIES = {
    "StableDiffusionPipeline": ("sd", StableDiffusionPipeline, StableDiffusionImg2ImgPipeline),
    "StableDiffusionImg2ImgPipeline": ("sd", StableDiffusionPipeline, StableDiffusionImg2ImgPipeline),
    "StableDiffusionXLPipeline": ("sdxl", StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline),
}
"""Pipelines, as `model_index.json` names them, that a checkpoint may be of."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint and the pipelines that share its weights."""

    family: str
    """`sd` (1.x and 2.x) or `sdxl`."""
    text_to_image: Any
    image_to_image: Any
    facts: dict[str, Any]
    """What provenance says of it; no paths."""

    @property
    def factor(self) -> int:
        """Pixels a latent pixel: an image's edge is a multiple of it."""
        return int(self.text_to_image.vae_scale_factor)

    @property
    def tokenizers(self) -> list[Any]:
        """The tokenizers that read a prompt: one, or SDXL's two."""
        both = (self.text_to_image.tokenizer, getattr(self.text_to_image, "tokenizer_2", None))
        return [tokenizer for tokenizer in both if tokenizer is not None]


def choose_device(device: str) -> torch.device:
    """Resolves `auto` to the accelerator at hand.

    Raises:
        FiguregroundError: A device that torch doesn't know or doesn't see.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise FiguregroundError(f"device: {device!r} is unknown; give auto, cpu, cuda, cuda:1 or mps.") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise FiguregroundError(
            f"device: {device!r} was asked for, and torch sees {torch.cuda.device_count()} CUDA devices."
        )
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Resolves `auto`: float16 on CUDA, float32 elsewhere."""
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return DTYPES[dtype]


def open_checkpoint(
    checkpoint: str,
    revision: str | None = None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    scheduler: str = "ddim",
    safety: str = "reject",
) -> Checkpoint:
    """Opens a checkpoint for text-to-image and image-to-image, weights shared.

    Args:
        checkpoint: `pocket`, a directory in diffusers' layout, or a Hub id.
        revision: Branch, tag or commit on the Hub.
        scheduler: A name from `SCHEDULERS`; the checkpoint's noise schedule and prediction type are kept.
        safety: `off` leaves the safety checker away, `reject` keeps it where the checkpoint has one.

    Raises:
        FiguregroundError: Absent, incomplete, pickle-only, of an unsupported kind, or out of reach.
    """
    folder = local_directory(checkpoint)
    if folder is None:
        folder = _download(checkpoint, revision)
    index = _read_index(folder, checkpoint)
    name = index.get("_class_name")
    if name not in FAMILIES:
        raise FiguregroundError(f"checkpoint {checkpoint!r} is a {name}; supported are {listed(sorted(FAMILIES))}.")
    family, text_class, image_class = FAMILIES[name]
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    variant = _variant(folder, index, checkpoint)
    if variant:
        options["variant"] = variant
    if family == "sd" and safety == "off":
        options.update(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    if family == "sdxl":
        options["add_watermarker"] = False  # else pixels depend on whether a watermarking library is installed
    try:
        pipeline = text_class.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise FiguregroundError(f"checkpoint {checkpoint!r} doesn't open: {str(error).splitlines()[0]}") from error
    if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
        raise FiguregroundError(
            f"checkpoint {checkpoint!r}: its UNet takes {pipeline.unet.config.in_channels} channels, not the "
            f"{pipeline.vae.config.latent_channels} of a latent; an inpainting checkpoint can't do image-to-image."
        )
    for part in pipeline.components.values():  # a checkpoint may hold its parts in several dtypes
        if isinstance(part, torch.nn.Module) and part.dtype != dtype:
            part.to(dtype)
    pipeline.to(device)
    pipeline.scheduler = SCHEDULERS[scheduler].from_config(pipeline.scheduler.config)
    # On a CPU in float32 a UNet of small pictures runs a quarter slower with channels last, an autoencoder faster.
    if device.type != "cpu":
        pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    from_pipe = image_class(**_accepted(pipeline))
    from_pipe.set_progress_bar_config(disable=True)
    facts = {
        "checkpoint": checkpoint if checkpoint == "pocket" or local_directory(checkpoint) is None else folder.name,
        "revision": folder.name if local_directory(checkpoint) is None else fingerprint(checkpoint, None)[:19],
        "family": family,
        "prediction_type": pipeline.scheduler.config.get("prediction_type", "epsilon"),
    }
    return Checkpoint(family, pipeline, from_pipe, facts)


def _accepted(pipeline: Any) -> dict[str, Any]:
    """The components and settings of a pipeline that its image-to-image sibling takes."""
    parts = dict(pipeline.components)
    if "requires_safety_checker" in pipeline.config:
        parts["requires_safety_checker"] = pipeline.config["requires_safety_checker"]
    if "force_zeros_for_empty_prompt" in pipeline.config:
        parts["force_zeros_for_empty_prompt"] = pipeline.config["force_zeros_for_empty_prompt"]
        parts["add_watermarker"] = False
    return parts


def _download(checkpoint: str, revision: str | None) -> Path:
    """Brings a checkpoint from the Hub, or finds it in the cache; returns its snapshot."""
    from diffusers import DiffusionPipeline
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(DiffusionPipeline.download(checkpoint, revision=revision, use_safetensors=True))
    except (OSError, ValueError) as error:
        unreached = isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError)
        if unreached or "not fully cached locally" in str(error):
            raise FiguregroundError(
                f"checkpoint {checkpoint!r} is not in this machine's cache and the Hub can't be reached. Download it "
                f"where there is a network (hf download {checkpoint}), or give a local directory."
            ) from None
        raise FiguregroundError(f"checkpoint {checkpoint!r}: {str(error).splitlines()[0]}") from error


def _read_index(folder: Path, checkpoint: str) -> dict[str, Any]:
    try:
        return json.loads((folder / "model_index.json").read_text())
    except FileNotFoundError:
        raise FiguregroundError(
            f"checkpoint {checkpoint!r} is no diffusers checkpoint: it has no model_index.json."
        ) from None
    except json.JSONDecodeError as error:
        raise FiguregroundError(
            f"checkpoint {checkpoint!r}: its model_index.json doesn't parse (line {error.lineno})."
        ) from None


def _variant(folder: Path, index: dict[str, Any], checkpoint: str) -> str | None:
    """`fp16` when the weights are there in that variant only; refuses parts without safetensors."""
    variants = set()
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if index.get(part, [None])[0] is None:
            continue
        weights = sorted((folder / part).glob("*.safetensors"))
        if not weights:
            pickles = [p.name for p in (folder / part).glob("*") if p.suffix in (".bin", ".pt", ".ckpt")]
            if pickles:
                raise FiguregroundError(
                    f"checkpoint {checkpoint!r}: {part} is there only as a pickle ({pickles[0]}), which can run code "
                    "when it is opened. Convert it where you trust it: "
                    "DiffusionPipeline.from_pretrained(…, use_safetensors=False).save_pretrained('converted')."
                )
            raise FiguregroundError(f"checkpoint {checkpoint!r} is incomplete: {part}/ holds no .safetensors file.")
        variants.add("fp16" if all(".fp16." in w.name for w in weights) else None)
    return "fp16" if variants == {"fp16"} else None
