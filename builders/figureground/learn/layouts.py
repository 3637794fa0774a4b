"""How labelled data sets lie on the disk, and their readers: tables, CelebA, MetaShift's folders, folders, datasets."""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from figureground.errors import FiguregroundError, RecipeError, counted, listed, nearest_or_all, printable
from figureground.images import content_hash, list_images, list_odd
from figureground.learn.groups import SPLITS, Files, GroupedPictures, Shards, Store, empty_groups
from figureground.learn.tables import (
    FIRST,
    SPLIT_NAMES,
    Column,
    Problems,
    find_files,
    read_bits,
    read_columns,
    read_header,
    read_labels,
    read_splits,
    show_header,
)
from figureground.sample import derive_seed
from figureground.table import largest_remainder

SHARES = (0.70, 0.15, 0.15)
"""Of each group, what becomes train, validation and test where folders say no splits. Where only validation is missing,
training gives up as much."""

UNKNOWN = "unknown"
"""The background of a dataset that says none."""

WATERBIRDS_TRAIN = ((3498, 184), (56, 1057))
"""Training pictures of Waterbirds, class × place (Sagawa et al. 2020, arXiv 1911.08731)."""

COMPARED = 8
"""Pairs of files that are compared byte by byte where two splits look the same."""

_METADATA = "metadata.csv"
_PRIVATE = "_figureground"
_TABLE = ("filename", "split")
_WATERBIRDS = ("img_filename", "y", "split", "place")
_CELEBA = ("list_attr_celeba.csv", "list_attr_celeba.txt")
_ALIGNED = Path("img_align_celeba")
_IN_CONTEXT = re.compile(r"(?P<name>.+?)\s*\((?P<context>[^()]+)\)")


@dataclass(frozen=True)
class Asked:
    """What someone asked to be read."""

    path: Path
    """As it was given."""
    at: Path
    """What decides the layout: a table, or a directory."""
    root: Path | None = None
    """Where files lie that a table names; its own directory unless said otherwise."""
    y: str | None = None
    a: str | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """What the data set is called: its directory, or a table that was given and has a name of its own."""
        if self.path.is_dir():
            return self.path.resolve().name
        return self.at.resolve().parent.name if self.at.name in (_METADATA, *_CELEBA) else self.at.stem


class Layout(NamedTuple):
    """One way in which data sets lie."""

    find: Callable[[Path, str], list[Path]]
    """From what was given, and the column of y: what decides it; none where it isn't this layout, several where it
    can't be told."""
    read: Callable[[Asked], GroupedPictures]
    takes: tuple[str, ...]
    """Which of root, y and a it has a use for."""
    tree: str
    """What must lie there, in a few words."""


def read_groups(
    path: Path | str,
    layout: str | None = None,
    *,
    root: Path | str | None = None,
    y: str | None = None,
    a: str | None = None,
    seed: int = 0,
) -> GroupedPictures:
    """Reads a labelled data set, checks it, and says in its notes what a person should know.

    No picture is decoded; of files that a table names, all are looked for.

    Args:
        path: A directory, or a table.
        layout: One of `LAYOUTS`; found out unless said.
        root: Where the files lie that a table names (layouts `table`, `waterbirds`, `celeba`); the directory of the
            table unless said otherwise.
        y: Which column of a table, or which attribute of CelebA, is the class; `y` and `Blond_Hair`.
        a: Which is the attribute; `a`, where there is one, and `Male`.
        seed: Decides which pictures are validation or test where folders don't say it.

    Raises:
        FiguregroundError: No such path, none of the layouts or several, or something in it that can't be used: a
            header, a label, a split, a file. What is wrong with a table is told all at once.
        RecipeError: A layout, a column or an attribute that there isn't, or one that the layout has no use for.
    """
    path, root = Path(path), None if root is None else Path(root)
    if layout is not None and layout not in LAYOUTS:
        raise RecipeError("layout", f"there is no {layout!r}{nearest_or_all(layout, LAYOUTS)}")
    if root is not None and not root.is_dir():
        raise RecipeError("root", f"there is no directory {root}.")
    if not path.exists():
        raise FiguregroundError(f"{path}: there is no such file or directory.")
    name, at = _find_layout(path, layout, y or "y")
    for option, value in (("root", root), ("y", y), ("a", a)):
        if value is not None and option not in LAYOUTS[name].takes:
            raise RecipeError(option, f"the layout {name} has no use for it.")
    return LAYOUTS[name].read(Asked(path, at, root, y, a, seed))


