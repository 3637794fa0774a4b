"""Quality of a cut-out: what is measured of its shape, and the reasons for leaving it out.

Shapes are measured on a map reduced to `EDGE` pixels, so that numbers don't depend on the photograph's size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from figureground.core.errors import RecipeError
from figureground.materials.matting import box_mean
from figureground.recipe.settings import Share, settings
from figureground.sources.images import fit_size
from figureground.sources.mask import find_box

EDGE = 256
"""Longer edge of the reduced map, pixels."""
INSIDE, OUTSIDE = 0.95, 0.05
"""Alpha from which a pixel surely shows the object, and below which it surely doesn't."""
OBJECT, SMOOTHING = 128, 3
"""Longer edge of the object's box when its outline is smoothed, and the radius of the window in which the smoothed
outline follows the majority of pixels."""

SOFT = 6
"""Width of soft edges that belong to an object, in pixels of the reduced map."""

NOTHING = "nothing found"
"""Reason for having no cut-out at all."""


@settings(frozen=True)
class Gates:
    """When a cut-out is left out. A limit of 0 for a least, or of 1 for a most, turns a gate off."""

    least_area: Share = 0.02
    """Smallest share of the photograph that the object covers."""
    most_area: Share = 0.8
    """Largest share of the photograph that the object covers."""
    least_sure: Share = 0.7
    """Smallest share of confident pixels (probability of 0.95 or more) among those that may show the object."""
    most_cut: Share = 0.05
    """Largest share of the outline that lies on the border of the photograph; it excludes objects cut off by the
    border."""
    most_other: Share = 0.1
    """Largest area of a second object, as a share of the first; smaller objects are erased."""
    most_ragged: Share = 0.09
    """Largest share of the object's area that changes when its outline is smoothed; it excludes fences, twigs and
    text."""
    most_filled: Share = 0.95
    """Largest share of its bounding box that the object fills; it excludes screenshots and pictures in pictures."""

    def __post_init__(self) -> None:
        if self.least_area > self.most_area:
            raise RecipeError("least_area", f"{self.least_area:g} is above most_area, {self.most_area:g}.")


@dataclass(frozen=True)
class Measures:
    """Measures of an object's shape; shares, 0 to 1."""

    area: float
    """Share of the photograph."""
    sure: float
    """Sure pixels, as a share of those that may show the object."""
    cut: float
    """Outline on the border of the photograph, as a share of the outline."""
    other: float
    """Area of the second largest part, as a share of the largest."""
    parts: int
    """Separate parts of at least a hundredth of the largest."""
    ragged: float
    """Area that changes when the outline is smoothed, as a share of the area; may exceed 1."""
    filled: float
    """Share of the bounding box."""

    def to_json(self) -> dict[str, Any]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def measure(alpha: np.ndarray) -> tuple[Measures, np.ndarray] | None:
    """Measure the largest part of an object, and return where it is.

    Args:
        alpha: float32 (height, width), in 0..1.

    Returns:
        The measures, and bool (height, width): the largest part with its soft edge. None if there is no object.
    """
    small = _reduce(alpha, EDGE)
    mask = small > 0.5
    if not mask.any():
        return None
    labels, sizes = label_parts(mask)
    order = np.argsort(-sizes, kind="stable")
    largest = labels == order[0]
    area = int(sizes[order[0]])
    other = int(sizes[order[1]]) / area if len(order) > 1 else 0.0
    outline = _find_outline(largest)
    frame = np.zeros_like(largest)
    frame[[0, -1]], frame[:, [0, -1]] = True, True
    rows, columns = np.flatnonzero(largest.any(1)), np.flatnonzero(largest.any(0))
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    region = _grow_to_soft_edge(largest, alpha.shape, labels)
    inside, maybe = (alpha >= INSIDE)[region].sum(), (alpha >= OUTSIDE)[region].sum()
    return Measures(
        area=area / largest.size, sure=float(inside / max(maybe, 1)),
        cut=float((outline & frame).sum() / outline.sum()), other=other, parts=int((sizes >= area / 100).sum()),
        ragged=_measure_raggedness(alpha * region), filled=float(area / box),
    ), region  # fmt: skip


