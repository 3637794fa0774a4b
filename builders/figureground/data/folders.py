"""Reads data sets labelled by folders: `[SPLIT/]CLASS`, and MetaShift's `SPLIT/CLASS/CLASS(CONTEXT)`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from figureground.core.errors import FiguregroundError, counted, listed, printable
from figureground.core.names import loosely
from figureground.core.tables import Column
from figureground.data.groups import GroupedImages
from figureground.data.record import Request, complete_splits, make_record
from figureground.data.splits import SPLITS, folder_split
from figureground.data.tables import FIRST, Labels, Problems, find_files, why_unreadable
from figureground.sources.images import FOREIGN_SUFFIXES, list_folders, list_images, list_odd

_IN_CONTEXT = re.compile(r"(?P<name>.+?)\s*\((?P<context>[^()]+)\)")


def _subfolders(path: Path) -> list[Path]:
    """List visible folders by name; folders that begin with `_` are private."""
    return [each for each in list_folders(path) if not each.name.startswith("_")]


def _split_folders(path: Path) -> list[Path]:
    """List folders named like splits that contain folders, unlike the folder of a class named `train`.

    Raises:
        FiguregroundError: Two of them are the same split.
    """
    folders = [each for each in _subfolders(path) if folder_split(each.name) is not None and _subfolders(each)]
    for number, split in enumerate(SPLITS):
        same = [f"{folder.name}/" for folder in folders if folder_split(folder.name) == number]
        if len(same) > 1:
            raise FiguregroundError(
                f"{path}: {listed(same)} would all be the split {split}. Move all but one out of the directory, or "
                "write a table filename,split,y[,a]."
            )
    return folders


def _split_of(folder: Path) -> int:
    number = folder_split(folder.name)
    assert number is not None
    return number


@dataclass
class Gathered:
    """Images labelled by folders."""

    path: Path
    names: list[str] = field(default_factory=list)
    split: list[int] = field(default_factory=list)
    y: list[str] = field(default_factory=list)
    a: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    """Descriptions of skipped entries."""

    def take(self, folder: Path, split: int, y: str, a: str = "") -> None:
        """Add the images of a folder, all with the same labels."""
        shown, images = self.shown(folder), []
        for path in list_images(folder):
            # Images from phones would otherwise be counted here, and stop a training later.
            if path.suffix.lower() in FOREIGN_SUFFIXES and (reason := why_unreadable(path)):
                self.odd.append(f"{shown}{printable(path.name)}, {reason}")
            else:
                images.append(path)
        self.names += [path.relative_to(self.path).as_posix() for path in images]
        self.split += [split] * len(images)
        self.y += [y] * len(images)
        self.a += [a] * len(images)
        self.odd += [f"{shown}{printable(path.name)}, {kind}" for path, kind in list_odd(folder)]
        if not images:
            self.odd.append(f"{shown}, which contains no image")

    def pass_over(self, folder: Path) -> None:
        """Record images that are in a folder of folders."""
        if loose := len(list_images(folder)):
            self.odd.append(f"{counted(loose, 'image')} in {self.shown(folder)} itself")

    def shown(self, folder: Path) -> str:
        """Return a folder's path for messages, relative to the directory."""
        return f"{printable((self.path.name / folder.relative_to(self.path)).as_posix())}/"

    def record(self, asked: Request, layout: str, has_splits: bool) -> GroupedImages:
        """Make the record. Missing validation, or all missing splits, are taken from training, with a note."""
        problems = Problems(str(self.path))
        split = np.array(self.split, np.int64)
        files, keys, _ = find_files(self.path, Column("file", self.names, [0] * len(self.names)), split, problems)
        problems.refuse()
        y, a = _number(self.y), _number(self.a) if any(self.a) else None
        split, notes = complete_splits(keys, y, a, split, has_splits, asked.seed)
        if self.odd:
            notes.append(f"Skipped: {'; '.join(self.odd[:FIRST])}{'; …' if len(self.odd) > FIRST else ''}.")
        return make_record(asked, layout, keys, split, y, a, files, notes)


