"""The layout in which SubpopBench keeps Waterbirds; it holds any number of classes and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from figureground.core.errors import RecipeError
from figureground.exporting.layout import (
    ExportLayout,
    label_columns,
    name_labels,
    note_missing_splits,
    note_other_numbers,
    number_splits,
    to_csv,
)
from figureground.exporting.selection import ExportRow, Selection

TABLE = "metadata_waterbirds.csv"
IMAGES = "waterbird_complete95_forest2water2"
COLUMNS = ("id", "filename", "split", "y", "a")
"""Columns of SubpopBench's tables (Yang et al. 2023, arXiv 2302.12254)."""


class SubpopBench(ExportLayout):
    """SubpopBench's table, and the images in the folder that it reads Waterbirds from."""

    NAME = "subpopbench"

    def check(self, selection: Selection) -> list[str]:
        if not selection.has_backgrounds:
            raise RecipeError(
                "layout", f"subpopbench stores an attribute for each image, but {selection.dataset.directory} has no "
                "background labels. --layout folders or imagefolder holds classes alone.",
            )  # fmt: skip
        notes = note_missing_splits(number_splits(selection, self.NAME), "SubpopBench")
        return notes + note_other_numbers(selection, ["y", "a"])

    def file(self, selection: Selection, row: ExportRow) -> str:
        return f"{IMAGES}/{self._below(selection, row)}"

    def _below(self, selection: Selection, row: ExportRow) -> str:
        return f"{selection.class_folders[selection.name(row, 'foreground')]}/{row.key}{selection.suffix}"

    def tables(self, selection: Selection) -> Mapping[str, str]:
        numbers = number_splits(selection, self.NAME)
        rows = (
            [
                n, self._below(selection, row), numbers[row.split], selection.number(row, "foreground"),
                selection.number(row, "background"), *name_labels(selection, row), *row.more,
            ]
            for n, row in enumerate(selection.rows)
        )  # fmt: skip
        return {TABLE: to_csv([*COLUMNS, *label_columns(selection), *selection.columns], rows)}

    def readers(self, out: Path) -> str:
        return (
            f"figureground groups {out} --root {out / IMAGES} --y foreground --a background reads it. SubpopBench "
            "expects it at DATA/waterbirds, for --data_dir DATA."
        )
