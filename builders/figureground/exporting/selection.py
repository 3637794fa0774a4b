"""The part of a dataset that an export takes: the samples, their labels and further columns, without images."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from figureground.annotation.answers import REFERENCE, read_all
from figureground.core.errors import RecipeError, suggest_or_list
from figureground.core.names import folder_names
from figureground.curation.copying import read_all as read_shards
from figureground.curation.curating import SampleValues, apply_rule, collect_names
from figureground.curation.rule import Name, Rule
from figureground.curation.scores import Scores, fingerprints, read_scores
from figureground.data.layouts import UNKNOWN
from figureground.shards.finished import FinishedDataset

SCORES, ANSWERS = "scores", "answers"
"""Names of columns that stand for several: all scores, and how many people gave each answer."""

Getter = Callable[[SampleValues, str], Any]
"""Returns a sample's value for a further column, from the sample and its key; None if it has none."""


@dataclass(frozen=True, slots=True)
class ExportRow:
    """A sample of an export."""

    key: str
    shard: int
    """Position of its shard among the dataset's."""
    place: int
    """Position in its shard."""
    split: str
    """Name of its split in the export."""
    labels: Mapping[str, int]
    """By label column, as the dataset numbers them."""
    scene: str
    """Name of the scene's file in the dataset's sources; empty without one."""
    more: tuple[str, ...]
    """Values of the further columns, as text."""


@dataclass(frozen=True)
class Selection:
    """The samples of an export, in the dataset's order."""

    dataset: FinishedDataset
    rows: Sequence[ExportRow]
    columns: tuple[str, ...]
    """Names of the further columns."""
    rule: str | None
    """The rule that chose the samples, normalised."""
    scores: Mapping[str, str]
    """Hashes of the scores that were read, by name."""
    left_out: Sequence[str] = ()
    """The dataset's splits that aren't taken."""

    @property
    def suffix(self) -> str:
        """Suffix of the image files, such as `.jpg`."""
        return f".{self.dataset.image_format}"

    @cached_property
    def label_numbers(self) -> Mapping[str, Mapping[int, int]]:
        """By label column, the labels that occur, numbered anew from 0 in the dataset's order."""
        labels_by_column: dict[str, set[int]] = {column: set() for column in self.dataset.names}
        for row in self.rows:
            for column, label in row.labels.items():
                labels_by_column[column].add(label)
        return {
            column: {label: n for n, label in enumerate(sorted(labels))} for column, labels in labels_by_column.items()
        }

    def names(self, column: str) -> list[str]:
        """Return the names of the labels that occur in a column, in the dataset's order."""
        return [self.dataset.names[column][label] for label in self.label_numbers[column]]

    @cached_property
    def has_backgrounds(self) -> bool:
        """Whether the samples have background labels."""
        return self.names("background") != [UNKNOWN]

    @cached_property
    def class_folders(self) -> Mapping[str, str]:
        """By foreground, the name of its folder where a table names the classes: portable, and unique."""
        return folder_names(self.names("foreground"))

    def number(self, row: ExportRow, column: str) -> int:
        """Return a sample's label among those that occur, from 0."""
        return self.label_numbers[column][row.labels[column]]

    def name(self, row: ExportRow, column: str) -> str:
        """Return the name of a sample's label."""
        return self.dataset.names[column][row.labels[column]]

    def group(self, row: ExportRow) -> int:
        """Return the group: number of backgrounds · foreground + background, both among those that occur."""
        return len(self.label_numbers["background"]) * self.number(row, "foreground") + self.number(row, "background")

    @cached_property
    def splits(self) -> list[str]:
        """Names of the splits, in order."""
        return list(dict.fromkeys(row.split for row in self.rows))

    def counts(self, column: str) -> Counter[str]:
        """Return how many samples each label name of a column has."""
        return Counter(self.name(row, column) for row in self.rows)


