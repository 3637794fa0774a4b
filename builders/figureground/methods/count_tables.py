"""Tables of planned images by foreground and background, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from figureground.core.errors import plural
from figureground.core.text_width import align_columns
from figureground.recipe.plan import Plan
from figureground.recipe.table import Counts, bias_aligned_share, cramers_v

MAX_ROWS = 24
"""Classes whose counts are printed one by one."""


def format_counts_by_split(plan: Plan, pairings: Mapping[str, np.ndarray]) -> list[str]:
    """Return lines with each split's counts of foregrounds on backgrounds, and their correlation.

    Args:
        pairings: By split, bool (foregrounds, backgrounds): the cells that a correlated table favours.
    """
    lines = []
    for split, images in plan.totals().items():
        counts = plan.cells(split)
        pairing = pairings.get(split)
        share = f", {bias_aligned_share(counts, pairing):.1%} in paired cells" if pairing is not None else ""
        lines += ["", f"{split}: {plural(images, 'image')}, Cramér's V {cramers_v(counts):.3f}{share}"]
        lines += format_counts(counts, plan.foregrounds, plan.backgrounds)
    return lines


def format_counts(counts: Counts, foregrounds: Sequence[str], backgrounds: Sequence[str]) -> list[str]:
    """Return the table of counts; for more than `MAX_ROWS` classes, only each background's total and range."""
    is_long = len(foregrounds) > MAX_ROWS
    labels = ["all classes", "least", "most"] if is_long else list(foregrounds)
    rows = np.stack([counts.sum(0), counts.min(0), counts.max(0)]) if is_long else counts
    body = [[label, *(f"{n:,}" for n in row)] for label, row in zip(labels, rows, strict=True)]
    return [f"  {line}" for line in align_columns([["", *backgrounds], *body], min_width=6, gap=1)]
