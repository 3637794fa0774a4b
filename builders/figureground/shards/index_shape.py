"""Path and required shape of a dataset's index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from figureground.core.errors import join_names
from figureground.core.files import FileError, read_object
from figureground.core.shapes import Count, MapOf, Number, Optional, TupleOf, check_shape
from figureground.recipe.formats import FORMATS
from figureground.recipe.sample import IMAGE_FORMATS
from figureground.shards.shard import PRIVATE

INDEX = f"{PRIVATE}/index.json"

CELL = TupleOf((Count, Count, Count))
"""Foreground, background, and number of images."""
FILES = MapOf({"bytes": Count, "sha256": str})
"""Files of a shard, by path in the dataset."""

_COUNTS = {"planned": Count, "samples": Count, "rejects": MapOf(Count)}
_SOURCE = {
    "what": str, "name": str, "images": Count, "splits": [str], "skipped": Count, "license": str,
    "license_file": str, "credited": Count, "problem": str,
}  # fmt: skip
_CONCEPT = {
    "class": str, "noun": str, "feature": str, "references": Count, "identifier": str, "kind": str, "sha256": str,
    "losses": MapOf(Number),
}  # fmt: skip
_SHARE = {"value": Number, "low": Number, "high": Number}
LABELS = {
    "people": Optional({"annotators": Count, "images": Count, "answers": Count}),
    "shares": Optional([{
        "question": str, "split": Optional(str), "images": Count, "labels": Count, "wrong": Count, "people": _SHARE,
        "with_scorers": Optional(_SHARE), "corrected": Optional(_SHARE),
        "agreement": Optional({"images": Count, "raw": Number, "alpha": (Number, None), "ac1": Number}),
    }]),
    "scorers": [{"name": str, "what": str, "images": Count, "right": Number}],
}  # fmt: skip
"""Shape of the card's facts about labels: how many people looked at them, shares of right labels with intervals, and
the share of images whose own label each scorer finds most probable."""
_FACTS = {
    "title": str, "builder": str, "summary": str, "citation": str, "numerics": Optional(dict),
    "limits": Optional([str]), "uses": Optional([str]), "misuses": Optional([str]),
    "checkpoint": Optional(MapOf(str)), "sources": Optional([_SOURCE]), "credits": Optional([MapOf(str)]),
    "lineage": Optional([{"did": str}]), "concepts": Optional([_CONCEPT]),
    "labels": Optional(LABELS),
}  # fmt: skip
COLUMNS = {
    "foregrounds": [str], "backgrounds": [str], "labels": Optional(MapOf([str])), "texts": Optional([str]),
    "guide": Optional(bool), "mask": Optional(bool),
}  # fmt: skip
"""Shape of the output of `Columns.to_json`."""
_SHAPE = {
    **_COUNTS,
    "splits": MapOf(
        {**_COUNTS, "shards": Count, "bytes": MapOf(Count), "arrow_bytes": Optional(Count), "cells": [CELL]}
    ),
    "shards": [{**_COUNTS, "part": Optional(Count), "shard": str, "split": str, "files": FILES}],
    "shardlists": MapOf([{"url": str, "nsamples": Count, "filesize": Count}]),
    "published_rejects": Optional(MapOf({"files": [str], "samples": Count, "bytes": Count})),
    "columns": COLUMNS,
    "formats": [str],
    "image_format": str,
    "recipe_sha256": Optional(str),
    "card": {"recipe": dict, "facts": _FACTS, "renderer": Optional(str), "text": Optional(str)},
}


def read_index(directory: Path) -> dict[str, Any]:
    """Read the index of a finished dataset.

    Raises:
        FileError: It can't be read, or a field is missing or has the wrong type; names the field.
        OSError: It doesn't exist.
    """
    path = directory / INDEX
    index = read_object(path, root=directory)
    try:
        check_index(index)
    except ValueError as error:
        raise FileError(path, f"it is damaged, or not the index of a dataset: {error}") from None
    return index


def check_index(index: dict[str, Any]) -> None:
    """Check that an index has all fields that commands use, with the right types, and that its labels have names.

    Raises:
        ValueError: The check fails; names the field.
    """
    _rename_pictures(index)
    check_shape(index, _SHAPE)
    for part, fields in (("columns", COLUMNS), ("card.facts", _FACTS)):
        values = index["columns"] if part == "columns" else index["card"]["facts"]
        if unknown := sorted(set(values) - set(fields)):
            raise ValueError(f"{part}.{unknown[0]} is not a field that this release knows")
    unknown = [kind for kind in index["formats"] if kind not in FORMATS]
    if unknown or not index["formats"]:
        problem = f"names {join_names(map(repr, unknown), 3)}, but the installed ones are" if unknown else "is none of"
        raise ValueError(f"formats {problem} {' and '.join(FORMATS.names())}")
    if index["image_format"] not in IMAGE_FORMATS:
        raise ValueError(f"image_format isn't one of {', '.join(IMAGE_FORMATS)}")
    sizes = len(index["columns"]["foregrounds"]), len(index["columns"]["backgrounds"])
    for name, split in index["splits"].items():
        for foreground, background, _ in split["cells"]:
            if foreground >= sizes[0] or background >= sizes[1]:
                raise ValueError(f"splits.{name}.cells has labels that are missing from columns")


def _rename_pictures(index: dict[str, Any]) -> None:
    """Give the counts of source images the name that they have had since `pictures` became `images`."""
    facts = index["card"].get("facts") if isinstance(index.get("card"), dict) else None
    sources = facts.get("sources") if isinstance(facts, dict) else None
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, dict) and "pictures" in source:
            source.setdefault("images", source.pop("pictures"))
