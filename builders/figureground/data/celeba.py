"""Reads CelebA: a table of attributes, a list of splits, aligned images (Liu et al. 2015, arXiv 1411.7766)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, counted, nearest_or_all, printable
from figureground.core.tables import Column, TextTable, read_header, read_text
from figureground.data.groups import GroupedImages
from figureground.data.record import CELEBA, Request, make_record
from figureground.data.tables import Problems, column_names, cross, find_files, read_bits, read_splits, some

_ALIGNED = Path("img_align_celeba")


def find_celeba(asked: Request) -> list[Path]:
    path = asked.path
    if path.is_dir():
        return [folder / name for folder in (path, path / "Anno") for name in CELEBA if (folder / name).is_file()]
    return [path] if path.name in CELEBA else []


def read_celeba(asked: Request) -> GroupedImages:
    """Read `list_attr_celeba`, `list_eval_partition` and `img_align_celeba/`."""
    y, a = asked.y or "Blond_Hair", asked.a or "Male"
    names = read_header(asked.at)[1:] if asked.at.suffix == ".csv" else _read_promise(asked.at)[1]
    chosen = column_names(a, names)
    if y in chosen:
        raise RecipeError("a", f"{y!r} is already the class; choose another attribute.")
    for option, name in (("y", y), *(("a", name) for name in chosen)):
        if name not in names:
            raise RecipeError(option, f"{asked.at.name} has no attribute {name!r}{nearest_or_all(name, names)}")
    if len(set(chosen)) < len(chosen):
        raise RecipeError("a", f"{a!r} names an attribute twice.")
    problems = Problems(asked.at.name)
    if asked.at.suffix == ".csv":
        images, *columns = TextTable(asked.at).columns([read_header(asked.at)[0], y, *chosen]).values()
    else:
        images, *columns = _read_attributes(asked.at, names, (y, *chosen), problems)
    labels = [read_bits(column, {"-1": 0, "1": 1}, problems) for column in columns]
    split = _read_partition(asked.at, images, problems)
    files, keys, notes = find_files(_celeba_root(asked, images.values[0]), images, split, problems)
    problems.refuse()
    of_y, *of_a = ((found, (f"not {name}", name)) for found, name in zip(labels, (y, *chosen), strict=True))
    return make_record(asked, "celeba", keys, split, of_y, cross(of_a, chosen), files, notes)


def _read_promise(path: Path) -> tuple[int, list[str]]:
    """Return the first two lines of the original list: number of images, and attribute names."""
    count, names = [*read_text(path).splitlines()[:2], "", ""][:2]
    if not count.strip().isdecimal():
        raise FiguregroundError(
            f"{path.name}: its header can't be read: the first line is {printable(count[:40])!r}, not the number of "
            "images."
        )
    return int(count), names.split()


def _read_attributes(path: Path, names: Sequence[str], wanted: Sequence[str], problems: Problems) -> list[Column]:
    """Return file names and the values of the wanted attributes, from the original list."""
    found = _read_spaced(path, 2, ["image_id", *names])
    promised, images = _read_promise(path)[0], found["image_id"]
    if promised != len(images.values):
        problems.add(f"its first line states {counted(promised, 'image')}, but it lists {len(images.values):,}.")
    return [images, *(found[name] for name in wanted)]


def _read_spaced(path: Path, skip: int, names: Sequence[str]) -> dict[str, Column]:
    """Read the columns of a space-separated text, below the first `skip` lines.

    Raises:
        FiguregroundError: A line has the wrong number of fields, or no line has any.
    """
    lines: list[int] = []
    rows: list[list[str]] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
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


def _read_partition(attributes: Path, images: Column, problems: Problems) -> np.ndarray:
    """Read the splits in the order of the images, int64 (n,).

    Raises:
        FiguregroundError: The list of splits is missing or can't be used.
    """
    folders = (attributes.parent, attributes.parent / "Eval", attributes.parent.parent / "Eval")
    suffixes = dict.fromkeys([attributes.suffix, ".csv", ".txt"])
    places = [folder / f"list_eval_partition{suffix}" for suffix in suffixes for folder in folders]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FiguregroundError(
            f"{attributes.parent} has no list_eval_partition.csv or .txt next to {attributes.name}. This file assigns "
            "the images to train, validation and test."
        )
    if path.suffix == ".csv":
        found = TextTable(path).columns([read_header(path)[0], "partition"])
    else:
        found = _read_spaced(path, 0, ["image_id", "partition"])
    named, partition = found.values()
    own = Problems(path.name)
    splits = dict(zip(named.values, read_splits(partition, own).tolist(), strict=True))
    own.refuse()
    lacking = [row for row, image in enumerate(images.values) if image not in splits]
    if lacking:
        problems.add(f"{counted(len(lacking), 'image')} not in {path.name}: {some(images, lacking)}.")
    return np.array([splits.get(image, 0) for image in images.values], np.int64)


def _celeba_root(asked: Request, first: str) -> Path:
    """Return the folder of the images: `img_align_celeba`, nested twice in some archives, or the given root."""
    base = asked.at.parent
    tops = [asked.root] if asked.root else [base, base / "Img", base.parent / "Img"]
    places = [top / folder for top in tops for folder in (_ALIGNED / _ALIGNED, _ALIGNED)]
    places += [asked.root] if asked.root else []
    there = next((place for place in places if (place / first).exists()), None)
    there = there or next((place for place in places if place.is_dir()), None)
    if there is None:
        raise FiguregroundError(
            f"{base} has no folder {_ALIGNED} with the images. If they are elsewhere, give --root DIR."
        )
    return there
