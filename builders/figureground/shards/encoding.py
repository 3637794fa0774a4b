"""Turns rendered samples into bytes, in threads, while others are rendered."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from figureground.core.errors import listed
from figureground.recipe.sample import Reject, Sample, Spec
from figureground.shards.columns import Columns
from figureground.shards.samples import Encoded
from figureground.shards.shard import Shard, ShardError
from figureground.sources.images import encode

ENCODERS = 2
"""Threads that encode images."""
AHEAD = 32
"""Maximum number of images that wait to be encoded or written."""


def encode_all(
    shard: Shard,
    columns: Columns,
    results: Iterable[Sample | Reject],
    provenance: Callable[[Sample], Mapping[str, Any]],
    image_format: str,
) -> Generator[Encoded | Reject, None, None]:
    """Encodes images in order, a few ahead; yields finished ones before requesting more."""
    waiting: deque[Future[Encoded] | Reject] = deque()
    with ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode") as pool:
        try:
            for result in results:
                _check(result.spec, shard, columns)
                if isinstance(result, Reject):
                    waiting.append(result)
                else:
                    record = _record(result, columns, provenance(result))
                    waiting.append(pool.submit(_encode, result, columns, record, image_format))
                while waiting and (len(waiting) > AHEAD or isinstance(waiting[0], Reject) or waiting[0].done()):
                    yield _settled(waiting.popleft())
            while waiting:
                yield _settled(waiting.popleft())
        finally:
            for item in waiting:
                if not isinstance(item, Reject):
                    item.cancel()


def _settled(item: Future[Encoded] | Reject) -> Encoded | Reject:
    return item if isinstance(item, Reject) else item.result()


def _check(spec: Spec, shard: Shard, columns: Columns) -> None:
    where = f"shard {shard.name}, key {spec.key!r}"
    if spec.split != shard.split:
        raise ShardError(f"{where}: the image belongs to the split {spec.split!r}.")
    if not re.fullmatch(r"[^./\\\s]+", spec.key):
        raise ShardError(f"{where}: a key must not contain dots, slashes or blanks, which separate tar members.")
    for what, label, names in (
        ("foreground", spec.foreground, columns.foregrounds),
        ("background", spec.background, columns.backgrounds),
    ):
        if not 0 <= label < len(names):
            raise ShardError(f"{where}: {what} {label} is not a label from 0 to {len(names) - 1}.")


def _record(sample: Sample, columns: Columns, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a sample's record, everything but its pixels, which is the same in every format."""
    spec = sample.spec
    missing = [name for name in (*columns.labels, *columns.texts) if name not in provenance]
    if missing:
        raise ShardError(f"key {spec.key!r}: its provenance lacks {listed(missing)}, which the dataset has as columns.")
    return {
        **provenance,
        "key": spec.key,
        "split": spec.split,
        "foreground": columns.foregrounds[spec.foreground],
        "background": columns.backgrounds[spec.background],
        "labels": {"foreground": spec.foreground, "background": spec.background},
        "prompt": spec.prompt,
    }


def _encode(sample: Sample, columns: Columns, record: dict[str, Any], image_format: str) -> Encoded:
    key = sample.spec.key
    labels = {}
    for name, names in columns.labels.items():
        if record[name] not in names:
            raise ShardError(f"key {key!r}: {record[name]!r} is no class of the column {name!r}.")
        labels[name] = list(names).index(record[name])
    images = {}
    for name in columns.images:
        image = sample.guide if name == "guide" else sample.mask
        if image is None:
            raise ShardError(f"key {key!r}: the dataset has a column {name!r}, but the sample has no {name}.")
        images[name] = encode(image, "png")
    return Encoded(
        spec=sample.spec,
        image=encode(sample.image, image_format),
        provenance=to_json(record, key),
        labels=labels,
        texts={name: str(record[name]) for name in columns.texts},
        images=images,
    )


def to_json(record: Mapping[str, Any], key: str) -> str:
    """Returns a sample's record as JSON.

    Raises:
        ShardError: It holds values that JSON can't; names the key.
    """
    try:
        return json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ShardError(f"key {key!r}: its record can't be written as JSON: {error}.") from error
