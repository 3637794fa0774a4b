"""Identifies objects and scenes shared by images, because such samples aren't independent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

_KEY = re.compile(r"(?P<before>.+-\d+)-\d+-(?P<i>\d+)")


def hash_to_number(name: str) -> int:
    """Return a number from 0 to 2⁶³ − 1 for a name, the same in every dataset and on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


def iterate_identities(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield config and identity of a dataset, or of the datasets that it was made from."""
    for source in recipe.get("sources", ()):
        yield from iterate_identities(source)
    if not recipe.get("sources"):
        identity = recipe.get("identity")
        yield str(recipe.get("config") or recipe.get("builder") or ""), identity if isinstance(identity, dict) else {}


def is_matched(recipe: Mapping[str, Any]) -> bool:
    """Whether images of one object on different backgrounds share cut-out, position and noise, as shown by keys."""
    return recipe.get("builder") != "merge" and all(
        identity.get("match") == "foreground" for _, identity in iterate_identities(recipe)
    )


def without_background(key: str) -> str | None:
    """Return a key of a matched dataset without its background part; None for a key of another form."""
    match = _KEY.fullmatch(key)
    return f"{match['before']}-{match['i']}" if match else None


def identify_object(key: str, provenance: Mapping[str, Any], is_matched: bool) -> str:
    """Return a name of the object that an image shows.

    With a guide, it is the cut-out or source image, identified by content if its id contains a hash, so that it is
    the same in all datasets that use it. Without a guide, it is the object of a matched dataset, whose images share
    their noise; otherwise the image itself.

    Args:
        key: Key of the sample.
        provenance: Provenance of the sample, from its JSON.
        is_matched: Whether images of one object share their noise in this dataset.
    """
    guide = provenance.get("guide") or {}
    if guide.get("cutout"):
        return _find_hash(str(guide["cutout"]))
    return (without_background(key) if is_matched else None) or key


def identify_scene(provenance: Mapping[str, Any]) -> str | None:
    """Return a name of the scene that guided an image; None without a scene."""
    template = (provenance.get("guide") or {}).get("template")
    return _find_hash(str(template)) if template else None


def _find_hash(id: str) -> str:
    """Return the hash in `{folder}/{name}@{hash}`; the whole id without a hash."""
    return id.rpartition("@")[2] or id
