"""Turns rendered samples into bytes, in threads, while others are rendered."""

from __future__ import annotations

import contextlib
import json
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from figureground.core.errors import join_names
from figureground.recipe.sample import Reject, Sample, Spec
from figureground.shards.columns import Columns
from figureground.shards.journal import Journal
from figureground.shards.samples import Encoded
from figureground.shards.shard import Shard, ShardError
from figureground.sources import marks
from figureground.sources.images import encode

ENCODERS = 2
"""Threads that encode images."""
AHEAD = 32
"""Maximum number of images that wait to be encoded or written."""


def encode_all(
    shard: Shard,
    columns: Columns,
    results: Iterable[Sample | Encoded | Reject],
    provenance: Callable[[Sample], Mapping[str, Any]],
    image_format: str,
    journal: Journal | None = None,
    marked: bool = False,
) -> Generator[Encoded | Reject, None, None]:
    """Encode images in order, a few ahead; yield finished ones before requesting more.

    Args:
        journal: Takes every result.
        marked: Whether images state that they are generated; see `sources.marks`.
    """
    waiting: deque[Future[Encoded] | Encoded | Reject] = deque()
    with ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode") as pool:
        try:
            for result in results:
                _check_spec(result.spec, shard, columns)
                item: Future[Encoded] | Encoded | Reject
                if isinstance(result, Sample):
                    empty = describe_sample(result.spec, columns, provenance(result))
                    item = pool.submit(_encode, result, empty, image_format, marked)
                else:
                    item = result
                waiting.append(item)
                if journal is not None:
                    journal.add(item)
                while waiting and (len(waiting) > AHEAD or _is_ready(waiting[0])):
                    yield _get_result(waiting.popleft())
            while waiting:
                yield _get_result(waiting.popleft())
            if journal is not None:
                journal.flush()
        finally:
            if journal is not None:
                with contextlib.suppress(Exception):  # an error that matters is raised already
                    journal.flush()  # before images of its batch are cancelled
            for item in waiting:
                if isinstance(item, Future):
                    item.cancel()


def _is_ready(item: Future[Encoded] | Encoded | Reject) -> bool:
    return not isinstance(item, Future) or item.done()


def _get_result(item: Future[Encoded] | Encoded | Reject) -> Encoded | Reject:
    return item.result() if isinstance(item, Future) else item


def _check_spec(spec: Spec, shard: Shard, columns: Columns) -> None:
    where = f"shard {shard.name}, key {spec.key!r}"
    if spec.split != shard.split:
        raise ShardError(f"{where}: the image belongs to the split {spec.split!r}.")
    if not re.fullmatch(r"[^./\\\s]+", spec.key):
        raise ShardError(
            f"{where}: a key must not contain dots, slashes or spaces, because it names the members of a tar."
        )
    for column, label, names in (
        ("foreground", spec.foreground, columns.foregrounds),
        ("background", spec.background, columns.backgrounds),
    ):
        if not 0 <= label < len(names):
            raise ShardError(f"{where}: {column} {label} is not a label from 0 to {len(names) - 1}.")


def describe_sample(spec: Spec, columns: Columns, provenance: Mapping[str, Any]) -> Encoded:
    """Return a sample as it is written, with empty images.

    Args:
        provenance: Its provenance, JSON-able; key, split, prompt and label names are added.

    Raises:
        ShardError: The provenance lacks a column, can't be written as JSON, or names an unknown class.
    """
    missing = [name for name in (*columns.labels, *columns.texts) if name not in provenance]
    if missing:
        raise ShardError(
            f"key {spec.key!r}: its provenance lacks {join_names(missing)}, which the dataset has as columns."
        )
    record = {
        **provenance,
        "key": spec.key,
        "split": spec.split,
        "foreground": columns.foregrounds[spec.foreground],
        "background": columns.backgrounds[spec.background],
        "labels": {"foreground": spec.foreground, "background": spec.background},
        "prompt": spec.prompt,
    }
    labels = {}
    for name, names in columns.labels.items():
        if record[name] not in names:
            raise ShardError(f"key {spec.key!r}: {record[name]!r} is no class of the column {name!r}.")
        labels[name] = list(names).index(record[name])
    return Encoded(
        spec=spec,
        image=b"",
        provenance=to_json(record, spec.key),
        labels=labels,
        texts={name: str(record[name]) for name in columns.texts},
        images=dict.fromkeys(columns.images, b""),
    )


def _encode(sample: Sample, empty: Encoded, image_format: str, marked: bool) -> Encoded:
    images = {}
    for name in empty.images:
        image = sample.guide if name == "guide" else sample.mask
        if image is None:
            raise ShardError(
                f"key {sample.spec.key!r}: the dataset has a column {name!r}, but the sample has no {name}."
            )
        images[name] = encode(image, "png")
    xmp = marks.make_packet(marks.choose_source_type(sample.spec)) if marked else None
    return replace(empty, image=encode(sample.image, image_format, xmp), images=images)


def to_json(record: Mapping[str, Any], key: str) -> str:
    """Return a sample's record as JSON.

    Raises:
        ShardError: It holds values that JSON can't; names the key.
    """
    try:
        return json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ShardError(f"key {key!r}: its record can't be written as JSON: {error}.") from error
