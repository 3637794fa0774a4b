"""Guides: composites of cut-outs and scenes, which generation starts from."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from figureground.core.errors import printable
from figureground.core.hashing import content_hash
from figureground.core.names import RULE, Lookup, is_text
from figureground.core.numerics import usable_cores
from figureground.core.progress import Progress
from figureground.core.shares import as_fraction, round_to_total
from figureground.recipe.sample import Box
from figureground.sources.companions import describe_shared
from figureground.sources.images import (
    MASK_SUFFIX,
    UnreadableImage,
    center_square,
    list_folders,
    list_images,
    list_non_files,
    pixel_hash,
    read_image,
)
from figureground.sources.mask import find_mask, read_mask, to_shares

FAINT = 8
"""Mask values below this (of 255) don't count for an object's extent: background removers leave faint traces."""

GROUND = (0.78, 0.98)
"""Range of the bottom edge of objects on the ground, as shares of the canvas height."""

_NAMES_SHOWN = 5
"""Names that an error lists."""
_CLASS_NOUNS = {"scenes": "backgrounds"}
_REMEDIES = {
    "cutouts": "--set classes=folders takes the classes from them.",
    "scenes": "--set backgrounds=folders takes the backgrounds from them, and --set 'backgrounds={beach: on the "
    "beach}' says how a prompt names each.",
}

# Pillow resizes RGBA with premultiplied colours, so colours under transparent pixels don't bleed in. A filter with
# negative lobes, such as Lanczos, would still leave bright rims where colour overshoots and alpha is clipped at 255.
_FILTER = Image.Resampling.HAMMING


@dataclass(frozen=True, slots=True)
class PoolItem:
    """One cut-out or scene."""

    id: str
    """`{folder}/{file name}@{first 12 digits of pixels}`, with the folder relative to the bank's directory."""
    path: Path
    sha256: str
    """SHA-256 of the image file's bytes."""
    pixels: str
    """Hash of the pixels (`pixel_hash`): files with the same pixels are one source."""
    mask_sha256: str | None = None
    """SHA-256 of the mask file next to it, if any."""
    has_mask: bool = False
    """Whether transparency or a mask file marks the object."""


@dataclass(frozen=True)
class ImagePool:
    """Images by class: cut-outs of foregrounds, or scenes of backgrounds."""

    kind: str
    """`cutouts` or `scenes`, for messages."""
    items: dict[str, tuple[PoolItem, ...]]
    """Class name to images, in an order that depends only on their content. Pixels are unique within a class."""
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    """Files that aren't used, with reasons."""

    @classmethod
    def read(
        cls,
        directory: Path | str,
        names: Sequence[str],
        kind: str,
        aliases: Mapping[str, Sequence[str]] | None = None,
    ) -> ImagePool:
        """List, hash and decode `<directory>/<class>/*`, so that damaged files are found before they are needed.

        Args:
            directory: Directory with one folder per class.
            names: Class names, in label order; or nested folders, such as `bird/forest`.
            kind: `cutouts` or `scenes`, for messages.
            aliases: Class name to alternative folder names, such as a WordNet id.

        Raises:
            ValueError: The directory is missing, a mask may belong to two images, or classes have no folder, share a
                folder, or have no image. One error counts all of these.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise ValueError(f"{kind}: no such directory: {directory}.")
        folders = match_folders(directory, names, kind, aliases or {})
        items: dict[str, tuple[PoolItem, ...]] = {}
        skipped: list[tuple[Path, str]] = []
        with ThreadPoolExecutor(min(8, usable_cores())) as pool:
            results = pool.map(lambda name: _read_folder(folders[name], directory), names)
            bar = Progress(len(names), iterable=results, desc=f"reading {kind}", unit="class", delay=3, leave=False)
            for name, (images, unreadable) in zip(names, bar, strict=True):
                items[name] = images
                skipped += unreadable
        paths = (item.path for images in items.values() for item in images)
        if problem := describe_shared(paths, MASK_SUFFIX, "mask"):
            raise ValueError(f"{kind}: {problem}")
        empty = [name for name in names if not items[name]]
        if empty:
            examples = _list_first(f"{name!r} (in {folders[name].name}/)" for name in empty)
            unreadable_note = ""
            if skipped:
                unreadable_note = (
                    f" {len(skipped)} files can't be read, such as {printable(str(skipped[0][0]))}: {skipped[0][1]}."
                )
            raise ValueError(
                f"{kind}: {len(empty)} of {len(names)} {_CLASS_NOUNS.get(kind, 'classes')} have no readable image in "
                f"{directory}: {examples}.{unreadable_note}"
            )
        return cls(kind, items, skipped)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over class names, file names and contents, independent of the directory's location."""
        rows = sorted(
            (name, item.id.rpartition("@")[0], item.sha256, item.mask_sha256 or "")
            for name, items in self.items.items()
            for item in items
        )
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    @cached_property
    def _by_id(self) -> dict[str, PoolItem]:
        return {item.id: item for items in self.items.values() for item in items}

    def find(self, id: str) -> PoolItem:
        """Return the image with this id.

        Raises:
            ValueError: The bank doesn't contain it.
        """
        if id not in self._by_id:
            raise ValueError(
                f"{self.kind}: image {id!r} is missing. Its file was renamed, changed or removed after the "
                f"images were planned, or it is in another directory."
            )
        return self._by_id[id]


