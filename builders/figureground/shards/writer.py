"""Writes a shard atomically: one file per format with the same samples, then its marker.

A shard is rendered into privately named temporary files, which are synced and renamed. Only then is the marker
created, exclusively. It records that the shard is finished, with counts and the SHA-256 of each file.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from figureground.core.errors import join_names
from figureground.core.files import create_text, read_object
from figureground.recipe.document import FORMAT
from figureground.recipe.formats import DEFAULT_FORMATS, FORMATS
from figureground.recipe.sample import Reject, Sample
from figureground.shards.columns import Columns
from figureground.shards.drafts import Draft
from figureground.shards.encoding import encode_all
from figureground.shards.journal import Journal
from figureground.shards.markers import to_text
from figureground.shards.rejects import RejectsWriter
from figureground.shards.samples import Encoded
from figureground.shards.shard import Shard, ShardError, list_paths


def write_shard(
    directory: Path,
    shard: Shard,
    columns: Columns,
    results: Iterable[Sample | Encoded | Reject],
    provenance: Callable[[Sample], Mapping[str, Any]],
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    image_format: str = "jpg",
    journal: Journal | None = None,
    marked: bool = False,
) -> dict[str, Any]:
    """Write a shard from rendered samples, encoding images in threads while others are rendered.

    Args:
        directory: The dataset's directory.
        shard: The shard to write. Hold its `claim` meanwhile if several processes may write to this directory.
        columns: Columns of each sample.
        results: One result per planned image, in the order in which to write them; those that a journal kept are
            encoded already.
        provenance: Returns a sample's provenance, JSON-able; key, split, prompt and label names are added.
        formats: Names in `FORMATS`.
        image_format: `jpg`, `webp` or `png`.
        journal: Takes the results, so that a stopped build keeps them, and is emptied once the shard is finished.
        marked: Whether images state that they are generated; see `sources.marks`.

    Returns:
        The marker, as written.

    Raises:
        ShardError: A result belongs to another shard, their number differs from the planned one, or the shard is
            already finished. Nothing is published then, nor when `results` raises.
    """
    encoded = encode_all(shard, columns, results, provenance, image_format, journal, marked)
    with contextlib.closing(encoded):
        marker = write_encoded(
            directory, shard, columns, encoded, formats=formats, image_format=image_format, journal=journal
        )
    if journal is not None:
        journal.remove()
    return marker


def write_encoded(
    directory: Path,
    shard: Shard,
    columns: Columns,
    encoded: Iterable[Encoded | Reject],
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    image_format: str = "jpg",
    publish_rejects: bool = False,
    version: int = FORMAT,
    journal: Journal | None = None,
) -> dict[str, Any]:
    """Write a shard from encoded samples; otherwise the same as `write_shard`.

    Copies are written by it, without a journal: they render nothing, and making a shard of them again is cheap.
    `version` is the format version in which the images were drawn; a copy keeps it. With `publish_rejects`, rejects
    are also written as a Parquet file, with the images of those that are `Dropped`. `journal` tells which of the
    samples were rendered earlier, so that the marker's speed counts only the others.
    """
    unknown = [kind for kind in formats if kind not in FORMATS]
    if unknown or not formats:
        raise ShardError(f"formats: {join_names(unknown) or 'none'} given; choose from {join_names(FORMATS.names())}.")
    _refuse_finished(directory, shard)
    start = time.perf_counter()
    cells: Counter[tuple[int, int]] = Counter()
    keys: set[str] = set()
    with contextlib.ExitStack() as stack:
        drafts = {kind: stack.enter_context(Draft(directory, shard, kind)) for kind in formats}
        writers = [
            stack.enter_context(FORMATS[kind]().write(draft, columns, image_format)) for kind, draft in drafts.items()
        ]
        rejects = RejectsWriter(stack, directory, shard, columns, image_format, publish_rejects)
        for result in encoded:
            if result.spec.key in keys:
                raise ShardError(f"shard {shard.name}: two results have the key {result.spec.key!r}.")
            keys.add(result.spec.key)
            if isinstance(result, Reject):
                rejects.add(result)
                continue
            for writer in writers:
                writer.add(result)
            cells[result.spec.foreground, result.spec.background] += 1
        samples = len(keys) - rejects.reasons.total()
        if len(keys) != shard.count:
            raise ShardError(
                f"shard {shard.name}: {shard.count} images were planned, but {samples} samples "
                f"and {rejects.reasons.total()} rejects arrived; every planned image must become one or the other."
            )
        for writer in writers:
            writer.close()
        rejects.close()
        drafts |= rejects.drafts
        with ThreadPoolExecutor(len(drafts), thread_name_prefix="finish") as pool:
            finished = pool.map(Draft.finish, drafts.values())
            files = {shard.path(kind): facts for kind, facts in zip(drafts, finished, strict=True)}
        if (directory / shard.path("marker")).exists():
            return _adopt_marker(directory, shard, files)  # without locks, two processes may render one shard
        for draft in drafts.values():
            draft.publish()
        for path in set(list_paths(shard.name)) - set(files):
            # A killed build may have left files of this shard in other formats; without a marker they are garbage.
            (directory / path).unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    rendered = shard.count - (journal.num_read if journal is not None else 0)
    marker = {
        "format": version,
        "shard": shard.name,
        "split": shard.split,
        "index": shard.index,
        "of": shard.of,
        "part": shard.part,
        "planned": shard.count,
        "samples": samples,
        "rejects": dict(sorted(rejects.reasons.items())),
        "cells": [[*cell, n] for cell, n in sorted(cells.items())],
        "files": files,
    }
    for writer in writers:
        marker |= writer.facts()
    marker |= {
        "seconds": round(seconds, 3),
        "images_per_second": round(samples * (rendered / shard.count) / seconds, 3) if seconds else 0.0,
    }
    if rendered < shard.count:
        marker["rendered"] = rendered  # in `seconds`; the journal had the others
    try:
        create_text(directory / shard.path("marker"), to_text(marker))
    except FileExistsError:
        return _adopt_marker(directory, shard, files)
    return marker


def _adopt_marker(directory: Path, shard: Shard, files: Mapping[str, Any]) -> dict[str, Any]:
    """Return the marker of a shard that another process finished meanwhile; its files must have the same bytes."""
    marker: dict[str, Any] = read_object(directory / shard.path("marker"), root=directory)
    if marker["files"] != files:
        raise ShardError(
            f"shard {shard.name}: another process wrote it at the same time, with different bytes. Delete its "
            f"marker {shard.path('marker')} and build again to render it anew."
        )
    return marker


def _refuse_finished(directory: Path, shard: Shard) -> None:
    if (directory / shard.path("marker")).exists():
        raise ShardError(
            f"shard {shard.name} is already done according to {shard.path('marker')}; shards are never rewritten."
        )
