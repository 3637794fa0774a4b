"""Layouts of labelled data sets on disk: detects a layout and reads the data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, join_names, printable, suggest_or_list
from figureground.core.registry import Registry
from figureground.core.tables import describe_header, read_header
from figureground.data.celeba import find_celeba, read_celeba
from figureground.data.data_source import OPTIONS, DataSource
from figureground.data.folders import find_folders, find_metashift, read_folders, read_metashift
from figureground.data.groups import GroupedImages
from figureground.data.metadata import (
    IMAGE_FOLDER,
    find_image_folder,
    find_table,
    find_waterbirds,
    read_image_folder,
    read_table,
    read_waterbirds,
)
from figureground.data.record import DATASET, make_record
from figureground.data.splits import SPLIT_NAMES, choose_splits, folder_split
from figureground.data.stores import ShardStore
from figureground.shards.shard import PRIVATE
from figureground.sources.images import list_folders, list_images

UNKNOWN = "unknown"
"""Background of a dataset without a background label."""


class Layout(NamedTuple):
    """A layout of data sets on disk."""

    find: Callable[[DataSource], list[Path]]
    """Returns the tables or directories that have this layout; none if it doesn't apply, several if ambiguous."""
    read: Callable[[DataSource], GroupedImages]
    takes: tuple[str, ...]
    """Accepted options among `data_source.OPTIONS`."""
    tree: str
    """Short description of the expected files."""


def read_groups(
    path: Path | str,
    layout: str | None = None,
    *,
    root: Path | str | None = None,
    y: str | None = None,
    a: str | None = None,
    file: str | None = None,
    split_column: str | None = None,
    seed: int = 0,
) -> GroupedImages:
    """Read and check a labelled data set; its notes report peculiarities.

    No image is decoded, but the existence of all files named by a table is checked.

    Args:
        path: A directory, or a table.
        layout: One of `LAYOUTS`; default: detected.
        root: Directory of the files named by a table (layouts `table`, `waterbirds`, `celeba`); default: the
            directory of the table.
        y: Column of a table, or attribute of CelebA, that is the class; default: `y` or `Blond_Hair`.
        a: Column or attribute that is the attribute; default: `a`, if it exists, or `Male`. Several, separated by
            commas, are crossed: each combination of their values is an attribute.
        file: Column of a table with the file names; default: `filename`.
        split_column: Column of a table with the split; default: `split`, if it exists.
        seed: Seed for choosing validation and test images if folders don't define them.

    Raises:
        FiguregroundError: The path doesn't exist, no layout or several match, or its content can't be used: a header,
            a label, a split, a file. All problems of a table are reported at once.
        RecipeError: A layout, a column or an attribute doesn't exist, or the layout doesn't accept an option.
    """
    return read_data(DataSource.of(path, layout, root=root, y=y, a=a, file=file, split_column=split_column, seed=seed))


def read_data(source: DataSource) -> GroupedImages:
    """Read and check a labelled data set like `read_groups`.

    Raises:
        FiguregroundError, RecipeError: As for `read_groups`.
    """
    if source.layout is not None and source.layout not in LAYOUTS:
        raise RecipeError("layout", f"{source.layout!r} is unknown{suggest_or_list(source.layout, LAYOUTS.names())}")
    if source.root is not None and not source.root.is_dir():
        raise RecipeError("root", f"no such directory: {source.root}.")
    if not source.path.exists():
        raise FiguregroundError(f"{source.path}: no such file or directory.")
    given = source.given()
    # Given column names decide between tables; other options are refused if the layout doesn't accept them.
    name, found = _find_layout(source, [option for option in ("file", "split_column") if option in given])
    for option in OPTIONS:
        if option in given and option not in LAYOUTS[name].takes:
            raise RecipeError(option, f"the layout {name} doesn't accept it.")
    return LAYOUTS[name].read(replace(source, found=found))


def _find_layout(source: DataSource, columns: Sequence[str]) -> tuple[str, Path]:
    """Return the layout of the data set, and the table or directory that has it.

    Args:
        columns: Given options among file and split_column; layouts that don't accept them aren't considered.
    """
    path, layout = source.path, source.layout
    if layout is not None:
        matches = [(layout, at) for at in LAYOUTS[layout].find(source)]
        if not matches:
            _refuse_columns(source)
            raise FiguregroundError(
                f"{path} doesn't have the layout {layout}: {LAYOUTS[layout].tree}. {_describe_contents(path)}"
            )
    else:
        # Waterbirds and others have class folders next to their tables, so tables are tried first.
        usable = {name: candidate for name, candidate in LAYOUTS.items() if set(columns) <= set(candidate.takes)}
        matches = [(n, at) for n, candidate in usable.items() if n not in _BY_FOLDER for at in candidate.find(source)]
        table = next((path / name for name in IMAGE_FOLDER if (path / name).is_file()), None)
        if not matches and table is not None:
            _refuse_columns(source)
            raise FiguregroundError(
                f"{table} is not a table of a known layout. {_describe_contents(table)} Give the columns of the "
                "files and of the class: --file NAME --y NAME. To ignore the table, give the layout: --layout folders."
            )
        for name in _BY_FOLDER:
            matches = matches or [(name, at) for at in usable[name].find(source)] if name in usable else matches
    if not matches:
        _refuse_columns(source)
        trees = "".join(f"\n  {name}: {candidate.tree}" for name, candidate in LAYOUTS.items())
        raise FiguregroundError(
            f"{path} has no known layout. {_describe_contents(path)}{_suggest_splits(path)} Known layouts:{trees}"
        )
    if len(matches) > 1:
        examples = join_names((f"{at.relative_to(path)} ({name})" if at != path else name for name, at in matches), 5)
        names = dict.fromkeys(name for name, _ in matches)
        layouts = f", or give the layout: {' or '.join(f'--layout {name}' for name in names)}"
        layouts = layouts if len(names) > 1 else ""
        raise FiguregroundError(f"{path} can be read in several ways: {examples}. Give the intended file{layouts}.")
    return matches[0]


