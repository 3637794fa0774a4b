"""Which images show one object, and which scenes they share: what is not independent among a dataset's samples."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

_KEY = re.compile(r"(?P<before>.+-\d+)-\d+-(?P<i>\d+)")


def as_number(name: str) -> int:
    """A number from 0 to 2⁶³ − 1 that stands for a name: the same in every dataset and on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


def settings(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Config and identity of a dataset, or of those that it was made from."""
    for source in recipe.get("sources", ()):
        yield from settings(source)
    if not recipe.get("sources"):
        identity = recipe.get("identity")
        yield str(recipe.get("config") or recipe.get("builder") or ""), identity if isinstance(identity, dict) else {}


def is_matched(recipe: Mapping[str, Any]) -> bool:
    """Whether an object's images on different backgrounds share cut-out, place and noise, and keys tell of it."""
    return recipe.get("builder") != "merge" and all(
        identity.get("match") == "foreground" for _, identity in settings(recipe)
    )


def without_background(key: str) -> str | None:
    """What a key of a matched set names beside the background: its object. None for a key of another form."""
    found = _KEY.fullmatch(key)
    return f"{found['before']}-{found['i']}" if found else None


def object_of(key: str, provenance: Mapping[str, Any], matched: bool) -> str:
    """A name of the object that an image shows.

    It is the cut-out or the source image that its guide starts from, by content where an id tells that, so that it is
    the same in all datasets that use it. Without a guide it is the object of a matched set, whose images share their
    noise, and otherwise the image itself.

    Args:
        provenance: Of the sample, as its JSON says it.
        matched: Whether it is of a set whose images of one object share their noise.
    """
    guide = provenance.get("guide") or {}
    if guide.get("cutout"):
        return _content(str(guide["cutout"]))
    return (without_background(key) if matched else None) or key


def scene_of(provenance: Mapping[str, Any]) -> str | None:
    """A name of the scene that an image was guided by; None where there was none."""
    template = (provenance.get("guide") or {}).get("template")
    return _content(str(template)) if template else None


def _content(id: str) -> str:
    """The hash in `{folder}/{name}@{hash}`; the whole id where there is none."""
    return id.rpartition("@")[2] or id
