"""The folder `report/` beside `report.html`: written under a temporary name, then put in the place of the earlier one.

Only a folder that figureground made is replaced. It is recognised by its `about.json`, and holds nothing else than what
`show` writes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from figureground.core.errors import FiguregroundError, printable
from figureground.core.files import temporary_path
from figureground.core.locks import lock, remove_held
from figureground.core.numerics import library_versions
from figureground.core.owned import GENERATOR, is_ours

FOLDER = "report"
ABOUT = "about.json"
"""File by which the folder is recognised."""
ENTRIES = (ABOUT, "report.js", "report.css", "data", "details", "images", "thumbnails")
"""All that the folder holds."""

_LOCK = ".report.lock"
_DRAFT = re.compile(r"\.report\.\d+-[0-9a-f]{16}\.tmp")


def refuse_folder(folder: Path) -> None:
    """Check that a folder may be replaced: it is missing, empty, or holds only what `show` wrote.

    Raises:
        FiguregroundError: It is a link, a file, or holds something else; names it.
    """
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise FiguregroundError(
            f"{printable(folder)} is a link or a file that figureground didn't make. Rename or remove it, and run the "
            "command again."
        )
    entries = sorted(os.listdir(folder))
    if not entries:
        return
    strangers = [name for name in entries if name not in ENTRIES]
    if strangers or not is_ours(folder / ABOUT):
        fault = f"holds {printable(strangers[0])}, which" if strangers else f"has no {ABOUT} that says that"
        claim = "figureground didn't write" if strangers else "figureground made it"
        raise FiguregroundError(
            f"{printable(folder)} {fault} {claim}, so it was left as it is. Move that away, or rename the folder, and "
            "run the command again."
        )


class Draft:
    """A folder under a temporary name.

    Args:
        folder: The folder whose place it takes once it is published.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.path = temporary_path(folder)
        """Path until it is published."""
        self._earlier = temporary_path(folder)

    def publish(self) -> None:
        """Put the draft in the place of the folder; raises as `refuse_folder`."""
        refuse_folder(self._folder)
        exists = self._folder.exists()
        if exists:
            os.rename(self._folder, self._earlier)
        try:
            os.rename(self.path, self._folder)
        except OSError:
            if exists:
                os.rename(self._earlier, self._folder)
            raise

    def remove(self) -> None:
        """Remove what wasn't published, and what was replaced: minutes for 100,000 thumbnails on a slow disk."""
        for path in (self.path, self._earlier):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def open_draft(folder: Path) -> Iterator[Draft]:
    """Yield an empty draft of a folder; what is left of it and of the folder that it replaced is removed at the end.

    Drafts that killed processes left are removed too.

    Raises:
        FiguregroundError: See `refuse_folder`; or another process is writing the folder.
    """
    with lock(folder.parent / _LOCK) as held:
        if not held:
            raise FiguregroundError(f"Another process is writing {printable(folder)}. Wait until it has finished.")
        draft = Draft(folder)
        try:
            refuse_folder(folder)
            _remove_drafts(folder.parent)
            draft.path.mkdir()
            about = {"made_by": f"{GENERATOR} {library_versions()[GENERATOR]}", "by": "show"}
            (draft.path / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
            yield draft
        finally:
            draft.remove()
            remove_held(folder.parent / _LOCK)


def _remove_drafts(parent: Path) -> None:
    for path in parent.glob(".report.*.tmp"):
        if _DRAFT.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
