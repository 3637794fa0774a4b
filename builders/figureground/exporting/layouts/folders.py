"""Images in `SPLIT/CLASS/`, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from figureground.core.errors import RecipeError, join_names, plural
from figureground.core.names import explain_unportable, find_same_files
from figureground.exporting.layout import ExportLayout, list_class_folders
from figureground.exporting.other_readers import find_splits, note_joined, note_numbering
from figureground.exporting.selection import ExportRow, Selection
from figureground.sources.images import SYSTEM_FOLDERS


class Folders(ExportLayout):
    """A folder for each class, named by it; there is no table, so folders tell all that is known."""

    NAME = "folders"

    def check(self, selection: Selection) -> list[str]:
        names = selection.names("foreground")
        problems = [f"{name!r} {why}" for name in names if (why := _explain_unusable(name))]
        problems += [
            f"{one!r} and {other!r} are one folder on macOS and Windows" for one, other in find_same_files(names)
        ]
        if problems:
            raise RecipeError(
                "layout",
                f"folders are named by the classes, and {join_names(problems, 3)}. --layout imagefolder keeps the "
                "names in a table.",
            )
        notes = []
        if named_like_splits := [repr(name) for name in names if find_splits(name)]:
            notes.append(
                f"Classes named like a split: {join_names(named_like_splits)}. load_dataset('imagefolder') would put "
                "their images into that split too. Use --layout imagefolder, or load each split by itself."
            )
        notes += note_joined(selection.splits)
        notes += note_numbering(list_class_folders(selection, lambda row: selection.name(row, "foreground")))
        left_out = []
        if selection.has_backgrounds:
            left_out.append(plural(len(selection.names("background")), "background"))
        left_out += [repr(column) for column in selection.dataset.columns.labels]
        left_out += [repr(column) for column in selection.columns]
        if left_out:
            notes.append(
                f"Folders hold classes alone: {', '.join(left_out)} are left out. --layout imagefolder holds them."
            )
        return notes

    def file(self, selection: Selection, row: ExportRow) -> str:
        return f"{row.split}/{selection.name(row, 'foreground')}/{row.key}{selection.suffix}"

    def tables(self, selection: Selection) -> Mapping[str, str]:
        return {}


def _explain_unusable(name: str) -> str | None:
    """Return why a class can't name its folder; None if it can."""
    if name.startswith((".", "_")) or name in SYSTEM_FOLDERS:
        return "would be ignored by programs that read folders"
    return explain_unportable(name)
