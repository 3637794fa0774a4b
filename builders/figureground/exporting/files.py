"""Places the image files of an export: whole or not at all, copied or linked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, printable
from figureground.core.files import open_regular, temporary_path
from figureground.exporting.state import STATE, read_state


def remove_drafts(folder: Path) -> None:
    """Remove what a killed export has left half written in a folder."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def has_content(path: Path, data: bytes) -> bool:
    """Whether a file, or what a link leads to, has this content."""
    try:
        if os.stat(path).st_size != len(data):
            return False
        with open_regular(path) as file:
            return file.read() == data
    except (OSError, FiguregroundError):
        return False


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that others see all of it or nothing; a link at its place is replaced.

    Unlike `core.files.replace_bytes`, it doesn't sync the folder: `export` does so once for all its files.
    """
    draft = temporary_path(path)
    try:
        with open(draft, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


class Links:
    """Links to the images of an earlier export of the same dataset.

    Args:
        earlier: Directory of that export.
        dataset: Identity of the dataset.
        suffix: Suffix of the images.
        symbolic: Whether links are symbolic, relative to their place, or hard.

    Raises:
        FiguregroundError: The directory holds no finished export of this dataset, or a signed one.
    """

    def __init__(self, earlier: Path, dataset: Mapping[str, Any], suffix: str, symbolic: bool):
        self.earlier, self.symbolic = earlier, symbolic
        self.option = "--symlink" if symbolic else "--link"
        saved = read_state(earlier) if earlier.is_dir() else None
        shown_option = f"{self.option} {printable(earlier)}"
        if saved is None:
            raise FiguregroundError(
                f"{shown_option}: this isn't an export. The dataset's own images are inside its shards, and links "
                "can't point into a shard. Export once without links, and link to that directory."
            )
        if saved.get("dataset") != dict(dataset):
            raise FiguregroundError(
                f"{shown_option}: this is an export of another dataset, or of this one before it changed. Give an "
                "export of this dataset, or omit the option."
            )
        if saved.get("signed"):
            raise FiguregroundError(
                f"{shown_option}: its images are signed, so their bytes differ from the dataset's. Give an unsigned "
                "export, or omit the option."
            )
        if not saved.get("finished"):
            raise FiguregroundError(f"{shown_option}: that export isn't finished. Repeat the command that began it.")
        self._files = {path.stem: path for path in earlier.rglob(f"*{suffix}")}

    def link_image(self, path: Path, key: str, data: bytes) -> bool:
        """Link to the image of a key, unless that is there; returns False if the earlier export lacks it.

        Raises:
            FiguregroundError: The image there has other bytes than the dataset's, or can't be linked to.
        """
        target = self._files.get(key)
        if target is None:
            return False
        if not has_content(target, data):
            raise FiguregroundError(
                f"{self.option}: {printable(target)} isn't the dataset's image any more. Delete {self.earlier / STATE} "
                "and export it again, or omit the option."
            )
        target = target.resolve()
        if path.exists() and os.path.samefile(path, target) and path.is_symlink() == self.symbolic:
            return True
        draft = temporary_path(path)
        try:
            if self.symbolic:
                os.symlink(os.path.relpath(target, path.parent.resolve()), draft)
            else:
                os.link(target, draft)
            os.replace(draft, path)
        except OSError as error:
            alternative = "omit the option" if self.symbolic else "use --symlink, or omit the option"
            raise FiguregroundError(
                f"{self.option}: {printable(path)} can't be a link to {printable(target)}: {error.strerror or error}. "
                f"Links may not be possible there; {alternative}."
            ) from None
        finally:
            draft.unlink(missing_ok=True)
        return True
