"""Distances between generated images and photographs in the space of a feature network."""

from __future__ import annotations

import numpy as np

NEIGHBOURS = 5
"""Number of nearest neighbours of `clipped_density` and `clipped_coverage`."""


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Return the Fréchet distance of two normal distributions fitted to features (Heusel et al. 2017, 1706.08500).

    d² = |μₓ − μᵧ|² + tr(Σₓ + Σᵧ − 2 (Σₓ^½ Σᵧ Σₓ^½)^½); this returns d², as usual. It is biased upwards, the more so the
    fewer the images: compare only values of equal numbers of images.

    Args:
        x, y: Features, float (n, d) and (m, d), n and m at least 2.
    """
    mean = x.mean(axis=0) - y.mean(axis=0)
    cx, cy = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (x, y))
    values, vectors = np.linalg.eigh(cx)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ cy @ root)
    return float(max(0.0, mean @ mean + np.trace(cx) + np.trace(cy) - 2 * np.sqrt(np.maximum(cross, 0)).sum()))


def pairwise_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Euclidean distances, float64 (n, m)."""
    squared = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1) - 2 * x @ y.T
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def clipped_density(real: np.ndarray, generated: np.ndarray) -> float:
    """Return clipped density, a measure of fidelity from 0 to 1 (Salvy et al. 2025, arXiv 2507.01761).

    Around each photograph lies a ball that reaches to its k-th nearest photograph, but no further than the median of
    all such radii, so that outliers have no large balls. A generated image counts as min(1, b / k), with b the number
    of balls that it lies in. The mean is divided by that of the photographs themselves, each without its own ball, so
    that it is the equivalent share of images that are as good as photographs.

    Args:
        real, generated: Features, float (n, d) and (m, d); n more than k = `NEIGHBOURS`.
    """
    spacing, k = pairwise_distances(real, real), NEIGHBOURS
    np.fill_diagonal(spacing, np.inf)
    radii = np.partition(spacing, k - 1, axis=1)[:, k - 1]
    radii = np.minimum(radii, np.median(radii))
    real_score = np.minimum((spacing <= radii[:, None]).sum(axis=0) / k, 1).mean()
    generated_score = np.minimum((pairwise_distances(real, generated) <= radii[:, None]).sum(axis=0) / k, 1).mean()
    return float(min(1.0, generated_score / real_score)) if real_score > 0 else 0.0


def clipped_coverage(real: np.ndarray, generated: np.ndarray) -> float:
    """Return clipped coverage, a measure of diversity from 0 to 1 (Salvy et al. 2025, arXiv 2507.01761).

    A photograph counts as min(1, g / k), with g the number of generated images nearer than its k-th nearest photograph.
    The mean c is translated into the share of good images that would give it: if s of m generated images come from the
    distribution of the n photographs, and the others lie far away, then g has a beta-binomial distribution of s draws
    with parameters k and n − k, whatever the distribution is. The result is s / m for which E[min(1, g / k)] = c.

    Args:
        real, generated: Features, float (n, d) and (m, d); n more than k = `NEIGHBOURS`.
    """
    spacing, k = pairwise_distances(real, real), NEIGHBOURS
    np.fill_diagonal(spacing, np.inf)
    radii = np.partition(spacing, k - 1, axis=1)[:, k - 1]
    count = (pairwise_distances(real, generated) < radii[:, None]).sum(axis=1)
    expected = expected_coverage(len(real), len(generated), k)
    return float(np.interp(np.minimum(count / k, 1).mean(), expected, np.arange(len(expected)) / len(generated)))


def expected_coverage(n: int, m: int, k: int) -> np.ndarray:
    """Return E[min(1, g / k)] for s = 0 to m good images among n photographs; float64 (m + 1,), ascending.

    E[min(g, k)] = k − Σ (k − j) P(g = j) over j < k, with P(g = j) = C(s, j) B(j + k, s − j + n − k) / B(k, n − k).
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + m + 1)))])
    s = np.arange(m + 1)
    expected = np.ones(m + 1)
    for j in range(min(k, m + 1)):
        draws = s[j:]
        log_p = (
            log_factorial[draws] - log_factorial[j] - log_factorial[draws - j]
            + log_factorial[j + k - 1] + log_factorial[draws - j + n - k - 1] - log_factorial[draws + n - 1]
            - log_factorial[k - 1] - log_factorial[n - k - 1] + log_factorial[n - 1]
        )  # fmt: skip
        expected[j:] -= (1 - j / k) * np.exp(log_p)
    return np.maximum.accumulate(np.clip(expected, 0, 1))
