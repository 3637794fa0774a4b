"""The task with a broken correlation: heads learn each class on its own background, and meet it on others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from figureground.disentangling.cross_probes import Features
from figureground.disentangling.probes import fit_probe
from figureground.learn.accuracy import accuracy_by_group, worst_group_accuracy

PARTS = ("foreground", "background", "all")
"""Input of a head: foreground features, background features, or both."""
HEAD = "linear"
"""Kind of the heads."""


def judge_task(
    heads: Features, tests: dict[str, Features], classes: dict[str, int], seed: int
) -> dict[str, Any] | None:
    """Train heads for the foreground label on images of each class on its own background, and judge them.

    Args:
        heads: Images that train the heads.
        tests: Images that judge them, by name: `correlated` and `anti_correlated`.
        classes: Number of labels by `cross_probes.SIDES`.
        seed: Seed of all randomness.

    Returns:
        By part in `PARTS` and by test: `images`, `accuracy`, `worst_group` (class × background) and `worst_class`, 0 to
        1; and `chance`. None if there are no images of one kind, or heads would see one class only.
    """
    if not len(heads) or not all(map(len, tests.values())) or len(heads.labels["foreground"].unique()) < 2:
        return None
    num_present = len(torch.cat([part.labels["foreground"] for part in (heads, *tests.values())]).unique())
    results: dict[str, Any] = {"chance": 1 / num_present, "images": {"heads": len(heads)}, "parts": {}}
    results["images"] |= {name: len(test) for name, test in tests.items()}
    for part in PARTS:
        predict = fit_probe(HEAD, heads.examples(part, "foreground"), classes["foreground"], seed)
        results["parts"][part] = {
            name: _score_predictions(test, predict(test.examples(part, "foreground").features).cpu().numpy(), classes)
            for name, test in tests.items()
        }
    return results


def _score_predictions(test: Features, predicted: np.ndarray, classes: dict[str, int]) -> dict[str, Any]:
    y = test.labels["foreground"].cpu().numpy()
    group = y * classes["background"] + test.labels["background"].cpu().numpy()
    correct = predicted == y
    by_group = accuracy_by_group(correct, group, classes["foreground"] * classes["background"])
    by_class = accuracy_by_group(correct, y, classes["foreground"])
    return {
        "accuracy": float(correct.mean()), "worst_group": worst_group_accuracy(by_group),
        "worst_class": worst_group_accuracy(by_class),
    }  # fmt: skip
