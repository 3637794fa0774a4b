"""The layout of Waterbirds, which group_DRO, DFR and others read: two classes, two places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from figureground.data.data_source import METADATA
from figureground.exporting.layout import (
    ExportLayout,
    label_columns,
    name_labels,
    note_missing_splits,
    note_other_numbers,
    number_splits,
    refuse_more_than_two,
    to_csv,
)
from figureground.exporting.selection import ExportRow, Selection

COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
"""Columns of Waterbirds' table, in its order: some code reads them by position (Sagawa et al. 2020, 1911.08731)."""


class Waterbirds(ExportLayout):
    """A table `metadata.csv` as that of Waterbirds; the names of the labels stand in further columns."""

    NAME = "waterbirds"

    def check(self, selection: Selection) -> list[str]:
        refuse_more_than_two(selection, self.NAME)
        notes = note_missing_splits(number_splits(selection, self.NAME), "code for Waterbirds")
        return notes + note_other_numbers(selection, ["y", "place"])

    def file(self, selection: Selection, row: ExportRow) -> str:
        return f"{selection.class_folders[selection.name(row, 'foreground')]}/{row.key}{selection.suffix}"

    def tables(self, selection: Selection) -> Mapping[str, str]:
        return {METADATA: make_table(selection, [self.file(selection, row) for row in selection.rows], self.NAME)}

    def readers(self, out: Path) -> str:
        return (
            f"figureground groups {out} reads it. group_DRO expects it at "
            "ROOT/data/waterbird_complete95_forest2water2, for --root_dir ROOT."
        )


def make_table(selection: Selection, files: Sequence[str], layout: str) -> str:
    """Return Waterbirds' table: y and place are 0 or 1, split is 0 for train, 1 for validation, 2 for test."""
    numbers = number_splits(selection, layout)
    rows = (
        [
            n, file, selection.number(row, "foreground"), numbers[row.split], selection.number(row, "background"),
            row.scene or selection.name(row, "background"), *name_labels(selection, row), *row.more,
        ]
        for n, (row, file) in enumerate(zip(selection.rows, files, strict=True), 1)
    )  # fmt: skip
    return to_csv([*COLUMNS, *label_columns(selection), *selection.columns], rows)
