"""Mapping from a dataset's labels to a classifier's classes, by name or from a CSV."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from figureground.core.errors import FiguregroundError, join_names, suggest_or_list
from figureground.core.tables import TextTable, UnreadableText
from figureground.data.label_matching import match_labels

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier

COLUMNS = ("label", "classifier_label")


@dataclass(frozen=True)
class Counterparts:
    """Labels and the corresponding classes of one classifier."""

    labels: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    """By label, indices of the classifier's classes, or empty if it has none. An image counts as correct if any of them
    is the most likely class; its probability is their sum."""
    classes: int
    """Number of the classifier's classes."""

    def membership(self) -> np.ndarray:
        """Return bool (labels, classes): whether a class corresponds to a label."""
        table = np.zeros((len(self.labels), self.classes), bool)
        for row, group in zip(table, self.groups, strict=True):
            row[list(group)] = True
        return table

    def chance(self) -> float:
        """Return the accuracy of a classifier that guesses among its classes, averaged over labels that have one."""
        return float(np.mean([len(group) for group in self.groups if group])) / self.classes

    def outcomes(self, predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Return predicted classes, int (n,), with -1 for every class that corresponds to the image's own label."""
        return np.where(self.membership()[label, predicted], -1, predicted)


@dataclass(frozen=True)
class LabelTable:
    """Contents of a label CSV: by label, the classifiers' class names with their line numbers."""

    path: Path | None = None
    rows: Mapping[str, Sequence[tuple[int, str]]] = field(default_factory=dict)


def read_label_table(path: Path, labels: Sequence[str]) -> LabelTable:
    """Read a CSV `label,classifier_label`. A label with several rows corresponds to several classes.

    Args:
        labels: The dataset's labels; the first column names them, ignoring case and `_` for a space.

    Raises:
        FiguregroundError: The file can't be read, or has other columns, an empty cell, or a label that the dataset
            lacks; the message gives the line.
    """
    rows: dict[str, list[tuple[int, str]]] = {}
    try:
        table = TextTable(path)
        if sorted(table.header) != sorted(COLUMNS):
            columns = join_names(table.header) if table.header else "nothing"
            raise FiguregroundError(f"--labels {path}: its first line is {columns}; it must be {','.join(COLUMNS)}.")
        for line, fields in table:
            label, class_name = (
                fields[table.header.index(name)] if len(fields) == len(COLUMNS) else "" for name in COLUMNS
            )
            if not label or not class_name:
                raise FiguregroundError(f"--labels {path}, line {line}: give a label and one classifier_label.")
            position = int(match_labels([label], labels)[0])
            if position < 0:
                hint = suggest_or_list(label, labels)
                raise FiguregroundError(f"--labels {path}, line {line}: the dataset has no label {label!r}{hint}")
            rows.setdefault(labels[position], []).append((line, class_name))
    except UnreadableText as error:
        raise FiguregroundError(f"--labels {path}: {error}") from None
    return LabelTable(path, rows)


def find_counterparts(
    classifiers: Sequence[Classifier], labels: Sequence[str], occurring: Collection[str], table: LabelTable
) -> list[Counterparts]:
    """Map labels to classes for each classifier: from the table, else by name.

    A row of the table applies to the classifiers that have its class, so one table can serve several.

    Args:
        occurring: Labels of the dataset's samples; other labels get no counterpart.

    Raises:
        FiguregroundError: No classifier has a class of the table, or a classifier has no counterpart of any occurring
            label.
    """
    for rows in table.rows.values():
        for line, class_name in rows:
            if all(classifier.index_or_none(class_name) is None for classifier in classifiers):
                class_names = dict.fromkeys(label for classifier in classifiers for label in classifier.labels)
                raise FiguregroundError(
                    f"--labels {table.path}, line {line}: no classifier has a class {class_name!r}"
                    f"{suggest_or_list(class_name, class_names)}"
                )
    counterparts = []
    for classifier in classifiers:
        groups = tuple(_find_classes(classifier, label, table) if label in occurring else () for label in labels)
        if not any(groups):
            raise FiguregroundError(
                f"The classifier {classifier.name} has no class named like a label of the dataset. Its classes: "
                f"{join_names(classifier.labels, 5)}; the dataset's labels: {join_names(occurring, 5)}. Map them in a "
                f"CSV with the columns {','.join(COLUMNS)}, and give it as --labels."
            )
        counterparts.append(Counterparts(tuple(labels), groups, len(classifier.labels)))
    return counterparts


def _find_classes(classifier: Classifier, label: str, table: LabelTable) -> tuple[int, ...]:
    listed_positions = [classifier.index_or_none(class_name) for _, class_name in table.rows.get(label, ())]
    positions = [position for position in listed_positions if position is not None]
    if not positions:
        by_name = (classifier.index_or_none(name) for name in (label, *label.split(",")))
        positions = [position for position in by_name if position is not None][:1]
    return tuple(sorted(set(positions)))
