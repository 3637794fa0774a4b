"""Words for a dataset's labels, from the recipes that it was made by, for texts that images are compared with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from figureground.core.names import name_key
from figureground.recipe.classes import ClassEntry


def read_words(recipe: Mapping[str, Any], field: str) -> dict[str, ClassEntry]:
    """Return the words of a dataset's recipe, or of those that it was made from, by `name_key` of the label's name.

    Args:
        field: `classes` or `backgrounds`.
    """
    words: dict[str, ClassEntry] = {}
    for content in _iterate_contents(recipe):
        for row in _iterate_rows(content.get(field)):
            words.setdefault(name_key(row[0]), ClassEntry(row[0], row[1], row[2] if len(row) > 2 else ""))
    return words


def make_words(name: str) -> ClassEntry:
    """Return the words for a class that no recipe describes: the first of its comma-separated synonyms."""
    return ClassEntry(name, name.split(",")[0].replace("_", " ").strip())


def with_article(text: str) -> str:
    """Return a text with "an" for "a" before a vowel: `a photo of an umbrella`."""
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)


def _iterate_contents(recipe: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the `content` of a recipe, or of the recipes that it was made from."""
    if isinstance(content := recipe.get("content"), Mapping):
        yield content
    for source in recipe.get("sources", ()):
        if isinstance(source, Mapping):
            yield from _iterate_contents(source)


def _iterate_rows(value: Any) -> Iterator[Sequence[str]]:
    """Yield the rows of a list of names and texts; other values, such as hashes, have none."""
    for row in value if isinstance(value, list) else ():
        if isinstance(row, list) and len(row) >= 2 and all(isinstance(part, str) for part in row):
            yield row
