"""JTT, just train twice: a first model's errors get a larger weight (Liu et al. 2021, arXiv 2107.09044)."""

from __future__ import annotations

from typing import Any

import numpy as np


def weigh_errors(errors: np.ndarray, upweight: float) -> np.ndarray:
    """Return weights, float64 (n,): λ for errors and 1 for other images.

    Args:
        errors: bool (n,): training images that the first model misclassifies.
        upweight: λ, 1 or more.
    """
    return np.where(errors, float(upweight), 1.0)


def find_minority_groups(counts: np.ndarray) -> np.ndarray:
    """Return the minority groups, bool (classes, attributes): those with fewer images than if class and attribute were
    independent.

    Args:
        counts: int (classes, attributes): training images.
    """
    counts = np.asarray(counts, np.float64)
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / max(1.0, counts.sum())
    return (counts > 0) & (counts < expected * (1 - 1e-9))


def summarise_errors(
    errors: np.ndarray, added: np.ndarray, group: np.ndarray | None, counts: np.ndarray
) -> dict[str, Any]:
    """Count errors and, if groups are known, measure how well they identify the minority groups.

    Args:
        errors: bool (n,).
        added: bool (n,): added images, which are counted separately.
        group: int64 (n,), or None.
        counts: int64 (classes, attributes): real training images.

    Returns:
        `errors` and `images` (real images), and `added_errors`. With groups also `minority`, the numbers of the
        minority groups; `precision`, the share of errors in minority groups; and `recall`, the share of minority
        images that are errors. The shares are None if the denominator is 0.
    """
    real = errors[~added]
    summary: dict[str, Any] = {
        "errors": int(real.sum()), "images": len(real), "added_errors": int(errors[added].sum()),
    }  # fmt: skip
    if group is not None:
        minority = find_minority_groups(counts).ravel()
        in_minority = minority[group[~added]]
        hits = int((real & in_minority).sum())
        summary["minority"] = np.flatnonzero(minority).tolist()
        summary["precision"] = hits / int(real.sum()) if real.any() else None
        summary["recall"] = hits / int(in_minority.sum()) if in_minority.any() else None
    return summary
