"""Finds, reads and checks the reference images of each class."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from figureground.core.errors import FiguregroundError, join_names, plural, printable
from figureground.core.files import replace_bytes
from figureground.core.names import RULE, Lookup
from figureground.core.numerics import usable_cores
from figureground.core.progress import Progress
from figureground.core.tables import decode
from figureground.recipe.features import Feature
from figureground.sources.companions import describe_shared, find_companion
from figureground.sources.images import (
    UnusedFiles,
    encode,
    list_folders,
    list_images,
    list_non_files,
    read_distinct,
)

if TYPE_CHECKING:
    from PIL import Image

MIN_REFERENCES = 3
"""Minimum number of references of a concept."""
CAPTION_SUFFIX = ".txt"
"""Suffix of captions: `red.txt` is the caption of `red.jpg`."""
MAX_CAPTION_BYTES = 4096
"""Maximum size of a caption, bytes: several hundred tokens, more than any text encoder reads."""


@dataclass(frozen=True)
class Reference:
    """A reference image."""

    name: str
    """File name."""
    sha256: str
    """SHA-256 of the file's bytes."""
    path: Path | None = None
    """Path of the file; None if it was drawn."""
    drawn: bytes = b""
    """PNG, if it was drawn."""
    caption: str | None = None
    """Content of the caption file next to it, if any."""


@dataclass(frozen=True)
class References:
    """The references of a class, sorted by name, without duplicates."""

    images: tuple[Reference, ...]
    skipped: tuple[tuple[Path, str], ...] = ()
    """Unreadable files, with reasons."""
    repeated: tuple[Path, ...] = ()
    """Files whose image duplicates another one."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, contents and captions, independent of location."""
        lines = [f"{image.name}\0{image.sha256}\0{image.caption or ''}" for image in self.images]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def to_json(self) -> list[dict[str, str | None]]:
        """Return name, hash and caption of each reference, as `concept.json` lists them."""
        pairs = zip(self.names, self.images, strict=True)
        return [{"file": name, "sha256": p.sha256, "caption": p.caption} for name, p in pairs]

    @cached_property
    def names(self) -> list[str]:
        """File names in the folder that `gather` returns.

        Files from several folders get a number if their stems are equal, because captions are named by stem.
        """
        if self.folder is not None:
            return [image.name for image in self.images]
        names: list[str] = []
        stems: set[str] = set()
        for image in self.images:
            path = Path(image.name)
            candidates = (f"{path.stem}{f'-{n}' if n else ''}" for n in range(len(self.images) + 1))
            stem = next(stem for stem in candidates if stem not in stems)
            stems.add(stem)
            names.append(f"{stem}{path.suffix}")
        return names

    @property
    def folder(self) -> Path | None:
        """The folder with exactly these images; None for several folders, or if others in the folder are left out."""
        paths = {image.path for image in self.images if image.path is not None}
        folders = {path.parent for path in paths}
        if len(folders) != 1:
            return None
        folder = folders.pop()
        known = paths | {path for path, _ in self.skipped} | {*self.repeated}
        return folder if known >= set(list_images(folder)) else None


def read_references(directory: Path, features: Sequence[Feature], limit: int | None = None) -> dict[str, References]:
    """Find, hash and decode the references of each class; return them by the class's slug.

    Args:
        directory: Directory with one folder per class, named like the class; or with folders of Spurious ImageNet,
            `…_{class}_…_{component}`, by number.
        features: The features to look for, with labels.
        limit: Maximum number of references per class; those with the smallest hashes are kept.

    Raises:
        FiguregroundError: The directory is missing, or classes have no folder or fewer than three readable images;
            the error counts all of them.
    """
    if not directory.is_dir():
        raise FiguregroundError(f"references: no such directory: {directory}.")
    folders = find_folders(directory, features)

    def read_feature(feature: Feature) -> References:
        return _read_class(folders[feature.slug], limit)

    with ThreadPoolExecutor(min(8, usable_cores())) as pool:
        results = pool.map(read_feature, features)
        bar = Progress(len(features), iterable=results, desc="reading references", unit="class", delay=3, leave=False)
        by_slug = {feature.slug: references for feature, references in zip(features, bar, strict=True)}
    check_enough(features, by_slug)
    return by_slug


def find_folders(directory: Path, features: Sequence[Feature]) -> dict[str, list[Path]]:
    """Return the folders of each class, by its slug.

    Raises:
        FiguregroundError: Classes have no folder; the error counts them.
    """
    by_number: dict[int, list[tuple[int, Path]]] = defaultdict(list)
    folders = list_folders(directory)
    for path in folders:
        if numbers := _parse_class_and_component(path.name):
            by_number[numbers[0]].append((numbers[1], path))
    lookup = Lookup(path.name for path in folders)
    folders_of: dict[str, list[Path]] = {}
    for feature in features:
        names = lookup.find(feature.name, *feature.aliases, feature.slug)
        if len(names) > 1:
            paths = " and ".join(str(directory / name) for name in names)
            raise FiguregroundError(
                f"references: {feature.name!r} has more than one folder: {paths}. {RULE}: keep one folder."
            )
        numbered = [p for n, p in by_number[feature.label] if not feature.components or n in feature.components]
        if names or numbered:
            folders_of[feature.slug] = [directory / names[0]] if names else numbered
    missing = [feature.name for feature in features if feature.slug not in folders_of]
    if missing:
        present = join_names((printable(path.name) for path in folders), 5) if folders else "none at all"
        raise FiguregroundError(
            f"references: {len(missing)} of {len(features)} classes have no folder in {directory}: "
            f"{join_names(map(repr, missing), 5)}. Looked for are <class>/ (upper or lower case, and '_' for a space, "
            f"don't matter) and Spurious ImageNet's …_<class number>_…_<component>/. Folders found: {present}. --set "
            "'classes=[…]' takes fewer classes."
        )
    return folders_of


