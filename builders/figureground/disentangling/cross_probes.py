"""The four cross-probes: foreground and background labels, read from foreground features and background features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from figureground.core.intervals import mean
from figureground.disentangling.probes import KINDS, Examples, fit_probe

SIDES = ("foreground", "background")


@dataclass(frozen=True, eq=False)
class Features:
    """The two parts of the features of some images, with their labels."""

    parts: dict[str, Tensor]
    """float32 (n, d) by `SIDES`."""
    labels: dict[str, Tensor]
    """int64 (n,) by `SIDES`."""
    objects: np.ndarray
    """int64 (n,)."""

    def __len__(self) -> int:
        return len(self.objects)

    def examples(self, part: str, label: str) -> Examples:
        """Return one part with one label; the part `all` is both, side by side."""
        features = torch.cat(list(self.parts.values()), 1) if part == "all" else self.parts[part]
        return Examples(features, self.labels[label], self.objects)

    def select(self, rows: np.ndarray) -> Features:
        """Return some of the images, by position."""
        positions = torch.from_numpy(rows)
        return Features(
            {name: value[positions] for name, value in self.parts.items()},
            {name: value[positions] for name, value in self.labels.items()}, self.objects[rows],
        )  # fmt: skip


def run_cross_probes(
    fitted: Features, probes: Features, test: Features, classes: dict[str, int], seed: int
) -> dict[str, Any]:
    """Train and judge the four cross-probes, each of every kind.

    Args:
        fitted: Images that trained the features, on which only `on_fitted` is measured.
        probes: Images that train the probes.
        test: Images that judge them.
        classes: Number of labels by `SIDES`.
        seed: Seed of all randomness.

    Returns:
        For each `LABEL from PART`: `chance` (1 / labels), `majority` (accuracy of the most frequent label of the
        probes' images), `images` (that train and that test), `dimensions`, `accuracy`, a mapping of each kind of probe
        to `value`, `low` and `high` (95 %, by object), and `on_fitted`: the accuracy of a linear probe that is trained
        and judged on the images that trained the features. All accuracies are 0 to 1.
    """
    results: dict[str, Any] = {}
    for label in SIDES:
        for part in SIDES:
            train, tested = probes.examples(part, label), test.examples(part, label)
            accuracy = {}
            for kind in KINDS:
                correct = fit_probe(kind, train, classes[label], seed)(tested.features) == tested.label
                interval = mean([correct.cpu().numpy()], [tested.objects])
                accuracy[kind] = {"value": interval.value, "low": interval.low, "high": interval.high}
            own = fitted.examples(part, label)
            correct_on_fitted = fit_probe("linear", own, classes[label], seed)(own.features) == own.label
            majority = train.label.mode().values
            results[f"{label} from {part}"] = {
                "chance": 1 / len(torch.cat([train.label, tested.label]).unique()),
                "majority": float((tested.label == majority).double().mean()),
                "images": {"fitted": len(own), "probes": len(train), "test": len(tested)},
                "dimensions": train.features.shape[1],
                "accuracy": accuracy,
                "on_fitted": float(correct_on_fitted.double().mean()),
            }
    return results
