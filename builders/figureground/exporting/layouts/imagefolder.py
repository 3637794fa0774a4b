"""Images in `SPLIT/CLASS/`, with a `metadata.csv` in each split that names all labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from figureground.core.errors import join_names
from figureground.core.names import short_hash
from figureground.data.metadata import FILE_NAME
from figureground.data.splits import split_number
from figureground.exporting.layout import ExportLayout, label_columns, name_labels, to_csv
from figureground.exporting.selection import ExportRow, Selection

SPLIT_WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "dev": "validation", "val": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""Words in the name of a folder, however deep, by which `load_dataset` takes its files for a split (datasets 5)."""
MISSING = frozenset({"#N/A", "#NA", "<NA>", "-NaN", "-nan", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"})
"""Names that pandas, with which `load_dataset` reads tables, takes for a missing value."""
_WORD = re.compile(r"[^-._ 0-9]+")


class ImageFolder(ExportLayout):
    """ImageFolder of `datasets`, which `torchvision.datasets.ImageFolder` reads too, split by split."""

    NAME = "imagefolder"

    def check(self, selection: Selection) -> list[str]:
        notes = []
        if unknown := [name for name in selection.splits if split_number(name) is None]:
            notes.append(
                f"Other code may not recognise the split {join_names(map(repr, unknown))}; "
                "--split OLD=train exports the split OLD under the name train."
            )
        for splits in _find_joined(selection.splits):
            notes.append(
                f"load_dataset would join the splits {join_names(map(repr, splits))}. Export each to a directory of "
                "its own, or filter the rows by the column 'split'."
            )
        labels = dict.fromkeys(name for column in label_columns(selection) for name in selection.names(column))
        if missing := [repr(name) for name in labels if name in MISSING]:
            notes.append(f"load_dataset and pandas read the label {join_names(missing)} as a missing value.")
        return notes

    def file(self, selection: Selection, row: ExportRow) -> str:
        return f"{row.split}/{self._below(selection, row)}"

    def _below(self, selection: Selection, row: ExportRow) -> str:
        name = selection.name(row, "foreground")
        folder = selection.class_folders[name]
        if SPLIT_WORDS.keys() & _WORD.findall(folder):
            folder = f"class{short_hash(name)}"  # `load_dataset` would look for a split there
        return f"{folder}/{row.key}{selection.suffix}"

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


def _find_joined(splits: Sequence[str]) -> list[list[str]]:
    """Return the splits that `load_dataset` takes for the same one."""
    joined: dict[str, list[str]] = {}
    for name in splits:
        for split in dict.fromkeys(SPLIT_WORDS[word] for word in _WORD.findall(name) if word in SPLIT_WORDS):
            joined.setdefault(split, []).append(name)
    return [names for names in joined.values() if len(names) > 1]
