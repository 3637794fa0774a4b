"""Usual names of the splits train, validation and test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from figureground.core.names import name_key

SPLITS = ("train", "validation", "test")
"""Names of the splits 0, 1 and 2."""

_NAMES: tuple[tuple[int, str], ...] = (
    (0, "train training trn tr 0"),
    (0, "train_id id_train train_in_domain"),
    (1, "validation valid val vld validate 1"),
    (1, "dev devel development dev_set"),
    (1, "eval evaluation"),
    (1, "id_val val_id id_valid id_validation validation_id val_in_domain val_in_distribution"),
    (1, "ood_val val_ood ood_valid ood_validation validation_ood val_out_of_domain val_out_of_distribution"),
    (2, "test testing tst 2"),
    (2, "id_test test_id test_in_domain test_in_distribution"),
    (2, "ood_test test_ood ood test_out_of_domain test_out_of_distribution out_of_domain out_of_distribution"),
    (2, "holdout hold_out held_out"),
)
"""Names in one line mean the same part; lines with the same number are different parts of the same split."""
_PART = {name_key(name): part for part, (_, names) in enumerate(_NAMES) for name in names.split()}
_PLAIN_PARTS = (0, 2, 7)
"""Parts whose names mean only the split."""

SPLIT_NAMES = tuple(name for _, names in _NAMES for name in names.split() if not name.isdecimal())
"""All names, for hints."""


def _find_part(name: str) -> int | None:
    return _PART.get(name_key(name.replace("-", "_").removesuffix(".0")))


def split_number(name: str) -> int | None:
    """Return 0 for a name of train, 1 for one of validation, 2 for one of test, None for others.

    Names are compared by `core.names.name_key`, with `-` as `_`. Numbers are names too: `0`, `1.0`.
    """
    part = _find_part(name)
    return None if part is None else _NAMES[part][0]


def folder_split(name: str) -> int | None:
    """Return the split of a folder name, as `split_number`, except that numbers are class names."""
    return None if name.strip().isdecimal() else split_number(name)


def find_conflicts(names: Iterable[str]) -> list[tuple[int, list[str]]]:
    """Return the splits that names of different parts would share, such as `val` and `id_val`, with one name each."""
    parts: dict[int, str] = {}
    for name in names:
        if (part := _find_part(name)) is not None:
            parts.setdefault(part, name)
    by_split: dict[int, list[str]] = {}
    for part, name in parts.items():
        by_split.setdefault(_NAMES[part][0], []).append(name)
    return [(number, names_of_split) for number, names_of_split in sorted(by_split.items()) if len(names_of_split) > 1]


def choose_splits(names: Sequence[str]) -> list[int | None]:
    """Return the split of each name; if several parts would share one, only the plain name (`val`) gets it.

    If none of them is plain, none gets it.
    """
    conflicting = {name for _, names_of_split in find_conflicts(names) for name in names_of_split}
    parts = {_find_part(name) for name in conflicting}
    return [
        None if (part := _find_part(name)) in parts and part not in _PLAIN_PARTS else split_number(name)
        for name in names
    ]
