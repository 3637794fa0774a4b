"""Reference images: what lies in a folder, with captions beside the images, each image once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from figureground.core.errors import FiguregroundError, counted, listed, printable
from figureground.sources.images import (
    UnreadableImage,
    center_square,
    content_hash,
    list_images,
    list_odd,
    pixel_hash,
    read_image,
)
from figureground.sources.references import LEAST, read_caption, refuse_shared_captions


@dataclass(frozen=True)
class Reference:
    """One image of what is to be learned."""

    name: str
    """Of its file."""
    sha256: str
    """Of its file."""
    caption: str | None
    """What `name.txt` beside it says, where there is one: it takes the place of the prompt."""
    image: Image.Image
    """RGB, the largest square around the centre, size × size."""


@dataclass
class LeftOut:
    """Files that aren't used."""

    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Files with the names of images that can't be read, and why."""
    repeated: list[tuple[str, str]] = field(default_factory=list)
    """Files that hold the same image as another one, and that one."""

    def notes(self) -> list[str]:
        """What a person should know of them, a sentence each."""
        lines = []
        if self.unreadable:
            what = listed((f"{printable(name)} ({reason})" for name, reason in self.unreadable), 6)
            lines.append(f"{counted(len(self.unreadable), 'reference')} can't be read and count for nothing: {what}.")
        if self.repeated:
            what = listed((f"{printable(name)} is {printable(of)}" for name, of in self.repeated), 6)
            lines.append(f"{counted(len(self.repeated), 'reference')} given twice, counted once: {what}.")
        return lines


@dataclass(frozen=True)
class References:
    """The images of a folder that can be used, and those that can't."""

    used: tuple[Reference, ...]
    left_out: LeftOut

    def to_json(self) -> dict[str, Any]:
        """File names, hashes and captions; no pixels and no places."""
        return {
            "used": [{"file": r.name, "sha256": r.sha256, "caption": r.caption} for r in self.used],
            "unreadable": [{"file": name, "reason": reason} for name, reason in self.left_out.unreadable],
            "repeated": [{"file": name, "same_as": of} for name, of in self.left_out.repeated],
        }


def read_references(folder: Path, size: int) -> References:
    """Reads the image files that lie in a folder itself; whatever else lies there is passed over.

    Args:
        size: Edge in pixels.

    Raises:
        FiguregroundError: There is no such folder, it holds fewer than three different images that can be read, or
            a caption is no text.
    """
    if not folder.is_dir():
        raise FiguregroundError(f"--references {folder}: there is no such directory.")
    left_out = LeftOut([(path.name, reason) for path, reason in list_odd(folder)])
    used = tuple(
        Reference(path.name, content_hash(path), read_caption(path), center_square(image, size))
        for path, image in read_different(list_images(folder), left_out)
    )
    refuse_shared_captions(folder / each.name for each in used)
    found = References(used, left_out)
    if len(used) < LEAST:
        raise FiguregroundError(f"--references {folder}: {_too_few(found)}")
    return found


def read_different(files: Iterable[Path], left_out: LeftOut) -> Iterator[tuple[Path, Image.Image]]:
    """The images of files, RGB, as large as they are; each once. What is left out is added to `left_out`."""
    seen: dict[str, str] = {}
    for path in files:
        try:
            image = read_image(path)
        except UnreadableImage as error:
            left_out.unreadable.append((path.name, error.reason))
            continue
        pixels = pixel_hash(image)
        if pixels in seen:
            left_out.repeated.append((path.name, seen[pixels]))
            continue
        seen[pixels] = path.name
        yield path, image


def _too_few(found: References) -> str:
    if len(found.used) == 1 and len(found.left_out.repeated) + 1 >= LEAST:
        files = [found.used[0].name, *(name for name, _ in found.left_out.repeated)]
        return (
            f"all {len(files)} images show the same image ({listed(map(printable, files), 4)}). A concept needs at "
            f"least {LEAST} different ones."
        )
    have = counted(len(found.used), "image") if found.used else "no image"
    return " ".join(
        [f"it holds {have} that can be used, and a concept needs at least {LEAST}.", *found.left_out.notes()]
    )