def _find_layout(path: Path, layout: str | None, y: str) -> tuple[str, Path]:
    """The layout of what lies there, and what decides it."""
    if layout is not None:
        found = [(layout, at) for at in LAYOUTS[layout].find(path, y)]
        if not found:
            raise FiguregroundError(f"{path} isn't laid out as {layout}: that is {LAYOUTS[layout].tree}. {_seen(path)}")
    else:
        # Class folders lie beside the tables of Waterbirds and of others, so tables are looked for first.
        found = [(n, at) for n, each in LAYOUTS.items() if n not in _BY_FOLDER for at in each.find(path, y)]
        if not found and (path / _METADATA).is_file():
            raise FiguregroundError(
                f"{path / _METADATA} is no table of a known layout. {_seen(path / _METADATA)} To pass it over, say "
                "which layout it is: --layout folders."
            )
        for name in _BY_FOLDER:
            found = found or [(name, at) for at in LAYOUTS[name].find(path, y)]
    if not found:
        known = "".join(f"\n  {name}: {each.tree}" for name, each in LAYOUTS.items())
        raise FiguregroundError(f"{path} isn't laid out in a way that is known. {_seen(path)} Known are{known}")
    if len(found) > 1:
        told = listed((f"{at.relative_to(path)} ({name})" if at != path else name for name, at in found), 5)
        names = dict.fromkeys(name for name, _ in found)
        layouts = f", or say which layout it is: {' or '.join(f'--layout {name}' for name in names)}"
        layouts = layouts if len(names) > 1 else ""
        raise FiguregroundError(f"{path} can be read in several ways: {told}. Give the file that is meant{layouts}.")
    return found[0]


def _seen(path: Path) -> str:
    """What lies in a directory, or what the first line of a file says, as a sentence."""
    if path.is_file():
        return show_header(read_header(path))
    there = sorted(printable(each.name) for each in path.iterdir() if not each.name.startswith("."))
    return f"In it: {listed(there, 6) or 'nothing'}."


# The record


Labels = tuple[np.ndarray, Sequence[str]]
"""Labels, int64 (n,), and the names of their values."""


def make_record(
    asked: Asked,
    layout: str,
    keys: Sequence[str],
    split: np.ndarray,
    y: Labels,
    a: Labels | None,
    store: Store,
    notes: Sequence[str] = (),
    rows: np.ndarray | None = None,
) -> GroupedPictures:
    """The record of what was read, with notes about its splits and groups added.

    Args:
        keys: Names of the pictures.
        split: int64 (n,).
        rows: Where in the store they lie, ascending; in this order unless said otherwise.

    Raises:
        FiguregroundError: There is one class only, or two pictures have one key.
    """
    there = np.unique(y[0])
    if len(there) < 2:
        raise FiguregroundError(
            f"{asked.path}: it has one class only, {y[1][there[0]]!r}, in all {counted(len(keys), 'picture')}. It "
            "takes two to learn to tell them apart."
        )
    if len(set(keys)) < len(keys):
        raise FiguregroundError(f"{asked.path}: two pictures have one name. figureground check says more of a dataset.")
    groups = GroupedPictures(
        asked.name, layout, tuple(y[1]), None if a is None else tuple(a[1]), tuple(keys), split, y[0],
        None if a is None else a[0], store, np.arange(len(keys)) if rows is None else rows,
    )  # fmt: skip
    told = [*notes, *(f"There is no {name} split." for n, name in enumerate(SPLITS) if not (split == n).any())]
    told += empty_groups(groups)
    if a is not None and len(np.unique(a[0])) == 1:
        told.append(f"All pictures have one attribute, {a[1][a[0][0]]!r}: a group is a class.")
    if isinstance(store, Files):
        told += _same_splits(store, split)
    return replace(groups, notes=tuple(told))


