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

from tqdm import tqdm

from figureground.core.errors import FiguregroundError, join_names, plural, printable
from figureground.core.files import replace_bytes
from figureground.core.names import RULE, Lookup
from figureground.core.numerics import usable_cores
from figureground.core.tables import decode
from figureground.recipe.features import Feature
from figureground.sources.companions import why_shared
from figureground.sources.images import (
    UnreadableImage,
    content_hash,
    encode,
    list_folders,
    list_images,
    list_odd,
    pixel_hash,
    read_image,
)

if TYPE_CHECKING:
    from PIL import Image

LEAST = 3
"""Minimum number of references of a concept."""
CAPTION = ".txt"
"""Suffix of captions: `red.txt` is the caption of `red.jpg`."""
MOST_OF_CAPTION = 4096
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

    def told(self) -> list[dict[str, str | None]]:
        """Return name, hash and caption of each reference, as a fine-tuning records them."""
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
            given = Path(image.name)
            unique = (f"{given.stem}{f'-{n}' if n else ''}" for n in range(len(self.images) + 1))
            stem = next(stem for stem in unique if stem not in stems)
            stems.add(stem)
            names.append(f"{stem}{given.suffix}")
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


def read_references(directory: Path, features: Sequence[Feature], most: int | None = None) -> dict[str, References]:
    """Find, hash and decode the references of each class; return them by the class's slug.

    Args:
        directory: Directory with one folder per class, named like the class; or with folders of Spurious ImageNet,
            `…_{class}_…_{component}`, by number.
        features: The features to look for, with labels.
        most: Maximum number of references per class; those with the smallest hashes are kept.

    Raises:
        FiguregroundError: The directory is missing, or classes have no folder or fewer than three readable images;
            the error counts all of them.
    """
    if not directory.is_dir():
        raise FiguregroundError(f"references: no such directory: {directory}.")
    folders = find_folders(directory, features)

    def read(feature: Feature) -> References:
        return _read(folders[feature.slug], most)

    with ThreadPoolExecutor(min(8, usable_cores())) as pool:
        each = pool.map(read, features)
        bar = tqdm(each, "reading references", len(features), unit="class", delay=3, disable=None, leave=False)
        found = {feature.slug: references for feature, references in zip(features, bar, strict=True)}
    refuse_few(features, found)
    return found


def find_folders(directory: Path, features: Sequence[Feature]) -> dict[str, list[Path]]:
    """Return the folders of each class, by its slug.

    Raises:
        FiguregroundError: Classes have no folder; the error counts them.
    """
    by_number: dict[int, list[tuple[int, Path]]] = defaultdict(list)
    folders = list_folders(directory)
    for path in folders:
        if numbers := _class_and_component(path.name):
            by_number[numbers[0]].append((numbers[1], path))
    known = Lookup(path.name for path in folders)
    found: dict[str, list[Path]] = {}
    for feature in features:
        own = known.find(feature.name, *feature.aliases, feature.slug)
        if len(own) > 1:
            both = " and ".join(str(directory / name) for name in own)
            raise FiguregroundError(
                f"references: {feature.name!r} has more than one folder: {both}. {RULE}: keep one folder."
            )
        numbered = [p for n, p in by_number[feature.label] if not feature.components or n in feature.components]
        if own or numbered:
            found[feature.slug] = [directory / own[0]] if own else numbered
    missing = [feature.name for feature in features if feature.slug not in found]
    if missing:
        there = join_names((printable(path.name) for path in folders), 5) if folders else "none at all"
        raise FiguregroundError(
            f"references: {len(missing)} of {len(features)} classes have no folder in {directory}: "
            f"{join_names(map(repr, missing), 5)}. Looked for are <class>/ (upper or lower case, and '_' for a space, "
            f"don't matter) and Spurious ImageNet's …_<class number>_…_<component>/. Folders found: {there}. --set "
            "'classes=[…]' takes fewer classes."
        )
    return found


