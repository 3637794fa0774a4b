"""Guides: cut-outs and background templates from directories, and the composite that generation starts from."""

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
from tqdm import tqdm

from figureground.core.errors import printable
from figureground.core.names import RULE, Lookup
from figureground.core.numerics import usable_cores
from figureground.core.shares import as_fraction
from figureground.recipe.sample import Box
from figureground.sources.companions import why_shared
from figureground.sources.images import (
    MASK_SUFFIX,
    UnreadableImage,
    center_square,
    content_hash,
    list_folders,
    list_images,
    list_odd,
    pixel_hash,
    read_image,
)
from figureground.sources.mask import mask_beside, read_mask, to_shares

FAINT = 8
"""Masks below this (of 255) don't count for where an object ends: background removers leave such traces."""

GROUND = (0.78, 0.98)
"""Where, as shares of the canvas's height, the bottom of what stands on the ground lies."""

_KINDS = {"templates": "backgrounds"}
_REMEDIES = {
    "cutouts": "--set classes=folders takes the classes from them.",
    "templates": "--set backgrounds=folders takes the backgrounds from them, and --set 'backgrounds={beach: on the "
    "beach}' says how a prompt names each.",
}

# Pillow resizes RGBA with colours premultiplied, so what lies under transparent pixels doesn't bleed in. A filter
# with negative lobes, such as Lanczos, would still leave bright rims where colour overshoots and alpha is cut at 255.
_FILTER = Image.Resampling.HAMMING


@dataclass(frozen=True, slots=True)
class Item:
    """One cut-out or template."""

    id: str
    """`{folder}/{file name}@{first 12 digits of pixels}`, the folder below the bank's directory."""
    path: Path
    sha256: str
    """Of the image file's bytes."""
    pixels: str
    """Of what it shows (`pixel_hash`): files with the same pixels are one source."""
    mask_sha256: str | None = None
    """Of the mask file beside it, where there is one."""
    shaped: bool = False
    """Whether transparency or a mask says which part is the object."""


@dataclass(frozen=True)
class Bank:
    """Images by class: the cut-outs of foregrounds, or the templates of backgrounds."""

    what: str
    """What the images are, for messages: `cutouts` or `templates`."""
    items: dict[str, tuple[Item, ...]]
    """Class name to images, in an order that depends on their content alone. No pixels come twice in a class."""
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    """Files that can't be read, and why."""

    @classmethod
    def read(
        cls,
        directory: Path | str,
        names: Sequence[str],
        what: str,
        aliases: Mapping[str, Sequence[str]] | None = None,
    ) -> Bank:
        """Lists, hashes and decodes `<directory>/<class>/*`, so that a damaged file is known before it is needed.

        Args:
            directory: Holds a folder for each class.
            names: Class names, in label order; or folders below folders, as `bird/forest`.
            what: What the images are, for messages.
            aliases: Class name to other names that its folder may have, such as a WordNet id.

        Raises:
            ValueError: No such directory, a mask that may be of two images, or classes without a folder, with one
                that is not theirs alone, or with no image. All of them are counted in one error.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise ValueError(f"{what}: there is no directory {directory}.")
        folders = _match_folders(directory, names, what, aliases or {})
        items: dict[str, tuple[Item, ...]] = {}
        skipped: list[tuple[Path, str]] = []
        with ThreadPoolExecutor(min(8, usable_cores())) as pool:
            read = pool.map(lambda name: _read_folder(folders[name], directory), names)
            bar = tqdm(read, f"reading {what}", len(names), unit="class", delay=3, disable=None, leave=False)
            for name, (found, unreadable) in zip(names, bar, strict=True):
                items[name] = found
                skipped += unreadable
        used = (item.path for found in items.values() for item in found)
        if problem := why_shared(used, MASK_SUFFIX, "mask"):
            raise ValueError(f"{what}: {problem}")
        few = [name for name in names if not items[name]]
        if few:
            listed = _first(f"{name!r} (in {folders[name].name}/)" for name in few)
            unread = ""
            if skipped:
                unread = (
                    f" {len(skipped)} files can't be read, such as {printable(str(skipped[0][0]))}: {skipped[0][1]}."
                )
            raise ValueError(
                f"{what}: {len(few)} of {len(names)} {_KINDS.get(what, 'classes')} have no readable image in "
                f"{directory}: {listed}.{unread}"
            )
        return cls(what, items, skipped)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over class names, file names and contents: what the bank is, wherever its directory lies."""
        rows = sorted(
            (name, item.id.rpartition("@")[0], item.sha256, item.mask_sha256 or "")
            for name, items in self.items.items()
            for item in items
        )
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    @cached_property
    def _by_id(self) -> dict[str, Item]:
        return {item.id: item for items in self.items.values() for item in items}

    def find(self, id: str) -> Item:
        """The image with this id.

        Raises:
            ValueError: The bank has none.
        """
        if id not in self._by_id:
            raise ValueError(
                f"{self.what}: there is no image {id!r}. Its file was renamed, changed or removed since the "
                f"images were planned, or it lies in another directory."
            )
        return self._by_id[id]


