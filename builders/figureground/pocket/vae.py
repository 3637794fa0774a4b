"""Training of the pocket autoencoder: 64x64 images to 16x16x4 latents and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from figureground.pocket import world
from figureground.pocket.fitting import FitSettings, fit

SETTINGS = FitSettings(steps=9_500, batch=16, learning_rate=1e-3, warmup=300, ema=0.998)
CROP = 32
"""Edge of the crops in pixels, in the first part of training; whole images follow."""
WHOLE_FROM = 0.75
"""Share of training after which whole images are used, so that the norms adapt to the final input size."""
POOL = 12_000
KL_WEIGHT = 1e-6


def build() -> AutoencoderKL:
    """Return an untrained autoencoder: factor 4, four latent channels, no attention in the middle."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=world.SIZE,
        mid_block_add_attention=False,
    )
    with torch.no_grad():  # start with little latent noise, otherwise the decoder learns to ignore the latent
        vae.quant_conv.bias[vae.config.latent_channels :] = -7.0
    return vae


def draw(rng: np.random.Generator) -> np.ndarray:
    """Draw a random image of the world, uint8 (3, size, size)."""
    foreground = str(rng.choice(world.FOREGROUNDS)) if rng.random() < 0.85 else None
    background = str(rng.choice(world.BACKGROUNDS)) if rng.random() < 0.88 else None
    prop = str(rng.choice(world.PROPS)) if rng.random() < 0.65 else None
    image = world.render(foreground, background, prop, rng).image
    return np.asarray(image).transpose(2, 0, 1)


def batches(seed: int, step: int, settings: FitSettings) -> Iterator[torch.Tensor]:
    """Yield images or crops in -1..1 from a continually renewed pool."""
    rng = world.generator("train autoencoder", seed + 1000 * step)
    pool = np.stack([draw(rng) for _ in range(POOL)])
    while True:
        use_whole = step >= WHOLE_FROM * settings.steps
        count, edge = (settings.batch // 4, world.SIZE) if use_whole else (settings.batch, CROP)
        rows = rng.choice(POOL, count, replace=False)
        x = np.empty((count, 3, edge, edge), np.uint8)
        for i, j in enumerate(rows):
            top, left = 4 * rng.integers(0, (world.SIZE - edge) // 4 + 1, 2)
            x[i] = pool[j, :, top : top + edge, left : left + edge]
        for j in rows[:2]:
            pool[j] = draw(rng)
        step += 1
        yield torch.from_numpy(x).float().div_(127.5).sub_(1)


def compute_losses(vae: AutoencoderKL, x: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compute the losses: L1 of pixels and of their gradients, squared error, and a small KL term on the latent."""
    posterior = vae.encode(x).latent_dist
    z = posterior.mean + posterior.std * noise
    y = vae.decode(z).sample.float()
    pixels = F.l1_loss(y, x)
    edges = sum(F.l1_loss(torch.diff(y, dim=d), torch.diff(x, dim=d)) for d in (2, 3))
    squares = F.mse_loss(y, x)
    kl = posterior.kl().mean()
    total = pixels + 0.5 * edges + 2 * squares + KL_WEIGHT * kl
    return {"loss": total, "mse": squares, "kl": kl}


def measure_psnr(vae: AutoencoderKL, images: np.ndarray) -> float:
    """Return the mean PSNR in dB of images, uint8 (n, 3, h, w), after a round trip through the posterior's mean."""
    device = next(vae.parameters()).device
    values = []
    for start in range(0, len(images), 64):
        x = torch.from_numpy(images[start : start + 64]).to(device).float() / 127.5 - 1
        with torch.inference_mode():
            y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        values.append(10 * torch.log10(4 / (y - x).square().mean((1, 2, 3))))
    return float(torch.cat(values).mean())


def train(
    work: Path, device: str, seed: int, start: AutoencoderKL | None = None, settings: FitSettings = SETTINGS
) -> AutoencoderKL:
    """Train to the end, resuming an earlier run if there is one, and return the averaged weights."""
    torch.manual_seed(seed)
    model = start or build()
    held_out = np.stack([draw(world.generator("watch autoencoder", i)) for i in range(256)])

    def objective(network: AutoencoderKL, x: torch.Tensor) -> dict[str, torch.Tensor]:
        latent = (x.shape[0], 4, x.shape[2] // 4, x.shape[3] // 4)
        return compute_losses(network, x, torch.randn(latent, device=x.device))

    def evaluate(network: AutoencoderKL) -> dict[str, float]:
        return {"psnr": measure_psnr(network, held_out)}

    return fit("vae", model, objective, lambda step: batches(seed, step, settings), settings, work, device, evaluate)
