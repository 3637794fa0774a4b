"""The index of a dataset directory: the sum of its markers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from figureground.core.errors import join_names
from figureground.core.files import FileError, read_object, replace_text
from figureground.core.local_paths import strip_local_paths
from figureground.core.locks import lock, remove_held
from figureground.recipe.document import FORMAT, SEAL, read_format
from figureground.recipe.formats import DEFAULT_FORMATS, FORMATS
from figureground.shards import card, card_file, croissant
from figureground.shards.card_context import CardContext
from figureground.shards.claims import INDEX_LOCK, clean_stale, remove_locks
from figureground.shards.columns import Columns
from figureground.shards.empty_splits import refuse_empty
from figureground.shards.formats.format import sort_formats
from figureground.shards.index_shape import INDEX as INDEX
from figureground.shards.index_shape import read_index
from figureground.shards.markers import find_missing_shards, markers, read_stored_shards, to_text
from figureground.shards.shard import LABELS, MARKERS, RECIPE, Shard, ShardError

RECIPE_SHA256 = "recipe_sha256"
"""Index key of the `sha256` of the recipe that its shards were made with."""


def finish(
    directory: Path,
    shards: Sequence[Shard],
    columns: Columns,
    recipe: Mapping[str, Any],
    facts: CardContext,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    image_format: str = "jpg",
    sha256: str | None = None,
) -> dict[str, Any] | None:
    """Write index, croissant.json and card once every shard is finished; any process may call it at any time.

    Args:
        directory: The dataset's directory.
        shards: All shards of all splits, in order.
        columns: Columns of each sample.
        recipe: The resolved recipe, shown on the card.
        facts: Further contents of the card.
        formats: Formats of every shard.
        image_format: `jpg`, `webp` or `png`.
        sha256: SHA-256 of the shards' recipe, compared with the one in the directory; None skips the comparison.

    What is known of the labels (`facts.labels`, `labels.json`) stays if the shards are those that it was written for;
    otherwise it is dropped.

    Returns:
        The index; None while shards are missing.

    Raises:
        ShardError: Markers don't belong to these shards, files differ from their marker, or another process has
            replaced the recipe.
        NothingLeft: Every image was rejected. Nothing is written then.
    """
    if find_missing_shards(directory, shards):
        return None
    with lock_descriptions(directory):
        if sha256 is not None:
            _refuse_other_recipe(directory, sha256)
        facts = dataclasses.replace(facts, labels=_read_current_labels(directory, shards))
        return _finish(directory, shards, columns, recipe, facts, formats, image_format)


@contextmanager
def lock_descriptions(directory: Path) -> Iterator[None]:
    """Lock the files next to the data (index, card, preview, report) against other processes.

    Read the inputs of these files inside this context, not before.
    """
    clean_stale(directory)
    with lock(directory / INDEX_LOCK, wait=True):
        try:
            yield
        finally:
            remove_held(directory / INDEX_LOCK)
    remove_locks(directory)


def _refuse_other_recipe(directory: Path, sha256: str) -> None:
    found = read_object(directory / RECIPE, root=directory)["sha256"]
    if found != sha256:
        raise ShardError(
            f"{directory} was extended by another process meanwhile ({RECIPE} has the SHA-256 {found[:12]}, not "
            f"{sha256[:12]}). That process will write the index when it has finished."
        )


def _finish(
    directory: Path,
    shards: Sequence[Shard],
    columns: Columns,
    recipe: Mapping[str, Any],
    facts: CardContext,
    formats: Sequence[str],
    image_format: str,
) -> dict[str, Any]:
    index = {
        **summarise(directory, shards, formats),
        "columns": columns.to_json(),
        "formats": list(formats),
        "image_format": image_format,
        **_recipe_hash_entry(directory),
        # With these, the card can be rewritten when nothing else of the build is available.
        "card": {"recipe": strip_local_paths(recipe), "facts": _facts_to_json(facts)},
    }
    refuse_empty(index, str(directory))
    preview = card.PREVIEW if (directory / card.PREVIEW).exists() else None
    body = card.render(columns, index, recipe, facts, formats=formats, image_format=image_format, preview=preview)
    part = card_file.find_generated_part(body)
    assert part is not None
    index["card"] |= {"renderer": card.identify_renderer(tuple(formats)), "text": card.hash_text(body[slice(*part)])}
    replace_text(directory / INDEX, to_text(index), root=directory)
    card.write_attribution(directory, facts)
    croissant.write(directory, columns, index, facts, formats=formats)
    # The card comes last, because it announces the dataset.
    card_file.write(directory, card.describe(columns, index, facts, formats=formats, image_format=image_format), body)
    return index


def _facts_to_json(facts: CardContext) -> dict[str, Any]:
    """Return the card's contents as JSON. An older release doesn't know `labels`, so it is left out if empty."""
    fields = strip_local_paths(dataclasses.asdict(facts))
    return fields if facts.labels else {name: value for name, value in fields.items() if name != "labels"}


def _read_current_labels(directory: Path, shards: Sequence[Shard]) -> dict[str, Any]:
    """Return what the index says about the labels if it was written for the same shards; otherwise forgets it."""
    try:
        index = read_index(directory)
    except (FileError, OSError, ValueError):  # there is none, or it is rewritten because it is damaged
        index = {}
    marker_of = markers(directory)
    shard_entries = [_make_shard_entry(shard, marker_of[shard.name]) for shard in shards if shard.name in marker_of]
    recipe_sha256 = _recipe_hash_entry(directory).get(RECIPE_SHA256)
    if index.get("shards") == shard_entries and index.get(RECIPE_SHA256) == recipe_sha256:
        return dict(index["card"]["facts"].get("labels", {}))
    (directory / LABELS).unlink(missing_ok=True)
    return {}


def _recipe_hash_entry(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of the saved recipe's identity, if there is a recipe.

    Releases that didn't seal recipes didn't write it either; `check` takes an index with it for a newer one, whose
    recipe has lost its seal.
    """
    try:
        recipe = read_object(directory / RECIPE, root=directory)
        return {RECIPE_SHA256: recipe["sha256"]} if SEAL in recipe or recipe.get("format", 1) != 1 else {}
    except (FileError, OSError, KeyError):  # `check` reports it
        return {}


