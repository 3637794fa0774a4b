"""Posteriors of an autoencoder: images are encoded once, and latents sampled at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


@dataclass(frozen=True)
class Posteriors:
    """Normal distributions of unscaled latents, one per image, or two with the mirrored image."""

    mean: Tensor
    """(images, 1 or 2, channels, height, width)."""
    deviation: Tensor
    """Standard deviation, of the same shape."""
    scale: Tensor
    """Factor by which latents are scaled for a denoiser, (1 or channels, 1, 1)."""
    shift: Tensor
    """Value subtracted before scaling, of the same shape."""

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, rows: Tensor, mirrored: Tensor, noise: Tensor) -> Tensor:
        """Sample latents scaled for a denoiser, (n, channels, height, width).

        Args:
            rows: (n,) image indices.
            mirrored: (n,) bool; ignored unless mirrored images were encoded.
            noise: (n, channels, height, width), standard normal.
        """
        variant = mirrored.long() if self.mean.shape[1] == 2 else torch.zeros_like(rows)
        latents = self.mean[rows, variant] + self.deviation[rows, variant] * noise
        return (latents - self.shift) * self.scale


@torch.no_grad()
def encode(
    vae: Any, images: Sequence[Image.Image], flip: bool, between_images: Callable[[], None] = lambda: None
) -> Posteriors:
    """Encode images one by one, in the autoencoder's dtype; the posteriors are float32 on its device.

    Args:
        images: RGB, all of one size, both edges multiples of the autoencoder's factor.
        flip: Whether to encode mirrored images too.
        between_images: Called between images; it may raise, to stop.
    """
    means, deviations = [], []
    for image in images:
        between_images()
        views = torch.cat([to_pixels(view) for view in ((image, ImageOps.mirror(image)) if flip else (image,))])
        posterior = vae.encode(views.to(vae.device, vae.dtype) * 2 - 1).latent_dist
        means.append(posterior.mean.float().contiguous())
        deviations.append(posterior.std.float().contiguous())
    config = vae.config

    def read_setting(name: str, default: float) -> Tensor:
        value = config.get(name)
        return means[0].new_tensor(default if value is None else value).view(-1, 1, 1)

    scale = read_setting("scaling_factor", 1.0) / read_setting("latents_std", 1.0)
    shift = read_setting("latents_mean", 0.0) + read_setting("shift_factor", 0.0)
    return Posteriors(torch.stack(means), torch.stack(deviations), scale, shift)


def to_pixels(image: Image.Image) -> Tensor:
    """Return an image as (1, 3, height, width), float32 in 0..1."""
    return torch.from_numpy(np.array(image, np.float32) / 255).permute(2, 0, 1)[None].contiguous()