def _list_first(names: Iterable[str]) -> str:
    """Return the first names and the number of further ones."""
    all_names = list(names)
    rest = f" and {len(all_names) - _NAMES_SHOWN} more" if len(all_names) > _NAMES_SHOWN else ""
    return ", ".join(all_names[:_NAMES_SHOWN]) + rest


def match_folders(
    directory: Path, names: Sequence[str], kind: str, aliases: Mapping[str, Sequence[str]]
) -> dict[str, Path]:
    """Return the folder of each class, which has the same name by `name_key`.

    Raises:
        ValueError: A class has no folder or several, or a folder belongs to two classes.
    """
    folders = list_folders(directory)
    lookup = Lookup(path.name for path in folders)
    folder_of: dict[str, Path] = {}
    owner: dict[Path, str] = {}
    missing = []
    for name in names:
        spellings = [name, *aliases.get(name, ())]
        candidates = [directory / name] if "/" in name and (directory / name).is_dir() else []
        candidates = candidates or [directory / each for each in lookup.find(*spellings)]
        if len(candidates) > 1:
            paths = " and ".join(str(path) for path in candidates)
            raise ValueError(f"{kind}: class {name!r} has more than one folder: {paths}. {RULE}: keep one folder.")
        if not candidates:
            missing.append(name)
            continue
        folder = candidates[0]
        if folder in owner:
            raise ValueError(
                f"{kind}: folder {folder} matches both {owner[folder]!r} and {name!r}. "
                f"Give each class its own folder, named exactly like the class."
            )
        folder_of[name], owner[folder] = folder, name
    if missing:
        accepted = dict.fromkeys([missing[0], *aliases.get(missing[0], ())])
        example = " or ".join(f"{spelling}/" for spelling in accepted)
        present = _list_first(path.name for path in folders) if folders else "none at all"
        raise ValueError(
            f"{kind}: {len(missing)} of {len(names)} {_CLASS_NOUNS.get(kind, 'classes')} have no folder in "
            f"{directory}: {_list_first(map(repr, missing))}. Looked for, as an example: {example} "
            f"(upper or lower case, and '_' for a space, don't matter). Folders found: {present}. "
            f"{_REMEDIES.get(kind, '')}".rstrip()
        )
    return folder_of


def _read_folder(folder: Path, directory: Path) -> tuple[tuple[PoolItem, ...], list[tuple[Path, str]]]:
    """Return a class's images, ordered by content, and the unreadable files."""
    by_content: dict[str, PoolItem] = {}
    skipped = list_non_files(folder)
    for path in list_images(folder):
        if not is_text(path.name):
            skipped.append((path, "its name is not UTF-8: rename it"))
            continue
        try:
            sha256 = content_hash(path)
            mask = find_mask(path)
            image = read_image(path, "RGBA")
            pixels = pixel_hash(image)
            shaped = _crop_to_mask(image, path, mask) is not None
            mask_sha256 = content_hash(mask) if mask else None
        except UnreadableImage as error:
            skipped.append((path, error.reason))
            continue
        except OSError as error:
            skipped.append((path, error.strerror or str(error)))
            continue
        id = f"{path.relative_to(directory).as_posix()}@{pixels[:12]}"
        item = PoolItem(id, path, sha256, pixels, mask_sha256, shaped)
        other = by_content.setdefault(pixels, item)
        if other.mask_sha256 != mask_sha256:
            if not other.has_mask:
                by_content[pixels] = item
            dropped, kept = (item, other) if other.has_mask else (other, item)
            skipped.append((dropped.path, f"it has the pixels of {kept.path.name}, but another mask: crop one of them"))
    return tuple(by_content[pixels] for pixels in sorted(by_content)), skipped


