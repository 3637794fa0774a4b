"""Reads data sets labelled by tables: `filename[,split],y[,a]`, ImageFolder's `file_name`, Waterbirds' metadata.csv."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, listed, nearest_or_all
from figureground.core.tables import TABLES, Column, TextTable, read_header
from figureground.data.groups import Files, GroupedImages
from figureground.data.record import METADATA, Request, complete_splits, make_record
from figureground.data.splits import SPLITS, folder_split
from figureground.data.tables import Problems, column_names, cross, find_files, read_bits, read_labels, read_splits
from figureground.sources.images import list_folders

FILE, SPLIT, Y, A = "filename", "split", "y", "a"
"""Default columns of a table."""
WATERBIRDS = ("img_filename", "y", "split", "place")

FILE_NAME = "file_name"
"""ImageFolder's column of file names."""
IMAGE_FOLDER = (METADATA, "metadata.jsonl")
"""File names of ImageFolder's tables."""
FOREGROUND, BACKGROUND = "foreground", "background"
"""Names of the labels in what `export` writes."""
CLASS_COLUMNS = (Y, "label", "labels", "class", "category", "target", FOREGROUND)
"""Default class columns of ImageFolder's tables; the first that exists is used."""

WATERBIRDS_TRAIN = ((3498, 184), (56, 1057))
"""Number of training images of Waterbirds, class × place (Sagawa et al. 2020, arXiv 1911.08731)."""


def find_table(asked: Request) -> list[Path]:
    return _find(asked, [asked.file or FILE, asked.y or Y, *([asked.split] if asked.split else [])])


def find_waterbirds(asked: Request) -> list[Path]:
    return _find(asked, WATERBIRDS)


def _find(asked: Request, columns: Sequence[str]) -> list[Path]:
    """Find the tables that have the given columns."""
    path = asked.path
    files = sorted(each for each in path.iterdir() if _is_table(each)) if path.is_dir() else [path]
    return [file for file in files if file.is_file() and {*columns} <= set(_header_of_any(file, path))]


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLES and not path.name.startswith(".")


def _header_of_any(file: Path, given: Path) -> list[str]:
    """Read a header like `read_header`; return none for an unreadable file that wasn't requested."""
    try:
        return read_header(file)
    except FiguregroundError:
        if file == given or file.name == METADATA:
            raise
        return []


def read_table(asked: Request) -> GroupedImages:
    """Read `filename[,split],y[,a]`, or the same columns under other names."""
    return _read(asked, "table", {"": asked.at}, asked.file or FILE, asked.y or Y, asked.root or asked.at.parent)


def find_image_folder(asked: Request) -> list[Path]:
    path = asked.path
    if path.is_file():
        is_one = path.name in IMAGE_FOLDER and _has_class(asked, read_header(path))
        return [path] if is_one else []
    found = any(_has_class(asked, _header_of_any(file, path)) for file in _tables_of(path).values())
    return [path] if found else []


def _has_class(asked: Request, header: Sequence[str]) -> bool:
    return FILE_NAME in header and (asked.y in header if asked.y else any(name in header for name in CLASS_COLUMNS))


def _tables_of(path: Path) -> dict[str, Path]:
    """Return ImageFolder's tables by folder: the directory itself and its splits."""
    folders = [path, *(each for each in list_folders(path) if folder_split(each.name) is not None)]
    return {
        "" if folder == path else folder.name: folder / name
        for folder in folders for name in IMAGE_FOLDER if (folder / name).is_file()
    }  # fmt: skip


def read_image_folder(asked: Request) -> GroupedImages:
    """Read ImageFolder of `datasets`: `metadata.csv` or `.jsonl` with `file_name`, once or in each split."""
    if asked.at.is_file():
        tables, root = {"": asked.at}, asked.at.parent
    else:
        tables, root = _tables_of(asked.at), asked.at
    header = read_header(next(iter(tables.values())))
    y = asked.y or next((name for name in CLASS_COLUMNS if name in header), Y)
    return _read(asked, "imagefolder", tables, FILE_NAME, y, root)


def _read(
    asked: Request, layout: str, tables: dict[str, Path], file: str, y: str, root: Path
) -> GroupedImages:  # fmt: skip
    """Read the labels of files from tables, given by the folder (relative to the root) that each describes."""
    opened = {folder: TextTable(path) for folder, path in tables.items()}
    header = next(iter(opened.values())).header
    attributes = _attributes(asked, y, header, next(iter(opened.values())).name)
    split = asked.split or (SPLIT if all(SPLIT in table.header for table in opened.values()) else None)
    wanted = list(dict.fromkeys([file, y, *attributes, *([split] if split else [])]))
    columns = _join({folder: table.columns(wanted) for folder, table in opened.items()}, file)
    attributes = [name for name in attributes if name not in (A, BACKGROUND) or any(columns[name].values) or asked.a]

    problems = Problems(listed([table.name for table in opened.values()], 1))
    by_folder = None
    if split is None:
        by_folder = _splits_of_folders(columns[file].values)
    numbers = read_splits(columns[split], problems) if split else np.array(by_folder or [0] * len(columns[file].values))
    labels = read_labels(columns[y], problems)
    crossed = [read_labels(columns[name], problems) for name in attributes]
    files, keys, notes = _files_of(asked, columns[file], numbers, problems, root)
    a = cross(crossed, attributes) if crossed else None
    if split is None:
        numbers, more = complete_splits(keys, labels, a, numbers, by_folder is not None, asked.seed)
        notes = [*more, *notes]
    return make_record(asked, layout, keys, numbers, labels, a, files, notes)


