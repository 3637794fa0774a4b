"""The number of images a shard, where a recipe gives none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

BYTES_PER_PIXEL = {"jpg": 0.7, "webp": 0.4, "png": 1.8}
"""Approximate bytes per pixel of the image formats, measured on images of diffusion models."""
SHARD_BYTES = 250_000_000
"""Intended size of a shard, bytes."""
MIN_SHARDS = 16
"""Intended number of shards of a split, so that as many workers can render it."""
STEP = 64
"""Shard sizes are multiples of this. Every batch size that is chosen automatically divides it, so that no batch is
padded."""


def bytes_per_image(size: int, image_format: str, keep: Sequence[str] = ()) -> float:
    """Return the approximate bytes of a sample.

    Args:
        size: Edge of the image, pixels.
        image_format: `jpg`, `webp` or `png`.
        keep: Further image columns; a guide is a PNG, and a mask takes next to nothing.
    """
    guide = BYTES_PER_PIXEL["png"] if "guide" in keep else 0.0
    return size**2 * (BYTES_PER_PIXEL[image_format] + guide)


def default_shard_size(totals: Mapping[str, int], image_bytes: float) -> int:
    """Return the images a shard: about `SHARD_BYTES`, but at least `MIN_SHARDS` shards a split.

    Splits with fewer than `MIN_SHARDS * STEP` images get fewer, since their shards would be smaller than a batch.

    Args:
        totals: Images by split.
        image_bytes: Bytes a sample; see `bytes_per_image`.
    """
    size = int(SHARD_BYTES // max(1.0, image_bytes))
    size = min([size, *(n // MIN_SHARDS for n in totals.values() if n >= MIN_SHARDS * STEP)])
    return max(STEP, size // STEP * STEP)
