"""Joint training of the pocket text encoder and UNet on latents of drawn images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from figureground.core.progress import Progress
from figureground.pocket import captions, world
from figureground.pocket.fitting import FitSettings, fit

SETTINGS = FitSettings(
    steps=4_200, batch=48, learning_rate=8e-4, warmup=150, ema=0.998, weight_decay=0.01, save_seconds=1200
)
POOL = 40_000
"""Number of images drawn and encoded in advance; each is used several times, with different noise."""
EMPTY_SHARE = 0.1
"""Share of captions replaced by an empty one, for classifier-free guidance."""
STRAY_SHARE = 0.05
"""Share of captions with a random token inserted, so that the model learns to ignore unknown words."""
MIN_SNR_GAMMA = 5.0
NOISY_TIMES = (0.5, 3.0)
"""Sampling weights of the least and the most noisy timesteps: a prop's presence is decided at high noise levels."""
MIXTURE = captions.Mixture(
    kinds=(
        (True, True, False, 0.17),
        (True, True, True, 0.44),
        (True, False, False, 0.02),
        (True, False, True, 0.06),
        (False, True, False, 0.03),
        (False, True, True, 0.22),
        (False, False, True, 0.06),
    ),
    weights={
        "cat": 2.0, "bird": 1.5, "fish": 1.5, "umbrella": 1.3,
        "flower": 2.2, "kite": 2.0, "flag": 1.7, "ball": 1.2, "gift": 1.2,
    },
)  # fmt: skip
"""More props, and more of the classes with the worst samples after 400,000 images."""


def make_scheduler() -> DDIMScheduler:
    """Return a scheduler with Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
    )  # fmt: skip


class TextToLatent(nn.Module):
    """The two networks, trained together."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
        self.unet = UNet2DConditionModel(
            sample_size=world.SIZE // 4, in_channels=4, out_channels=4, block_out_channels=(64, 128, 184),
            layers_per_block=1, norm_num_groups=8, cross_attention_dim=128, attention_head_dim=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip

    def forward(self, noisy: torch.Tensor, time: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.unet(noisy, time, self.text_encoder(ids)[0]).sample


def load_pool(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, path: Path, seed: int, count: int, bfloat16: bool = True
) -> dict[str, torch.Tensor]:
    """Draw, caption and encode `count` images once, and cache them in `path`.

    Returns `latents`, float16 (count, 4, h, w), unscaled, and `ids`, int64 (count, 77).
    """
    if path.exists():
        return torch.load(path, weights_only=True)
    rng = world.generator("train diffusion", seed)
    device = next(vae.parameters()).device
    latents, ids = [], []
    for _ in Progress(count // 100, iterable=range(count // 100), desc="latents", unit="00 images"):
        images = [captions.sample(rng, MIXTURE) for _ in range(100)]
        pixels = np.stack([np.asarray(world.render(*p[:3], rng).image) for p in images])
        x = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            latents.append(vae.encode(x).latent_dist.mean.half().cpu())
        texts = [p.caption for p in images]
        ids.append(tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids)
    pool = {"latents": torch.cat(latents), "ids": torch.cat(ids)}
    torch.save(pool, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
    return pool


def fingerprint(vae: AutoencoderKL, tokenizer: CLIPTokenizer, seed: int, images: int) -> str:
    """Return an identifier of the pool given by an autoencoder, a vocabulary, a seed, a count and a mixture."""
    parts = [tokenizer.get_vocab(), seed, images, MIXTURE.kinds, dict(MIXTURE.weights)]
    sha256 = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for tensor in vae.state_dict().values():
        sha256.update(tensor.float().cpu().numpy().tobytes())
    return sha256.hexdigest()[:12]


def batches(
    data: dict[str, torch.Tensor], scale: float, tokenizer: CLIPTokenizer, seed: int, step: int, settings: FitSettings
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield scaled latents and token ids, with some captions emptied or perturbed."""
    generator = torch.Generator().manual_seed(seed + 7919 * step)
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    while True:
        rows = torch.randint(len(data["latents"]), (settings.batch,), generator=generator)
        ids = data["ids"][rows].clone()
        chance = torch.rand(settings.batch, generator=generator)
        for i in torch.nonzero(chance < STRAY_SHARE).flatten().tolist():
            length = int((ids[i] == tokenizer.eos_token_id).int().argmax())
            position = int(torch.randint(1, length + 1, (1,), generator=generator))
            ids[i, position + 1 :] = ids[i, position:-1].clone()
            ids[i, position] = torch.randint(len(tokenizer) - 2, (1,), generator=generator)
        ids[chance > 1 - EMPTY_SHARE] = empty
        yield data["latents"][rows].float() * scale, ids


def train(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    work: Path,
    device: str,
    seed: int,
    start: TextToLatent | None = None,
    settings: FitSettings = SETTINGS,
    images: int = POOL,
    bfloat16: bool = True,
    scale: float | None = None,
    on_save: Callable[[TextToLatent, float], None] | None = None,
) -> tuple[TextToLatent, float]:
    """Train to the end, resuming an earlier run if there is one.

    Args:
        scale: Factor that scales the autoencoder's latents to unit variance; measured by default.
        on_save: Called with the averaged weights and the scale whenever a state is saved.

    Returns:
        The averaged weights, and the scale.
    """
    torch.manual_seed(seed)
    vae.to(device)
    inputs = fingerprint(vae, tokenizer, seed, images)
    data = load_pool(vae, tokenizer, work / f"latents-{inputs}.pt", seed, images, bfloat16)
    scale = scale or round(1 / float(data["latents"][:8000].float().std()), 5)
    alphas = make_scheduler().alphas_cumprod.to(device)
    model = start or TextToLatent(tokenizer)

    def objective(network: TextToLatent, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        clean, ids = batch
        noise = torch.randn_like(clean)
        time = torch.randint(len(alphas), (len(clean),), device=clean.device)
        alpha = alphas[time].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        error = (network(noisy, time, ids).float() - noise).square().mean((1, 2, 3))
        snr = alphas[time] / (1 - alphas[time])
        # Min-SNR weighting for noise prediction (Hang et al. 2023, arXiv 2303.09556).
        weight = torch.clamp(MIN_SNR_GAMMA / snr, max=1.0) * torch.clamp(snr**-0.25, *NOISY_TIMES)
        return {"loss": (weight * error).mean(), "mse": error.mean()}

    def evaluate(network: TextToLatent) -> dict[str, float]:
        if on_save is not None:
            on_save(network, scale)
        return {}

    fitted = fit(
        "diffusion", model, objective, lambda step: batches(data, scale, tokenizer, seed, step, settings),
        settings, work, device, evaluate, inputs, bfloat16,
    )  # fmt: skip
    return fitted, scale
