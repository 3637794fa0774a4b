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
    """Whether images of one object on different backgrounds share cut-out, position and noise, as shown by keys.

    This holds for no dataset with a merge in its history, since merging numbers keys anew.
    """
    return all(node.get("builder") != "merge" for node in _iterate_recipes(recipe)) and all(
        identity.get("match") == "foreground" for _, identity in iterate_identities(recipe)
    )


def _iterate_recipes(recipe: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a recipe and those of all datasets that it was made from."""
    yield recipe
    for source in recipe.get("sources", ()):
        yield from _iterate_recipes(source)


def without_background(key: str) -> str | None:
    """Return a key of a matched dataset without its background part; None for a key of another form."""
    match = _KEY.fullmatch(key)
    return f"{match['before']}-{match['i']}" if match else None


class ObjectNames:
    """Names the objects that the images of a dataset show.

    With a guide, it is the cut-out or source image, identified by content if its id contains a hash, so that it is the
    same in all datasets that use it. Without a guide, it is the object of a matched dataset, whose images share their
    noise; otherwise the image itself. Samples of a merge have the names that they had before.

    Args:
        recipe: Recipe of the dataset.
    """

    def __init__(self, recipe: Mapping[str, Any]):
        self._own_hash = str(recipe.get("sha256"))
        self._is_matched = {str(node.get("sha256")): is_matched(node) for node in _iterate_recipes(recipe)}

    def identify(self, key: str, provenance: Mapping[str, Any]) -> str:
        """Return the name of the object that an image shows.

        Args:
            key: Key of the sample.
            provenance: Provenance of the sample, from its JSON.
        """
        guide = provenance.get("guide") or {}
        if guide.get("cutout"):
            return find_content_hash(guide, "cutout") or str(guide["cutout"])
        dataset = self._own_hash
        origin = provenance.get("merged_from")
        while isinstance(origin, Mapping):  # from the last merge back to the first
            key, dataset, origin = str(origin.get("key")), str(origin.get("recipe")), origin.get("merged_from")
        shared = without_background(key) if self._is_matched.get(dataset) else None
        return f"{dataset}/{shared or key}"


def identify_scene(provenance: Mapping[str, Any]) -> str | None:
    """Return a name of the scene that guided an image; None without a scene."""
    guide = provenance.get("guide") or {}
    template = guide.get("template")
    return find_content_hash(guide, "template") or str(template) if template else None


def find_content_hash(guide: Mapping[str, Any], part: str) -> str | None:
    """Return the hash in the id of a guide's part, `{folder}/{name}@{hash}`; None without one.

    The id of an image that was repainted (`inpaint`) is its key, which may contain an @ of its own.

    Args:
        part: `cutout` or `template`.
    """
    _, separator, content = str(guide.get(part) or "").rpartition("@")
    return content if separator and content and guide.get("kind") != "inpaint" else None