def rewrite_descriptions(directory: Path) -> dict[str, Any] | None:
    """Rewrite the index and the card of a finished dataset from its index and markers.

    Returns:
        The index; None if there was none, or an older release wrote it.

    Raises:
        ShardError: See `finish`.
    """
    return _rewrite(directory, None)


def rewrite_with_labels(directory: Path, labels: Mapping[str, Any]) -> dict[str, Any] | None:
    """Like `rewrite_descriptions`, with other facts about the labels.

    Args:
        labels: What is known of them, in the shape of `index_shape.LABELS`; empty if nothing.
    """
    return _rewrite(directory, labels)


def rewrite_croissant(directory: Path) -> None:
    """Rewrite croissant.json of a finished dataset whose score files have changed. Unfinished ones get it later.

    Raises:
        ShardError: The card can't be parsed, which names the licence.
    """
    with lock_descriptions(directory):
        try:
            index = read_index(directory)
            columns, facts = Columns.from_json(index["columns"]), CardContext(**index["card"]["facts"])
        except (FileError, OSError):
            return  # there is none, or `check` reports it
        croissant.write(directory, columns, index, facts, formats=tuple(index["formats"]))


def _rewrite(directory: Path, labels: Mapping[str, Any] | None) -> dict[str, Any] | None:
    path = directory / INDEX
    with lock_descriptions(directory):
        if not path.exists() or "card" not in read_object(path, root=directory):
            return None
        index = read_index(directory)
        marker_of = markers(directory)
        lost = [shard["shard"] for shard in index["shards"] if shard["shard"] not in marker_of]
        if lost:
            raise ShardError(f"{MARKERS} lacks the markers of {join_names(lost, 3)}. Restore them, or build again.")
        facts = index["card"]["facts"] if labels is None else {**index["card"]["facts"], "labels": labels}
        return _finish(
            directory,
            [Shard.from_marker(marker_of[shard["shard"]]) for shard in index["shards"]],
            Columns.from_json(index["columns"]),
            index["card"]["recipe"],
            CardContext(**facts),
            tuple(index["formats"]),
            index["image_format"],
        )


def summarise(directory: Path, shards: Sequence[Shard], formats: Sequence[str]) -> dict[str, Any]:
    """Add up the markers of finished shards; the result depends only on the data.

    Returns:
        `format`, the version in all markers; `samples`, `planned` and `rejects` (by reason) in total;
        `splits`, by name: the same counts, `cells`, a list of (foreground, background, samples), `bytes` by format,
        and `arrow_bytes`, the size of the samples once loaded; `shards`, in order; `shardlists`, by split, with url,
        nsamples and filesize of each tar, as `wids.ShardListDataset` takes them; and, if rejects are published,
        `published_rejects`, by split: `files`, `samples`, and `bytes`.

    Raises:
        ShardError: See `finish`.
    """
    marker_of = markers(directory)
    unplanned = set(marker_of) - {shard.name for shard in shards}
    if unplanned:
        raise ShardError(
            f"{MARKERS} contains shards that this build doesn't plan: {join_names(sorted(unplanned))}. "
            "Build into an empty directory, or remove those shards' files and markers."
        )
    for shard in shards:
        _check_shard(directory, shard, marker_of[shard.name], formats)
    by_split: dict[str, list[dict[str, Any]]] = {}
    for shard in shards:
        by_split.setdefault(shard.split, []).append(marker_of[shard.name])
    kind = next((kind for kind in sort_formats(formats) if FORMATS[kind].IN_SHARDLISTS), None)
    return {
        "format": _find_common_version(directory, shards, marker_of),
        **_sum_counts(marker_of.values()),
        "splits": {split: _summarise_split(split_markers, formats) for split, split_markers in by_split.items()},
        "shards": [_make_shard_entry(shard, marker_of[shard.name]) for shard in shards],
        "shardlists": {
            s: _make_shardlist(split_markers, kind) for s, split_markers in by_split.items() if kind is not None
        },
        **_summarise_published_rejects(by_split),
    }


