"""Images in `SPLIT/CLASS/`, with a `metadata.csv` in each split that names all labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from figureground.core.errors import join_names
from figureground.core.names import short_hash
from figureground.data.metadata import FILE_NAME
from figureground.data.splits import split_number
from figureground.exporting.layout import (
    ExportLayout,
    label_columns,
    list_class_folders,
    name_labels,
    note_other_numbers,
    to_csv,
)
from figureground.exporting.other_readers import (
    MISSING,
    find_changed,
    find_kind,
    find_splits,
    find_type,
    note_joined,
    note_numbering,
)
from figureground.exporting.selection import ExportRow, Selection


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
        notes += note_joined(selection.splits, ", or filter the rows by the column 'split'")
        labels = dict.fromkeys(name for column in label_columns(selection) for name in selection.names(column))
        if missing := [repr(name) for name in labels if name in MISSING]:
            notes.append(f"load_dataset and pandas read the label {join_names(missing)} as a missing value.")
        for column, changed in _find_changed(selection).items():
            examples = join_names((f"{name!r} becomes {text}" for name, text in changed.items()), 3)
            notes.append(
                f"load_dataset and pandas read {column!r} as numbers or truth values: {examples}. Give load_dataset "
                "features in which it is Value('string'), or pandas dtype=str."
            )
        if differing := _find_differing(selection):
            notes.append(
                f"load_dataset would refuse {join_names(map(repr, differing), 3)}: the values have other types in "
                "other splits, for example because some are missing. Export each split to a directory of its own."
            )
        if selection.has_backgrounds:
            notes += note_other_numbers(selection, ["group"], are_groups=True)
        return notes + note_numbering(list_class_folders(selection, lambda row: _name_folder(selection, row)))

    def file(self, selection: Selection, row: ExportRow) -> str:
        return f"{row.split}/{self._below(selection, row)}"

    def _below(self, selection: Selection, row: ExportRow) -> str:
        return f"{_name_folder(selection, row)}/{row.key}{selection.suffix}"

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


def _name_folder(selection: Selection, row: ExportRow) -> str:
    """Return the folder of a sample's class."""
    name = selection.name(row, "foreground")
    folder = selection.class_folders[name]
    return f"class{short_hash(name)}" if find_splits(folder) else folder  # `load_dataset` would look for a split there


def _find_changed(selection: Selection) -> dict[str, dict[str, str]]:
    """Return the labels that `load_dataset` and pandas read as something else, with what they read, by column."""
    names: dict[tuple[str, str], set[str]] = {}
    for row in selection.rows:
        for column, name in zip(label_columns(selection), name_labels(selection, row), strict=True):
            names.setdefault((column, row.split), set()).add(name)
    changed: dict[str, dict[str, str]] = {}
    for (column, _), names_of_split in names.items():
        if found := find_changed(sorted(names_of_split)):
            changed.setdefault(column, {}).update(found)
    return changed


def _find_differing(selection: Selection) -> list[str]:
    """Return the columns to which `load_dataset` gives different types in different splits, which it refuses."""
    columns = [*label_columns(selection), *selection.columns]
    kinds: dict[tuple[str, str], set[str]] = {}
    for row in selection.rows:
        for column, value in zip(columns, [*name_labels(selection, row), *row.more], strict=True):
            kinds.setdefault((column, row.split), set()).add(find_kind(value))
    types: dict[str, set[str]] = {}
    for (column, _), found in kinds.items():
        types.setdefault(column, set()).add(find_type(found))
    return [column for column, found in types.items() if len(found) > 1]
