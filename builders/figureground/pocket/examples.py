"""Training examples of the matcher: drawings that resemble generated images, with captions and prompts.

Only drawings are used. Some pass through the pocket's autoencoder, but never through its diffusion model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from figureground.models.bundled import WEIGHTS
from figureground.models.opening import open_network
from figureground.pocket import captions, world
from figureground.pocket.questions import GROUPS, Texts, holds, label, named, prompts
from figureground.pocket.world import Layout, Place

PATCH = 8
"""Edge of the vision tower's patches in pixels; a quarter of the tokens of the segmenter's patches."""
RENEWED = 3
"""Number of drawings replaced by new ones after each step."""
SHOWN = (0.8, 0.9, 0.5)
"""Shares of drawings with a foreground, a background, a prop."""
FREE = 0.6
"""Share of drawings with object and prop at any position, in sizes outside the world's own layout."""
ROUND_TRIP = 0.5
"""Share of drawings encoded and decoded by the pocket's autoencoder, to resemble generated images."""
LATENT_NOISE = 0.35
"""Largest standard deviation of the noise added to their latents, whose own is about 1."""
SOFTENED, NOISY, MIRRORED = 0.5, 0.3, 0.5
"""Shares of blurred, noisy and mirrored images in a batch."""


class Pool(NamedTuple):
    """n drawings for training."""

    images: np.ndarray
    """uint8 (n, 3, SIZE, SIZE)."""
    masks: np.ndarray
    """uint8 (n, 3, SIZE / PATCH, SIZE / PATCH), 0 to 255: share of a patch that shows foreground, background, prop."""
    labels: np.ndarray
    """int64 (n, 3): positions in `GROUPS`."""


def draw(rng: np.random.Generator) -> tuple[world.Scene, list[str | None]]:
    """Draw a random image, and return the names of its foreground, background and prop."""
    known = (world.FOREGROUNDS, world.BACKGROUNDS, world.PROPS)
    names = [str(rng.choice(some)) if rng.random() < share else None for some, share in zip(known, SHOWN, strict=True)]
    layout = _lay_out(rng) if rng.random() < FREE else None
    foreground, background, prop = names
    return world.render(foreground, background, prop, rng, layout=layout), names


def _lay_out(rng: np.random.Generator) -> Layout:
    """Draw a layout with the object anywhere, up to a fifth of its width outside, and the prop beside it."""
    radius, small = float(rng.uniform(0.14, 0.32)), float(rng.uniform(0.11, 0.22))
    reach = radius * float(rng.choice((1.0, 0.6)))
    x, y = rng.uniform(reach, 1 - reach, 2).tolist()
    turn, gap = rng.uniform(0, 2 * np.pi), (radius + small) * rng.uniform(0.8, 1.5)
    beside = np.clip((x + gap * np.cos(turn), y + gap * np.sin(turn)), small, 1 - small)
    return Layout(Place((x, y), radius), Place((float(beside[0]), float(beside[1])), small), bool(rng.random() < 0.2))


class Drawer:
    """Draws into a pool, with some drawings passed through the autoencoder."""

    def __init__(self, rng: np.random.Generator):
        from diffusers import AutoencoderKL

        self._rng = rng
        self._vae = open_network(AutoencoderKL, WEIGHTS / "vae", "pocket", dtype=torch.float32).eval()

    def draw_many(self, count: int) -> Pool:
        """Draw `count` images."""
        edge = world.SIZE // PATCH
        pool = Pool(
            np.empty((count, 3, world.SIZE, world.SIZE), np.uint8), np.empty((count, 3, edge, edge), np.uint8),
            np.empty((count, 3), np.int64),
        )  # fmt: skip
        for start in range(0, count, 64):
            self.renew(pool, np.arange(start, min(start + 64, count)))
        return pool

    def renew(self, pool: Pool, at: np.ndarray) -> None:
        """Replace the drawings at these positions."""
        for i in at:
            scene, names = draw(self._rng)
            pool.images[i] = np.asarray(scene.image).transpose(2, 0, 1)
            pool.masks[i] = [np.asarray(m.reduce(PATCH)) for m in (scene.foreground, scene.background, scene.prop)]
            pool.labels[i] = label(names)
        passed = at[self._rng.random(len(at)) < ROUND_TRIP]
        if len(passed):
            pool.images[passed] = self._pass(pool.images[passed])

    @torch.inference_mode()
    def _pass(self, images: np.ndarray) -> np.ndarray:
        """Encode images, uint8 (n, 3, SIZE, SIZE), add noise to their latents, and decode them."""
        x = torch.from_numpy(images).float() / 127.5 - 1
        z = self._vae.encode(x).latent_dist.mean * self._vae.config.scaling_factor
        noise = torch.from_numpy(self._rng.standard_normal(tuple(z.shape), np.float32))
        z = z + noise * torch.from_numpy(self._rng.uniform(0, LATENT_NOISE, (len(z), 1, 1, 1))).float()
        y = self._vae.decode(z / self._vae.config.scaling_factor).sample.clamp(-1, 1)
        return ((y + 1) * 127.5).round().to(torch.uint8).numpy()