def _same_splits(files: Files, split: np.ndarray) -> Iterator[str]:
    """Notes about splits that hold the same pictures under other paths, by names, sizes, and the bytes of some."""
    order = [
        sorted(
            (posixpath.basename(files.names[row]), int(files.sizes[row]), row)
            for row in np.flatnonzero(split == n).tolist()
        )
        for n in range(len(SPLITS))
    ]

    def same(pair: tuple[tuple[str, int, int], tuple[str, int, int]]) -> bool:
        one, other = (content_hash(files.root / files.names[row]) for _, _, row in pair)
        return one == other

    for a, b in itertools.combinations(range(len(SPLITS)), 2):
        if not order[a] or [each[:2] for each in order[a]] != [each[:2] for each in order[b]]:
            continue
        pairs = list(zip(order[a], order[b], strict=True))
        if all(map(same, pairs[:: -(-len(pairs) // COMPARED)])):
            yield f"{SPLITS[a]} and {SPLITS[b]} hold the same pictures under other paths."


def split_off(
    keys: Sequence[str], cells: np.ndarray, split: np.ndarray, shares: Sequence[float], seed: int
) -> np.ndarray:
    """Shares of each group's training pictures become other splits, chosen by key and seed alone.

    Args:
        keys: Names of the pictures.
        cells: int (n,): the group of each.
        split: int64 (n,).
        shares: What stays train, and what becomes validation and test; they add up to 1.

    Returns:
        The new splits, int64 (n,).
    """
    split = split.copy()
    for cell in np.unique(cells):
        rows = np.flatnonzero((cells == cell) & (split == 0))
        order = sorted(rows.tolist(), key=lambda row: derive_seed(seed, "split", keys[row]))
        split[order] = np.repeat(np.arange(len(shares)), largest_remainder(np.array(shares), len(rows)))
    return split


# Tables


def _find_tables(columns: Sequence[str]) -> Callable[[Path, str], list[Path]]:
    """Finds the tables that have certain columns, and that of y."""

    def find(path: Path, y: str) -> list[Path]:
        files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
        return [file for file in files if file.is_file() and {*columns, y} <= set(_header_of_any(file, path))]

    return find


def _header_of_any(file: Path, given: Path) -> list[str]:
    """As `read_header`; but a file that can't be read, and that nobody meant, has none."""
    try:
        return read_header(file)
    except FiguregroundError:
        if file == given or file.name == _METADATA:
            raise
        return []


def _read_table(asked: Asked) -> GroupedPictures:
    """`filename,split,y[,a]`."""
    y, a, header = asked.y or "y", asked.a or "a", read_header(asked.at)
    if asked.a is not None and a not in header:
        raise RecipeError("a", f"{asked.at.name} has no column {a!r}{nearest_or_all(a, header)}")
    if a == y:
        raise RecipeError("a", f"{a!r} is the class already; the attribute is another column.")
    columns = read_columns(asked.at, [*_TABLE, y, *([a] if a in header else [])])
    if a in columns and not any(columns[a].values):
        del columns[a]
    problems = Problems(asked.at.name)
    split = read_splits(columns["split"], problems)
    labels = read_labels(columns[y], problems)
    attribute = read_labels(columns[a], problems) if a in columns else None
    files, keys, notes = _files_of(asked, columns["filename"], split, problems)
    return make_record(asked, "table", keys, split, labels, attribute, files, notes)


def _files_of(
    asked: Asked, column: Column, split: np.ndarray, problems: Problems
) -> tuple[Files, tuple[str, ...], list[str]]:
    """The files of a table; raises FiguregroundError for all problems of it."""
    hint = " If the pictures lie elsewhere, say where with --root DIR." if asked.root is None else ""
    found = find_files(asked.root or asked.at.parent, column, split, problems, hint)
    problems.refuse()
    return found


def _read_waterbirds(asked: Asked) -> GroupedPictures:
    """`img_id,img_filename,y,split,place,place_filename` (Sagawa et al. 2020, arXiv 1911.08731)."""
    columns = read_columns(asked.at, _WATERBIRDS)
    problems = Problems(asked.at.name)
    split = read_splits(columns["split"], problems)
    y, place = (read_bits(columns[name], {"0": 0, "1": 1}, problems) for name in ("y", "place"))
    files, keys, notes = _files_of(asked, columns["img_filename"], split, problems)
    groups = make_record(
        asked, "waterbirds", keys, split, (y, ("landbird", "waterbird")), (place, ("land", "water")), files, notes
    )
    known = ", ".join(f"{n:,}" for row in WATERBIRDS_TRAIN for n in row)
    if groups.counts(0).tolist() == [list(row) for row in WATERBIRDS_TRAIN]:
        said = f"The training groups are those of Waterbirds: {known}."
    else:
        said = f"The training groups are not those of Waterbirds ({known}): this is a part of it, or another draw."
    return replace(groups, notes=(said, *groups.notes))


# CelebA


def _find_celeba(path: Path, y: str) -> list[Path]:
    if path.is_dir():
        return [folder / name for folder in (path, path / "Anno") for name in _CELEBA if (folder / name).is_file()]
    return [path] if path.name in _CELEBA else []


def _read_celeba(asked: Asked) -> GroupedPictures:
    """`list_attr_celeba`, `list_eval_partition` and `img_align_celeba/` (Liu et al. 2015, arXiv 1411.7766)."""
    y, a = asked.y or "Blond_Hair", asked.a or "Male"
    if y == a:
        raise RecipeError("a", f"{a!r} is the class already; the attribute is another one.")
    names = read_header(asked.at)[1:] if asked.at.suffix == ".csv" else _read_promise(asked.at)[1]
    for option, name in (("y", y), ("a", a)):
        if name not in names:
            raise RecipeError(option, f"{asked.at.name} has no attribute {name!r}{nearest_or_all(name, names)}")
    problems = Problems(asked.at.name)
    if asked.at.suffix == ".csv":
        images, *columns = read_columns(asked.at, [read_header(asked.at)[0], y, a]).values()
    else:
        images, *columns = _read_attributes(asked.at, names, (y, a), problems)
    labels = [read_bits(column, {"-1": 0, "1": 1}, problems) for column in columns]
    split = _read_partition(asked.at, images, problems)
    files, keys, notes = find_files(_celeba_root(asked, images.values[0]), images, split, problems)
    problems.refuse()
    of_y, of_a = ((found, (f"not {name}", name)) for found, name in zip(labels, (y, a), strict=True))
    return make_record(asked, "celeba", keys, split, of_y, of_a, files, notes)


def _read_promise(path: Path) -> tuple[int, list[str]]:
    """The first two lines of the original list: how many images, and the names of the attributes."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        count = file.readline().strip()
        if not count.isdecimal():
            raise FiguregroundError(
                f"{path.name}: its header can't be read: the first line is {printable(count[:40])!r}, and no number of "
                "images."
            )
        return int(count), file.readline().split()


def _read_attributes(path: Path, names: Sequence[str], wanted: Sequence[str], problems: Problems) -> list[Column]:
    """File names, and the values of some attributes, from the original list."""
    found = _read_spaced(path, 2, ["image_id", *names])
    promised, images = _read_promise(path)[0], found["image_id"]
    if promised != len(images.values):
        problems.add(f"its first line promises {counted(promised, 'image')}, and it lists {len(images.values):,}.")
    return [images, *(found[name] for name in wanted)]


def _read_spaced(path: Path, skip: int, names: Sequence[str]) -> dict[str, Column]:
    """Columns of a text whose fields are set apart by spaces, below the lines that are skipped.

    Raises:
        FiguregroundError: A line has another number of fields than there are names, or there is none.
    """
    lines: list[int] = []
    rows: list[list[str]] = []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            fields = line.split()
            if number <= skip or not fields:
                continue
            if len(fields) != len(names):
                raise FiguregroundError(f"{path.name}, line {number}: {len(fields)} fields instead of {len(names)}.")
            lines.append(number)
            rows.append(fields)
    if not rows:
        raise FiguregroundError(f"{path.name} names no image.")
    return {name: Column(name, values, lines) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def _read_partition(attributes: Path, images: Column, problems: Problems) -> np.ndarray:
    """Splits in the order of the images, int64 (n,).

    Raises:
        FiguregroundError: There is no list of them, or it can't be used.
    """
    folders = (attributes.parent, attributes.parent / "Eval", attributes.parent.parent / "Eval")
    suffixes = dict.fromkeys([attributes.suffix, ".csv", ".txt"])
    places = [folder / f"list_eval_partition{suffix}" for suffix in suffixes for folder in folders]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FiguregroundError(
            f"{attributes.parent} has no list_eval_partition.csv or .txt beside {attributes.name}. It says which "
            "images are train, validation and test."
        )
    if path.suffix == ".csv":
        found = read_columns(path, [read_header(path)[0], "partition"])
    else:
        found = _read_spaced(path, 0, ["image_id", "partition"])
    named, partition = found.values()
    own = Problems(path.name)
    splits = dict(zip(named.values, read_splits(partition, own).tolist(), strict=True))
    own.refuse()
    lacking = [row for row, image in enumerate(images.values) if image not in splits]
    if lacking:
        problems.add(f"{counted(len(lacking), 'image')} not in {path.name}: {images.some(lacking)}.")
    return np.array([splits.get(image, 0) for image in images.values], np.int64)


def _celeba_root(asked: Asked, first: str) -> Path:
    """The folder of the images: `img_align_celeba`, which some archives nest once more, or what was given as root."""
    base = asked.at.parent
    tops = [asked.root] if asked.root else [base, base / "Img", base.parent / "Img"]
    places = [top / folder for top in tops for folder in (_ALIGNED / _ALIGNED, _ALIGNED)]
    places += [asked.root] if asked.root else []
    there = next((place for place in places if (place / first).exists()), None)
    there = there or next((place for place in places if place.is_dir()), None)
    if there is None:
        raise FiguregroundError(
            f"{base} has no folder {_ALIGNED} with the images. If they lie elsewhere, say where with --root DIR."
        )
    return there


# Folders


def _subfolders(path: Path) -> list[Path]:
    """Visible folders, by name; those that begin with `_` are private, as `__MACOSX` is."""
    return sorted(each for each in path.iterdir() if each.name[0] not in "._" and each.is_dir())


def _split_folders(path: Path) -> list[Path]:
    """Folders that are named as splits and hold folders, which that of a class called `train` doesn't.

    Raises:
        FiguregroundError: Two of them are the same split.
    """
    folders = [each for each in _subfolders(path) if each.name.lower() in SPLIT_NAMES and _subfolders(each)]
    for number, split in enumerate(SPLITS):
        same = [f"{folder.name}/" for folder in folders if SPLIT_NAMES[folder.name.lower()] == number]
        if len(same) > 1:
            raise FiguregroundError(
                f"{path}: {listed(same)} would all be the split {split}. Take all but one out of the directory, or "
                "write a table filename,split,y[,a]."
            )
    return folders


@dataclass
class Gathered:
    """Pictures that folders label."""

    path: Path
    names: list[str] = field(default_factory=list)
    split: list[int] = field(default_factory=list)
    y: list[str] = field(default_factory=list)
    a: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    """What is passed over, in a few words each."""

    def take(self, folder: Path, split: int, y: str, a: str = "") -> None:
        """Takes the images of a folder, all with the same labels."""
        images, shown = list_images(folder), self.shown(folder)
        self.names += [path.relative_to(self.path).as_posix() for path in images]
        self.split += [split] * len(images)
        self.y += [y] * len(images)
        self.a += [a] * len(images)
        self.odd += [f"{shown}{printable(path.name)}, {kind}" for path, kind in list_odd(folder)]
        if not images:
            self.odd.append(f"{shown}, which holds no image")

    def pass_over(self, folder: Path) -> None:
        """Takes note of images that lie in a folder of folders."""
        if loose := len(list_images(folder)):
            self.odd.append(f"{counted(loose, 'image')} in {self.shown(folder)} itself")

    def shown(self, folder: Path) -> str:
        """A folder for a message, below the directory."""
        return f"{printable((self.path.name / folder.relative_to(self.path)).as_posix())}/"

    def record(self, asked: Asked, layout: str, has_splits: bool) -> GroupedPictures:
        """The record. Where validation is missing, or all splits are, it comes from training, and a note says so."""
        problems = Problems(str(self.path))
        split = np.array(self.split, np.int64)
        files, keys, _ = find_files(self.path, Column("file", self.names, [0] * len(self.names)), split, problems)
        problems.refuse()
        y, a = _number(self.y), _number(self.a) if any(self.a) else None
        cells, kind = (y[0], "class") if a is None else (len(a[1]) * y[0] + a[0], "group")
        notes = []
        if not has_splits:
            split = split_off(keys, cells, split, SHARES, asked.seed)
            told = ", ".join(f"{share:.0%} {name}" for share, name in zip(SHARES, SPLITS, strict=True))
            notes.append(f"There are no folders of splits: of each {kind}, {told}, chosen with the seed {asked.seed}.")
        elif (split == 0).any() and not (split == 1).any():
            split = split_off(keys, cells, split, (1 - SHARES[1], SHARES[1]), asked.seed)
            notes.append(
                f"There is no folder of validation: {SHARES[1]:.0%} of each {kind} of train is taken for it, chosen "
                f"with the seed {asked.seed}."
            )
        if self.odd:
            notes.append(f"Passed over: {'; '.join(self.odd[:FIRST])}{'; …' if len(self.odd) > FIRST else ''}.")
        return make_record(asked, layout, keys, split, y, a, files, notes)


def _number(values: Sequence[str]) -> Labels:
    """Labels of names, in alphabetical order; capitals and `_` for a space make no other name."""
    from figureground.guide import loosely  # loads pyarrow

    spelled: dict[str, str] = {}
    for value in sorted(set(values)):
        spelled.setdefault(loosely(value), value)
    names = sorted(spelled.values())
    place = {value: names.index(spelled[loosely(value)]) for value in set(values)}
    return np.array([place[value] for value in values], np.int64), names


def _find_metashift(path: Path, y: str) -> list[Path]:
    if not path.is_dir():
        return []
    inner = (each for split in _split_folders(path) for folder in _subfolders(split) for each in _subfolders(folder))
    return [path] if any(_IN_CONTEXT.fullmatch(each.name) for each in inner) else []


def _read_metashift(asked: Asked) -> GroupedPictures:
    """`SPLIT/CLASS/CLASS(CONTEXT)/*` (Liang and Zou 2022, arXiv 2202.06523)."""
    from figureground.guide import loosely  # loads pyarrow

    path, gathered, problems = asked.at, Gathered(asked.at), Problems(str(asked.at))
    splits = _split_folders(path)
    gathered.odd += [gathered.shown(each) for each in _subfolders(path) if each not in splits]
    for split in splits:
        for folder in _subfolders(split):
            gathered.pass_over(folder)
            for each in _subfolders(folder):
                named = _IN_CONTEXT.fullmatch(each.name)
                if named is None:
                    gathered.odd.append(gathered.shown(each))
                elif loosely(named["name"]) != loosely(folder.name):
                    shown, own = gathered.shown(each), folder.name
                    problems.add(f"{shown} is named as {named['name']!r} and lies in the folder of {own!r}.")
                else:
                    gathered.take(each, SPLIT_NAMES[split.name.lower()], folder.name, named["context"].strip())
    problems.refuse()
    if not gathered.names:
        raise FiguregroundError(f"{path}: there is no image in its folders SPLIT/CLASS/CLASS(CONTEXT).")
    return gathered.record(asked, "metashift", True)


def _find_folders(path: Path, y: str) -> list[Path]:
    if not path.is_dir():
        return []
    tops = _split_folders(path) or [path]
    return [path] if any(list_images(folder) for top in tops for folder in _subfolders(top)) else []


def _read_folders(asked: Asked) -> GroupedPictures:
    """`[SPLIT/]CLASS/*`."""
    path, gathered = asked.at, Gathered(asked.at)
    splits = _split_folders(path)
    others = [each for each in _subfolders(path) if splits and each not in splits]
    classes = [f"{each.name}/" for each in others if list_images(each)]
    if classes:
        raise FiguregroundError(
            f"{path} holds the splits {listed(f'{each.name}/' for each in splits)} and beside them folders of images, "
            f"{listed(classes, FIRST)}. Take one kind out of the directory, or write a table filename,split,y[,a]."
        )
    gathered.odd += [gathered.shown(each) for each in others]
    for top in splits or [path]:
        gathered.pass_over(top)
        for folder in _subfolders(top):
            gathered.take(folder, SPLIT_NAMES[top.name.lower()] if splits else 0, folder.name)
    return gathered.record(asked, "folders", bool(splits))


# Datasets of this package


def _find_dataset(path: Path, y: str) -> list[Path]:
    return [path] if (path / _PRIVATE).is_dir() else []


def _read_dataset(asked: Asked) -> GroupedPictures:
    """What `build`, `curate` or `merge` wrote: y is the foreground, a the background."""
    from figureground.vision.pictures import DatasetPictures

    pictures = DatasetPictures(asked.at, column="foreground")
    numbers = np.array([SPLIT_NAMES.get(name.lower(), -1) for name in pictures.splits], np.int64)
    split = numbers[pictures.split]
    rows = np.flatnonzero(split >= 0)
    strange = listed((name for name, n in zip(pictures.splits, numbers, strict=True) if n < 0), 5)
    if not len(rows):
        raise FiguregroundError(f"{asked.at} has the splits {strange}, and none that is train, validation or test.")
    notes = [f"Left out are the splits {strange}: they are none of train, validation, test."] if strange else []
    backgrounds = tuple(pictures.source.columns.backgrounds)
    said = {backgrounds[label] for label in np.unique(pictures.background[rows])}
    return make_record(
        asked, "dataset", [pictures.keys[row] for row in rows.tolist()], split[rows],
        (pictures.foreground[rows], tuple(pictures.source.columns.foregrounds)),
        None if said == {UNKNOWN} else (pictures.background[rows], backgrounds), Shards(pictures), notes, rows,
    )  # fmt: skip


LAYOUTS: dict[str, Layout] = {
    "table": Layout(_find_tables(_TABLE), _read_table, ("root", "y", "a"), "a CSV filename,split,y[,a]"),
    "waterbirds": Layout(
        _find_tables(_WATERBIRDS), _read_waterbirds, ("root",), "a metadata.csv with img_filename,y,split,place"
    ),
    "celeba": Layout(
        _find_celeba, _read_celeba, ("root", "y", "a"),
        "list_attr_celeba and list_eval_partition, .csv or .txt, with img_align_celeba/",
    ),
    "dataset": Layout(_find_dataset, _read_dataset, (), "a finished dataset of this package"),
    "metashift": Layout(_find_metashift, _read_metashift, (), "folders SPLIT/CLASS/CLASS(CONTEXT)"),
    "folders": Layout(_find_folders, _read_folders, (), "folders [SPLIT/]CLASS"),
}  # fmt: skip
"""What data sets may look like, by name."""

_BY_FOLDER = ("metashift", "folders")
"""Layouts that are thought of where nothing says more, in this order."""
