"""Images in `SPLIT/CLASS/`, with a `metadata.csv` in each split that names all labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from figureground.core.errors import listed
from figureground.data.metadata import FILE_NAME
from figureground.data.splits import split_number
from figureground.exporting.layout import ExportLayout, label_columns, named, to_csv
from figureground.exporting.selection import Row, Selection


class ImageFolder(ExportLayout):
    """ImageFolder of `datasets`, which `torchvision.datasets.ImageFolder` reads too, split by split."""

    NAME = "imagefolder"

    def check(self, chosen: Selection) -> list[str]:
        odd = [name for name in chosen.splits if split_number(name) is None]
        if not odd:
            return []
        return [
            f"Other code may not recognise the split {listed(map(repr, odd))}; --split {odd[0]}=train names it train."
        ]

    def file(self, chosen: Selection, row: Row) -> str:
        return f"{row.split}/{self._below(chosen, row)}"

    def _below(self, chosen: Selection, row: Row) -> str:
        return f"{chosen.class_folders[chosen.name(row, 'foreground')]}/{row.key}{chosen.suffix}"

    def tables(self, chosen: Selection) -> Mapping[str, str]:
        labels, groups = label_columns(chosen), chosen.has_backgrounds
        header = [FILE_NAME, *labels, "split", *(["group"] if groups else []), *chosen.columns]

        def line(row: Row) -> list[object]:
            group = [chosen.group(row)] if groups else []
            return [self._below(chosen, row), *named(chosen, row), row.split, *group, *row.more]

        return {
            f"{split}/metadata.csv": to_csv(header, (line(row) for row in chosen.rows if row.split == split))
            for split in chosen.splits
        }

    def readers(self, out: Path) -> str:
        return f'figureground groups {out} reads it, and so does load_dataset("imagefolder", data_dir="{out}").'
