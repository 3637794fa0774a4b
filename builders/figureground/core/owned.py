"""Files that commands write for people to look at: marked as ours, written whole, and never over somebody else's."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from figureground.core.errors import FiguregroundError, UsageError, printable
from figureground.core.files import open_regular

GENERATOR = "figureground"
"""What pages and images name as the program that made them."""

_HEAD = 4096
"""Bytes of a file in which its mark lies."""
_MARKS = (
    b"tEXtSoftware\0" + GENERATOR.encode(),
    f'<meta name="generator" content="{GENERATOR}">'.encode(),
    f"{GENERATOR}</title>".encode(),  # pages of older releases
    b'"made_by": "figureground ',
)


def encode_png(image: Image.Image) -> bytes:
    """Return an image as PNG with the mark that it was made by figureground."""
    made_by = PngInfo()
    made_by.add_text("Software", GENERATOR)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, pnginfo=made_by)
    return buffer.getvalue()


def is_ours(path: Path) -> bool:
    """Whether a PNG, HTML or JSON file says in its first bytes that a command of figureground wrote it.

    Links and what is no regular file are not ours.
    """
    if path.is_symlink():
        return False
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD)
    except (OSError, FiguregroundError):
        return False
    return any(mark in head for mark in _MARKS)


def refuse_strangers(*paths: Path) -> None:
    """Make sure that nothing but earlier results would be replaced. An empty file is nobody's loss.

    Raises:
        FiguregroundError: One of the paths is a file that this package didn't write, a link, or a directory.
    """
    for path in paths:
        if not os.path.lexists(path) or is_ours(path):
            continue
        if path.is_file() and not path.is_symlink() and path.stat().st_size == 0:
            continue
        raise FiguregroundError(
            f"{printable(path)} is there and doesn't say that figureground wrote it, so it was left as it is. Rename "
            "it, or delete it if an older release drew it, and give the command again."
        )


def refuse_within(out: Path, source: Path, option: str) -> None:
    """Make sure that results don't land among the images that they are made from, to be counted the next time.

    Args:
        out: Where results go.
        source: The directory that images are read from; one that isn't there is passed over.
        option: What the directory is given as, such as `--images`.

    Raises:
        UsageError: `out` is that directory or lies in it.
    """
    inside, read = out.resolve(), source.resolve()
    if source.is_dir() and (inside == read or read in inside.parents):
        raise UsageError(
            f"--out {printable(out)} lies in {option} {printable(source)}: what is written there would be taken for "
            "input the next time. Give a directory outside it."
        )