def _class_and_component(name: str) -> tuple[int, int] | None:
    """Return class and component number in a Spurious ImageNet folder name: class third or first, component last."""
    *parts, last = name.split("_")
    places = [place for place, part in enumerate(parts) if part.isdecimal()]
    if not places or not last.isdecimal():
        return None
    return int(parts[2 if 2 in places else places[0]]), int(last)


def _read(folders: Sequence[Path], most: int | None) -> References:
    images: list[Reference] = []
    skipped = [odd for folder in folders for odd in list_odd(folder)]
    repeated: list[Path] = []
    seen: set[str] = set()
    for path in (path for folder in folders for path in list_images(folder)):
        try:
            pixels = pixel_hash(read_image(path))
            sha256 = content_hash(path)
        except UnreadableImage as error:
            skipped.append((path, error.reason))
            continue
        except OSError as error:
            skipped.append((path, error.strerror or str(error)))
            continue
        if pixels in seen:
            repeated.append(path)
            continue
        seen.add(pixels)
        images.append(Reference(path.name, sha256, path, caption=read_caption(path)))
    refuse_shared_captions(image.path for image in images if image.path is not None)
    if most is not None and len(images) > most:
        kept = set(sorted(image.sha256 for image in images)[:most])
        images = [image for image in images if image.sha256 in kept]
    return References(tuple(images), tuple(skipped), tuple(repeated))


def refuse_shared_captions(images: Iterable[Path]) -> None:
    """Raise FiguregroundError if a caption matches two images of one name, such as rex.jpg and rex.png."""
    if problem := why_shared(images, CAPTION, "caption"):
        raise FiguregroundError(f"references: {problem}")


def read_caption(image: Path) -> str | None:
    """Read the caption next to an image, as one line; return None if it is missing or empty.

    Raises:
        FiguregroundError: It is not text, or longer than any text encoder reads.
    """
    path = image.with_suffix(CAPTION)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        said = file.read(MOST_OF_CAPTION + 1)
    where = f"references: the caption {printable(path.parent.name)}/{printable(path.name)}"
    if len(said) > MOST_OF_CAPTION:
        raise FiguregroundError(f"{where} is longer than {MOST_OF_CAPTION:,} bytes; text encoders read 77 tokens.")
    return " ".join(decode(said, where).split()) or None


def refuse_few(features: Sequence[Feature], found: Mapping[str, References]) -> None:
    """Raise FiguregroundError if classes have fewer references than a concept needs; count all of them."""
    few = {feature.name: found[feature.slug] for feature in features if len(found[feature.slug].images) < LEAST}
    if not few:
        return
    told = join_names((f"{name!r} ({_told(references)})" for name, references in few.items()), 5)
    skipped = [skip for references in few.values() for skip in references.skipped]
    unread = ""
    if skipped:
        path, reason = skipped[0]
        unread = (
            f" {plural(len(skipped), 'file')} can't be read, such as {printable(path.parent.name)}/"
            f"{printable(path.name)}: {reason}."
        )
    raise FiguregroundError(
        f"references: {len(few)} of {len(features)} classes have fewer than {LEAST} different images, the minimum "
        f"for a concept: {told}.{unread}"
    )


def _told(references: References) -> str:
    again = f", duplicates: {len(references.repeated)}" if references.repeated else ""
    return f"{len(references.images)}{again}"


def draw_references(count: int, draw: Callable[[int], Image.Image]) -> References:
    """Return `count` references, drawn by `draw` from their number."""
    drawn = [encode(draw(i), "png") for i in range(count)]
    return References(
        tuple(Reference(f"{i:03d}.png", hashlib.sha256(data).hexdigest(), drawn=data) for i, data in enumerate(drawn))
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
        if image.path is not None and image.caption:
            replace_bytes(path.with_suffix(CAPTION), image.path.with_suffix(CAPTION).read_bytes())
    return folder
