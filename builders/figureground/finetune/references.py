"""Reference images of a folder, deduplicated, with captions from files beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from figureground.core.errors import FiguregroundError, join_names, plural, printable
from figureground.sources.images import (
    UnreadableImage,
    center_square,
    content_hash,
    list_images,
    list_non_files,
    pixel_hash,
    read_image,
)
from figureground.sources.references import MIN_REFERENCES, read_caption, refuse_shared_captions


@dataclass(frozen=True)
class Reference:
    """One image of the concept."""

    name: str
    """Name of its file."""
    sha256: str
    """SHA-256 of its file."""
    caption: str | None
    """Content of `name.txt` beside it, if it exists; replaces the prompt."""
    image: Image.Image
    """RGB, the largest square around the centre, size × size."""


@dataclass
class UnusedFiles:
    """Unused files."""

    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Image files that can't be read, and why."""
    repeated: list[tuple[str, str]] = field(default_factory=list)
    """Files that duplicate another image, and that image's file."""

    def format_notes(self) -> list[str]:
        """Return notes for the user, one sentence each."""
        lines = []
        if self.unreadable:
            names = join_names((f"{printable(name)} ({reason})" for name, reason in self.unreadable), 6)
            lines.append(f"{plural(len(self.unreadable), 'reference')} left out as unreadable: {names}.")
        if self.repeated:
            names = join_names((f"{printable(name)} is {printable(original)}" for name, original in self.repeated), 6)
            lines.append(f"{plural(len(self.repeated), 'reference')} given twice, counted once: {names}.")
        return lines


@dataclass(frozen=True)
class References:
    """The usable images of a folder, and the files left out."""

    images: tuple[Reference, ...]
    unused: UnusedFiles

    def to_json(self) -> dict[str, Any]:
        """Return file names, hashes and captions, without pixels and paths."""
        return {
            "used": [{"file": r.name, "sha256": r.sha256, "caption": r.caption} for r in self.images],
            "unreadable": [{"file": name, "reason": reason} for name, reason in self.unused.unreadable],
            "repeated": [{"file": name, "same_as": original} for name, original in self.unused.repeated],
        }


def read_references(folder: Path, size: int) -> References:
    """Read the image files directly in a folder; other files are ignored.

    Args:
        size: Edge in pixels.

    Raises:
        FiguregroundError: The folder doesn't exist or holds fewer than three different readable images, or a caption
            isn't text.
    """
    if not folder.is_dir():
        raise FiguregroundError(f"--references {folder}: there is no such directory.")
    unused = UnusedFiles([(path.name, reason) for path, reason in list_non_files(folder)])
    images = tuple(
        Reference(path.name, content_hash(path), read_caption(path), center_square(image, size))
        for path, image in read_unique(list_images(folder), unused)
    )
    refuse_shared_captions(folder / each.name for each in images)
    references = References(images, unused)
    if len(images) < MIN_REFERENCES:
        raise FiguregroundError(f"--references {folder}: {_describe_shortage(references)}")
    return references


def read_unique(files: Iterable[Path], unused: UnusedFiles) -> Iterator[tuple[Path, Image.Image]]:
    """Yield the images of files, RGB, in their own size, without duplicates. Other files are added to `unused`."""
    name_by_pixels: dict[str, str] = {}
    for path in files:
        try:
            image = read_image(path)
        except UnreadableImage as error:
            unused.unreadable.append((path.name, error.reason))
            continue
        pixels = pixel_hash(image)
        if pixels in name_by_pixels:
            unused.repeated.append((path.name, name_by_pixels[pixels]))
            continue
        name_by_pixels[pixels] = path.name
        yield path, image


def _describe_shortage(references: References) -> str:
    if len(references.images) == 1 and len(references.unused.repeated) + 1 >= MIN_REFERENCES:
        files = [references.images[0].name, *(name for name, _ in references.unused.repeated)]
        return (
            f"all {len(files)} images show the same image ({join_names(map(printable, files), 4)}). A concept needs at "
            f"least {MIN_REFERENCES} different ones."
        )
    usable = plural(len(references.images), "image") if references.images else "no image"
    return " ".join(
        [
            f"it holds {usable} that can be used, and a concept needs at least {MIN_REFERENCES}.",
            *references.unused.format_notes(),
        ]
    )
