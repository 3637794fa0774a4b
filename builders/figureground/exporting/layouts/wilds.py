"""The layout in which WILDS keeps Waterbirds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from figureground.exporting.layouts.waterbirds import Waterbirds
from figureground.exporting.selection import Selection

FOLDER = "waterbirds_v1.0"
"""Name of the directory, below the root, in which WILDS looks."""
RELEASE = "RELEASE_v1.0.txt"
"""File by which WILDS knows that nothing is to be downloaded."""


class Wilds(Waterbirds):
    """Waterbirds' table, and the file by which WILDS takes a directory for its Waterbirds (Koh et al. 2021)."""

    NAME = "wilds"

    def tables(self, selection: Selection) -> Mapping[str, str]:
        text = f"{selection.dataset.facts.title}, exported by figureground in the layout of WILDS' Waterbirds.\n"
        return {RELEASE: text, **super().tables(selection)}

    def readers(self, out: Path) -> str:
        path = out.resolve()
        if path.name == FOLDER:
            call = f'wilds.get_dataset("waterbirds", root_dir="{path.parent}")'
            return f"figureground groups {out} reads it, and so does {call}."
        return (
            f"figureground groups {out} reads it. WILDS expects it at ROOT/{FOLDER}, for get_dataset(…, root_dir=ROOT)."
        )