def split_bank(bank: ImagePool, shares: Mapping[str, float]) -> dict[str, ImagePool]:
    """Divide a bank among splits so that no image's pixels are in two of them.

    Every class is divided in proportion to the shares, by largest remainder, with at least one image per split. The
    assignment depends only on contents. An image that two classes share goes to the same split for both.

    Args:
        bank: The bank to divide.
        shares: Split to a positive number; only proportions matter.

    Raises:
        ValueError: A share isn't positive, or classes have too few images.
    """
    for split, share in shares.items():
        if not (share > 0 and math.isfinite(share)):
            raise ValueError(f"{bank.kind}: the share of split {split!r} must be a positive number, not {share!r}.")
    splits = list(shares)
    classes_of: dict[str, list[str]] = defaultdict(list)
    for name, items in bank.items.items():
        for item in items:
            classes_of[item.pixels].append(name)

    quota = {name: _apportion(len(items), list(shares.values())) for name, items in bank.items.items()}
    count = {name: [0] * len(splits) for name in bank.items}
    split_of: dict[str, int] = {}

    # Images that several classes share are the hardest to place, so they choose first.
    for pixels in sorted(classes_of, key=lambda each: (-len(classes_of[each]), each)):
        names = classes_of[pixels]

        def count_need(s: int, names: list[str] = names) -> tuple[int, int]:
            """Return how many of the image's classes are still empty in split s, and how many images they lack."""
            empty = sum(count[name][s] == 0 for name in names)
            return empty, sum(quota[name][s] - count[name][s] for name in names)

        split_index = max(range(len(splits)), key=count_need)  # Among equals the first, in the order of `shares`.
        split_of[pixels] = split_index
        for name in names:
            count[name][split_index] += 1

    scarce = [name for name in bank.items if not all(count[name])]
    if scarce:
        examples = _list_first(f"{name!r} ({len(bank.items[name])})" for name in scarce)
        example = "{" + ", ".join(f"{split}: DIR" for split in splits) + "}"
        raise ValueError(
            f"{bank.kind}: {len(scarce)} of {len(bank.items)} classes have too few different images to divide among "
            f"the splits {', '.join(splits)}: {examples}. Each class needs at least {len(splits)} that no other "
            f"class has. Add images, or give each split a directory: {bank.kind}: {example}."
        )
    return {
        split: ImagePool(
            bank.kind,
            {name: tuple(i for i in items if split_of[i.pixels] == s) for name, items in bank.items.items()},
            bank.skipped,
        )
        for s, split in enumerate(splits)
    }


def _apportion(n: int, shares: Sequence[float]) -> list[int]:
    """Divide n in proportion to the shares, by largest remainder, with at least one each if n suffices."""
    fractions = [as_fraction(share) for share in shares]
    exact = [n * share / sum(fractions) for share in fractions]
    floors = [math.floor(each) for each in exact]
    counts = round_to_total(floors, [each - floor for each, floor in zip(exact, floors, strict=True)], n)
    while 0 in counts and max(counts) > 1:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def check_disjoint(banks: Mapping[str, ImagePool]) -> None:
    """Refuse splits that share an image, as the same file or as files with the same pixels.

    Raises:
        ValueError: Two splits contain the same pixels; names some of the files.
    """
    first_use: dict[str, tuple[str, Path]] = {}
    shared = []
    for split, bank in banks.items():
        path_of = {item.pixels: item.path for items in bank.items.values() for item in items}
        for pixels, path in path_of.items():
            if pixels in first_use:
                other_split, other_path = first_use[pixels]
                shared.append(f"{other_path} ({other_split}) = {path} ({split})")
            else:
                first_use[pixels] = (split, path)
    if shared:
        kind = next(iter(banks.values())).kind
        raise ValueError(
            f"{kind}: {len(shared)} images are used by two splits, so evaluation would see training images: "
            f"{_list_first(shared)}. Remove them from one of the two."
        )


