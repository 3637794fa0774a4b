"""The layout of Waterbirds, which group_DRO, DFR and others read: two classes, two places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from figureground.data.record import METADATA
from figureground.exporting.layout import (
    ExportLayout,
    label_columns,
    missing_splits,
    named,
    refuse_more_than_two,
    split_numbers,
    to_csv,
)
from figureground.exporting.selection import Row, Selection

COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
"""Columns of Waterbirds' table, in its order: some code reads them by position (Sagawa et al. 2020, 1911.08731)."""


class Waterbirds(ExportLayout):
    """A table `metadata.csv` as that of Waterbirds; the names of the labels stand in further columns."""

    NAME = "waterbirds"

    def check(self, chosen: Selection) -> list[str]:
        refuse_more_than_two(chosen, self.NAME)
        return missing_splits(split_numbers(chosen, self.NAME), "code for Waterbirds")

    def file(self, chosen: Selection, row: Row) -> str:
        return f"{chosen.class_folders[chosen.name(row, 'foreground')]}/{row.key}{chosen.suffix}"

    def tables(self, chosen: Selection) -> Mapping[str, str]:
        return {METADATA: table(chosen, [self.file(chosen, row) for row in chosen.rows], self.NAME)}

    def readers(self, out: Path) -> str:
        return (
            f"figureground groups {out} reads it. group_DRO expects it at "
            "ROOT/data/waterbird_complete95_forest2water2, for --root_dir ROOT."
        )


def table(chosen: Selection, files: Sequence[str], layout: str) -> str:
    """Return Waterbirds' table: y and place are 0 or 1, split is 0 for train, 1 for validation, 2 for test."""
    numbers = split_numbers(chosen, layout)
    rows = (
        [
            n, file, chosen.number(row, "foreground"), numbers[row.split], chosen.number(row, "background"),
            row.scene or chosen.name(row, "background"), *named(chosen, row), *row.more,
        ]
        for n, (row, file) in enumerate(zip(chosen.rows, files, strict=True), 1)
    )  # fmt: skip
    return to_csv([*COLUMNS, *label_columns(chosen), *chosen.columns], rows)