def augment(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur some pixels (n, 3, SIZE, SIZE) in 0..1, by filters or by a smaller size in between, and add noise."""

    def some(share: float) -> Tensor:
        return torch.from_numpy(rng.random(len(x)) < share).view(-1, 1, 1, 1)

    edge = int(rng.integers(28, world.SIZE))
    small = F.interpolate(x, (edge, edge), mode="bilinear", antialias=True)
    small = F.interpolate(small, x.shape[2:], mode="bicubic").clamp(0, 1)
    soft = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    by = torch.from_numpy(rng.random(len(x))).float().view(-1, 1, 1, 1)
    x = torch.where(some(SOFTENED), torch.lerp(x, torch.where(some(0.5), small, soft), by), x)
    gain, shift = (torch.from_numpy(rng.uniform(*of, (len(x), 1, 1, 1))).float() for of in ((0.9, 1.1), (-0.04, 0.04)))
    x = x * gain + shift
    noise = torch.from_numpy(rng.standard_normal(tuple(x.shape), np.float32)) * float(rng.uniform(0, 0.04))
    return torch.where(some(NOISY), x + noise, x).clamp(0, 1)


class Batch(NamedTuple):
    """A training batch of n images."""

    pixels: Tensor
    """float32 (n, 3, SIZE, SIZE), in 0..1."""
    labels: Tensor
    """int64 (n, 3): positions in `GROUPS`."""
    patches: Tensor
    """float32 (n, NOUNS + 1, SIZE / PATCH, SIZE / PATCH): share of a patch that shows each noun, or none."""
    candidates: Tensor
    """Tokens of one prompt for each label of all `GROUPS`, int64 (labels, length)."""
    captions: Tensor
    """Tokens of each image's caption, int64 (n, length)."""
    holds: Tensor
    """bool (n, n): whether an image (row) shows all that a caption (column) names."""


NOUNS = sum(len(known) - 1 for known in GROUPS)
"""Number of nouns that a patch may show."""
_OFFSETS = np.cumsum([0, *(len(known) - 1 for known in GROUPS[:-1])])


def batches(seed: int, step: int, texts: Texts, size: int, batch: int) -> Iterator[Batch]:
    """Yield augmented images with texts, from a pool of `size` drawings that is continually renewed."""
    rng = world.generator("train matcher", seed + 1000 * step)
    drawer = Drawer(rng)
    pool = drawer.draw_many(size)
    phrasings = [[prompts(group, name) for name in known] for group, known in enumerate(GROUPS)]
    while True:
        picked = rng.choice(size, min(batch, size), replace=False)
        labels = pool.labels[picked]
        x = augment(torch.from_numpy(pool.images[picked]).float().div_(255), rng)
        mirrored = torch.from_numpy(rng.random(len(x)) < MIRRORED).view(-1, 1, 1, 1)
        patches = torch.zeros(len(x), NOUNS + 1, world.SIZE // PATCH, world.SIZE // PATCH)
        for i, (own, masks) in enumerate(zip(labels, pool.masks[picked], strict=True)):
            for group, (at, mask) in enumerate(zip(own, masks, strict=True)):
                noun = NOUNS if at == len(GROUPS[group]) - 1 else int(_OFFSETS[group] + at)
                patches[i, noun] += torch.from_numpy(mask).float().div_(255)
        x, patches = (torch.where(mirrored, each.flip(3), each) for each in (x, patches))
        shown = [named(own) for own in labels]
        said = [captions.describe(f, b, p, rng) for f, b, p in shown]
        matches = torch.tensor([[holds(caption, names) for caption in said] for names in shown])
        asked = [str(rng.choice(several)) for group in phrasings for several in group]
        yield Batch(
            x, torch.from_numpy(labels), patches, texts.tokens(asked, rng), texts.tokens(said, rng), matches
        )  # fmt: skip
        drawer.renew(pool, rng.choice(size, min(RENEWED, size), replace=False))
