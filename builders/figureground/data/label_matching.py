"""Matches names of classes and folders with a list of labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from figureground.core.names import find_symbols, name_key, slug, unique_slugs
from figureground.recipe.classes import read_nouns


def match_labels(names: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Return the position of each name's label, int (names,); -1 without a match."""
    positions = _positions(labels)
    return np.array([next((positions[n] for n in synonyms(name) if n in positions), -1) for name in names], np.int64)


def synonyms(label: str) -> list[str]:
    """Return a label's names by `name_key`: itself, then each comma-separated part, as in ImageNet's labels."""
    return list(dict.fromkeys(name_key(part) for part in [label, *label.split(",")] if part.strip()))


def _positions(labels: Sequence[str]) -> dict[str, int]:
    """Return label positions by name; whole names take precedence, and synonyms shared by two labels are left out."""
    positions: dict[str, int] = {}
    shared = Counter(name for label in labels for name in synonyms(label))
    for position, label in enumerate(labels):
        positions.setdefault(name_key(label), position)
    for position, label in enumerate(labels):
        for name in synonyms(label):
            if shared[name] == 1:
                positions.setdefault(name, position)
    return positions


def match_folders(names: Sequence[str], labels: Sequence[str], subset: Sequence[str]) -> Mapping[str, int]:
    """Return labels by folder name. A label may have several folders; a folder belongs to one label."""
    label_of_folder = dict(zip(names, match_labels(names, labels).tolist(), strict=True))
    unmatched = [name for name, position in label_of_folder.items() if position < 0]
    if unmatched:
        imagenet = _imagenet_folders(labels)
        by_slug = {slug_text: labels.index(label) for label, slug_text in unique_slugs(labels).items()}
        for name in unmatched:
            text = slug(name)
            if text != name and text in by_slug and find_symbols(name) != find_symbols(labels[by_slug[text]]):
                text = ""  # C# isn't C++
            candidates = ((by_slug, text), (imagenet, name), (imagenet, _class_number(name)))
            label_of_folder[name] = next((table[key] for table, key in candidates if key in table), -1)
    needed = {labels.index(name) for name in subset}
    return {name: position for name, position in label_of_folder.items() if position in needed}


def _imagenet_folders(labels: Sequence[str]) -> dict[str, int]:
    """Return labels by the WordNet ids and numbers of ImageNet's classes."""
    nouns = read_nouns("classes", "imagenet", "classes", "imagenet")
    positions: dict[str, int] = {}
    for number, position in enumerate(match_labels([noun.name for noun in nouns], labels).tolist()):
        if position >= 0:
            positions |= dict.fromkeys([str(number), *nouns[number].aliases], position)
    return positions


def _class_number(folder: str) -> str:
    """Return the class in a Spurious ImageNet folder name, `…_…_{class}_…_{component}`; empty for others."""
    match = re.fullmatch(r"[^_]+_[^_]+_(\d+)_(.*_)?\d+", folder)
    return str(int(match[1])) if match else ""
