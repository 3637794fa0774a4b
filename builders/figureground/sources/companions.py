"""Companion files that share an image's name except for the suffix, such as masks and captions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from figureground.core.errors import join_names, plural, printable


def companion_suffixes(suffix: str) -> list[str]:
    """Return a suffix and its other spellings, such as `.mask.PNG` and `.MASK.PNG` for `.mask.png`."""
    spellings = ((part, part.upper(), part.capitalize()) for part in suffix.split("."))
    return list(dict.fromkeys(map(".".join, itertools.product(*spellings))))


def find_companion(image: Path, suffix: str) -> Path | None:
    """Return the file with an image's stem and a suffix, in lower or upper case; None if there is none."""
    paths = (image.with_name(image.stem + spelling) for spelling in companion_suffixes(suffix))
    return next(filter(Path.is_file, paths), None)


def describe_shared(images: Iterable[Path], suffix: str, noun: str) -> str | None:
    """Describe images that share one companion file.

    Args:
        images: Image files; duplicates count once.
        suffix: Suffix of the companion after the image's stem, such as `.mask.png`.
        noun: Noun for the companion, such as `mask`.

    Returns:
        A sentence that names the images and the fix; None if each companion belongs to one image.
    """
    owners: dict[Path, set[Path]] = {}
    for image in images:
        owners.setdefault(image.with_name(image.stem), set()).add(image)
    shared = [
        f"{printable(path.parent.name)}/{printable(path.name)} of "
        f"{join_names(sorted(printable(owner.name) for owner in owned_by))}"
        for owned_by in owners.values()
        if len(owned_by) > 1 and (path := find_companion(next(iter(owned_by)), suffix))
    ]
    if not shared:
        return None
    return (
        f"{plural(len(shared), noun)} {'is' if len(shared) == 1 else 'are'} ambiguous because image names differ only "
        f"in the suffix: {'; '.join(shared[:3])}. Rename those images."
    )
