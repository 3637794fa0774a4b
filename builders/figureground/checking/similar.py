"""Near-duplicates by perceptual hash: images that look the same though their bytes differ.

The hash is `imagehash.phash` with 256 bits: signs of the 16 × 16 lowest frequencies of the brightness. Measured on
images of 64 pixels: saved again as JPEG of quality 50, shrunk to half, blurred by a pixel or made noisy, they differ
in at most 14 bits, bigger images in fewer; of 4.5 million pairs of the pocket's flat drawings, all drawn apart, the
nearest differ in 38, and its generated images of one class on one background in 56. (With the usual 64 bits,
copies differ in up to 8 and others in as few as 4.) Not found are crops, mirrored images, and copies of images
without any edge, whose bits are noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
from PIL import Image

EDGE = 16
"""Frequencies along each axis."""
BITS = EDGE * EDGE
WORDS = BITS // 64
NEAR = 15
"""Most bits in which near-duplicates differ: one less than there are bands, so that they share a whole band."""

_BAND = np.uint16
_PAIRS_AT_ONCE = 2**21
"""Candidates that are compared together; 64 MiB each for both sides."""


def can_look() -> bool:
    """Whether the library that hashes is installed."""
    return find_spec("imagehash") is not None


def look(image: Image.Image) -> bytes:
    """The image's perceptual hash, 32 bytes."""
    import imagehash

    return np.packbits(imagehash.phash(image, hash_size=EDGE).hash).tobytes()


def looks(hashes: list[bytes]) -> np.ndarray:
    """Hashes as an array, uint64 (images, 4)."""
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(len(hashes), WORDS)


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which images of `b` have a near-duplicate in `a`.

    Two hashes that differ in 15 bits or less agree in at least one of 16 bands of 16 bits, so only those that
    share a band are compared: of evenly spread hashes 1 pair in 4,000.

    Args:
        a: Hashes as `looks` gives them.
        b: The same.

    Returns:
        Positions in `b`, ascending; for each, the position in `a` of the nearest; and the bits in which they differ.
    """
    # Equal hashes are searched once: copies of one image would otherwise share every band with each other.
    a, first_a = np.unique(a, axis=0, return_index=True)
    b, group_b = np.unique(b, axis=0, return_inverse=True)
    # Distance and position in one number, so that a minimum finds both.
    best = np.full(len(b), np.iinfo(np.int64).max)
    for i, j in _sharing_a_band(a, b):
        bits = np.bitwise_count(a[i] ^ b[j]).sum(axis=1, dtype=np.int64)
        close = bits <= NEAR
        np.minimum.at(best, j[close], (bits[close] << 40) + i[close])
    best = best[group_b.reshape(-1)]
    found = np.flatnonzero(best != np.iinfo(np.int64).max)
    return found, first_a[best[found] & (2**40 - 1)], best[found] >> 40


def _sharing_a_band(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions in a and b of pairs that agree in a band, some at a time; a pair may come several times."""
    for of_a, of_b in zip(a.view(_BAND).T, b.view(_BAND).T, strict=True):
        order = np.argsort(of_a, kind="stable")
        ordered = of_a[order]
        low = np.searchsorted(ordered, of_b, "left")
        counts = np.searchsorted(ordered, of_b, "right") - low
        ends = np.cumsum(counts)
        start = 0
        while start < len(b):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, "right")))
            some = counts[start:stop]
            j = np.repeat(np.arange(start, stop), some)
            within = np.arange(len(j)) - np.repeat(np.cumsum(some) - some, some)
            yield order[low[j] + within], j
            start = stop
