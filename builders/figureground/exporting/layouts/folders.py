"""Images in `SPLIT/CLASS/`, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from figureground.core.errors import RecipeError, counted, listed
from figureground.core.names import same_files, unportable
from figureground.exporting.layout import ExportLayout
from figureground.exporting.selection import Row, Selection
from figureground.sources.images import SYSTEM_FOLDERS


class Folders(ExportLayout):
    """A folder for each class, named by it; there is no table, so folders tell all that is known."""

    NAME = "folders"

    def check(self, chosen: Selection) -> list[str]:
        names = chosen.names("foreground")
        problems = [f"{name!r} {why}" for name in names if (why := _unusable(name))]
        problems += [f"{one!r} and {other!r} are one folder on macOS and Windows" for one, other in same_files(names)]
        if problems:
            raise RecipeError(
                "layout",
                f"folders are named by the classes, and {listed(problems, 3)}. --layout imagefolder keeps the names in "
                "a table.",
            )
        lost = []
        if chosen.has_backgrounds:
            lost.append(counted(len(chosen.names("background")), "background"))
        lost += [repr(column) for column in chosen.dataset.columns.labels]
        lost += [repr(column) for column in chosen.columns]
        told = f"Folders hold classes alone: {', '.join(lost)} are left out. --layout imagefolder holds them."
        return [told] if lost else []

    def file(self, chosen: Selection, row: Row) -> str:
        return f"{row.split}/{chosen.name(row, 'foreground')}/{row.key}{chosen.suffix}"

    def tables(self, chosen: Selection) -> Mapping[str, str]:
        return {}


def _unusable(name: str) -> str | None:
    """Return why a class can't name its folder; None if it can."""
    if name.startswith((".", "_")) or name in SYSTEM_FOLDERS:
        return "would be ignored by programs that read folders"
    return unportable(name)