def _attributes(asked: Request, y: str, header: Sequence[str], table: str) -> list[str]:
    """Return the columns of the attribute.

    Raises:
        RecipeError: A column doesn't exist, is the class, or is named twice.
    """
    if asked.a is None:
        own = BACKGROUND if y == FOREGROUND else A
        return [own] if own in header and y != own else []
    chosen = column_names(asked.a, header)
    for name in chosen:
        if name not in header:
            raise RecipeError("a", f"{table} has no column {name!r}{nearest_or_all(name, header)}")
    if y in chosen:
        raise RecipeError("a", f"{y!r} is already the class; choose another column.")
    if len(set(chosen)) < len(chosen):
        raise RecipeError("a", f"{asked.a!r} names a column twice.")
    return chosen


def _join(each: dict[str, dict[str, Column]], file: str) -> dict[str, Column]:
    """Join the columns of several tables, with file names relative to their common directory."""
    if list(each) == [""]:
        return each[""]
    joined = {}
    for name in next(iter(each.values())):
        values: list[str] = []
        lines: list[int | str] = []
        for folder, columns in each.items():
            prefix = f"{folder}/" if name == file and folder else ""
            values += [prefix + value if value else value for value in columns[name].values]
            lines += [f"{line} of {folder or '.'}/" for line in columns[name].lines]
        joined[name] = Column(name, values, lines)
    return joined


def _splits_of_folders(files: Sequence[str]) -> list[int] | None:
    """Return the split of each file if all are in folders named like splits; None otherwise.

    Raises:
        FiguregroundError: Two of the folders are the same split.
    """
    tops = [posixpath.normpath(name.replace("\\", "/")).partition("/") for name in files]
    found = {top: folder_split(top) if rest else None for top, _, rest in tops}
    if None in found.values():
        return None
    for number, split in enumerate(SPLITS):
        same = [f"{top}/" for top, each in found.items() if each == number]
        if len(same) > 1:
            raise FiguregroundError(
                f"{listed(same)} would all be the split {split}. Give the split of each file in a column: "
                "--split-column NAME."
            )
    known = {top: each for top, each in found.items() if each is not None}
    return [known[top] for top, _, _ in tops]


def _files_of(
    asked: Request, column: Column, split: np.ndarray, problems: Problems, root: Path
) -> tuple[Files, tuple[str, ...], list[str]]:
    """Find the files of a table; raise FiguregroundError with all its problems."""
    hint = " If the images are elsewhere, give --root DIR." if asked.root is None else ""
    found = find_files(root, column, split, problems, hint)
    problems.refuse()
    return found


def read_waterbirds(asked: Request) -> GroupedImages:
    """Read `img_id,img_filename,y,split,place,place_filename` (Sagawa et al. 2020, arXiv 1911.08731)."""
    table = TextTable(asked.at)
    named = [name for name in (FOREGROUND, BACKGROUND) if name in table.header]
    columns = table.columns([*WATERBIRDS, *named])
    problems = Problems(asked.at.name)
    split = read_splits(columns["split"], problems)
    y, place = (read_bits(columns[name], {"0": 0, "1": 1}, problems) for name in ("y", "place"))
    files, keys, notes = _files_of(asked, columns["img_filename"], split, problems, asked.root or asked.at.parent)
    if len(named) == 2:  # an export says which classes and places these are
        classes, places = (_names_of_bits(columns[n], b) for n, b in ((FOREGROUND, y), (BACKGROUND, place)))
        return make_record(asked, "waterbirds", keys, split, (y, classes), (place, places), files, notes)
    groups = make_record(
        asked, "waterbirds", keys, split, (y, ("landbird", "waterbird")), (place, ("land", "water")), files, notes
    )
    known = ", ".join(f"{n:,}" for row in WATERBIRDS_TRAIN for n in row)
    if groups.counts(0).tolist() == [list(row) for row in WATERBIRDS_TRAIN]:
        said = f"The training group sizes match those of Waterbirds: {known}."
    else:
        said = f"The training group sizes differ from Waterbirds ({known}): this is a subset or another draw."
    return replace(groups, notes=(said, *groups.notes))


def _names_of_bits(column: Column, bits: np.ndarray) -> tuple[str, str]:
    """Return the names of 0 and 1 in a column beside them; a number that doesn't occur names itself."""
    found = {int(bit): value for bit, value in zip(bits[::-1], column.values[::-1], strict=True)}
    return found.get(0, "0"), found.get(1, "1")