def _number(values: Sequence[str]) -> Labels:
    """Return labels of names, in alphabetical order."""
    names = sorted(set(values))
    place = {name: label for label, name in enumerate(names)}
    return np.array([place[value] for value in values], np.int64), names


def _refuse_unknown_splits(path: Path, splits: Sequence[Path], others: Sequence[Path]) -> None:
    """Raise FiguregroundError if a folder next to the splits has the same classes but isn't named like a split."""
    classes = {loosely(each.name) for split in splits for each in _subfolders(split)}
    for folder in others:
        same = [each.name for each in _subfolders(folder) if loosely(each.name) in classes]
        if same:
            raise FiguregroundError(
                f"{path}: {printable(folder.name)}/ contains folders of the same classes as "
                f"{listed(f'{split.name}/' for split in splits)} ({listed(map(repr, same), FIRST)}), but is not a "
                "known name of a split. Rename it to train, validation (val, dev, eval) or test, or move it out of the "
                "directory."
            )


def find_metashift(asked: Request) -> list[Path]:
    path = asked.path
    if not path.is_dir():
        return []
    inner = (each for split in _split_folders(path) for folder in _subfolders(split) for each in _subfolders(folder))
    return [path] if any(_IN_CONTEXT.fullmatch(each.name) for each in inner) else []


def read_metashift(asked: Request) -> GroupedImages:
    """Read `SPLIT/CLASS/CLASS(CONTEXT)/*` (Liang and Zou 2022, arXiv 2202.06523)."""
    path, gathered, problems = asked.at, Gathered(asked.at), Problems(str(asked.at))
    splits = _split_folders(path)
    others = [each for each in _subfolders(path) if each not in splits]
    _refuse_unknown_splits(path, splits, others)
    gathered.odd += [gathered.shown(each) for each in others]
    for split in splits:
        for folder in _subfolders(split):
            gathered.pass_over(folder)
            for each in _subfolders(folder):
                named = _IN_CONTEXT.fullmatch(each.name)
                if named is None:
                    gathered.odd.append(gathered.shown(each))
                elif loosely(named["name"]) != loosely(folder.name):
                    shown, own = gathered.shown(each), folder.name
                    problems.add(f"{shown} is named {named['name']!r} but is in the folder of {own!r}.")
                else:
                    gathered.take(each, _split_of(split), folder.name.strip(), named["context"].strip())
    problems.refuse()
    if not gathered.names:
        raise FiguregroundError(f"{path}: its folders SPLIT/CLASS/CLASS(CONTEXT) contain no image.")
    return gathered.record(asked, "metashift", True)


def find_folders(asked: Request) -> list[Path]:
    path = asked.path
    if not path.is_dir():
        return []
    tops = _split_folders(path) or [path]
    return [path] if any(list_images(folder) for top in tops for folder in _subfolders(top)) else []


def read_folders(asked: Request) -> GroupedImages:
    """Read `[SPLIT/]CLASS/*`."""
    path, gathered = asked.at, Gathered(asked.at)
    splits = _split_folders(path)
    bare = [f"{each.name}/" for each in _subfolders(path) if not splits and folder_split(each.name) is not None]
    if len(bare) > 1:
        raise FiguregroundError(
            f"{path}: {listed(bare)} are named like splits and contain images, but no class folders. Put the images "
            "into one folder per class, or name the class column of a table metadata.csv or metadata.jsonl: "
            "--y NAME."
        )
    others = [each for each in _subfolders(path) if splits and each not in splits]
    classes = [f"{each.name}/" for each in others if list_images(each)]
    if classes:
        raise FiguregroundError(
            f"{path} contains the splits {listed(f'{each.name}/' for each in splits)} and also folders of images, "
            f"{listed(classes, FIRST)}. Move one kind out of the directory, or write a table filename,split,y[,a]."
        )
    _refuse_unknown_splits(path, splits, others)
    gathered.odd += [gathered.shown(each) for each in others]
    for top in splits or [path]:
        gathered.pass_over(top)
        for folder in _subfolders(top):
            gathered.take(folder, _split_of(top) if splits else 0, folder.name.strip())
    return gathered.record(asked, "folders", bool(splits))
