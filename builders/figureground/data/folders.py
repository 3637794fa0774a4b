"""Reads data sets labelled by folders: `[SPLIT/]CLASS`, and MetaShift's `SPLIT/CLASS/CLASS(CONTEXT)`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from figureground.core.errors import FiguregroundError, join_names, plural, printable
from figureground.core.names import name_key
from figureground.core.tables import Column
from figureground.data.data_source import DataSource
from figureground.data.groups import GroupedImages
from figureground.data.listed_files import explain_unreadable, find_files
from figureground.data.record import complete_splits, make_record
from figureground.data.splits import SPLITS, folder_split
from figureground.data.tables import MAX_EXAMPLES, DataProblems, Labels
from figureground.sources.images import FOREIGN_SUFFIXES, list_folders, list_images, list_non_files

_IN_CONTEXT = re.compile(r"(?P<name>.+?)\s*\((?P<context>[^()]+)\)")


def _subfolders(path: Path) -> list[Path]:
    """List visible folders by name; folders that begin with `_` are private."""
    return [folder for folder in list_folders(path) if not folder.name.startswith("_")]


def _private_folders(path: Path) -> list[Path]:
    """List the folders of images that `_subfolders` leaves out."""
    return [folder for folder in list_folders(path) if folder.name.startswith("_") and list_images(folder)]


def _split_folders(path: Path) -> list[Path]:
    """List folders named like splits that contain folders, unlike the folder of a class named `train`.

    Raises:
        FiguregroundError: Two of them are the same split.
    """
    folders = [folder for folder in _subfolders(path) if folder_split(folder.name) is not None and _subfolders(folder)]
    for number, split in enumerate(SPLITS):
        same = [f"{folder.name}/" for folder in folders if folder_split(folder.name) == number]
        if len(same) > 1:
            raise FiguregroundError(
                f"{path}: {join_names(same)} would all be the split {split}. Move all but one out of the directory, or "
                "write a table filename,split,y[,a]."
            )
    return folders


def _split_of(folder: Path) -> int:
    split = folder_split(folder.name)
    assert split is not None
    return split


@dataclass
class FolderRecord:
    """Images labelled by folders."""

    path: Path
    names: list[str] = field(default_factory=list)
    split: list[int] = field(default_factory=list)
    y: list[str] = field(default_factory=list)
    a: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Descriptions of skipped entries."""

    def add_folder(self, folder: Path, split: int, y: str, a: str = "") -> None:
        """Add the images of a folder, all with the same labels."""
        name, images = self.display_path(folder), []
        for path in list_images(folder):
            # Images from phones would otherwise be counted here, and stop a training later.
            if path.suffix.lower() in FOREIGN_SUFFIXES and (reason := explain_unreadable(path)):
                self.skipped.append(f"{name}{printable(path.name)}, {reason}")
            else:
                images.append(path)
        self.names += [path.relative_to(self.path).as_posix() for path in images]
        self.split += [split] * len(images)
        self.y += [y] * len(images)
        self.a += [a] * len(images)
        self.skipped += [f"{name}{printable(path.name)}, {kind}" for path, kind in list_non_files(folder)]
        if not images:
            self.skipped.append(f"{name}, which contains no image")

    def note_loose_images(self, folder: Path) -> None:
        """Record images that are in a folder of folders."""
        if count := len(list_images(folder)):
            self.skipped.append(f"{plural(count, 'image')} in {self.display_path(folder)} itself")

    def display_path(self, folder: Path) -> str:
        """Return a folder's path for messages, relative to the directory."""
        return f"{printable((self.path.name / folder.relative_to(self.path)).as_posix())}/"

    def to_groups(self, source: DataSource, layout: str, has_splits: bool) -> GroupedImages:
        """Make the record. Missing validation, or all missing splits, are taken from training, with a note."""
        problems = DataProblems(str(self.path))
        split = np.array(self.split, np.int64)
        files, keys, _ = find_files(self.path, Column("file", self.names, [0] * len(self.names)), split, problems)
        problems.refuse()
        y, a = _number_names(self.y), _number_names(self.a) if any(self.a) else None
        given_split = split
        split, notes = complete_splits(keys, y, a, split, files, has_splits=has_splits, seed=source.seed)
        if self.skipped:
            notes.append(
                f"Skipped: {'; '.join(self.skipped[:MAX_EXAMPLES])}{'; …' if len(self.skipped) > MAX_EXAMPLES else ''}."
            )
        return make_record(source, layout, keys, split, y, a, files, notes, given_split=given_split)


