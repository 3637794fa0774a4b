"""Effective robustness: accuracy on a set beyond what accuracy on the references predicts (Taori et al. 2020).

A line is fitted, on logit-scaled axes, through the accuracies of the classifiers (arXiv 2007.00644, section 3). How far
a classifier lies above it is its effective robustness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

MIN_CLASSIFIERS = 3
"""Least number of classifiers through which a line is fitted."""
FEW = 10
"""Number of classifiers below which the report says that the line is uncertain."""
_APART = 1e-6
"""Least spread of the classifiers' accuracies on the references, in logits, for a line."""

JsonDict = dict[str, Any]


def logit(share: float, samples: int) -> float:
    """Return log(p / (1 − p)) of a share; 0 and 1 count as half an image more or less.

    Args:
        samples: Number of images, at least 1.
    """
    least = 1 / (2 * samples)
    p = min(max(share, least), 1 - least)
    return math.log(p / (1 - p))


def expit(x: float) -> float:
    """Return 1 / (1 + exp(−x)), the share with a logit."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def measure(classifiers: Mapping[str, JsonDict]) -> JsonDict | None:
    """Return the fitted line and each classifier's effective robustness; None for fewer than two classifiers.

    Zero-shot classifiers aren't part of the fit if there are enough others: they were trained on other data, and how
    far they lie above the line of those is the question (Radford et al. 2021, section 3.3).

    Args:
        classifiers: By name, an entry of `evaluation.json`, with `facts` and `compared`.

    Returns:
        `points`, by classifier: `references` and `accuracy`, 0 to 1, and `zero_shot`. `fitted`: the names of those in
        the fit. `line`: `slope` and `intercept` of the logits, or None, and then `why`. `effective`, by classifier:
        accuracy minus the line's, −1 to 1.
    """
    points: dict[str, JsonDict] = {}
    for name, entry in classifiers.items():
        comparison = entry.get("compared", {}).get("generated", {})
        if "references" in comparison:
            points[name] = {
                "references": comparison["references"], "accuracy": comparison["accuracy"],
                "zero_shot": bool(entry["facts"].get("zero_shot")),
            }  # fmt: skip
    if len(points) < 2:
        return None
    ordinary = [name for name, point in points.items() if not point["zero_shot"]]
    fitted = ordinary if len(ordinary) >= MIN_CLASSIFIERS else list(points)
    x, y = (np.array([_logit(points[name][kind]) for name in fitted]) for kind in ("references", "accuracy"))
    reason = None
    if len(fitted) < MIN_CLASSIFIERS:
        reason = f"a line needs at least {MIN_CLASSIFIERS} classifiers, and there are {len(fitted)}"
    elif np.ptp(x) < _APART:
        reason = "the classifiers are equally accurate on the references"
    if reason is not None:
        return {"points": points, "fitted": [], "line": None, "why": reason, "effective": {}}
    slope, intercept = (float(value) for value in np.polyfit(x, y, 1))
    effective = {
        name: point["accuracy"]["value"] - expit(intercept + slope * _logit(point["references"]))
        for name, point in points.items()
    }
    line = {"slope": slope, "intercept": intercept}
    return {"points": points, "fitted": fitted, "line": line, "why": None, "effective": effective}


def _logit(interval: Mapping[str, Any]) -> float:
    return logit(interval["value"], interval["samples"])


def list_notes(results: JsonDict | None) -> list[str]:
    """Return notes on how far the line can be trusted."""
    if results is None:
        return []
    if results["line"] is None:
        return [f"Effective robustness isn't computed: {results['why']}."]
    lines = []
    if len(results["fitted"]) < FEW:
        lines.append(
            f"The line of effective robustness goes through {len(results['fitted'])} classifiers only. Each one pulls "
            "the line towards itself, so differences from it are small; Taori et al. fitted dozens."
        )
    if not results["line"]["slope"] > 0:
        lines.append("The line of effective robustness doesn't rise, so it predicts nothing useful.")
    return lines
