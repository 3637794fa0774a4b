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
_WHOLE_NUMBER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


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
        if differing := _find_differing(selection):
            notes.append(
                f"load_dataset would refuse {join_names(map(repr, differing), 3)}: the values have other types in "
                "other splits, for example because some are missing. Export each split to a directory of its own."
            )
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


def _find_differing(selection: Selection) -> list[str]:
    """Return the columns to which `load_dataset` gives different types in different splits, which it refuses."""
    columns = [*label_columns(selection), *selection.columns]
    kinds: dict[tuple[str, str], set[str]] = {}
    for row in selection.rows:
        for column, value in zip(columns, [*name_labels(selection, row), *row.more], strict=True):
            kinds.setdefault((column, row.split), set()).add(_find_kind(value))
    types: dict[str, set[str]] = {}
    for (column, _), found in kinds.items():
        types.setdefault(column, set()).add(_find_type(found))
    return [column for column, found in types.items() if len(found) > 1]


def _find_kind(value: str) -> str:
    """Return what pandas takes a cell of a CSV for."""
    if not value or value in MISSING:
        return "missing"
    if _WHOLE_NUMBER.fullmatch(value):
        return "whole number"
    if _NUMBER.fullmatch(value):
        return "number"
    return "boolean" if value in ("true", "false", "True", "False", "TRUE", "FALSE") else "text"


def _find_type(kinds: set[str]) -> str:
    """Return the type that pandas gives a column with these kinds of cells."""
    if kinds == {"whole number"} or kinds - {"missing"} == {"boolean"}:
        return min(kinds - {"missing"})
    return "number" if kinds <= {"missing", "whole number", "number"} else "text"