def sample_box(
    rng: np.random.Generator,
    size: int,
    scale: tuple[float, float],
    position: Literal["uniform", "ground"] | float = "uniform",
) -> Box:
    """Draw a random square on the canvas.

    Always takes three numbers from the generator, so that recipes with different settings stay comparable image by
    image.

    Args:
        rng: Generator for scale and position.
        size: Edge of the canvas in pixels.
        scale: Lowest and highest edge of the square, as shares of the canvas, within (0, 1].
        position: `uniform`: anywhere inside the canvas. `ground`: the bottom edge within `GROUND`. A number, 0 to 1:
            distance from the centre in a random direction, where 1 touches an edge of the canvas.

    Raises:
        ValueError: The scale is not a valid range, or the position is unknown.
    """
    low, high = scale
    if not 0 < low <= high <= 1:
        raise ValueError(f"The scale of cut-outs must be a range within (0, 1], lowest first, not {list(scale)}.")
    s, x, y = rng.random(3)
    side = min(size, max(1, round((low + s * (high - low)) * size)))
    left = math.floor(x * (size - side + 1))
    if not isinstance(position, str):
        right, down = math.cos(2 * math.pi * x), math.sin(2 * math.pi * x)
        reach = position / max(abs(right), abs(down))
        left, top = (round((size - side) / 2 * (1 + reach * step)) for step in (right, down))
    elif position == "uniform":
        top = math.floor(y * (size - side + 1))
    elif position == "ground":
        bottom = round((GROUND[0] + y * (GROUND[1] - GROUND[0])) * size)
        top = max(0, min(size, bottom) - side)
    else:
        raise ValueError(f"The position of cut-outs can be 'uniform' or 'ground', not {position!r}.")
    return left, top, left + side, top + side


def read_square(path: Path, size: int) -> Image.Image:
    """Return the centre square of a photograph, RGB, with an edge of `size` pixels.

    Raises:
        UnreadableImage: The file can't be read.
    """
    # Twice the edge: after a JPEG's own reduction, a good filter still does the final one.
    return center_square(read_image(path, max_edge=2 * size), size)


def compose(
    cutout: Path,
    template: Path,
    box: Box,
    flip: bool,
    size: int,
    paste: Literal["mask", "square"] = "mask",
) -> tuple[Image.Image, Image.Image]:
    """Paste a cut-out on a scene.

    With `mask`, only the object is pasted: its mask is the alpha channel, or the file `<name>.mask.png` next to it.
    The object is cropped to the mask's extent, fitted into the box with its own aspect ratio, centred, and placed at
    the bottom of the box. An image with neither is pasted as with `square`: its centre square fills the box, as in
    D3S (arXiv 2211.10370), and the scene shows through transparent pixels.

    Args:
        cutout: Image of the foreground.
        template: Image of the background; its centre square fills the canvas.
        box: The square for the cut-out, in canvas pixels.
        flip: Whether to mirror the cut-out.
        size: Edge of the canvas in pixels.
        paste: `mask` or `square`.

    Returns:
        The composite (RGB) and the foreground share of each pixel (L, 0 to 255), with edges of `size` pixels.

    Raises:
        UnreadableImage: A file can't be read, or the mask is empty or its shape differs from the image's.
        ValueError: `paste` is unknown.
    """
    if paste not in ("mask", "square"):
        raise ValueError(f"paste can be 'mask' or 'square', not {paste!r}.")
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    # A JPEG can be read at reduced size, except with a mask, which may cover only a small part.
    mask_file = find_mask(cutout) if paste == "mask" else None
    image = read_image(cutout, "RGBA", max_edge=None if mask_file else 2 * max(width, height))
    figure = _crop_to_mask(image, cutout, mask_file) if paste == "mask" else None
    if figure is None:
        figure = center_square(image, min(width, height), _FILTER)
    else:
        ratio = min(width / figure.width, height / figure.height)
        figure = figure.resize((max(1, round(figure.width * ratio)), max(1, round(figure.height * ratio))), _FILTER)
    if flip:
        figure = ImageOps.mirror(figure)

    corner = (left + (width - figure.width) // 2, bottom - figure.height)
    canvas, mask = read_square(template, size), Image.new("L", (size, size), 0)
    share = figure.getchannel("A")
    canvas.paste(figure.convert("RGB"), corner, share)
    mask.paste(share, corner)
    return canvas, mask


def _crop_to_mask(image: Image.Image, path: Path, mask_file: Path | None) -> Image.Image | None:
    """Return the object, RGBA, cropped to its mask's extent; None for an image without a mask.

    A fully opaque alpha channel is not a mask; any other alpha channel takes precedence over the mask file.
    """
    if image.getchannel("A").getextrema() != (255, 255):
        source = "alpha channel"
    elif mask_file is not None:
        image.putalpha(to_shares(read_mask(mask_file, path, image.size)).resize(image.size, _FILTER))
        source = f"mask {mask_file.name}"
    else:
        return None
    extent = image.getchannel("A").point([0] * FAINT + [255] * (256 - FAINT)).getbbox()
    if extent is None:
        raise UnreadableImage(path, f"its {source} is empty: there is nothing to paste")
    return image.crop(extent)