def _parse_class_and_component(name: str) -> tuple[int, int] | None:
    """Return class and component number in a Spurious ImageNet folder name: class third or first, component last."""
    *parts, last = name.split("_")
    numeric = [place for place, part in enumerate(parts) if part.isdecimal()]
    if not numeric or not last.isdecimal():
        return None
    return int(parts[2 if 2 in numeric else numeric[0]]), int(last)


def _read_class(folders: Sequence[Path], limit: int | None) -> References:
    unused = UnusedFiles([entry for folder in folders for entry in list_non_files(folder)])
    files = (path for folder in folders for path in list_images(folder))
    images = [
        Reference(path.name, sha256, path, caption=read_caption(path))
        for path, sha256, _ in read_distinct(files, unused)
    ]
    refuse_shared_captions(image.path for image in images if image.path is not None)
    if limit is not None and len(images) > limit:
        smallest = set(sorted(image.sha256 for image in images)[:limit])
        images = [image for image in images if image.sha256 in smallest]
    return References(tuple(images), tuple(unused.unreadable), tuple(path for path, _ in unused.repeated))


def refuse_shared_captions(images: Iterable[Path]) -> None:
    """Raise FiguregroundError if a caption matches two images of one name, such as rex.jpg and rex.png."""
    if problem := describe_shared(images, CAPTION_SUFFIX, "caption"):
        raise FiguregroundError(f"references: {problem}")


def read_caption(image: Path) -> str | None:
    """Read the caption next to an image, as one line; return None if it is missing or empty.

    Raises:
        FiguregroundError: It is not text, or longer than any text encoder reads.
    """
    path = find_companion(image, CAPTION_SUFFIX)
    if path is None:
        return None
    with path.open("rb") as file:
        data = file.read(MAX_CAPTION_BYTES + 1)
    source = f"references: the caption {printable(path.parent.name)}/{printable(path.name)}"
    if len(data) > MAX_CAPTION_BYTES:
        raise FiguregroundError(f"{source} is longer than {MAX_CAPTION_BYTES:,} bytes; text encoders read 77 tokens.")
    return " ".join(decode(data, source).split()) or None


def check_enough(features: Sequence[Feature], by_slug: Mapping[str, References]) -> None:
    """Raise FiguregroundError if classes have fewer references than a concept needs; count all of them."""
    scarce = {
        feature.name: by_slug[feature.slug]
        for feature in features
        if len(by_slug[feature.slug].images) < MIN_REFERENCES
    }
    if not scarce:
        return
    examples = join_names((f"{name!r} ({_format_counts(references)})" for name, references in scarce.items()), 5)
    skipped = [skip for references in scarce.values() for skip in references.skipped]
    unreadable_note = ""
    if skipped:
        path, reason = skipped[0]
        unreadable_note = (
            f" {plural(len(skipped), 'file')} can't be read, such as {printable(path.parent.name)}/"
            f"{printable(path.name)}: {reason}."
        )
    raise FiguregroundError(
        f"references: {len(scarce)} of {len(features)} classes have fewer than {MIN_REFERENCES} different images, the "
        f"minimum for a concept: {examples}.{unreadable_note}"
    )


def _format_counts(references: References) -> str:
    duplicates = f", duplicates: {len(references.repeated)}" if references.repeated else ""
    return f"{len(references.images)}{duplicates}"


def draw_references(count: int, draw: Callable[[int], Image.Image]) -> References:
    """Return `count` references, drawn by `draw` from their number."""
    files = [encode(draw(i), "png") for i in range(count)]
    return References(
        tuple(Reference(f"{i:03d}.png", hashlib.sha256(data).hexdigest(), drawn=data) for i, data in enumerate(files))
    )


def gather(references: References, folder: Path) -> Path:
    """Return a folder with exactly these references: their own, or `folder`, into which they are copied.

    Captions are copied too.
    """
    if references.folder is not None:
        return references.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(references.names, references.images, strict=True):
        path = folder / name
        replace_bytes(path, image.path.read_bytes() if image.path else image.drawn)
        if image.path is not None and image.caption and (caption := find_companion(image.path, CAPTION_SUFFIX)):
            replace_bytes(path.with_suffix(CAPTION_SUFFIX), caption.read_bytes())
    return folder