def _number_names(values: Sequence[str]) -> Labels:
    """Return labels of names, in alphabetical order."""
    names = sorted(set(values))
    label_of = {name: label for label, name in enumerate(names)}
    return np.array([label_of[value] for value in values], np.int64), names


def _refuse_unknown_splits(path: Path, splits: Sequence[Path], others: Sequence[Path]) -> None:
    """Raise FiguregroundError if a folder next to the splits has the same classes but isn't named like a split."""
    classes = {name_key(subfolder.name) for split in splits for subfolder in _subfolders(split)}
    for folder in others:
        same = [subfolder.name for subfolder in _subfolders(folder) if name_key(subfolder.name) in classes]
        if same:
            raise FiguregroundError(
                f"{path}: {printable(folder.name)}/ contains folders of the same classes as "
                f"{join_names(f'{split.name}/' for split in splits)} ({join_names(map(repr, same), MAX_EXAMPLES)}), "
                "but is not "
                "a known name of a split. Rename it to train, validation (val, dev, eval) or test, or move it out of "
                "the directory."
            )


def find_metashift(source: DataSource) -> list[Path]:
    path = source.path
    if not path.is_dir():
        return []
    subfolders = (
        subfolder
        for split in _split_folders(path)
        for folder in _subfolders(split)
        for subfolder in _subfolders(folder)
    )
    return [path] if any(_IN_CONTEXT.fullmatch(subfolder.name) for subfolder in subfolders) else []


def read_metashift(source: DataSource) -> GroupedImages:
    """Read `SPLIT/CLASS/CLASS(CONTEXT)/*` (Liang and Zou 2022, arXiv 2202.06523)."""
    path, images, problems = source.at, FolderRecord(source.at), DataProblems(str(source.at))
    splits = _split_folders(path)
    others = [subfolder for subfolder in _subfolders(path) if subfolder not in splits]
    _refuse_unknown_splits(path, splits, others)
    images.skipped += [images.display_path(subfolder) for subfolder in others]
    for split in splits:
        for folder in _subfolders(split):
            images.note_loose_images(folder)
            for subfolder in _subfolders(folder):
                match = _IN_CONTEXT.fullmatch(subfolder.name)
                if match is None:
                    images.skipped.append(images.display_path(subfolder))
                elif name_key(match["name"]) != name_key(folder.name):
                    name, class_name = images.display_path(subfolder), folder.name
                    problems.add(f"{name} is named {match['name']!r} but is in the folder of {class_name!r}.")
                else:
                    images.add_folder(subfolder, _split_of(split), folder.name.strip(), match["context"].strip())
    problems.refuse()
    if not images.names:
        raise FiguregroundError(f"{path}: its folders SPLIT/CLASS/CLASS(CONTEXT) contain no image.")
    return images.to_groups(source, "metashift", True)


def find_folders(source: DataSource) -> list[Path]:
    path = source.path
    if not path.is_dir():
        return []
    parents = _split_folders(path) or [path]
    return [path] if any(list_images(folder) for parent in parents for folder in _subfolders(parent)) else []


def read_folders(source: DataSource) -> GroupedImages:
    """Read `[SPLIT/]CLASS/*`."""
    path, images = source.at, FolderRecord(source.at)
    splits = _split_folders(path)
    flat_splits = [
        f"{folder.name}/" for folder in _subfolders(path) if not splits and folder_split(folder.name) is not None
    ]
    if len(flat_splits) > 1:
        raise FiguregroundError(
            f"{path}: {join_names(flat_splits)} are named like splits and contain images, but no class folders. Put "
            "the images into one folder per class, or name the class column of a table metadata.csv or metadata.jsonl: "
            "--y NAME."
        )
    others = [folder for folder in _subfolders(path) if splits and folder not in splits]
    classes = [f"{folder.name}/" for folder in others if list_images(folder)]
    if classes:
        raise FiguregroundError(
            f"{path} contains the splits {join_names(f'{folder.name}/' for folder in splits)} and also folders of "
            f"images, {join_names(classes, MAX_EXAMPLES)}. Move one kind out of the directory, or write a table "
            "filename,split,y[,a]."
        )
    _refuse_unknown_splits(path, splits, others)
    images.skipped += [images.display_path(folder) for folder in others]
    for top in splits or [path]:
        images.note_loose_images(top)
        images.skipped += [f"{images.display_path(folder)}, a private folder" for folder in _private_folders(top)]
        for folder in _subfolders(top):
            images.add_folder(folder, _split_of(top) if splits else 0, folder.name.strip())
    return images.to_groups(source, "folders", bool(splits))
