"""Which classes of a classifier a dataset's labels stand for: found by name, or said in a CSV."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from figureground.core.errors import FiguregroundError, listed, nearest_or_all
from figureground.core.tables import TextTable, UnreadableText
from figureground.data.images import match

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier

COLUMNS = ("label", "classifier_label")


@dataclass(frozen=True)
class Counterparts:
    """Labels and the classes of one classifier that stand for them."""

    labels: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    """By label, positions among the classifier's classes; an image is judged right if any of them is the likeliest,
    and its probability is their sum. Empty where there is none."""
    classes: int
    """How many classes the classifier has."""

    def members(self) -> np.ndarray:
        """bool (labels, classes): which classes stand for which label."""
        table = np.zeros((len(self.labels), self.classes), bool)
        for row, group in zip(table, self.groups, strict=True):
            row[list(group)] = True
        return table

    def outcomes(self, predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Predicted classes, int (n,), in which those that stand for an image's own label count as one: -1."""
        return np.where(self.members()[label, predicted], -1, predicted)


@dataclass(frozen=True)
class LabelTable:
    """What a CSV says: label by label, names of classes of classifiers, each with its line."""

    path: Path | None = None
    rows: Mapping[str, Sequence[tuple[int, str]]] = field(default_factory=dict)


def read_label_table(path: Path, labels: Sequence[str]) -> LabelTable:
    """Reads a CSV `label,classifier_label`. A label with several rows stands for several classes.

    Args:
        labels: The dataset's; the first column names them, capitals and `_` for a space aside.

    Raises:
        FiguregroundError: It can't be read, has other columns, an empty cell, or a label that the dataset lacks: with
            the line.
    """
    rows: dict[str, list[tuple[int, str]]] = {}
    try:
        table = TextTable(path)
        if sorted(table.header) != sorted(COLUMNS):
            there = listed(table.header) if table.header else "nothing"
            raise FiguregroundError(
                f"--labels {path}: its first line reads {there}; it has to read {','.join(COLUMNS)}."
            )
        for line, fields in table:
            label, theirs = (
                fields[table.header.index(name)] if len(fields) == len(COLUMNS) else "" for name in COLUMNS
            )
            if not label or not theirs:
                raise FiguregroundError(f"--labels {path}, line {line}: a label and one classifier_label, please.")
            at = int(match([label], labels)[0])
            if at < 0:
                near = nearest_or_all(label, labels)
                raise FiguregroundError(f"--labels {path}, line {line}: the dataset has no label {label!r}{near}")
            rows.setdefault(labels[at], []).append((line, theirs))
    except UnreadableText as error:
        raise FiguregroundError(f"--labels {path}: {error}") from None
    return LabelTable(path, rows)


def find_counterparts(
    classifiers: Sequence[Classifier], labels: Sequence[str], occurring: Collection[str], table: LabelTable
) -> list[Counterparts]:
    """What labels stand for, classifier by classifier: as the table says, else by name.

    A row of the table speaks to those classifiers that have its class: so one table serves several.

    Args:
        occurring: The labels that the dataset's samples have; others are left without a counterpart.

    Raises:
        FiguregroundError: A class in the table that no classifier has, or a classifier that has a counterpart of no
            label that occurs.
    """
    for rows in table.rows.values():
        for line, theirs in rows:
            if all(classifier.index_or_none(theirs) is None for classifier in classifiers):
                known = dict.fromkeys(label for classifier in classifiers for label in classifier.labels)
                raise FiguregroundError(
                    f"--labels {table.path}, line {line}: no classifier has a class {theirs!r}"
                    f"{nearest_or_all(theirs, known)}"
                )
    found = []
    for classifier in classifiers:
        groups = tuple(_group(classifier, label, table) if label in occurring else () for label in labels)
        if not any(groups):
            raise FiguregroundError(
                f"The classifier {classifier.name} has no class that goes by a label of the dataset. Its classes: "
                f"{listed(classifier.labels, 5)}; the dataset's labels: {listed(occurring, 5)}. Say which belong "
                f"together in a CSV with the columns {','.join(COLUMNS)}, and give it as --labels."
            )
        found.append(Counterparts(tuple(labels), groups, len(classifier.labels)))
    return found


def _group(classifier: Classifier, label: str, table: LabelTable) -> tuple[int, ...]:
    said = [classifier.index_or_none(theirs) for _, theirs in table.rows.get(label, ())]
    found = [position for position in said if position is not None]
    if not found:
        by_name = (classifier.index_or_none(name) for name in (label, *label.split(",")))
        found = [position for position in by_name if position is not None][:1]
    return tuple(sorted(set(found)))
