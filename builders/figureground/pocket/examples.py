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
from figureground.pocket.questions import GROUPS, Texts, is_true_of, list_prompts, to_labels, to_names
from figureground.pocket.world import Layout, Place

PATCH = 8
"""Edge of the vision tower's patches in pixels; a quarter of the tokens of the segmenter's patches."""
NUM_RENEWED = 3
"""Number of drawings replaced by new ones after each step."""
PART_SHARES = (0.8, 0.9, 0.5)
"""Shares of drawings with a foreground, a background, a prop."""
FREE_LAYOUT_SHARE = 0.6
"""Share of drawings with object and prop at any position, in sizes outside the world's own layout."""
ROUND_TRIP_SHARE = 0.5
"""Share of drawings encoded and decoded by the pocket's autoencoder, to resemble generated images."""
LATENT_NOISE = 0.35
"""Largest standard deviation of the noise added to their latents, whose own is about 1."""
SOFTENED_SHARE, NOISY_SHARE, MIRRORED_SHARE = 0.5, 0.3, 0.5
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
    vocabularies = (world.FOREGROUNDS, world.BACKGROUNDS, world.PROPS)
    names = [
        str(rng.choice(vocabulary)) if rng.random() < share else None
        for vocabulary, share in zip(vocabularies, PART_SHARES, strict=True)
    ]
    layout = _lay_out(rng) if rng.random() < FREE_LAYOUT_SHARE else None
    foreground, background, prop = names
    return world.render(foreground, background, prop, rng, layout=layout), names


def _lay_out(rng: np.random.Generator) -> Layout:
    """Draw a layout with the object anywhere, up to a fifth of its width outside, and the prop beside it."""
    radius, prop_radius = float(rng.uniform(0.14, 0.32)), float(rng.uniform(0.11, 0.22))
    reach = radius * float(rng.choice((1.0, 0.6)))
    x, y = rng.uniform(reach, 1 - reach, 2).tolist()
    direction, distance = rng.uniform(0, 2 * np.pi), (radius + prop_radius) * rng.uniform(0.8, 1.5)
    prop_center = np.clip(
        (x + distance * np.cos(direction), y + distance * np.sin(direction)), prop_radius, 1 - prop_radius
    )
    return Layout(
        Place((x, y), radius),
        Place((float(prop_center[0]), float(prop_center[1])), prop_radius),
        bool(rng.random() < 0.2),
    )


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

    def renew(self, pool: Pool, rows: np.ndarray) -> None:
        """Replace the drawings at these positions."""
        for i in rows:
            scene, names = draw(self._rng)
            pool.images[i] = np.asarray(scene.image).transpose(2, 0, 1)
            pool.masks[i] = [np.asarray(m.reduce(PATCH)) for m in (scene.foreground, scene.background, scene.prop)]
            pool.labels[i] = to_labels(names)
        round_trip_rows = rows[self._rng.random(len(rows)) < ROUND_TRIP_SHARE]
        if len(round_trip_rows):
            pool.images[round_trip_rows] = self._round_trip(pool.images[round_trip_rows])

    @torch.inference_mode()
    def _round_trip(self, images: np.ndarray) -> np.ndarray:
        """Encode images, uint8 (n, 3, SIZE, SIZE), add noise to their latents, and decode them."""
        x = torch.from_numpy(images).float() / 127.5 - 1
        z = self._vae.encode(x).latent_dist.mean * self._vae.config.scaling_factor
        noise = torch.from_numpy(self._rng.standard_normal(tuple(z.shape), np.float32))
        z = z + noise * torch.from_numpy(self._rng.uniform(0, LATENT_NOISE, (len(z), 1, 1, 1))).float()
        y = self._vae.decode(z / self._vae.config.scaling_factor).sample.clamp(-1, 1)
        return ((y + 1) * 127.5).round().to(torch.uint8).numpy()


def augment(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur some pixels (n, 3, SIZE, SIZE) in 0..1, by filters or by a smaller size in between, and add noise."""

    def choose(share: float) -> Tensor:
        return torch.from_numpy(rng.random(len(x)) < share).view(-1, 1, 1, 1)

    edge = int(rng.integers(28, world.SIZE))
    small = F.interpolate(x, (edge, edge), mode="bilinear", antialias=True)
    small = F.interpolate(small, x.shape[2:], mode="bicubic").clamp(0, 1)
    soft = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    amount = torch.from_numpy(rng.random(len(x))).float().view(-1, 1, 1, 1)
    x = torch.where(choose(SOFTENED_SHARE), torch.lerp(x, torch.where(choose(0.5), small, soft), amount), x)
    gain, shift = (
        torch.from_numpy(rng.uniform(*bounds, (len(x), 1, 1, 1))).float() for bounds in ((0.9, 1.1), (-0.04, 0.04))
    )
    x = x * gain + shift
    noise = torch.from_numpy(rng.standard_normal(tuple(x.shape), np.float32)) * float(rng.uniform(0, 0.04))
    return torch.where(choose(NOISY_SHARE), x + noise, x).clamp(0, 1)


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
    matches: Tensor
    """bool (n, n): whether an image (row) shows all that a caption (column) names."""


NOUNS = sum(len(known) - 1 for known in GROUPS)
"""Number of nouns that a patch may show."""
_OFFSETS = np.cumsum([0, *(len(known) - 1 for known in GROUPS[:-1])])


def batches(seed: int, step: int, texts: Texts, size: int, batch: int) -> Iterator[Batch]:
    """Yield augmented images with texts, from a pool of `size` drawings that is continually renewed."""
    rng = world.generator("train matcher", seed + 1000 * step)
    drawer = Drawer(rng)
    pool = drawer.draw_many(size)
    phrasings = [[list_prompts(group, name) for name in known] for group, known in enumerate(GROUPS)]
    while True:
        rows = rng.choice(size, min(batch, size), replace=False)
        labels = pool.labels[rows]
        x = augment(torch.from_numpy(pool.images[rows]).float().div_(255), rng)
        mirrored = torch.from_numpy(rng.random(len(x)) < MIRRORED_SHARE).view(-1, 1, 1, 1)
        patches = torch.zeros(len(x), NOUNS + 1, world.SIZE // PATCH, world.SIZE // PATCH)
        for i, (image_labels, masks) in enumerate(zip(labels, pool.masks[rows], strict=True)):
            for group, (position, mask) in enumerate(zip(image_labels, masks, strict=True)):
                noun = NOUNS if position == len(GROUPS[group]) - 1 else int(_OFFSETS[group] + position)
                patches[i, noun] += torch.from_numpy(mask).float().div_(255)
        x, patches = (torch.where(mirrored, each.flip(3), each) for each in (x, patches))
        names_by_image = [to_names(image_labels) for image_labels in labels]
        image_captions = [captions.describe(f, b, p, rng) for f, b, p in names_by_image]
        matches = torch.tensor([[is_true_of(caption, names) for caption in image_captions] for names in names_by_image])
        candidates = [str(rng.choice(choices)) for group in phrasings for choices in group]
        yield Batch(
            x,
            torch.from_numpy(labels),
            patches,
            texts.tokenize(candidates, rng),
            texts.tokenize(image_captions, rng),
            matches,
        )
        drawer.renew(pool, rng.choice(size, min(NUM_RENEWED, size), replace=False))