def _refuse_columns(source: DataSource) -> None:
    """Refuse a requested column that the table lacks, if it is clear which table is meant.

    Raises:
        RecipeError: The table lacks a requested column.
    """
    path = source.path
    table = path if path.is_file() else next((path / name for name in IMAGE_FOLDER if (path / name).is_file()), None)
    header = read_header(table) if table is not None else []
    if table is None or len(header) < 2:
        return
    for option, column in (("file", source.file), ("y", source.y), ("split_column", source.split_column)):
        if column is not None and column not in header:
            raise RecipeError(option, f"{table.name} has no column {column!r}{suggest_or_list(column, header)}")


def _describe_contents(path: Path) -> str:
    """Describe the entries of a directory, or the first line of a file, as a sentence."""
    if path.is_file():
        return describe_header(read_header(path))
    names = sorted(printable(entry.name) for entry in path.iterdir() if not entry.name.startswith("."))
    return f"It contains: {join_names(names, 6) or 'nothing'}."


def _suggest_splits(path: Path) -> str:
    """Return a hint if class folders are in folders not named like splits, as a sentence after a space."""
    if not path.is_dir():
        return ""
    parents = [parent for parent in list_folders(path) if folder_split(parent.name) is None]
    names = [f"{parent.name}/" for parent in parents if any(list_images(folder) for folder in list_folders(parent))]
    return (
        f" If {join_names(names, 3)} are splits, rename them to one of: {join_names(SPLIT_NAMES, 30)}." if names else ""
    )


# Datasets of this package


def _find_dataset(source: DataSource) -> list[Path]:
    return [source.path] if (source.path / PRIVATE).is_dir() else []


def _read_dataset(source: DataSource) -> GroupedImages:
    """Read a dataset of `build`, `curate` or `merge`: y is the foreground, a the background."""
    from figureground.data.images import DatasetImages

    images = DatasetImages.open(source.at, column="foreground")
    numbers = np.array([-1 if n is None else n for n in choose_splits(images.splits)], np.int64)
    split = numbers[images.split]
    rows = np.flatnonzero(split >= 0)
    unknown = join_names((name for name, n in zip(images.splits, numbers, strict=True) if n < 0), 5)
    if not len(rows):
        raise FiguregroundError(f"{source.at} has the splits {unknown}, but no train, validation or test.")
    notes = [f"Left out the splits {unknown}, which are not train, validation or test."] if unknown else []
    backgrounds = tuple(images.source.columns.backgrounds)
    background_names = {backgrounds[label] for label in np.unique(images.background[rows])}
    return make_record(
        source, DATASET, [images.keys[row] for row in rows.tolist()], split[rows],
        (images.foreground[rows], tuple(images.source.columns.foregrounds)),
        None if background_names == {UNKNOWN} else (images.background[rows], backgrounds), ShardStore(images), notes,
        rows,
    )  # fmt: skip


TABLE = Layout(
    find_table, read_table, ("root", "y", "a", "file", "split_column"),
    "a CSV or JSON Lines with filename,y[,split][,a], or with columns given by --file NAME and --y NAME",
)  # fmt: skip
IMAGEFOLDER = Layout(
    find_image_folder, read_image_folder, ("y", "a", "split_column"),
    "a metadata.csv or .jsonl with file_name and label (or --y NAME), in the directory or in each split",
)  # fmt: skip
WATERBIRDS = Layout(
    find_waterbirds, read_waterbirds, ("root",), "a metadata.csv with img_filename,y,split,place"
)  # fmt: skip
CELEBA = Layout(
    find_celeba, read_celeba, ("root", "y", "a"),
    "list_attr_celeba and list_eval_partition, .csv or .txt, with img_align_celeba/",
)  # fmt: skip
DATASET_LAYOUT = Layout(_find_dataset, _read_dataset, (), "a finished dataset of this package")  # fmt: skip
METASHIFT = Layout(find_metashift, read_metashift, (), "folders SPLIT/CLASS/CLASS(CONTEXT)")  # fmt: skip
FOLDERS = Layout(find_folders, read_folders, (), "folders [SPLIT/]CLASS")  # fmt: skip


def _check(name: str, entry: Any) -> str | None:
    return None if isinstance(entry, Layout) else "is no Layout"


LAYOUTS: Registry[Layout] = Registry(
    "figureground.layouts", "layout",
    {
        "table": "figureground.data.layouts:TABLE",
        "imagefolder": "figureground.data.layouts:IMAGEFOLDER",
        "waterbirds": "figureground.data.layouts:WATERBIRDS",
        "celeba": "figureground.data.layouts:CELEBA",
        DATASET: "figureground.data.layouts:DATASET_LAYOUT",
        "metashift": "figureground.data.layouts:METASHIFT",
        "folders": "figureground.data.layouts:FOLDERS",
    },
    _check,
)  # fmt: skip
"""How data sets may lie on the disk. Another package adds a `Layout` with an entry point in `figureground.layouts`."""

_BY_FOLDER = ("metashift", "folders")
"""Fallback layouts, in this order."""
