"""A rendered batch as bytes, with a checksum over every one of them, so that a torn or foreign record is recognised.

A record is a prefix of fixed size, a head in JSON and the encoded images. The prefix holds the length of both parts and
the SHA-256 of the head; the head names where the batch comes from, and the key and SHA-256 of each of its results.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from figureground.core.files import FileError, parse_json, read_at_most
from figureground.core.shapes import Count, MapOf, Optional, TupleOf, check_shape
from figureground.recipe.sample import Reject, Spec
from figureground.shards.samples import Encoded

MAX_HEAD = 64 * 2**20
"""Maximum size of a head, bytes; a result takes about 300."""
MAX_IMAGES = 4 * 2**30
"""Maximum size of all images of a batch, bytes."""

_MAGIC = b"fgbatch1"
_PREFIX = struct.Struct(">8sQQ32s")
_FILES = MapOf(TupleOf((Count, str)))
_RESULT = {"key": str, "reason": Optional(str), "provenance": Optional(str), "files": Optional(_FILES)}
_HEAD = {"origin": dict, "batch": Count, "results": [_RESULT]}

Describe = Callable[[Spec], Encoded]
"""Returns a Spec's sample as it would be written, without its images."""


class RecordError(ValueError):
    """Raised for bytes that are no whole record."""


@dataclass(frozen=True)
class Head:
    """Header of a record."""

    origin: Mapping[str, Any]
    """Origin of the batch; see `shards.journal`."""
    number: int
    """Position of the batch in its shard, from 0."""
    results: Sequence[Mapping[str, Any]]
    """For each result its `key`, and its `reason` or the hashes of its `provenance` and `files`."""
    start: int
    """Position of the images in the record, bytes."""
    size: int
    """Size of the whole record, bytes."""


def pack(origin: Mapping[str, Any], number: int, results: Sequence[Encoded | Reject]) -> bytes:
    """Return a batch as a record.

    Args:
        origin: Where it comes from, JSON-able.
        number: Its position in its shard, from 0.
        results: All its results, in order.
    """
    described: list[dict[str, Any]] = []
    images: list[bytes] = []
    for result in results:
        if isinstance(result, Reject):
            described.append({"key": result.spec.key, "reason": result.reason})
            continue
        files = {"image": result.image, **result.images}
        described.append({
            "key": result.spec.key, "provenance": _sha256(result.provenance.encode()),
            "files": {name: [len(data), _sha256(data)] for name, data in files.items()},
        })  # fmt: skip
        images += files.values()
    head = json.dumps({"origin": origin, "batch": number, "results": described}, ensure_ascii=False).encode()
    prefix = _PREFIX.pack(_MAGIC, len(head), sum(map(len, images)), hashlib.sha256(head).digest())
    return b"".join([prefix, head, *images])


def read_head(file: IO[bytes], available: int) -> Head:
    """Read the prefix and the head of the record that begins at a file's position.

    Args:
        available: The number of bytes that are left in the file.

    Raises:
        RecordError: There is no whole record. The images aren't read; `unpack` checks them.
    """
    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        raise RecordError("the record ends in its prefix")
    magic, length, images, sha256 = _PREFIX.unpack(prefix)
    if magic != _MAGIC or length > MAX_HEAD or images > MAX_IMAGES:
        raise RecordError("the prefix is none of a record")
    start = _PREFIX.size + length
    if start + images > available:
        raise RecordError("the record is cut")
    text = read_at_most(file, length)
    if hashlib.sha256(text).digest() != sha256:
        raise RecordError("the head has another checksum")
    try:
        fields = parse_json(text, "the head of a record")
        check_shape(fields, _HEAD)
    except (FileError, ValueError) as error:
        raise RecordError(str(error)) from None
    sizes = [size for result in fields["results"] for size, _ in result.get("files", {}).values()]
    if sum(sizes) != images:
        raise RecordError("its images have another size than their sum")
    return Head(fields["origin"], fields["batch"], fields["results"], start, start + images)


def unpack(data: bytes, head: Head, planned: Sequence[Spec], describe: Describe) -> list[Encoded | Reject]:
    """Return the batch in a record.

    Args:
        data: The whole record.
        head: Its head, as `read_head` returns it.
        planned: The images that the batch must have, in order.
        describe: Returns what this run would write about an image; the record must agree.

    Raises:
        RecordError: A checksum differs, or it is another batch.
    """
    if [result["key"] for result in head.results] != [spec.key for spec in planned]:
        raise RecordError("it has other keys than the planned ones")
    results: list[Encoded | Reject] = []
    offset, view = head.start, memoryview(data)
    for spec, fields in zip(planned, head.results, strict=True):
        if "reason" in fields:
            results.append(Reject(spec, fields["reason"]))
            continue
        images = {}
        for name, (size, sha256) in fields.get("files", {}).items():
            images[name] = bytes(view[offset : offset + size])
            offset += size
            if _sha256(images[name]) != sha256:
                raise RecordError(f"{spec.key}: its {name} has another checksum")
        expected = describe(spec)
        matches = fields.get("provenance") == _sha256(expected.provenance.encode())
        if not matches or images.keys() != {"image", *expected.images}:
            raise RecordError(f"{spec.key}: this run would write something else about it")
        results.append(replace(expected, image=images.pop("image"), images=images))
    return results


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