def _first(names: Iterable[str], limit: int = 5) -> str:
    """The first names of many, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def _match_folders(
    directory: Path, names: Sequence[str], what: str, aliases: Mapping[str, Sequence[str]]
) -> dict[str, Path]:
    """Class name to its folder, which has the same name by `loosely`.

    Raises:
        ValueError: A class has no folder or several, or a folder is that of two classes.
    """
    folders = list_folders(directory)
    known = Lookup(path.name for path in folders)
    found: dict[str, Path] = {}
    owner: dict[Path, str] = {}
    missing = []
    for name in names:
        wanted = [name, *aliases.get(name, ())]
        candidates = [directory / name] if "/" in name and (directory / name).is_dir() else []
        candidates = candidates or [directory / each for each in known.find(*wanted)]
        if len(candidates) > 1:
            both = " and ".join(str(path) for path in candidates)
            raise ValueError(f"{what}: class {name!r} has more than one folder: {both}. {RULE}: keep one folder.")
        if not candidates:
            missing.append(name)
            continue
        folder = candidates[0]
        if folder in owner:
            raise ValueError(
                f"{what}: folder {folder} would be that of both {owner[folder]!r} and {name!r}. "
                f"Give each class a folder of its own, named exactly like the class."
            )
        found[name], owner[folder] = folder, name
    if missing:
        looked = [missing[0], *aliases.get(missing[0], ())]
        there = _first(path.name for path in folders) if folders else "none at all"
        raise ValueError(
            f"{what}: {len(missing)} of {len(names)} {_KINDS.get(what, 'classes')} have no folder in {directory}: "
            f"{_first(map(repr, missing))}. Looked for, as an example: {' or '.join(f'{each}/' for each in looked)} "
            f"(capitals and '_' for a space don't matter). Folders found: {there}. {_REMEDIES.get(what, '')}".rstrip()
        )
    return found


def _read_folder(folder: Path, directory: Path) -> tuple[tuple[Item, ...], list[tuple[Path, str]]]:
    """A class's images, ordered by content, and the files that can't be read."""
    by_content: dict[str, Item] = {}
    skipped = list_odd(folder)
    for path in list_images(folder):
        if not _is_text(path.name):
            skipped.append((path, "its name is not UTF-8: rename it"))
            continue
        try:
            sha256 = content_hash(path)
            mask = mask_beside(path)
            image = read_image(path, "RGBA")
            pixels = pixel_hash(image)
            shaped = _cut(image, path, mask) is not None
            mask_sha256 = content_hash(mask) if mask else None
        except UnreadableImage as error:
            skipped.append((path, error.reason))
            continue
        except OSError as error:
            skipped.append((path, error.strerror or str(error)))
            continue
        id = f"{path.relative_to(directory).as_posix()}@{pixels[:12]}"
        by_content.setdefault(pixels, Item(id, path, sha256, pixels, mask_sha256, shaped))
    return tuple(by_content[pixels] for pixels in sorted(by_content)), skipped


def _is_text(name: str) -> bool:
    """Whether a name can be written down: file systems allow bytes that are no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def split_bank(bank: Bank, shares: Mapping[str, float]) -> dict[str, Bank]:
    """Parts a bank among splits, so that no image's pixels are in two of them.

    Every class is parted in proportion to the shares, by largest remainder, with at least one image for each
    split. Which image goes where depends on contents alone. An image that two classes share goes to one
    split for both.

    Args:
        bank: What to part.
        shares: Split to a positive number; only proportions matter.

    Raises:
        ValueError: A share isn't positive, or classes have too few images.
    """
    for split, share in shares.items():
        if not (share > 0 and math.isfinite(share)):
            raise ValueError(f"{bank.what}: the share of split {split!r} must be a positive number, not {share!r}.")
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

        def need(s: int, names: list[str] = names) -> tuple[int, int]:
            """How many of the image's classes have nothing in split s yet, then how much they still lack."""
            empty = sum(count[name][s] == 0 for name in names)
            return empty, sum(quota[name][s] - count[name][s] for name in names)

        chosen = max(range(len(splits)), key=need)  # The first of equals: the order of `shares` decides.
        split_of[pixels] = chosen
        for name in names:
            count[name][chosen] += 1

    few = [name for name in bank.items if not all(count[name])]
    if few:
        listed = _first(f"{name!r} ({len(bank.items[name])})" for name in few)
        own = "{" + ", ".join(f"{split}: DIR" for split in splits) + "}"
        raise ValueError(
            f"{bank.what}: {len(few)} of {len(bank.items)} classes have too few different images to give each of the "
            f"splits {', '.join(splits)} its own: {listed}. Each class needs at least {len(splits)} that no other "
            f"class has. Add images, or give each split a directory: {bank.what}: {own}."
        )
    return {
        split: Bank(
            bank.what,
            {name: tuple(i for i in items if split_of[i.pixels] == s) for name, items in bank.items.items()},
            bank.skipped,
        )
        for s, split in enumerate(splits)
    }


