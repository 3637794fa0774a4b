"""Reads CelebA: a table of attributes, a list of splits, aligned images (Liu et al. 2015, arXiv 1411.7766)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, plural, printable, suggest_or_list
from figureground.core.tables import Column, TextTable, read_header, read_text
from figureground.data.data_source import CELEBA, DataSource
from figureground.data.groups import GroupedImages
from figureground.data.listed_files import find_files
from figureground.data.record import make_record
from figureground.data.tables import DataProblems, cross_labels, parse_names, quote_examples, read_bits, read_splits

_ALIGNED = Path("img_align_celeba")


def find_celeba(source: DataSource) -> list[Path]:
    path = source.path
    if path.is_dir():
        return [folder / name for folder in (path, path / "Anno") for name in CELEBA if (folder / name).is_file()]
    return [path] if path.name in CELEBA else []


def read_celeba(source: DataSource) -> GroupedImages:
    """Read `list_attr_celeba`, `list_eval_partition` and `img_align_celeba/`."""
    y, a = source.y or "Blond_Hair", source.a or "Male"
    names = read_header(source.at)[1:] if source.at.suffix == ".csv" else _read_head(source.at)[1]
    attributes = parse_names(a, names)
    if y in attributes:
        raise RecipeError("a", f"{y!r} is already the class; choose another attribute.")
    for option, name in (("y", y), *(("a", name) for name in attributes)):
        if name not in names:
            raise RecipeError(option, f"{source.at.name} has no attribute {name!r}{suggest_or_list(name, names)}")
    if len(set(attributes)) < len(attributes):
        raise RecipeError("a", f"{a!r} names an attribute twice.")
    problems = DataProblems(source.at.name)
    if source.at.suffix == ".csv":
        images, *columns = TextTable(source.at).columns([read_header(source.at)[0], y, *attributes]).values()
    else:
        images, *columns = _read_attributes(source.at, names, (y, *attributes), problems)
    labels = [read_bits(column, {"-1": 0, "1": 1}, problems) for column in columns]
    split = _read_partition(source.at, images, problems)
    files, keys, notes = find_files(_find_image_folder(source, images.values[0]), images, split, problems)
    problems.refuse()
    of_y, *of_a = ((values, (f"not {name}", name)) for values, name in zip(labels, (y, *attributes), strict=True))
    return make_record(source, "celeba", keys, split, of_y, cross_labels(of_a, attributes), files, notes)


def _read_head(path: Path) -> tuple[int, list[str]]:
    """Return the first two lines of the original list: number of images, and attribute names."""
    count, names = [*read_text(path).splitlines()[:2], "", ""][:2]
    if not count.strip().isdecimal():
        raise FiguregroundError(
            f"{path.name}: its header can't be read: the first line is {printable(count[:40])!r}, not the number of "
            "images."
        )
    return int(count), names.split()


def _read_attributes(
    path: Path, names: Sequence[str], attributes: Sequence[str], problems: DataProblems
) -> list[Column]:
    """Return file names and the values of the wanted attributes, from the original list."""
    columns = _read_columns(path, 2, ["image_id", *names])
    stated, images = _read_head(path)[0], columns["image_id"]
    if stated != len(images.values):
        problems.add(f"its first line states {plural(stated, 'image')}, but it lists {len(images.values):,}.")
    return [images, *(columns[name] for name in attributes)]


def _read_columns(path: Path, skip: int, names: Sequence[str]) -> dict[str, Column]:
    """Read the columns of a space-separated text, below the first `skip` lines.

    Raises:
        FiguregroundError: A line has the wrong number of fields, or no line has any.
    """
    lines: list[int] = []
    rows: list[list[str]] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        fields = line.split()
        if number <= skip or not fields:
            continue
        if len(fields) != len(names):
            raise FiguregroundError(f"{path.name}, line {number}: {len(fields)} fields instead of {len(names)}.")
        lines.append(number)
        rows.append(fields)
    if not rows:
        raise FiguregroundError(f"{path.name} lists no image.")
    return {name: Column(name, values, lines) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def _read_partition(attributes: Path, images: Column, problems: DataProblems) -> np.ndarray:
    """Read the splits in the order of the images, int64 (n,).

    Raises:
        FiguregroundError: The list of splits is missing or can't be used.
    """
    folders = (attributes.parent, attributes.parent / "Eval", attributes.parent.parent / "Eval")
    suffixes = dict.fromkeys([attributes.suffix, ".csv", ".txt"])
    candidates = [folder / f"list_eval_partition{suffix}" for suffix in suffixes for folder in folders]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise FiguregroundError(
            f"{attributes.parent} has no list_eval_partition.csv or .txt next to {attributes.name}. This file assigns "
            "the images to train, validation and test."
        )
    if path.suffix == ".csv":
        columns = TextTable(path).columns([read_header(path)[0], "partition"])
    else:
        columns = _read_columns(path, 0, ["image_id", "partition"])
    files, partition = columns.values()
    own_problems = DataProblems(path.name)
    splits = dict(zip(files.values, read_splits(partition, own_problems).tolist(), strict=True))
    own_problems.refuse()
    missing = [row for row, image in enumerate(images.values) if image not in splits]
    if missing:
        problems.add(f"{plural(len(missing), 'image')} not in {path.name}: {quote_examples(images, missing)}.")
    return np.array([splits.get(image, 0) for image in images.values], np.int64)


def _find_image_folder(source: DataSource, first: str) -> Path:
    """Return the folder of the images: `img_align_celeba`, nested twice in some archives, or the given root."""
    base = source.at.parent
    parents = [source.root] if source.root else [base, base / "Img", base.parent / "Img"]
    candidates = [parent / nested for parent in parents for nested in (_ALIGNED / _ALIGNED, _ALIGNED)]
    candidates += [source.root] if source.root else []
    folder = next((candidate for candidate in candidates if (candidate / first).exists()), None)
    folder = folder or next((candidate for candidate in candidates if candidate.is_dir()), None)
    if folder is None:
        raise FiguregroundError(
            f"{base} has no folder {_ALIGNED} with the images. If they are elsewhere, give --root DIR."
        )
    return folder
