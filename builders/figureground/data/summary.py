"""Summary of a labelled data set: counts by class and attribute, their association, and notes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from figureground.core.errors import join_names, plural
from figureground.core.text_width import align_columns
from figureground.data.groups import GroupedImages
from figureground.data.splits import SPLITS
from figureground.recipe.table import Counts, cramers_v

MAX_CLASSES_SHOWN, MAX_ATTRIBUTES_SHOWN = 60, 12
"""Maximum classes and attributes of a printed table; larger ones are summarised in one line."""


def summarise_groups(groups: GroupedImages) -> dict[str, Any]:
    """Return names, counts and notes, JSON-able.

    For each split that has images: `images`, `counts` (classes × attributes), `cramers_v` (0 if class and attribute
    are independent, 1 if one determines the other; None if the data have no attribute), and `smallest_group` among
    the groups that have images.
    """
    splits = {}
    for number, split in enumerate(SPLITS):
        counts = groups.counts(number)
        if counts.any():
            splits[split] = {
                "images": int(counts.sum()),
                "counts": counts.tolist(),
                "cramers_v": None if groups.attributes is None else cramers_v(counts),
                "smallest_group": _find_smallest(groups, counts),
            }
    return {
        "name": groups.name, "layout": groups.layout, "images": len(groups), "masks": int(groups.masked.sum()),
        "classes": list(groups.classes), "attributes": None if groups.attributes is None else list(groups.attributes),
        "fingerprint": groups.fingerprint, "splits": splits, "notes": list(groups.notes),
    }  # fmt: skip


def _find_smallest(groups: GroupedImages, counts: Counts) -> dict[str, Any]:
    flat = counts.ravel()
    present = np.flatnonzero(flat)
    smallest = int(present[flat[present].argmin()])
    return {"group": smallest, "name": groups.group_names[smallest], "images": int(flat[smallest])}


def format_summary(groups: GroupedImages) -> str:
    """Return the contents of `summarise_groups` as text: one table per split, then the notes."""
    summary = summarise_groups(groups)
    attributes = "no attribute" if groups.attributes is None else plural(len(groups.attributes), "attribute")
    classes = f"{len(groups.classes):,} class{'' if len(groups.classes) == 1 else 'es'}"
    masks = f", {plural(summary['masks'], 'mask')}" if summary["masks"] else ""
    blocks = [f"{groups.name} ({groups.layout}): {plural(len(groups), 'image')}, {classes}, {attributes}{masks}"]
    for name, split in summary["splits"].items():
        association = "" if split["cramers_v"] is None else f", Cramér's V {split['cramers_v']:.3f}"
        smallest = split["smallest_group"]
        kind = "class" if groups.attributes is None else "group"
        blocks.append("\n".join([
            f"{name}: {plural(split['images'], 'image')}{association}",
            *_format_table(groups, np.array(split["counts"])),
            f"  smallest {kind}: {smallest['name']} ({smallest['images']:,})",
        ]))  # fmt: skip
    if groups.notes:
        blocks.append("\n".join(f"note: {note}" for note in groups.notes))
    return "\n\n".join(blocks)


def _format_table(groups: GroupedImages, counts: Counts) -> list[str]:
    """Return lines of counts with totals; a single line if there are too many."""
    if len(groups.classes) > MAX_CLASSES_SHOWN or len(groups.attributes or ()) > MAX_ATTRIBUTES_SHOWN:
        present = counts[counts > 0]
        return [
            f"  {plural(present.size, 'group')} of {counts.size:,}, of {present.min():,} to {present.max():,} images"
        ]
    head, body = [""], [[name] for name in groups.classes]
    if groups.attributes is not None:
        head += groups.attributes
        body = [[name, *(f"{n:,}" for n in row)] for name, row in zip(groups.classes, counts.tolist(), strict=True)]
    rows = [[*head, "total"], *([*row, f"{n:,}"] for row, n in zip(body, counts.sum(1).tolist(), strict=True))]
    columns = counts.sum(0).tolist() if groups.attributes is not None else []
    rows.append(["total", *(f"{n:,}" for n in columns), f"{int(counts.sum()):,}"])
    return [f"  {line}" for line in align_columns(rows)]


def describe_empty_groups(groups: GroupedImages) -> Iterator[str]:
    """Yield a sentence for each split that has images, but none of some group."""
    for number, split in enumerate(SPLITS):
        counts = groups.counts(number).ravel()
        empty = np.flatnonzero(counts == 0)
        if not len(empty) or not counts.any():
            continue
        names = join_names((groups.group_names[group] for group in empty), 5)
        if groups.attributes is None:
            yield f"{split} has no image of {names}."
        else:
            subject = f"the {counts.size - len(empty)} groups" if counts.size - len(empty) > 1 else "the one group"
            yield f"{split} has no image of {names}: its worst group is computed over {subject} that it has."
