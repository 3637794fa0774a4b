"""Near-duplicate search by perceptual hash: images that look the same although their bytes differ.

The hash is `imagehash.phash` with 256 bits: signs of the 16 × 16 lowest frequencies of the brightness. Measured on
images of 64 pixels:

- Copies saved again as JPEG of quality 50, shrunk to half, blurred by a pixel or made noisy differ in at most 14 bits;
  larger images in fewer.
- Among 4.5 million pairs of the pocket's independent flat drawings, the nearest differ in 38 bits.
- Among generated images of one class on one background, the nearest differ in 56 bits.

With the usual 64 bits, copies differ in up to 8 bits and unrelated images in as few as 4. The hash does not find
crops, mirrored images, or copies of images without any edge, whose bits are noise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from figureground.core.extras import is_installed

EDGE = 16
"""Number of frequencies along each axis."""
BITS = EDGE * EDGE
WORDS = BITS // 64
NEAR = 15
"""Maximum Hamming distance of near-duplicates: one less than the number of bands, so that they share a band."""

_BAND = np.uint16
_PAIRS_AT_ONCE = 2**21
"""Number of candidate pairs compared at once; 64 MiB per side."""


def can_hash() -> bool:
    """Whether `imagehash` is installed."""
    return is_installed("imagehash")


def hash_image(image: Image.Image) -> bytes:
    """Return the image's perceptual hash, 32 bytes."""
    import imagehash

    return np.packbits(imagehash.phash(image, hash_size=EDGE).hash).tobytes()


def stack_hashes(hashes: list[bytes]) -> np.ndarray:
    """Return hashes as an array, uint64 (images, 4)."""
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(len(hashes), WORDS)


def find_nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the images of `b` that have a near-duplicate in `a`.

    Two hashes that differ in at most 15 bits agree in at least one of 16 bands of 16 bits. So only pairs that share a
    band are compared: 1 pair in 4,000 for uniformly distributed hashes.

    Args:
        a: Hashes as returned by `stack_hashes`.
        b: Hashes as returned by `stack_hashes`.

    Returns:
        Positions in `b`, ascending; the position in `a` of the nearest image for each; and their Hamming distances.
    """
    # Equal hashes are searched once: copies of one image would otherwise share every band with each other.
    a, first_a = np.unique(a, axis=0, return_index=True)
    b, group_b = np.unique(b, axis=0, return_inverse=True)
    # Distance and position share one integer, so that a minimum finds both.
    best = np.full(len(b), np.iinfo(np.int64).max)
    for i, j in _pair_by_band(a, b):
        bits = np.bitwise_count(a[i] ^ b[j]).sum(axis=1, dtype=np.int64)
        close = bits <= NEAR
        np.minimum.at(best, j[close], (bits[close] << 40) + i[close])
    best = best[group_b.reshape(-1)]
    matches = np.flatnonzero(best != np.iinfo(np.int64).max)
    return matches, first_a[best[matches] & (2**40 - 1)], best[matches] >> 40


def find_pairs(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find all pairs of near-duplicates among images. Of equal hashes, each is paired with the first one only.

    Args:
        hashes: As returned by `stack_hashes`.

    Returns:
        Positions of the first and of the second image of each pair, ascending, and their Hamming distances.
    """
    distinct, first, group = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    copies = np.setdiff1d(np.arange(len(hashes)), first)
    batches = [np.stack([first[group[copies]], copies, np.zeros(len(copies), np.int64)])]
    for i, j in _pair_by_band(distinct, distinct):
        i, j = i[i < j], j[i < j]
        bits = np.bitwise_count(distinct[i] ^ distinct[j]).sum(axis=1, dtype=np.int64)
        close = bits <= NEAR
        left, right = first[i[close]], first[j[close]]
        batches.append(np.stack([np.minimum(left, right), np.maximum(left, right), bits[close]]))
    left, right, bits = np.unique(np.concatenate(batches, axis=1), axis=1)
    return left, right, bits


def _pair_by_band(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of positions in a and b of pairs that agree in a band; a pair may occur several times."""
    for band_a, band_b in zip(a.view(_BAND).T, b.view(_BAND).T, strict=True):
        order = np.argsort(band_a, kind="stable")
        ordered = band_a[order]
        low = np.searchsorted(ordered, band_b, "left")
        counts = np.searchsorted(ordered, band_b, "right") - low
        ends = np.cumsum(counts)
        start = 0
        while start < len(b):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, "right")))
            batch = counts[start:stop]
            j = np.repeat(np.arange(start, stop), batch)
            within = np.arange(len(j)) - np.repeat(np.cumsum(batch) - batch, batch)
            yield order[low[j] + within], j
            start = stop
