"""Files beside images that go by the image's name without its suffix, such as masks and captions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from figureground.core.errors import counted, listed, printable


def why_shared(images: Iterable[Path], suffix: str, what: str) -> str | None:
    """Return which images share one companion file, and what to do.

    Args:
        images: Image files; one that is given twice counts once.
        suffix: What stands after the image's stem, such as `.mask.png`.
        what: What the companion is, as a noun: mask.

    Returns:
        A sentence that names them and says what to do; None where each companion is of one image.
    """
    owners: dict[Path, set[str]] = {}
    for image in images:
        owners.setdefault(image.with_name(image.stem + suffix), set()).add(image.name)
    found = [
        f"{printable(path.parent.name)}/{printable(path.name)} of {listed(map(printable, sorted(names)))}"
        for path, names in owners.items()
        if len(names) > 1 and path.is_file()
    ]
    if not found:
        return None
    return (
        f"{counted(len(found), what)} {'lies' if len(found) == 1 else 'lie'} beside images whose names differ in the "
        f"suffix alone, so that nobody can tell whose: {'; '.join(found[:3])}. Give those images other names."
    )
