"""Reads data sets labelled by tables: `filename[,split],y[,a]`, ImageFolder's `file_name`, Waterbirds' metadata.csv."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, join_names, suggest_or_list
from figureground.core.tables import TABLES, Column, TextTable, read_header
from figureground.data.data_source import METADATA, DataSource
from figureground.data.groups import GroupedImages
from figureground.data.listed_files import find_files
from figureground.data.record import complete_splits, make_record
from figureground.data.splits import SPLITS, folder_split
from figureground.data.stores import FileStore
from figureground.data.tables import DataProblems, cross_labels, parse_names, read_bits, read_labels, read_splits
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
EXPORT = "export.json"
"""File beside the tables that `export` writes."""
CLASS_COLUMNS = (Y, "label", "labels", "class", "category", "target", FOREGROUND)
"""Default class columns of ImageFolder's tables; the first that exists is used."""

WATERBIRDS_TRAIN = ((3498, 184), (56, 1057))
"""Number of training images of Waterbirds, class × place (Sagawa et al. 2020, arXiv 1911.08731)."""


def find_table(source: DataSource) -> list[Path]:
    split = [source.split_column] if source.split_column else []
    return _find_tables(source, [source.file or FILE, source.y or Y, *split])


def find_waterbirds(source: DataSource) -> list[Path]:
    return _find_tables(source, WATERBIRDS)


def _find_tables(source: DataSource, columns: Sequence[str]) -> list[Path]:
    """Find the tables that have the given columns."""
    path = source.path
    files = sorted(entry for entry in path.iterdir() if _is_table(entry)) if path.is_dir() else [path]
    return [file for file in files if file.is_file() and {*columns} <= set(_read_any_header(file, path))]


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLES and not path.name.startswith(".")


def _read_any_header(file: Path, requested: Path) -> list[str]:
    """Read a header like `read_header`; return none for an unreadable file that wasn't requested."""
    try:
        return read_header(file)
    except FiguregroundError:
        if file == requested or file.name == METADATA:
            raise
        return []


def read_table(source: DataSource) -> GroupedImages:
    """Read `filename[,split],y[,a]`, or the same columns under other names."""
    return _read_tables(
        source, "table", {"": source.at}, source.file or FILE, source.y or Y, source.root or source.at.parent
    )


def find_image_folder(source: DataSource) -> list[Path]:
    path = source.path
    if path.is_file():
        has_class = path.name in IMAGE_FOLDER and _has_class(source, read_header(path))
        return [path] if has_class else []
    has_class_in_any = any(
        _has_class(source, _read_any_header(file, path)) for file in _find_folder_tables(path).values()
    )
    return [path] if has_class_in_any else []


def _has_class(source: DataSource, header: Sequence[str]) -> bool:
    return FILE_NAME in header and (source.y in header if source.y else any(name in header for name in CLASS_COLUMNS))


def _find_folder_tables(path: Path) -> dict[str, Path]:
    """Return ImageFolder's tables by folder: the directory itself and its splits."""
    folders = [path, *(subfolder for subfolder in list_folders(path) if folder_split(subfolder.name) is not None)]
    return {
        "" if folder == path else folder.name: folder / name
        for folder in folders for name in IMAGE_FOLDER if (folder / name).is_file()
    }  # fmt: skip


def read_image_folder(source: DataSource) -> GroupedImages:
    """Read ImageFolder of `datasets`: `metadata.csv` or `.jsonl` with `file_name`, once or in each split.

    Raises:
        FiguregroundError: A folder has both, which may disagree; or the data can't be used.
    """
    if source.at.is_file():
        tables, root = {"": source.at}, source.at.parent
    else:
        tables, root = _find_folder_tables(source.at), source.at
        for table in tables.values():
            others = [name for name in IMAGE_FOLDER if (table.parent / name).is_file() and name != table.name]
            if others:
                raise FiguregroundError(
                    f"{table.parent} has both {others[0]} and {table.name}. Move one of them out of the directory, or "
                    "give the intended file."
                )
    header = read_header(next(iter(tables.values())))
    y = source.y or next((name for name in CLASS_COLUMNS if name in header), Y)
    return _read_tables(source, "imagefolder", tables, FILE_NAME, y, root)


def _read_tables(
    source: DataSource, layout: str, tables: dict[str, Path], file: str, y: str, root: Path
) -> GroupedImages:  # fmt: skip
    """Read the labels of files from tables, given by the folder (relative to the root) that each describes."""
    opened = {folder: TextTable(path) for folder, path in tables.items()}
    header = next(iter(opened.values())).header
    attributes = _choose_attributes(source, y, header, next(iter(opened.values())).name)
    split = source.split_column or (SPLIT if all(SPLIT in table.header for table in opened.values()) else None)
    names = list(dict.fromkeys([file, y, *attributes, *([split] if split else [])]))
    columns = _join_tables({folder: table.columns(names) for folder, table in opened.items()}, file)
    attributes = [name for name in attributes if name not in (A, BACKGROUND) or any(columns[name].values) or source.a]

    problems = DataProblems(join_names([table.name for table in opened.values()], 1))
    by_folder = None
    if split is None:
        by_folder = _read_folder_splits(columns[file].values)
    numbers = read_splits(columns[split], problems) if split else np.array(by_folder or [0] * len(columns[file].values))
    folder = source.at if source.at.is_dir() else source.at.parent
    named = {FOREGROUND, BACKGROUND} if (folder / EXPORT).is_file() else set()
    labels = read_labels(columns[y], problems, y in named)
    attribute_labels = [read_labels(columns[name], problems, name in named) for name in attributes]
    files, keys, notes = _find_listed_files(source, columns[file], numbers, problems, root)
    a = cross_labels(attribute_labels, attributes) if attribute_labels else None
    if split is None:
        numbers, split_notes = complete_splits(
            keys, labels, a, numbers, files, has_splits=by_folder is not None, seed=source.seed
        )
        notes = [*split_notes, *notes]
    return make_record(source, layout, keys, numbers, labels, a, files, notes)


