"""Git LFS pointers: short texts that lie in place of files until `git lfs pull` fetches them."""

from __future__ import annotations

from pathlib import Path

from figureground.core.errors import FiguregroundError

POINTER = b"version https://git-lfs"
"""First bytes of a pointer."""


def is_pointer(path: Path) -> bool:
    """Whether a file is a Git LFS pointer."""
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def describe_pointer(what: str) -> str:
    """Return what a pointer is that lies in place of something, such as the image, and the fix."""
    return f"a Git LFS pointer instead of the {what}: run `git lfs pull`"


def refuse_pointer(path: Path, where: str, what: str = "file") -> None:
    """Raise FiguregroundError if a file is a Git LFS pointer.

    Args:
        where: Its name in errors, such as `checkpoint 'mine': its unet/config.json`.
        what: What it should be.
    """
    if is_pointer(path):
        raise FiguregroundError(f"{where} is {describe_pointer(what)}.")
