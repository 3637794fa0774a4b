"""Markers of finished shards: the proof that a shard is whole, with its counts and the hashes of its files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from figureground.core.errors import printable
from figureground.core.files import MAX_JSON_BYTES, read_json, read_text
from figureground.core.shapes import Count, MapOf, Optional, check_shape
from figureground.recipe.formats import FORMATS
from figureground.shards.index_shape import CELL, FILES
from figureground.shards.shard import MARKERS, Shard, ShardError, list_paths

_MARKER = {
    "shard": str, "split": str, "index": Count, "of": Count, "part": Optional(Count), "planned": Count,
    "samples": Count, "arrow_bytes": Optional(Count), "rejects": MapOf(Count), "cells": [CELL], "files": FILES,
    "rendered": Optional(Count),
}  # fmt: skip

STORED_SHARDS = f"{MARKERS}/.kept"
"""File of a scratch directory: names of the shards that the store has, one a line."""


def markers(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the markers of all finished shards by shard name; each lists only files of its own shard.

    Raises:
        ShardError: A marker can't be read, lacks a field, or lists files of another shard.
    """
    files = sorted((directory / MARKERS).glob("[!.]*.json"))
    return {path.stem: read_marker(directory, path) for path in files}


def read_marker(directory: Path, path: Path) -> dict[str, Any]:
    """Return a marker of a dataset; see `markers`.

    Args:
        path: The marker's file.
    """
    try:
        marker = read_json(path, root=directory)
        check_marker(marker)
        if Shard.from_marker(marker).name != path.stem:
            raise ValueError(f"it describes the shard {Shard.from_marker(marker).name}")
        if foreign := sorted(set(marker["files"]) - set(list_paths(path.stem))):
            raise ValueError(f"it lists {printable(foreign[0])}, which is not a file of this shard")
    except OSError as error:
        raise ShardError(
            f"marker {MARKERS}/{printable(path.name)} can't be read: {error.strerror or error}."
        ) from error
    except ValueError as error:
        raise ShardError(
            f"marker {MARKERS}/{printable(path.name)} can't be read ({error}). Delete it to have the shard rendered "
            "anew."
        ) from error
    return marker


def check_marker(marker: Any) -> None:
    """Check that a marker has all fields, with the right types, and that its numbers fit into 64 bits.

    Raises:
        ValueError: The check fails; names the field.
    """
    check_shape(marker, _MARKER)


def find_missing_shards(directory: Path, shards: Iterable[Shard]) -> list[Shard]:
    """Return the unfinished shards, in the given order. In a scratch directory, those in the store are finished."""
    stored = read_stored_shards(directory)
    if stored is not None:
        return [shard for shard in shards if shard.name not in stored]
    return [shard for shard in shards if not (directory / shard.path("marker")).exists()]


def read_stored_shards(directory: Path) -> frozenset[str] | None:
    """Return the names of the shards in the store of a scratch directory, as last seen; None for other directories."""
    path = directory / STORED_SHARDS
    try:
        status = path.stat()
    except OSError:
        return None
    return _read_names(path, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=4)
def _read_names(path: Path, modified: int, size: int, number: int) -> frozenset[str]:
    """Read names, one a line; what changes with the file is part of the cache's key."""
    return frozenset(read_text(path, max_bytes=MAX_JSON_BYTES).split())


def formats_of(marker: Mapping[str, Any]) -> list[str]:
    """Return the names of the formats that a shard was written in, in the registry's order."""
    shard = Shard.from_marker(marker)
    return [name for name, _ in FORMATS.items() if shard.path(name) in marker["files"]]


def to_text(document: Mapping[str, Any]) -> str:
    """Return a document as JSON with one line per key, so that people can read it too."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
