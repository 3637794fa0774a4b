"""Output files of commands: marked as made by figureground, so that files of others are never overwritten."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from figureground.core.errors import FiguregroundError, UsageError, printable
from figureground.core.files import open_regular

GENERATOR = "figureground"
"""Program name recorded in pages and images."""

_HEAD = 4096
"""Number of leading bytes that contain a file's mark."""
_MARKS = (
    b"tEXtSoftware\0" + GENERATOR.encode(),
    f'<meta name="generator" content="{GENERATOR}">'.encode(),
    f"{GENERATOR}</title>".encode(),  # pages of older releases
    b'"made_by": "figureground ',
)


def encode_png(image: Image.Image, *, smallest: bool = True, xmp: bytes | None = None) -> bytes:
    """Return an image as PNG, marked as made by figureground.

    Args:
        smallest: Whether to take the time for the smallest file; large photographs need seconds for a few per cent.
        xmp: XMP packet to store beside the pixels, UTF-8.
    """
    info = PngInfo()
    info.add_text("Software", GENERATOR)
    if xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=smallest, pnginfo=info)
    return buffer.getvalue()


def is_ours(path: Path) -> bool:
    """Whether a PNG, HTML or JSON file is marked in its first bytes as written by figureground.

    Links and anything but regular files are not ours.
    """
    if path.is_symlink():
        return False
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD)
    except (OSError, FiguregroundError):
        return False
    return any(mark in head for mark in _MARKS)


def refuse_foreign_files(*paths: Path) -> None:
    """Check that only earlier results, or empty files, would be replaced.

    Raises:
        FiguregroundError: A path is a file that this package didn't write, a link, or a directory.
    """
    for path in paths:
        if not os.path.lexists(path) or is_ours(path):
            continue
        if path.is_file() and not path.is_symlink() and path.stat().st_size == 0:
            continue
        raise FiguregroundError(
            f"{printable(path)} exists and isn't marked as written by figureground, so it was left as it is. Rename "
            "it, or delete it if an older release drew it, and run the command again."
        )


def refuse_occupied(out: Path, mark: Path, command: str) -> None:
    """Check that a command can have a directory for itself.

    Args:
        out: The directory.
        mark: The file, in a folder of `out`, by which the command knows a directory of an earlier run.
        command: Name of the command.

    Raises:
        FiguregroundError: It is a file, or a directory that is neither empty nor of an earlier run.
    """
    if out.exists() and not out.is_dir():
        raise FiguregroundError(f"--out {printable(out)} is a file; give a directory.")
    # A run that was killed early leaves the mark's folder with nothing but a lock.
    if out.is_dir() and any(path != mark.parent for path in out.iterdir()) and not is_ours(mark):
        raise FiguregroundError(
            f"--out {printable(out)} holds files that figureground {command} didn't make. Give a new directory."
        )


def refuse_output(out: Path, dataset: Path, folder: str, *names: str) -> None:
    """Check that results about a dataset can go to a directory.

    Args:
        out: Directory of the results.
        dataset: The dataset.
        folder: The only folder of the dataset that may be it, such as `_evaluation`.
        names: Files that are written there.

    Raises:
        FiguregroundError: `out` is a file, the dataset or within another of its folders, or holds such a file that this
            package didn't write.
    """
    if out.exists() and not out.is_dir():
        raise FiguregroundError(f"--out {printable(out)} is a file; give a directory.")
    target, root = out.resolve(), dataset.resolve()
    if target == root or (root in target.parents and target.relative_to(root).parts[0] != folder):
        raise FiguregroundError(
            f"--out {printable(out)} belongs to the dataset. Omit --out, or give a separate directory."
        )
    refuse_foreign_files(*(out / name for name in names))


def refuse_within(out: Path, source: Path, option: str) -> None:
    """Check that results aren't written among their source images, where the next run would read them.

    Args:
        out: Directory of the results.
        source: Directory of the source images; ignored if missing.
        option: Option that gives the directory, such as `--images`.

    Raises:
        UsageError: `out` is that directory or lies in it.
    """
    target, origin = out.resolve(), source.resolve()
    if source.is_dir() and (target == origin or origin in target.parents):
        raise UsageError(
            f"--out {printable(out)} is inside {option} {printable(source)}: results there would be taken as "
            "input the next time. Give a directory outside it."
        )
