"""A dataset's samples as scorers see them: keys and labels of all, and decoded images in batches."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from figureground.core import signals
from figureground.core.files import parse_json
from figureground.core.prefetch import compute_ahead
from figureground.core.progress import Progress
from figureground.shards.finished import FinishedDataset
from figureground.shards.samples import Stored
from figureground.sources.images import open_stored
from figureground.verification.questions import LABEL_COLUMNS
from figureground.verification.scorer import Batch, Guided

HASH_DIGITS = 16
"""Number of hexadecimal digits of an image's SHA-256 that scores are stored with."""


@dataclass(frozen=True)
class Inventory:
    """All samples of a dataset, in the order of its shards, without pixels."""

    keys: list[str]
    image_hashes: list[str]
    """Beginning of the SHA-256 of each encoded image."""
    labels: dict[str, np.ndarray]
    """int64 (n,), by column."""
    guided: np.ndarray
    """bool (n,): whether the guide is stored."""
    starts: list[int]
    """First row of each shard, and the number of samples."""


def take_inventory(source: FinishedDataset, show_progress: bool) -> Inventory:
    """Read all samples once, without decoding them."""
    keys: list[str] = []
    image_hashes: list[str] = []
    labels: dict[str, list[int]] = {column: [] for column in LABEL_COLUMNS}
    guided, starts = [], [0]
    with Progress(source.samples, unit="image", desc=f"reading {source.name}", show=show_progress) as bar:
        for shard in source.shards:
            signals.check()
            for stored in source.stored(shard):
                keys.append(stored.key)
                image_hashes.append(hashlib.sha256(stored.image).hexdigest()[:HASH_DIGITS])
                guided.append("guide" in stored.images)
                for column in LABEL_COLUMNS:
                    labels[column].append(stored.labels[column])
                bar.update()
            starts.append(len(keys))
    arrays = {column: np.array(values, np.int64) for column, values in labels.items()}
    return Inventory(keys, image_hashes, arrays, np.array(guided, bool), starts)


def read_batches(
    source: FinishedDataset, inventory: Inventory, rows: np.ndarray, size: int, guides: bool
) -> Iterator[tuple[np.ndarray, Batch, dict[str, str]]]:
    """Yield the images at the given rows, decoded a few ahead.

    Args:
        rows: int64 (m,), ascending.
        size: Images per batch.
        guides: Whether guides are decoded too.

    Yields:
        Rows of the images, int64; the batch; and, by key, why images that aren't in it can't be decoded.
    """
    pending: list[tuple[int, Image.Image, Guided | None]] = []
    unreadable: dict[str, str] = {}
    for row, decoded in compute_ahead(_decoding_jobs(source, inventory, rows, guides)):
        if isinstance(decoded, str):
            unreadable[inventory.keys[row]] = decoded
        else:
            pending.append((row, *decoded))
        if len(pending) == size:
            yield *_make_batch(pending, inventory), unreadable
            pending, unreadable = [], {}
    if pending or unreadable:
        yield *_make_batch(pending, inventory), unreadable


def _decoding_jobs(
    source: FinishedDataset, inventory: Inventory, rows: np.ndarray, guides: bool
) -> Iterator[tuple[int, Any]]:
    for shard, start, stop in zip(source.shards, inventory.starts[:-1], inventory.starts[1:], strict=True):
        shard_rows = rows[(rows >= start) & (rows < stop)]
        if len(shard_rows):
            samples = source.stored(shard, (shard_rows - start).tolist())
            for row, stored in zip(shard_rows.tolist(), samples, strict=True):
                yield row, functools.partial(_decode, stored, guides)


def _make_batch(
    pending: Sequence[tuple[int, Image.Image, Guided | None]], inventory: Inventory
) -> tuple[np.ndarray, Batch]:
    rows = np.array([row for row, _, _ in pending], np.int64)
    return rows, Batch(
        tuple(inventory.keys[row] for row in rows.tolist()),
        tuple(image for _, image, _ in pending),
        {column: label[rows] for column, label in inventory.labels.items()},
        tuple(guide for _, _, guide in pending),
    )


def _decode(stored: Stored, guides: bool) -> tuple[Image.Image, Guided | None] | str:
    """Return a sample's image, RGB, and its guide; or why they can't be decoded."""
    try:
        image = open_stored(stored.image).convert("RGB")
        return image, _decode_guide(stored) if guides and "guide" in stored.images else None
    except Exception as error:  # Pillow's decoders can raise any exception for damaged data
        return f"{type(error).__name__}: {error}"


def _decode_guide(stored: Stored) -> Guided:
    image = open_stored(stored.images["guide"]).convert("RGB")
    facts = parse_json(stored.provenance, f"{stored.key}: its provenance").get("guide") or {}
    if facts.get("kind") != "paste":
        return Guided(image, None)
    if "mask" in stored.images:
        return Guided(image, np.asarray(open_stored(stored.images["mask"]).convert("L")) >= 128)
    mask = np.zeros((image.height, image.width), bool)
    if facts.get("box"):
        left, top, right, bottom = facts["box"]
        mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return Guided(image, mask)
