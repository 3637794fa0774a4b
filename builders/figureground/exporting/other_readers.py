"""How `load_dataset` and torchvision read folders of images: what they take for a split, a number or a missing value.

`load_dataset` finds splits by the names of folders, and reads tables with pandas. `torchvision.datasets.ImageFolder`
reads one split, and numbers the folders that it finds there in alphabetical order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from figureground.core.errors import join_names

SPLIT_WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "dev": "validation", "val": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""Words in the name of a folder, however deep, by which `load_dataset` takes its files for a split (datasets 5)."""
MISSING = frozenset(
    {
        "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
        "NULL", "NaN", "None", "n/a", "nan", "null",
    }
)  # fmt: skip
"""Names that pandas takes for a missing value."""
_WORD = re.compile(r"[^-._ 0-9]+")
_WHOLE_NUMBER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?)", re.ASCII | re.IGNORECASE)


def find_splits(folder: str) -> list[str]:
    """Return the splits for which `load_dataset` takes the files in a folder, by its name."""
    return list(dict.fromkeys(SPLIT_WORDS[word] for word in _WORD.findall(folder) if word in SPLIT_WORDS))


def find_joined(splits: Sequence[str]) -> list[list[str]]:
    """Return the splits that `load_dataset` takes for the same one."""
    joined: dict[str, list[str]] = {}
    for name in splits:
        for split in find_splits(name):
            joined.setdefault(split, []).append(name)
    return [names for names in joined.values() if len(names) > 1]


def note_joined(splits: Sequence[str], alternative: str = "") -> list[str]:
    """Return a note on each set of splits that `load_dataset` would join.

    Args:
        alternative: What to do instead of separate directories, as the rest of a sentence.
    """
    return [
        f"load_dataset would join the splits {join_names(map(repr, names))}. Export each to a directory of its own"
        f"{alternative}."
        for names in find_joined(splits)
    ]


def note_numbering(folders: Mapping[str, Iterable[str]]) -> list[str]:
    """Return a note if torchvision's ImageFolder would number classes differently in different splits.

    Args:
        folders: Names of the class folders, by split.
    """
    names_by_split = {split: sorted(names) for split, names in folders.items()}
    numbers: dict[str, set[int]] = {}
    for names in names_by_split.values():
        for number, name in enumerate(names):
            numbers.setdefault(name, set()).add(number)
    everything = sorted(numbers)
    if all(names == everything[: len(names)] for names in names_by_split.values()):
        return []
    lacking = [split for split, names in names_by_split.items() if len(names) < len(everything)]
    return [
        f"Not all classes are in {join_names(map(repr, lacking))}. Code that numbers the folders of each split by "
        "itself, as torchvision's ImageFolder does, gives classes other numbers there: number them by their names."
    ]


# Cells of a CSV


def find_kind(value: str) -> str:
    """Return what pandas takes a cell of a CSV for."""
    if not value or value in MISSING:
        return "missing"
    if _WHOLE_NUMBER.fullmatch(value):
        return "whole number"
    if _NUMBER.fullmatch(value):
        return "number"
    return "boolean" if value in ("true", "false", "True", "False", "TRUE", "FALSE") else "text"


def find_type(kinds: set[str]) -> str:
    """Return the type that pandas gives a column with these kinds of cells."""
    if kinds == {"whole number"} or kinds - {"missing"} == {"boolean"}:
        return min(kinds - {"missing"})
    return "number" if kinds <= {"missing", "whole number", "number"} else "text"


def find_changed(values: Iterable[str]) -> dict[str, str]:
    """Return the cells of a column whose text isn't the same once pandas has read them, with the new text.

    Missing values are left out.
    """
    kinds = {value: find_kind(value) for value in values}
    kind = find_type(set(kinds.values()))
    present = [value for value in kinds if kinds[value] != "missing"]
    if kind == "whole number":
        read = {value: str(int(value)) for value in present}
    elif kind == "number":
        read = {value: repr(float(value)) for value in present}
    elif kind == "boolean":
        read = {value: str(value.lower() == "true") for value in present}
    else:
        return {}
    return {value: text for value, text in read.items() if text != value}