def _choose_attributes(source: DataSource, y: str, header: Sequence[str], table: str) -> list[str]:
    """Return the columns of the attribute.

    Raises:
        RecipeError: A column doesn't exist, is the class, or is named twice.
    """
    if source.a is None:
        default = BACKGROUND if y == FOREGROUND else A
        return [default] if default in header and y != default else []
    names = parse_names(source.a, header)
    for name in names:
        if name not in header:
            raise RecipeError("a", f"{table} has no column {name!r}{suggest_or_list(name, header)}")
    if y in names:
        raise RecipeError("a", f"{y!r} is already the class; choose another column.")
    if len(set(names)) < len(names):
        raise RecipeError("a", f"{source.a!r} names a column twice.")
    return names


def _join_tables(columns_by_folder: dict[str, dict[str, Column]], file: str) -> dict[str, Column]:
    """Join the columns of several tables, with file names relative to their common directory."""
    if list(columns_by_folder) == [""]:
        return columns_by_folder[""]
    joined = {}
    for name in next(iter(columns_by_folder.values())):
        values: list[str] = []
        lines: list[int | str] = []
        for folder, columns in columns_by_folder.items():
            prefix = f"{folder}/" if name == file and folder else ""
            values += [prefix + value if value else value for value in columns[name].values]
            lines += [f"{line} of {folder or '.'}/" for line in columns[name].lines]
        joined[name] = Column(name, values, lines)
    return joined


def _read_folder_splits(files: Sequence[str]) -> list[int] | None:
    """Return the split of each file if all are in folders named like splits; None otherwise.

    Raises:
        FiguregroundError: Two of the folders are the same split.
    """
    parts = [posixpath.normpath(name.replace("\\", "/")).partition("/") for name in files]
    split_of = {top: folder_split(top) if rest else None for top, _, rest in parts}
    if None in split_of.values():
        return None
    for number, split in enumerate(SPLITS):
        same = [f"{top}/" for top, number_of_folder in split_of.items() if number_of_folder == number]
        if len(same) > 1:
            raise FiguregroundError(
                f"{join_names(same)} would all be the split {split}. Give the split of each file in a column: "
                "--split-column NAME."
            )
    splits = {top: number_of_folder for top, number_of_folder in split_of.items() if number_of_folder is not None}
    return [splits[top] for top, _, _ in parts]


def _find_listed_files(
    source: DataSource, column: Column, split: np.ndarray, problems: DataProblems, root: Path
) -> tuple[FileStore, tuple[str, ...], list[str]]:
    """Find the files of a table; raise FiguregroundError with all its problems."""
    hint = " If the images are elsewhere, give --root DIR." if source.root is None else ""
    files = find_files(root, column, split, problems, hint)
    problems.refuse()
    return files


def read_waterbirds(source: DataSource) -> GroupedImages:
    """Read `img_id,img_filename,y,split,place,place_filename` (Sagawa et al. 2020, arXiv 1911.08731)."""
    table = TextTable(source.at)
    name_columns = [name for name in (FOREGROUND, BACKGROUND) if name in table.header]
    columns = table.columns([*WATERBIRDS, *name_columns])
    problems = DataProblems(source.at.name)
    split = read_splits(columns["split"], problems)
    y, place = (read_bits(columns[name], {"0": 0, "1": 1}, problems) for name in ("y", "place"))
    files, keys, notes = _find_listed_files(
        source, columns["img_filename"], split, problems, source.root or source.at.parent
    )
    if len(name_columns) == 2:  # an export says which classes and places these are
        classes, places = (_name_bits(columns[n], b) for n, b in ((FOREGROUND, y), (BACKGROUND, place)))
        return make_record(source, "waterbirds", keys, split, (y, classes), (place, places), files, notes)
    groups = make_record(
        source, "waterbirds", keys, split, (y, ("landbird", "waterbird")), (place, ("land", "water")), files, notes
    )
    sizes = ", ".join(f"{n:,}" for row in WATERBIRDS_TRAIN for n in row)
    if groups.counts(0).tolist() == [list(row) for row in WATERBIRDS_TRAIN]:
        note = f"The training group sizes match those of Waterbirds: {sizes}."
    else:
        note = f"The training group sizes differ from Waterbirds ({sizes}): this is a subset or another draw."
    return replace(groups, notes=(note, *groups.notes))


def _name_bits(column: Column, bits: np.ndarray) -> tuple[str, str]:
    """Return the names of 0 and 1 in a column beside them; a number that doesn't occur names itself."""
    names = {int(bit): value for bit, value in zip(bits[::-1], column.values[::-1], strict=True)}
    return names.get(0, "0"), names.get(1, "1")
