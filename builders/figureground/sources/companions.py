"""Companion files that share an image's name except for the suffix, such as masks and captions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from figureground.core.errors import join_names, plural, printable


def describe_shared(images: Iterable[Path], suffix: str, noun: str) -> str | None:
    """Describe images that share one companion file.

    Args:
        images: Image files; duplicates count once.
        suffix: Suffix of the companion after the image's stem, such as `.mask.png`.
        noun: Noun for the companion, such as `mask`.

    Returns:
        A sentence that names the images and the fix; None if each companion belongs to one image.
    """
    owners: dict[Path, set[str]] = {}
    for image in images:
        owners.setdefault(image.with_name(image.stem + suffix), set()).add(image.name)
    shared = [
        f"{printable(path.parent.name)}/{printable(path.name)} of {join_names(map(printable, sorted(names)))}"
        for path, names in owners.items()
        if len(names) > 1 and path.is_file()
    ]
    if not shared:
        return None
    return (
        f"{plural(len(shared), noun)} {'is' if len(shared) == 1 else 'are'} ambiguous because image names differ only "
        f"in the suffix: {'; '.join(shared[:3])}. Rename those images."
    )
