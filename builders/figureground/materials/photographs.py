"""Photographs in class folders, and the names of their cut-outs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from figureground.core.errors import FiguregroundError, UsageError, printable, suggest_or_list
from figureground.core.names import RULE, describe_same_names, find_same_names, is_text
from figureground.core.tables import TextTable
from figureground.sources.companions import describe_shared
from figureground.sources.images import (
    MASK_SUFFIX,
    UnreadableImage,
    list_folders,
    list_images,
    list_non_files,
    may_be_transparent,
)
from figureground.sources.mask import find_mask

_WORDNET = re.compile(r"n\d{8}[_ -]+")
"""Start of a folder's name in ImageNet's layouts, before the noun."""


@dataclass(frozen=True)
class ListedPhotograph:
    """A photograph in a class folder."""

    path: Path
    folder: str
    """Name of the class folder."""
    cutout: str
    """File name of its cut-out; unique in the folder."""

    @property
    def name(self) -> str:
        """`folder/file`, as in the list of cut-outs."""
        return f"{self.folder}/{self.path.name}"


def list_photographs(
    directory: Path, folders: Sequence[str] | None = None
) -> tuple[list[ListedPhotograph], list[tuple[str, str]]]:
    """List the photographs of `<directory>/<class>/*`, by class and name.

    Args:
        directory: The directory.
        folders: Names of the class folders to use; default: all.

    Returns:
        The photographs; and, as `folder/file` with the reason, entries that are named like images but aren't files.

    Raises:
        FiguregroundError: There is no directory, no class folder or no photograph, two folders have the same name by
            `name_key`, or a mask may belong to two photographs.
    """
    if not directory.is_dir():
        raise FiguregroundError(f"there is no directory {str(directory)!r} with photographs.")
    class_folders = list_folders(directory)
    if duplicates := find_same_names(path.name for path in class_folders):
        raise FiguregroundError(f"{directory}: folders {describe_same_names(duplicates)}. {RULE}: keep one spelling.")
    entries: list[ListedPhotograph] = []
    non_files: list[tuple[str, str]] = []
    for folder in class_folders:
        if folders is not None and folder.name not in folders:
            continue
        paths = [path for path in list_images(folder) if is_text(path.name)]
        entries += [
            ListedPhotograph(path, folder.name, cutout)
            for path, cutout in zip(paths, _name_cutouts(paths), strict=True)
        ]
        non_files += [(f"{folder.name}/{path.name}", reason) for path, reason in list_non_files(folder)]
        non_files += [
            (f"{folder.name}/{printable(path.name)}", "its name is not UTF-8: rename it")
            for path in list_images(folder)
            if not is_text(path.name)
        ]
    if problem := describe_shared((entry.path for entry in entries), MASK_SUFFIX, "mask"):
        raise FiguregroundError(f"{directory}: {problem}")
    if not entries:
        raise FiguregroundError(
            f"{str(directory)!r} has no {'photographs' if class_folders else 'folders'}. Lay photographs out as "
            f"{directory.name}/<class>/*, one folder per class."
        )
    return entries, non_files


def find_without_outline(entries: Sequence[ListedPhotograph]) -> list[ListedPhotograph]:
    """Return the photographs that have neither a mask nor transparency, by their headers, so need a segmenter.

    Those that can't be read are left out.
    """

    def needs_segmenter(path: Path) -> bool:
        try:
            return find_mask(path) is None and not may_be_transparent(path)
        except UnreadableImage:
            return False

    return [entry for entry in entries if needs_segmenter(entry.path)]


def _name_cutouts(paths: Sequence[Path]) -> list[str]:
    """Return a PNG's name for each file: its stem, or its whole name if stems are equal or would name a mask."""
    plain = {path for path in paths if not f"{path.stem}.png".lower().endswith(MASK_SUFFIX)}
    while True:
        names = [path.stem if path in plain else path.name for path in paths]
        counts = Counter(name.casefold() for name in names)
        shared = {
            path for path, name in zip(paths, names, strict=True) if path in plain and counts[name.casefold()] > 1
        }
        if not shared:
            return [f"{name}.png" for name in names]
        plain -= shared  # a whole name may be another file's stem, so it is checked again


def to_phrase(folder: str) -> str:
    """Return a class folder's name as a segmenter's phrase: without a WordNet id, with blanks for `_`."""
    return " ".join(_WORDNET.sub("", folder).replace("_", " ").split()) or folder


def read_phrases(path: Path, folders: Sequence[str]) -> Mapping[str, str]:
    """Read phrases for a segmenter from a CSV `class,phrase`.

    Raises:
        UsageError: It can't be read, lacks a column, or names a class that has no folder.
    """
    phrases = {}
    for line, (folder, phrase) in read_columns(path, ("class", "phrase"), "--phrases"):
        if folder not in folders:
            raise UsageError(f"--phrases {path}, line {line}: no folder {folder!r}{suggest_or_list(folder, folders)}")
        if not phrase.strip():
            raise UsageError(f"--phrases {path}, line {line}: the phrase of {folder!r} is empty.")
        phrases[folder] = phrase
    return phrases


def read_columns(path: Path, names: Sequence[str], option: str) -> list[tuple[int, tuple[str, ...]]]:
    """Read columns of a table: line numbers and values.

    Raises:
        UsageError: It can't be read, lacks a column, or its rows don't fit its header.
    """
    try:
        table = TextTable(path)
        table.require(*names)
        return [(line, tuple(row[name] for name in names)) for line, row in table.records() if any(row.values())]
    except FiguregroundError as error:
        raise UsageError(f"{option}: {error}") from None