def _apportion(n: int, shares: Sequence[float]) -> list[int]:
    """n things in proportion to the shares, by largest remainder, each at least one where n allows."""
    fractions = [as_fraction(share) for share in shares]
    exact = [n * share / sum(fractions) for share in fractions]
    counts = [math.floor(each) for each in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: n - sum(counts)]:
        counts[i] += 1
    while 0 in counts and max(counts) > 1:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def check_disjoint(banks: Mapping[str, Bank]) -> None:
    """Refuses splits that share an image, in the same file or in another one with the same pixels.

    Raises:
        ValueError: Two splits hold the same pixels; some of the files are named.
    """
    seen: dict[str, tuple[str, Path]] = {}
    shared = []
    for split, bank in banks.items():
        mine = {item.pixels: item.path for items in bank.items.values() for item in items}
        for pixels, path in mine.items():
            if pixels in seen:
                other, same = seen[pixels]
                shared.append(f"{same} ({other}) = {path} ({split})")
            else:
                seen[pixels] = (split, path)
    if shared:
        what = next(iter(banks.values())).what
        raise ValueError(
            f"{what}: {len(shared)} images are used by two splits, so that validation would see what training saw: "
            f"{_first(shared)}. Remove them from one of the two."
        )


def place(
    rng: np.random.Generator,
    size: int,
    scale: tuple[float, float],
    position: Literal["uniform", "ground"] = "uniform",
) -> Box:
    """A random square on the canvas.

    Takes three numbers from the generator whatever the settings are, so that recipes which differ in them
    stay comparable image by image.

    Args:
        rng: Decides scale and place.
        size: Edge of the canvas in pixels.
        scale: Lowest and highest edge of the square, as shares of the canvas, within (0, 1].
        position: `uniform`: anywhere wholly inside. `ground`: the bottom lies low, as in `GROUND`.

    Raises:
        ValueError: The scale is no such range, or the position is unknown.
    """
    low, high = scale
    if not 0 < low <= high <= 1:
        raise ValueError(f"The scale of cut-outs must be a range within (0, 1], lowest first, not {list(scale)}.")
    s, x, y = rng.random(3)
    side = min(size, max(1, round((low + s * (high - low)) * size)))
    left = math.floor(x * (size - side + 1))
    if position == "uniform":
        top = math.floor(y * (size - side + 1))
    elif position == "ground":
        bottom = round((GROUND[0] + y * (GROUND[1] - GROUND[0])) * size)
        top = max(0, min(size, bottom) - side)
    else:
        raise ValueError(f"The position of cut-outs can be 'uniform' or 'ground', not {position!r}.")
    return left, top, left + side, top + side