def select(
    dataset: FinishedDataset,
    splits: Mapping[str, str],
    keep: str | None,
    columns: Sequence[str],
    show_progress: bool,
) -> Selection:
    """Read what an export takes, without images.

    Args:
        dataset: The dataset.
        splits: Splits to take, and their names in the export; all under their own names if empty.
        keep: A rule of `curate`; None takes all samples.
        columns: Further columns: names as in such a rule, `scores` or `answers`.

    Raises:
        RecipeError: A split or column is unknown, or nothing is left.
        RuleError: The rule can't be used; see `curation.curating`.
        FiguregroundError: Scores or answers can't be read.
    """
    available = list(dict.fromkeys(shard.split for shard in dataset.shards))
    for split in splits:
        if split not in available:
            raise RecipeError("split", f"{dataset.directory} has no split {split!r}{suggest_or_list(split, available)}")
    names = dict(splits) or {split: split for split in available}
    scores = read_scores(dataset.directory) if keep is not None or columns else {}
    rule = None
    if keep is not None:
        known_names = collect_names(dataset, scores)
        rule = Rule(keep, known_names)
        apply_rule(dataset, rule, known_names, scores, False, show_progress, set(names))
    getters = _make_getters(dataset, scores, columns)
    has_value = dict.fromkeys(getters, False)
    rows = []
    for number, shard in enumerate(read_shards(dataset, show_progress)):
        if shard.split not in names:
            continue
        for place, table_row in enumerate(dataset.rows(shard)):
            sample = SampleValues(table_row, shard, dataset, scores)
            if rule is not None and not rule(sample):
                continue
            values = {name: getter(sample, table_row["key"]) for name, getter in getters.items()}
            for name, value in values.items():
                has_value[name] |= value is not None
            scene = sample(("provenance", "guide", "template")) if sample(("provenance", "guide")) else None
            rows.append(
                ExportRow(
                    table_row["key"], number, place, names[shard.split],
                    {name: table_row[name] for name in dataset.names},
                    str(scene or "").rpartition("@")[0] or str(scene or ""), tuple(map(_format_value, values.values())),
                )
            )  # fmt: skip
    if not rows:
        raise RecipeError(
            "split", f"the rule keeps no sample of these splits of {dataset.directory}. Change --keep or --split."
        )
    for name, has_any in has_value.items():
        if not has_any and name in columns:
            raise RecipeError(
                "columns", f"no sample has {name!r}. Choose from {', '.join(_list_available(dataset, scores))}."
            )
    left_out = [split for split in available if split not in names]
    return Selection(dataset, rows, tuple(getters), None if rule is None else rule.text, fingerprints(scores), left_out)


def _make_getters(dataset: FinishedDataset, scores: Mapping[str, Scores], columns: Sequence[str]) -> dict[str, Getter]:
    """Return how to look up each further column, by its name; `scores` and `answers` become several."""
    getters: dict[str, Getter] = {}
    for name in columns:
        if name == SCORES:
            for column_name in (
                f"{SCORES}.{file_name}.{column}"
                for file_name, file_scores in scores.items()
                for column in file_scores.columns
            ):
                getters[column_name] = _make_getter(column_name, dataset, scores)
        elif name == ANSWERS:
            getters |= _count_answers(dataset)
        else:
            getters[name] = _make_getter(name, dataset, scores)
    return getters


def _make_getter(name: str, dataset: FinishedDataset, scores: Mapping[str, Scores]) -> Getter:
    head, *rest = name.split(".")
    path: Name = ("provenance", head, *rest)
    if head == SCORES:
        found = {
            f"{SCORES}.{file_name}.{column}": (file_name, column)  # either may contain dots
            for file_name, file_scores in scores.items() for column in file_scores.columns
        }  # fmt: skip
        if name not in found:
            raise RecipeError(
                "columns", f"there is no {name!r}. Choose from {', '.join(_list_available(dataset, scores))}."
            )
        path = (SCORES, *found[name])
    elif name == "prompt" or name in dataset.columns.texts:
        path = (name,)
    elif head == "provenance":
        path = ("provenance", *rest)
    return lambda sample, key: sample(path)


def _list_available(dataset: FinishedDataset, scores: Mapping[str, Scores]) -> list[str]:
    score_columns = [
        f"{SCORES}.{file_scores.name}.{column}" for file_scores in scores.values() for column in file_scores.columns
    ]
    return ["prompt", *dataset.columns.texts, "a field of the provenance such as seed", *score_columns, SCORES, ANSWERS]


def _count_answers(dataset: FinishedDataset) -> dict[str, Getter]:
    """Return columns `answers.QUESTION.ANSWER`: how many people gave each answer about an image.

    Raises:
        RecipeError: Nobody has answered anything about the dataset.
        FiguregroundError: A file of answers can't be used.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for answers in read_all(dataset.directory, dataset.identity()):
        for answer in answers.iter_current():
            if not answer.key.startswith(REFERENCE):
                counts[f"{ANSWERS}.{answer.question}.{answer.answer}"][answer.key] += 1
    if not counts:
        raise RecipeError("columns", f"nobody has answered questions about {dataset.directory} yet (review asks them).")

    def make_getter(name: str) -> Getter:
        return lambda sample, key: counts[name][key]

    return {name: make_getter(name) for name in sorted(counts)}


def _format_value(value: Any) -> str:
    """Return a value as a CSV holds it."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
