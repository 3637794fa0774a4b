"""The images of a folder that a concept is learned from: without duplicates, with captions from files beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from figureground.core.errors import FiguregroundError, join_names, plural, printable
from figureground.sources.images import UnusedFiles, center_square, list_images, list_non_files, read_distinct
from figureground.sources.references import MIN_REFERENCES, read_caption, refuse_shared_captions


@dataclass(frozen=True)
class TrainingImage:
    """One image of the concept."""

    name: str
    """Name of its file."""
    sha256: str
    """SHA-256 of its file."""
    caption: str | None
    """Content of `name.txt` beside it, if it exists; replaces the prompt."""
    image: Image.Image
    """RGB, the largest square around the centre, size × size."""


@dataclass(frozen=True)
class TrainingImages:
    """The usable images of a folder, and the files left out."""

    images: tuple[TrainingImage, ...]
    unused: UnusedFiles

    def to_json(self) -> dict[str, Any]:
        """Return file names, hashes and captions, without pixels and paths."""
        return {
            "used": [{"file": r.name, "sha256": r.sha256, "caption": r.caption} for r in self.images],
            "unreadable": [{"file": path.name, "reason": reason} for path, reason in self.unused.unreadable],
            "repeated": [{"file": path.name, "same_as": original.name} for path, original in self.unused.repeated],
        }


def read_training_images(folder: Path, size: int) -> TrainingImages:
    """Read the image files directly in a folder; other files are ignored.

    Args:
        size: Edge in pixels.

    Raises:
        FiguregroundError: The folder doesn't exist or holds fewer than three different readable images, or a caption
            isn't text.
    """
    if not folder.is_dir():
        raise FiguregroundError(f"--references {folder}: there is no such directory.")
    unused = UnusedFiles(list_non_files(folder))
    images = tuple(
        TrainingImage(path.name, sha256, read_caption(path), center_square(image, size))
        for path, sha256, image in read_distinct(list_images(folder), unused)
    )
    refuse_shared_captions(folder / each.name for each in images)
    training_images = TrainingImages(images, unused)
    if len(images) < MIN_REFERENCES:
        raise FiguregroundError(f"--references {folder}: {_describe_shortage(training_images)}")
    return training_images


def format_notes(unused: UnusedFiles) -> list[str]:
    """Return notes for the user on files that were left out, one sentence each."""
    lines = []
    if unused.unreadable:
        names = join_names((f"{printable(path.name)} ({reason})" for path, reason in unused.unreadable), 6)
        lines.append(f"{plural(len(unused.unreadable), 'item')} left out of the references: {names}.")
    if unused.repeated:
        names = join_names(
            (f"{printable(path.name)} is {printable(original.name)}" for path, original in unused.repeated), 6
        )
        lines.append(f"{plural(len(unused.repeated), 'reference')} given twice, counted once: {names}.")
    return lines


def _describe_shortage(training_images: TrainingImages) -> str:
    images, unused = training_images.images, training_images.unused
    if len(images) == 1 and len(unused.repeated) + 1 >= MIN_REFERENCES:
        files = [images[0].name, *(path.name for path, _ in unused.repeated)]
        return (
            f"all {len(files)} images show the same image ({join_names(map(printable, files), 4)}). A concept needs at "
            f"least {MIN_REFERENCES} different ones."
        )
    usable = plural(len(images), "image") if images else "no image"
    return " ".join(
        [
            f"it holds {usable} that can be used, and a concept needs at least {MIN_REFERENCES}.",
            *format_notes(unused),
        ]
    )
