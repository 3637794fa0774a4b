"""Images in `SPLIT/CLASS/`, with a `metadata.csv` in each split that names all labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from figureground.core.errors import join_names
from figureground.data.metadata import FILE_NAME
from figureground.data.splits import split_number
from figureground.exporting.layout import ExportLayout, label_columns, name_labels, to_csv
from figureground.exporting.selection import ExportRow, Selection


class ImageFolder(ExportLayout):
    """ImageFolder of `datasets`, which `torchvision.datasets.ImageFolder` reads too, split by split."""

    NAME = "imagefolder"

    def check(self, selection: Selection) -> list[str]:
        unknown = [name for name in selection.splits if split_number(name) is None]
        if not unknown:
            return []
        return [
            f"Other code may not recognise the split {join_names(map(repr, unknown))}; "
            "--split OLD=train exports the split OLD under the name train."
        ]

    def file(self, selection: Selection, row: ExportRow) -> str:
        return f"{row.split}/{self._below(selection, row)}"

    def _below(self, selection: Selection, row: ExportRow) -> str:
        return f"{selection.class_folders[selection.name(row, 'foreground')]}/{row.key}{selection.suffix}"

    def tables(self, selection: Selection) -> Mapping[str, str]:
        labels, groups = label_columns(selection), selection.has_backgrounds
        header = [FILE_NAME, *labels, "split", *(["group"] if groups else []), *selection.columns]

        def line(row: ExportRow) -> list[object]:
            group = [selection.group(row)] if groups else []
            return [self._below(selection, row), *name_labels(selection, row), row.split, *group, *row.more]

        return {
            f"{split}/metadata.csv": to_csv(header, (line(row) for row in selection.rows if row.split == split))
            for split in selection.splits
        }

    def readers(self, out: Path) -> str:
        return f'figureground groups {out} reads it, and so does load_dataset("imagefolder", data_dir="{out}").'
