"""Labels that a region gives away although it shows the other label: the surroundings the object's class, the object
its background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from figureground.auditing.appearance import find_most_different
from figureground.auditing.findings import LEVEL, MAX_KEYS, Finding, Section
from figureground.auditing.probe import Probe, TooFew, probe

APPEARANCE, NETWORK = "appearance", "network"
"""Names of the two kinds of features: six numbers, and a feature network's features."""
SURROUNDINGS, OBJECT = "surroundings", "object"


@dataclass(frozen=True)
class Region:
    """Features of one region of the images, and the label that it shouldn't give away."""

    name: str
    """`surroundings` or `object`."""
    rows: np.ndarray
    """int64 (n,): rows of the images with usable features."""
    features: Mapping[str, np.ndarray]
    """`appearance` and, if there is one, `network`: float (n, d), finite."""
    label: np.ndarray
    """int64 (n,): the label that the region shouldn't show."""
    other: np.ndarray
    """int64 (n,): the label that it does show."""
    labels: Sequence[str]
    """Names of `label`."""
    objects: np.ndarray
    """int64 (n,)."""
    keys: Sequence[str]
    """Keys of the images, by row."""


def find_leaks(region: Region) -> Section:
    """Probe a region for the label that it shouldn't show.

    A class that differs makes all others predictable too, as "not that class". So the class with the strongest evidence
    is taken out, and the others are probed again without it, until nothing is found.

    Returns:
        The report; a finding for each class that stands out; and the largest p-value of each kind's probes.
    """
    report: dict[str, Any] = {}
    tests: list[float] = []
    evidence: dict[int, dict[str, tuple[float, float, list[int], list[int]]]] = {}
    for kind, x in region.features.items():
        remaining, p = np.arange(len(region.rows)), None
        while True:
            try:
                result = probe(
                    x[remaining], region.label[remaining], region.objects[remaining], nuisance=region.other[remaining]
                )
            except TooFew as reason:
                if kind not in report:
                    report[kind] = {"reason": f"Not measured: {reason}."}
                break
            # A class counts only if all classes before it do.
            p = result.p if p is None else max(p, result.p)
            report.setdefault(kind, probe_to_dict(result, region.labels))
            if result.p > LEVEL:
                break
            best = min(range(len(result.classes)), key=lambda k: (result.class_p[k], -result.auc[k]))
            k = int(result.classes[best])
            rows = remaining[result.rows]
            order = rows[np.argsort(-result.scores[:, best], kind="stable")]
            own = [int(row) for row in order if region.label[row] == k]
            others = [int(row) for row in order[::-1] if region.label[row] != k]
            evidence.setdefault(k, {})[kind] = p, float(result.auc[best]), own, others
            remaining = remaining[region.label[remaining] != k]
        tests += [] if p is None else [p]
    report["differences"] = find_differences(region.features[APPEARANCE], region.label, region.other, region.labels)
    return Section(report, [_make_finding(region, k, by_kind) for k, by_kind in evidence.items()], tests)


def probe_to_dict(result: Probe, labels: Sequence[str]) -> dict[str, Any]:
    """Return a probe as JSON."""
    return {
        "images": len(result.rows),
        "balanced_accuracy": result.accuracy._asdict(),
        "chance": result.chance,
        "p": result.p,
        "classes": {
            labels[k]: {"auc": float(auc), "p": float(p)}
            for k, auc, p in zip(result.classes.tolist(), result.auc, result.class_p, strict=True)
        },
        "left_out": [labels[k] for k in result.left_out],
    }


def find_differences(
    numbers: np.ndarray, label: np.ndarray, other: np.ndarray, labels: Sequence[str]
) -> dict[str, Any]:
    """Return for each label the number in which it differs most from the others, as JSON.

    Args:
        numbers: Appearance, float (n, 6), finite.
        label: int (n,).
        other: int (n,): another label, whose means are subtracted.
        labels: Names of `label`.
    """
    present = np.unique(label)
    if len(present) < 2:
        return {}
    differences = {labels[k]: find_most_different(numbers, label == k, other) for k in present.tolist()}
    return {name: {"number": number, "is": word, "by": by} for name, (number, word, by) in differences.items()}


def _make_finding(region: Region, k: int, by_kind: dict[str, tuple[float, float, list[int], list[int]]]) -> Finding:
    p = min(p for p, *_ in by_kind.values())
    strongest = max(by_kind, key=lambda kind: by_kind[kind][1])
    _, auc, own, others = by_kind[strongest]
    sources = {APPEARANCE: "from six numbers of brightness, colour and sharpness", NETWORK: "from network features"}
    aucs = " and ".join(f"{by_kind[kind][1]:.2f} {sources[kind]}" for kind in by_kind)
    _, word, difference = find_most_different(region.features[APPEARANCE], region.label == k, region.other)
    name = region.labels[k]
    if region.name == SURROUNDINGS:
        text = f"The surroundings of {name} give the object away: without seeing it, a linear probe tells {name} from"
    else:
        text = f"Objects on {name} give their background away: from the object alone, a linear probe tells {name} from"
    text += f" the other {'foregrounds' if region.name == SURROUNDINGS else 'backgrounds'} (AUC {aucs}; 0.5 is chance)."
    if abs(difference) > 0.2:
        text += f" What it sees is {word} than elsewhere by {abs(difference):.1f} standard deviations."
    return Finding(
        region.name, text, effect=min(1.0, max(0.0, 2 * auc - 1)), classes=(name,),
        keys=tuple(region.keys[region.rows[row]] for row in own[:MAX_KEYS]),
        beside=tuple(region.keys[region.rows[row]] for row in others[: MAX_KEYS // 2]), p=p,
        numbers={kind: {"auc": by_kind[kind][1], "p": by_kind[kind][0]} for kind in by_kind},
    )  # fmt: skip
