"""Renders Specs to Samples in batches with diffusers' pipelines, with one random generator per image."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from figureground.core.accelerator import is_out_of_memory, release_memory
from figureground.core.errors import FiguregroundError, OutOfMemory, RecipeError
from figureground.core.seeding import make_generator
from figureground.core.shares import steps_between
from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.composite import composite, widen_to_latents
from figureground.diffusion.interval import skip_guidance
from figureground.diffusion.starts import find_start
from figureground.models.family_records import Route, Start
from figureground.recipe.sample import Guide, Reject, Sample, Spec
from figureground.shards.empty_splits import NothingLeft, advise, describe_rejects

LoadGuide = Callable[[Spec], tuple[Image.Image, Image.Image | None]]
"""Returns a Spec's guide (RGB, size × size) and its foreground's mask (L), or None without one.

For inpainting: the source image and the mask, size × size, with 255 in the region to repaint.
"""
MARGIN = 1
"""Width in latent pixels of the border around a mask that is repainted with it."""
FEATHER = 0.5
"""Width in latent pixels of the border in which the repainted region fades into the source."""

FLAT_RANGE = 2
"""An image is flat if every channel spans at most this many of 255 levels."""
MAX_EMBEDDINGS = 512
MAX_NON_FINITE = 8
"""Rendering stops if this many first images are all non-finite, because later ones would be too."""
MAX_REJECTED = 32
"""Rendering stops if this many first images of a set are all rejected, because later ones most likely would be too."""


@dataclass(frozen=True)
class Sampling:
    """Sampling settings."""

    size: int
    num_inference_steps: int
    strength: float
    guidance_scale: float
    negative_prompt: str = ""
    eta: float = 0.0
    batch_size: int = 1
    compile: bool = False
    noise: float | None = None
    """Share of noise at which drawing on a guide starts, instead of `strength`; see `starts`."""
    guidance_interval: tuple[float, float] | None = None
    """Shares of the steps between which guidance is applied; None for all. See `interval`."""
    outside: Literal["source", "decoded"] = "source"
    """Pixels of an inpainted image outside the repainted region: the source, bit for bit, or the autoencoder's
    reconstruction, which is slightly blurred but seamless."""
    true_cfg_scale: float | None = None
    """Scale of classifier-free guidance for families whose `guidance_scale` is an input of the denoiser."""
    edit: bool = False
    """Whether a guide is the reference of an instruction, the prompt, and drawing starts from noise alone."""


class Renderer:
    """Renders Specs with one opened checkpoint.

    A Spec with a guide uses image-to-image at `strength` or `noise`, or is edited if `Sampling.edit` is set; one
    without uses text-to-image. With a guide of kind `inpaint`, the masked region, widened to whole latent pixels and by
    `MARGIN` more, is repainted, from pure noise at strength 1.
    Incomplete batches are padded, so that every image is computed in a batch of the same size.

    Args:
        load_guide: Returns a Spec's guide.
        between_steps: Called between denoiser steps; it may raise, to stop.
        any_kept: Whether images of the same set were kept before; a run of rejects then doesn't stop rendering.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        sampling: Sampling,
        load_guide: LoadGuide,
        between_steps: Callable[[], None] = lambda: None,
        any_kept: bool = False,
    ):
        self._checkpoint = checkpoint
        self._sampling = sampling
        self._load_guide = load_guide
        self._embeddings: OrderedDict[str, dict[str, torch.Tensor]] = OrderedDict()
        self._negative: dict[str, torch.Tensor] = {}
        self._between_steps = between_steps
        self._num_non_finite: int | None = 0  # non-finite images so far, until the first finite one
        self._reject_counts: Counter[str] = Counter()  # by reason, until an image is kept
        self.any_kept = any_kept
        self._what = f"checkpoint {checkpoint.facts['checkpoint']!r}"
        checkpoint.family.check_sampling(
            self._what, sampling.eta, sampling.negative_prompt, sampling.true_cfg_scale, sampling.guidance_interval,
            sampling.guidance_scale,
        )  # fmt: skip
        steps = sampling.num_inference_steps
        try:
            scheduler = copy.deepcopy(checkpoint.text_to_image.scheduler)
            checkpoint.family.set_timesteps(scheduler, steps, sampling.size // checkpoint.factor)
        except ValueError as error:  # some samplers take a limited number of steps
            raise RecipeError("num_inference_steps", f"{steps} isn't possible: {error}") from error
        if sampling.eta and "eta" not in inspect.signature(scheduler.step).parameters:
            raise RecipeError("eta", f"{self._what}: its sampler, {type(scheduler).__name__}, takes no eta. Give 0.")
        if sampling.noise is None:
            self._start = checkpoint.family.start(sampling.strength, steps)
        else:
            self._start = find_checkpoint_start(checkpoint, sampling)
        self._guided_steps = steps_between(steps, sampling.guidance_interval)
        self._num_repeated = len(scheduler.timesteps) - steps  # 1 for pndm, whose first step takes two
        self._step = 0  # that is drawn, of all steps
        if checkpoint.denoiser.config.get("time_cond_proj_dim"):
            guided = f"{self._what}: its guidance is an input of the denoiser, as in LCM, so"
            if sampling.guidance_interval is not None:
                raise RecipeError(
                    "guidance_interval", f"{guided} it costs nothing in any step. Leave guidance_interval out."
                )
            if sampling.negative_prompt:
                raise RecipeError("negative_prompt", f"{guided} a negative prompt has no effect. Leave it out.")
        if sampling.compile and not hasattr(checkpoint.denoiser, "_orig_mod"):
            checkpoint.replace_denoiser(torch.compile(checkpoint.denoiser, dynamic=False))

    def render(self, specs: Sequence[Spec]) -> Iterator[Sample | Reject]:
        """Render Specs in order. The next batch's guides are prepared while the device works.

        Raises:
            OutOfMemory: A batch doesn't fit into memory.
            FiguregroundError: The first images are all non-finite or rejected, a guide can't be drawn, a mask is empty,
                or an inpainting checkpoint is given a Spec of another kind.
        """
        batches = list(split_batches(specs, self._sampling.batch_size))
        with ThreadPoolExecutor(2, "guides") as pool:
            pending = [pool.submit(self._prepare_guide, spec) for spec in batches[0]] if batches else []
            for i, batch in enumerate(batches):
                guides = [guide.result() for guide in pending]
                pending = (
                    [pool.submit(self._prepare_guide, spec) for spec in batches[i + 1]] if i + 1 < len(batches) else []
                )
                yield from self._render_batch(batch, guides)

    def _prepare_guide(self, spec: Spec) -> tuple[Image.Image | None, Image.Image | None]:
        if spec.guide is None:
            return None, None
        guide, mask = self._load_guide(spec)
        if self._route(spec) != "inpaint":
            return guide, mask
        region = np.asarray(mask) >= 128 if mask is not None else np.zeros(1, bool)
        if not region.any():
            raise FiguregroundError(
                f"{spec.key}: its mask covers nothing, so there is nothing to repaint. Leave the image out."
            )
        region = widen_to_latents(region, self._checkpoint.factor * self._checkpoint.family.MASK_CELL, MARGIN)
        return guide, Image.fromarray(region.astype(np.uint8) * 255)

    def _render_batch(
        self, specs: Sequence[Spec], guides: Sequence[tuple[Image.Image | None, Image.Image | None]]
    ) -> Iterator[Sample | Reject]:
        images, flagged = self._draw(specs, guides)
        for spec, (guide, mask), pixels, flag in zip(specs, guides, images, flagged, strict=True):
            reason = find_reject_reason(pixels, flag)
            self.count(reason)
            if reason:
                yield Reject(spec, reason)
                continue
            if self._route(spec) == "inpaint" and self._sampling.outside == "source":
                source, feather = np.asarray(guide, np.float32) / 255, FEATHER * self._checkpoint.factor
                pixels = composite(source, pixels, np.asarray(mask) > 0, feather)
            yield Sample(spec, Image.fromarray(to_uint8(pixels)), guide, mask)

    def count(self, reason: str | None) -> None:
        """Count a result, in order, also one that an earlier process rendered.

        Args:
            reason: Why the image was rejected; None if it was kept.

        Raises:
            NothingLeft: The first `MAX_REJECTED` images were all rejected.
            FiguregroundError: The first `MAX_NON_FINITE` images were all non-finite.
        """
        if reason is None:
            self.any_kept = True
        elif not self.any_kept:
            self._reject_counts[reason] += 1
            if self._reject_counts.total() >= MAX_REJECTED:
                raise NothingLeft(
                    f"The first {MAX_REJECTED} images were all rejected ({describe_rejects(self._reject_counts)}), so "
                    f"the rest most likely would be too. {advise(self._reject_counts)}"
                )
        if reason != "non-finite":
            self._num_non_finite = None
        elif self._num_non_finite is not None:
            self._num_non_finite += 1
            if self._num_non_finite >= MAX_NON_FINITE:
                dtype = str(self._checkpoint.denoiser.dtype).removeprefix("torch.")
                raise FiguregroundError(
                    f"The first {MAX_NON_FINITE} images, computed in {dtype}, all hold NaN or infinity. "
                    + ("Its numbers overflow easily: try --set dtype=float32." if dtype == "float16" else
                       "The checkpoint seems to be damaged.")
                )  # fmt: skip

    @torch.inference_mode()
    def _draw(
        self, specs: Sequence[Spec], guides: Sequence[tuple[Image.Image | None, Image.Image | None]]
    ) -> tuple[np.ndarray, list[bool]]:
        """Draw images, float (n, height, width, 3) in 0..1; also return whether the safety checker flagged each."""
        sampling, n, route, family = self._sampling, len(specs), self._route(specs[0]), self._checkpoint.family
        if self._checkpoint.needs_mask and route != "inpaint":
            raise FiguregroundError(
                f"{specs[0].key}: the checkpoint was made for inpainting and draws nothing without an image and a "
                "mask. Give an ordinary checkpoint."
            )
        family.check_route(route, self._what)
        padding = sampling.batch_size - n
        padded = [*specs, *[specs[-1]] * padding]
        settings: dict[str, Any] = {
            **family.guidance_options(sampling.guidance_scale, sampling.eta),
            "num_inference_steps": sampling.num_inference_steps,
            # On the CPU, so that noise doesn't depend on the device.
            "generator": [make_generator(spec.seed) for spec in padded],
            "callback_on_step_end": self._after_step,
        }
        if sampling.true_cfg_scale is not None:
            settings["true_cfg_scale"] = sampling.true_cfg_scale
        prompts = [spec.prompt for spec in padded]
        try:
            if route == "edit":
                references = _pad_references(guides, padding)
                settings.update(
                    self._embed_with(prompts, references) if family.SEES_REFERENCE else self._embed(prompts)
                )
                settings.update(family.reference_options(references, sampling.size))
                pipeline = self._checkpoint.edit
            elif route == "text":
                settings.update(self._embed(prompts))
                settings.update(height=sampling.size, width=sampling.size)
                pipeline = self._checkpoint.text_to_image
            else:
                settings.update(self._embed(prompts))
                settings.update(image=_stack([guide for guide, _ in guides], padding), strength=self._start.strength)
                if route == "image":
                    settings.update(family.image_size(sampling.size))
                    pipeline = self._checkpoint.image_to_image
                else:
                    assert self._checkpoint.inpaint is not None, "the checkpoint was opened without inpaint=True"
                    settings.update(family.inpaint_options(sampling.size))
                    settings.update(mask_image=_stack([mask for _, mask in guides], padding))
                    pipeline = self._checkpoint.inpaint
            self._step = 0 if route in ("text", "edit") else sampling.num_inference_steps - self._start.steps
            with self._limit_guidance(len(padded)):
                out = family.draw(pipeline, **settings)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = f"a batch of {sampling.batch_size} images" if sampling.batch_size > 1 else "one image"
            raise OutOfMemory(f"{self._checkpoint.device}: not enough memory for {size}.") from error
        flags = getattr(out, "nsfw_content_detected", None) or [False] * len(padded)
        return out.images[:n], list(flags)[:n]

    def _after_step(self, pipeline: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self._between_steps()
        self._step += 1
        return {}

    def _limit_guidance(self, images: int) -> AbstractContextManager[None]:
        """Return a context in which the steps outside of the interval are drawn without guidance."""
        sampling = self._sampling
        if sampling.guidance_interval is None or sampling.guidance_scale <= 1:
            return nullcontext()
        return skip_guidance(
            self._checkpoint.denoiser, images, lambda: max(0, self._step - self._num_repeated) in self._guided_steps
        )

    def _embed(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Return the prompt embeddings of a batch; encoded prompts are cached."""
        for prompt in dict.fromkeys(prompts):
            if prompt in self._embeddings:
                self._embeddings.move_to_end(prompt)
            else:
                self._embeddings[prompt] = self._encode(prompt)
        rows = [self._embeddings[prompt] for prompt in prompts]
        while len(self._embeddings) > MAX_EMBEDDINGS:
            self._embeddings.popitem(last=False)
        collate = self._checkpoint.family.collate
        return {**collate(rows), **(collate([self._negative] * len(rows)) if self._negative else {})}

    def _embed_with(self, prompts: Sequence[str], references: Sequence[Image.Image]) -> dict[str, Any]:
        """Return the embeddings of a batch for a text encoder that sees references too."""
        sampling, family = self._sampling, self._checkpoint.family
        pipeline, scale = self._checkpoint.text_to_image, self._free_scale
        rows = [
            family.encode_instruction(pipeline, prompt, sampling.negative_prompt, scale, reference)
            for prompt, reference in zip(prompts, references, strict=True)
        ]
        return family.collate(rows)

    @property
    def _free_scale(self) -> float:
        return self._checkpoint.family.free_scale(self._sampling.guidance_scale, self._sampling.true_cfg_scale)

    def _route(self, spec: Spec) -> Route:
        route = find_route(spec)
        return "edit" if route == "image" and self._sampling.edit else route

    def _encode(self, prompt: str) -> dict[str, torch.Tensor]:
        """Encode a prompt. The negative prompt's embeddings, the same for all, are computed once and kept apart."""
        sampling = self._sampling
        embeddings = self._checkpoint.family.encode_prompt(
            self._checkpoint.text_to_image, prompt, sampling.negative_prompt, self._free_scale, self._negative
        )
        self._negative = {n: t for n, t in embeddings.items() if n.startswith("negative")}
        return {n: t for n, t in embeddings.items() if not n.startswith("negative")}


def find_checkpoint_start(checkpoint: Checkpoint, sampling: Sampling) -> Start:
    """Return where drawing on a guide starts, with the share of noise there."""
    scheduler, steps = checkpoint.text_to_image.scheduler, sampling.num_inference_steps
    return find_start(
        checkpoint.family, scheduler, steps, sampling.size, checkpoint.factor,
        strength=sampling.strength, noise=sampling.noise,
    )  # fmt: skip


def refuse_guide(spec: Spec) -> tuple[Image.Image, None]:
    """Raise, because images drawn from text alone have no guide."""
    raise AssertionError(f"{spec.key} has no guide")


def move_to_cpu(checkpoint: Checkpoint) -> None:
    """Move a checkpoint's networks to the CPU, to leave the device's memory to a training."""
    for part in () if checkpoint.offloads_to else checkpoint.text_to_image.components.values():
        if hasattr(part, "parameters"):
            part.to("cpu")
    release_memory()


def find_route(spec: Spec) -> Route:
    """Return how a Spec's image is drawn, unless `Sampling.edit` turns image-to-image into editing."""
    if spec.guide is None:
        return "text"
    return "inpaint" if spec.guide.kind == "inpaint" else "image"


def split_batches(specs: Sequence[Spec], size: int) -> Iterator[list[Spec]]:
    """Yield batches of at most `size` consecutive Specs with the same route."""
    for _, group in itertools.groupby(specs, key=find_route):
        run = list(group)
        for start in range(0, len(run), size):
            yield run[start : start + size]


def _pad_references(guides: Sequence[tuple[Image.Image | None, Image.Image | None]], padding: int) -> list[Image.Image]:
    """Return the guides, the last one `padding` times more."""
    images = [guide for guide, _ in guides if guide is not None]
    return [*images, *images[-1:] * padding]


def _stack(images: Sequence[Image.Image | None], padding: int) -> torch.Tensor:
    """Return images (RGB or L), the last `padding` times more, float32 (n + padding, channels, height, width), 0..1."""
    pixels = np.stack([np.atleast_3d(np.asarray(image, np.float32)) / 255 for image in images])
    stacked = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return torch.cat([stacked, stacked[-1:].expand(padding, -1, -1, -1)]) if padding else stacked


def find_reject_reason(pixels: np.ndarray, flagged: bool = False) -> str | None:
    """Return the reason for rejecting an image (float, (height, width, 3), 0..1), or None."""
    if not np.isfinite(pixels).all():
        return "non-finite"
    if flagged:
        return "safety-flagged"
    if (np.ptp(pixels, axis=(0, 1)) <= FLAT_RANGE / 255).all():
        return "flat"
    return None


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


CPU_BATCH, SMALL_DENOISER = 16, 50_000_000
LARGEST_BATCH = 64
MEMORY_SHARE = 0.8


def find_batch_size(checkpoint: Checkpoint, sampling: Sampling, sharing: int = 1, largest: int | None = None) -> int:
    """Return a batch size for the device; deterministic for a device, a checkpoint and `largest`.

    On a CPU it is 16 for small denoisers and 1 for others, which gain nothing from batches there. On CUDA it is the
    largest power of two, at most 64, whose memory use, extrapolated from batches of 1 and 2, fits.

    Args:
        sharing: Number of processes that share the device's memory.
        largest: Images of the largest shard: batches aren't larger, as they would only be padded; None for no limit.

    Raises:
        FiguregroundError: Not even one image fits.
    """
    limit = LARGEST_BATCH if largest is None else largest
    if checkpoint.device.type != "cuda":
        small = sum(p.numel() for p in checkpoint.denoiser.parameters()) <= SMALL_DENOISER
        return min(CPU_BATCH, limit) if small else 1
    if limit == 1:
        return 1
    device = checkpoint.device
    guide = Guide("inpaint", "probe") if checkpoint.inpaint else None
    guide = Guide("photograph", "probe") if sampling.edit else guide
    spec = Spec("probe", "probe", 0, 0, "", "", "a photo", 0, guide)
    size = (sampling.size, sampling.size)
    peaks = []
    for batch in (1, 2):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        probe = Renderer(
            # Few steps may leave none in the interval, and steps without guidance need less memory.
            checkpoint, replace(sampling, batch_size=batch, num_inference_steps=2, strength=1.0, noise=None,
                                guidance_interval=None, compile=False),
            lambda spec: (Image.new("RGB", size), Image.new("L", size, 255)),
        )  # fmt: skip
        try:
            list(probe.render([spec] * batch))
        except FiguregroundError:
            if batch == 1:
                raise
            return 1
        peaks.append(torch.cuda.max_memory_allocated(device))
    per_image = max(1, peaks[1] - peaks[0])
    free, _ = torch.cuda.mem_get_info(device)
    available = MEMORY_SHARE * (free + torch.cuda.memory_reserved(device)) / sharing - (peaks[0] - per_image)
    fitting = max(1, min(LARGEST_BATCH, int(available // per_image)))
    return min(limit, 1 << (fitting.bit_length() - 1))