def photograph(path: Path, size: int) -> Image.Image:
    """The centre square of a photograph, RGB, its edge `size` pixels.

    Raises:
        UnreadableImage: The file can't be read.
    """
    # Twice the edge: what a JPEG's own reduction leaves is then still reduced by a good filter.
    return center_square(read_image(path, max_edge=2 * size), size)


def compose(
    cutout: Path,
    template: Path,
    box: Box,
    flip: bool,
    size: int,
    paste: Literal["mask", "square"] = "mask",
) -> tuple[Image.Image, Image.Image]:
    """Pastes a cut-out on a background template.

    With `mask`, only the object is pasted: its mask is the alpha channel, or the file `<name>.mask.png` beside
    it. It is cut to the mask's extent, fitted into the box in its own aspect, centred, standing on the box's
    bottom. An image with neither is pasted as with `square`: its centre square fills the box, as D3S did
    (arXiv 2211.10370); the template shows through where it is transparent.

    Args:
        cutout: Image of the foreground.
        template: Image of the background; its centre square fills the canvas.
        box: The square where the cut-out goes, in pixels of the canvas.
        flip: Whether to mirror the cut-out.
        size: Edge of the canvas in pixels.
        paste: `mask` or `square`.

    Returns:
        The composite (RGB) and how much of each pixel is foreground (L, 0 to 255), their edges `size` pixels.

    Raises:
        UnreadableImage: A file can't be read, or the mask is empty or of another shape than its image.
        ValueError: `paste` is unknown.
    """
    if paste not in ("mask", "square"):
        raise ValueError(f"paste can be 'mask' or 'square', not {paste!r}.")
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    # A JPEG can be read at a fraction unless a mask goes with it, which may cover only a small part.
    beside = mask_beside(cutout) if paste == "mask" else None
    image = read_image(cutout, "RGBA", max_edge=None if beside else 2 * max(width, height))
    figure = _cut(image, cutout, beside) if paste == "mask" else None
    if figure is None:
        figure = center_square(image, min(width, height), _FILTER)
    else:
        fit = min(width / figure.width, height / figure.height)
        figure = figure.resize((max(1, round(figure.width * fit)), max(1, round(figure.height * fit))), _FILTER)
    if flip:
        figure = ImageOps.mirror(figure)

    corner = (left + (width - figure.width) // 2, bottom - figure.height)
    canvas, mask = photograph(template, size), Image.new("L", (size, size), 0)
    share = figure.getchannel("A")
    canvas.paste(figure.convert("RGB"), corner, share)
    mask.paste(share, corner)
    return canvas, mask


def _cut(image: Image.Image, path: Path, beside: Path | None) -> Image.Image | None:
    """The object alone, RGBA, cut to its mask's extent; None for an image without a mask.

    An alpha channel that is opaque everywhere is no mask; one that isn't goes before the mask file.
    """
    if image.getchannel("A").getextrema() != (255, 255):
        source = "alpha channel"
    elif beside is not None:
        image.putalpha(to_shares(read_mask(beside, path, image.size)).resize(image.size, _FILTER))
        source = f"mask {beside.name}"
    else:
        return None
    extent = image.getchannel("A").point([0] * FAINT + [255] * (256 - FAINT)).getbbox()
    if extent is None:
        raise UnreadableImage(path, f"its {source} is empty: there is nothing to paste")
    return image.crop(extent)
