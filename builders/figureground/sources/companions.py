"""Companion files that share an image's name except for the suffix, such as masks and captions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from figureground.core.errors import join_names, plural, printable


def why_shared(images: Iterable[Path], suffix: str, what: str) -> str | None:
    """Describe images that share one companion file.

    Args:
        images: Image files; duplicates count once.
        suffix: Suffix of the companion after the image's stem, such as `.mask.png`.
        what: ClassEntry for the companion, such as `mask`.

    Returns:
        A sentence that names the images and the fix; None if each companion belongs to one image.
    """
    owners: dict[Path, set[str]] = {}
    for image in images:
        owners.setdefault(image.with_name(image.stem + suffix), set()).add(image.name)
    found = [
        f"{printable(path.parent.name)}/{printable(path.name)} of {join_names(map(printable, sorted(names)))}"
        for path, names in owners.items()
        if len(names) > 1 and path.is_file()
    ]
    if not found:
        return None
    return (
        f"{plural(len(found), what)} {'is' if len(found) == 1 else 'are'} ambiguous because image names differ only "
        f"in the suffix: {'; '.join(found[:3])}. Rename those images."
    )
