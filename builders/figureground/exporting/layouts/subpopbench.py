"""The layout in which SubpopBench keeps Waterbirds; it holds any number of classes and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from figureground.core.errors import RecipeError
from figureground.exporting.layout import (
    ExportLayout,
    label_columns,
    missing_splits,
    named,
    split_numbers,
    to_csv,
)
from figureground.exporting.selection import Row, Selection

TABLE = "metadata_waterbirds.csv"
IMAGES = "waterbird_complete95_forest2water2"
COLUMNS = ("id", "filename", "split", "y", "a")
"""Columns of SubpopBench's tables (Yang et al. 2023, arXiv 2302.12254)."""


class SubpopBench(ExportLayout):
    """SubpopBench's table, and the images in the folder that it reads Waterbirds from."""

    NAME = "subpopbench"

    def check(self, chosen: Selection) -> list[str]:
        if not chosen.has_backgrounds:
            raise RecipeError(
                "layout", f"subpopbench stores an attribute for each image, but {chosen.dataset.directory} has no "
                "background labels. --layout folders or imagefolder holds classes alone.",
            )  # fmt: skip
        return missing_splits(split_numbers(chosen, self.NAME), "SubpopBench")

    def file(self, chosen: Selection, row: Row) -> str:
        return f"{IMAGES}/{self._below(chosen, row)}"

    def _below(self, chosen: Selection, row: Row) -> str:
        return f"{chosen.class_folders[chosen.name(row, 'foreground')]}/{row.key}{chosen.suffix}"

    def tables(self, chosen: Selection) -> Mapping[str, str]:
        numbers = split_numbers(chosen, self.NAME)
        rows = (
            [
                n, self._below(chosen, row), numbers[row.split], chosen.number(row, "foreground"),
                chosen.number(row, "background"), *named(chosen, row), *row.more,
            ]
            for n, row in enumerate(chosen.rows)
        )  # fmt: skip
        return {TABLE: to_csv([*COLUMNS, *label_columns(chosen), *chosen.columns], rows)}

    def readers(self, out: Path) -> str:
        return (
            f"figureground groups {out} --root {out / IMAGES} --y foreground --a background reads it. SubpopBench "
            "expects it at DATA/waterbirds, for --data_dir DATA."
        )