def sum_markers(pairs: Sequence[tuple[Shard, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return only the counts of an index, which `empty_splits` needs: in total, by split, and by shard."""
    splits: dict[str, list[Mapping[str, Any]]] = {}
    for shard, marker in pairs:
        splits.setdefault(shard.split, []).append(marker)
    return {
        **_sum_counts(marker for _, marker in pairs),
        "splits": {split: _sum_counts(split_markers) for split, split_markers in splits.items()},
        "shards": [_make_shard_entry(shard, marker) for shard, marker in pairs],
    }


def _make_shard_entry(shard: Shard, marker: Mapping[str, Any]) -> dict[str, Any]:
    counts = {key: marker[key] for key in ("shard", "split", "planned", "samples", "rejects", "files")}
    return {"part": shard.part, **counts}


def _find_common_version(directory: Path, shards: Sequence[Shard], marker_of: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the format version of all markers.

    Raises:
        ShardError: Markers have different versions, or one that this release doesn't know.
    """
    shard_by_version: dict[int, str] = {}
    for shard in shards:
        shard_by_version.setdefault(read_format(marker_of[shard.name], shard.path("marker")), shard.name)
    if len(shard_by_version) > 1:
        versions = join_names(f"shard {name} of format {version}" for version, name in sorted(shard_by_version.items()))
        raise ShardError(
            f"{directory} contains {versions}: their noise and order differ, so they don't form one dataset. Delete "
            "the markers and files of one format, and build again."
        )
    return next(iter(shard_by_version), FORMAT)


def _check_shard(directory: Path, shard: Shard, marker: Mapping[str, Any], formats: Sequence[str]) -> None:
    remedy = f"Delete {shard.path('marker')} and build again to render the shard anew."
    if marker["planned"] != shard.count:
        raise ShardError(
            f"shard {shard.name} was built from {marker['planned']} images, but {shard.count} are planned. {remedy}"
        )
    for kind in formats:
        if shard.path(kind) not in marker["files"]:
            raise ShardError(f"shard {shard.name} was built without the format {kind!r}. {remedy}")
    if read_stored_shards(directory) is not None:
        return  # the store's sizes were compared when the markers were fetched
    for name, file in marker["files"].items():
        path = directory / name
        size = path.stat().st_size if path.exists() else None
        if size != file["bytes"]:
            state = "is gone" if size is None else f"has {size} bytes"
            raise ShardError(f"{name} {state}; its marker says {file['bytes']} bytes. {remedy}")


def _sum_counts(shard_markers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    shard_markers = list(shard_markers)
    rejects: Counter[str] = Counter()
    for marker in shard_markers:
        rejects.update(marker["rejects"])
    return {
        "planned": sum(marker["planned"] for marker in shard_markers),
        "samples": sum(marker["samples"] for marker in shard_markers),
        "rejects": dict(sorted(rejects.items())),
    }


def _summarise_split(split_markers: Sequence[Mapping[str, Any]], formats: Sequence[str]) -> dict[str, Any]:
    cells: Counter[tuple[int, int]] = Counter()
    for marker in split_markers:
        for foreground, background, count in marker["cells"]:
            cells[foreground, background] += count
    paths = {kind: [_file_path(marker, kind) for marker in split_markers] for kind in formats}
    return {
        **_sum_counts(split_markers),
        "shards": len(split_markers),
        "bytes": {
            kind: sum(marker["files"][path]["bytes"] for marker, path in zip(split_markers, paths[kind], strict=True))
            for kind in formats
        },
        **_sum_loaded_bytes(split_markers),
        "cells": [[*cell, count] for cell, count in sorted(cells.items())],
    }


def _sum_loaded_bytes(split_markers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the size of a split's samples once loaded, bytes, if the shards include Parquet."""
    sizes = [marker["arrow_bytes"] for marker in split_markers if "arrow_bytes" in marker]
    return {"arrow_bytes": sum(sizes)} if len(sizes) == len(split_markers) else {}


def _summarise_published_rejects(by_split: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    splits = {}
    for split, split_markers in by_split.items():
        files = {_file_path(marker, "published_rejects"): marker for marker in split_markers}
        files = {path: marker for path, marker in files.items() if path in marker["files"]}
        if files:
            splits[split] = {
                "files": list(files),
                "samples": sum(sum(marker["rejects"].values()) for marker in files.values()),
                "bytes": sum(marker["files"][path]["bytes"] for path, marker in files.items()),
            }
    return {"published_rejects": splits} if splits else {}


def _make_shardlist(split_markers: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    files = [(_file_path(marker, kind), marker) for marker in split_markers]
    return [{"url": file, "nsamples": m["samples"], "filesize": m["files"][file]["bytes"]} for file, m in files]


def _file_path(marker: Mapping[str, Any], kind: str) -> str:
    return Shard.from_marker(marker).path(kind)
