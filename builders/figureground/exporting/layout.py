"""A layout of exported datasets: where the images lie, and the tables beside them."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from figureground.core.errors import RecipeError, join_names, plural
from figureground.core.registry import Registry, check_subclass
from figureground.data.splits import SPLITS, choose_splits
from figureground.exporting.selection import ExportRow, Selection


class ExportLayout(ABC):
    """Where the files of an export lie, and what its tables say.

    A layout implements `file` and `tables`, and overrides `check` if it can't hold every dataset.
    """

    NAME: ClassVar[str]
    """Name on the command line."""

    def check(self, selection: Selection) -> list[str]:
        """Return notes on what the layout leaves out of a dataset, a sentence or two each.

        Raises:
            RecipeError: It can't hold the dataset; the message says what would be lost, and what to do.
        """
        return []

    @abstractmethod
    def file(self, selection: Selection, row: ExportRow) -> str:
        """Return the path of a sample's image in the export, with `/`. It ends with the key and the suffix."""

    @abstractmethod
    def tables(self, selection: Selection) -> Mapping[str, str]:
        """Return the text of each further file, by its path in the export. They are written last."""

    def readers(self, out: Path) -> str:
        """Return how to read the export, as a sentence."""
        return f"figureground groups {out} reads it."


EXPORTS: Registry[type[ExportLayout]] = Registry(
    "figureground.exports", "layout of exports",
    {
        name: f"figureground.exporting.layouts.{name}:{kind}"
        for name, kind in (
            ("imagefolder", "ImageFolder"), ("folders", "Folders"), ("waterbirds", "Waterbirds"), ("wilds", "Wilds"),
            ("subpopbench", "SubpopBench"),
        )
    },
    check_subclass(ExportLayout, "NAME"),
)  # fmt: skip
"""Layouts that `export` writes. Another package adds one with an entry point in `figureground.exports`."""


def label_columns(selection: Selection) -> list[str]:
    """Return the label columns that an export's tables name: without `background` if there are no such labels."""
    return [name for name in selection.dataset.names if name != "background" or selection.has_backgrounds]


def name_labels(selection: Selection, row: ExportRow) -> list[str]:
    """Return the names of a sample's labels, for `label_columns`."""
    return [selection.name(row, column) for column in label_columns(selection)]


def list_class_folders(selection: Selection, name_folder: Callable[[ExportRow], str]) -> dict[str, set[str]]:
    """Return the class folders of each split.

    Args:
        name_folder: Returns the folder of a sample.
    """
    folders: dict[str, set[str]] = {split: set() for split in selection.splits}
    for row in selection.rows:
        folders[row.split].add(name_folder(row))
    return folders


def to_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV, with `\\n` for line ends."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def number_splits(selection: Selection, layout: str) -> dict[str, int]:
    """Return 0 for train, 1 for validation and 2 for test, by name of the split.

    Raises:
        RecipeError: A split has another name, or two have names of different parts of one split.
    """
    numbers = dict(zip(selection.splits, choose_splits(selection.splits), strict=True))
    unknown = [name for name, number in numbers.items() if number is None]
    if unknown:
        raise RecipeError(
            "split",
            f"{layout} has only the splits {', '.join(SPLITS)}, and {join_names(map(repr, unknown))} isn't one of "
            f"them. Give each split that you export one of these names: --split {unknown[0]}=train, and so on.",
        )
    return {name: number for name, number in numbers.items() if number is not None}


def note_missing_splits(numbers: Mapping[str, int], reader: str) -> list[str]:
    """Return a note on those of train, validation and test that an export lacks, if any."""
    missing = [name for number, name in enumerate(SPLITS) if number not in numbers.values()]
    return [f"There is no split {join_names(missing)}; {reader} expects all three."] if missing else []


def note_other_numbers(selection: Selection, columns: Sequence[str], are_groups: bool = False) -> list[str]:
    """Return a note if an export of the splits that are left out would number the labels otherwise.

    With a rule nothing is known of them, so there is no note.

    Args:
        columns: Columns of the table that number the labels.
        are_groups: Whether they number groups, which also depend on the number of backgrounds.
    """
    if selection.rule is not None:
        return []
    for split in selection.left_out:
        cells = [cell for cell in selection.dataset.index["splits"][split]["cells"] if cell[2]]
        for position, column in enumerate(("foreground", "background")):
            own, others = list(selection.label_numbers[column]), sorted({cell[position] for cell in cells})
            differ = any(label != other for label, other in zip(own, others, strict=False))
            if differ or (are_groups and column == "background" and len(own) != len(others)):
                return [
                    f"{join_names(columns)} {'number' if len(columns) > 1 else 'numbers'} the labels that occur here. "
                    f"The split {split!r}, which is left out, has others, so an export of it alone would number "
                    "them otherwise: export both together, or match the labels by name."
                ]
    return []


def refuse_more_than_two(selection: Selection, layout: str) -> None:
    """Refuse a dataset that has not exactly two foregrounds and two backgrounds.

    Raises:
        RecipeError: It has others; the message says how many images keeping two of each would leave out.
    """
    alternative = "--layout imagefolder holds any number of labels"
    if not selection.has_backgrounds:
        raise RecipeError(
            "layout", f"{layout} stores a background for each image, but {selection.dataset.directory} has no "
            f"background labels. {alternative}, and --layout folders holds classes alone.",
        )  # fmt: skip
    label_names = {column: selection.names(column) for column in ("foreground", "background")}
    if all(len(names) == 2 for names in label_names.values()):
        return
    summary = " and ".join(
        f"{plural(len(names), column)} ({join_names(names, 6)})" for column, names in label_names.items()
    )
    problem = f"{layout} holds two classes on two backgrounds; this dataset has {summary}"
    if any(len(names) < 2 for names in label_names.values()):
        raise RecipeError("layout", f"{problem}. {alternative}.")
    kept_names = {
        column: sorted(names, key=lambda name: (-selection.counts(column)[name], names.index(name)))[:2]
        for column, names in label_names.items()
    }  # fmt: skip
    num_lost = sum(
        any(selection.name(row, column) not in kept_names[column] for column in kept_names) for row in selection.rows
    )
    tests = [f"{column} in {names!r}" for column, names in kept_names.items() if len(label_names[column]) > 2]
    rule = " and ".join([f"({selection.rule})"] * (selection.rule is not None) + tests)
    raise RecipeError(
        "layout",
        f'{problem}. Keep two of each, such as --keep "{rule}", which leaves out {num_lost:,} of '
        f"{plural(len(selection.rows), 'image')}; or use another layout: {alternative}.",
    )