def list_reasons(measures: Measures, gates: Gates) -> list[str]:
    """Return the reasons for leaving an object out, each with its number; empty for one that passes."""
    reasons = []
    if measures.area < gates.least_area:
        reasons.append(f"too small: {measures.area:.1%} of the photograph")
    if measures.area > gates.most_area:
        reasons.append(f"too large: {measures.area:.0%} of the photograph")
    if measures.sure < gates.least_sure:
        reasons.append(f"unsure: only {measures.sure:.0%} of its pixels are sure")
    if measures.cut > gates.most_cut:
        reasons.append(f"cut by the border: {measures.cut:.0%} of its outline")
    if measures.other > gates.most_other:
        reasons.append(f"several objects: a second one has {measures.other:.0%} of its area")
    if measures.ragged > gates.most_ragged and gates.most_ragged < 1:  # the measure may exceed 1
        reasons.append(f"ragged: smoothing changes {measures.ragged:.0%} of its area")
    if measures.filled > gates.most_filled:
        reasons.append(f"a rectangle: it fills {measures.filled:.0%} of its box")
    return reasons


def label_parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected parts of a mask; pixels that touch at a corner are connected.

    Args:
        mask: bool (height, width).

    Returns:
        int32 (height, width), the part of each pixel from 0, or -1; and int64 (parts,), their sizes in pixels.
    """
    owner: list[int] = []

    def find_root(run: int) -> int:
        while owner[run] != run:
            owner[run] = owner[owner[run]]
            run = owner[run]
        return run

    runs: list[tuple[int, int, int]] = []
    above: list[int] = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0))
        current = []
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            number = len(runs)
            runs.append((y, start, stop))
            owner.append(number)
            current.append(number)
            for upper in above:
                if runs[upper][1] <= stop and start <= runs[upper][2]:
                    a, b = sorted((find_root(upper), find_root(number)))
                    owner[b] = a
        above = current
    roots = {root: part for part, root in enumerate(sorted({find_root(run) for run in range(len(runs))}))}
    labels, sizes = np.full(mask.shape, -1, np.int32), np.zeros(len(roots), np.int64)
    for number, (y, start, stop) in enumerate(runs):
        part = roots[find_root(number)]
        labels[y, start:stop] = part
        sizes[part] += stop - start
    return labels, sizes


def _reduce(alpha: np.ndarray, edge: int) -> np.ndarray:
    """Return a map whose longer edge has `edge` pixels."""
    height, width = alpha.shape
    return np.asarray(Image.fromarray(alpha).resize(fit_size((width, height), edge), Image.Resampling.BOX))


def _grow_to_soft_edge(largest: np.ndarray, shape: tuple[int, ...], labels: np.ndarray) -> np.ndarray:
    """Return the full-size region of the largest part and its soft edge, which no other part shares."""
    grown = largest.copy()
    others = (labels >= 0) & ~largest
    for _ in range(SOFT):
        grown = _dilate(grown) & ~others
    image = Image.fromarray(grown.astype(np.uint8) * 255).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(image) > 0


def _dilate(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def _find_outline(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask with a neighbour outside it, or outside the image."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _measure_raggedness(alpha: np.ndarray) -> float:
    """Return the area that changes when an object's outline is smoothed, as a share of its area."""
    box = find_box(alpha > 0.5)
    if box is None:
        return 0.0
    left, top, right, bottom = box
    mask = _reduce(alpha[top:bottom, left:right], OBJECT) > 0.5
    padded = np.pad(mask, 2 * SMOOTHING)
    smoothed = box_mean(padded.astype(np.float32), SMOOTHING) > 0.5
    return float((padded ^ smoothed).sum() / max(mask.sum(), 1))
