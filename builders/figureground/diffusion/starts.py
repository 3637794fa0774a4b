"""Where drawing on a guide starts: the share of noise at the steps of a schedule.

The share is noise / (signal + noise), by the factors with which a sampler mixes an image's scaled latents with noise of
variance 1. For DDPM's noise levels it is √(1 − ᾱ) / (√ᾱ + √(1 − ᾱ)), for flow matching σ.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from figureground.diffusion.checkpoint import open_scheduler
from figureground.models.family import Family
from figureground.models.family_records import Start
from figureground.models.weights import local_directory, read_family
from figureground.sources.provenance import find_cached_snapshot


def compute_noise_shares(family: Family, scheduler: Any, steps: int, size: int, factor: int) -> list[float]:
    """Return the share of noise at which each step begins, 0 to 1.

    Args:
        scheduler: The sampler; left as it is.
        steps: All denoising steps.
        size: Edge of the images in pixels.
        factor: Image pixels per latent pixel.
    """
    scheduler = copy.deepcopy(scheduler)
    family.set_timesteps(scheduler, steps, size // factor)
    ones, zeros, shares = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), []
    for i in range(steps):
        time = scheduler.timesteps[i * scheduler.order][None]
        signal = family.add_noise(scheduler, ones, zeros, time).item()
        noise = family.add_noise(scheduler, zeros, ones, time).item()
        shares.append(noise / (signal + noise))
    return shares


def find_start(
    family: Family, scheduler: Any, steps: int, size: int, factor: int, *, strength: float, noise: float | None
) -> Start:
    """Return where drawing on a guide starts, with the share of noise there.

    Args:
        scheduler, steps, size, factor: See `compute_noise_shares`.
        strength: Share of the steps; ignored if `noise` is given.
        noise: Share of noise; the step nearest to it is taken, of two the one with more noise.
    """
    shares = compute_noise_shares(family, scheduler, steps, size, factor)
    if noise is None:
        start = family.start(strength, steps)
        return start._replace(noise=shares[steps - start.steps] if start.steps else 0.0)
    first = min(range(steps), key=lambda i: abs(shares[i] - noise))
    return Start(family.strength_of(steps - first, steps), steps - first, shares[first])


def find_start_by_files(
    checkpoint: str,
    revision: str | None,
    scheduler: str,
    steps: int,
    size: int,
    noise: float,
    config: str | None = None,
) -> Start | None:
    """Return `find_start` of a checkpoint without opening its networks; None if it isn't on this machine.

    Raises:
        FiguregroundError: The checkpoint or its scheduler can't be used.
    """
    folder = local_directory(checkpoint, config) or find_cached_snapshot(checkpoint, revision)
    if folder is None:
        return None
    family = read_family(folder, checkpoint)
    sampler = open_scheduler(folder, checkpoint, scheduler)
    factor = family.pixels_a_latent(folder)
    return find_start(family, sampler, steps, size, factor, strength=1.0, noise=noise)
