"""Images for learning a token: deduplicated, with masks if the loss is restricted to masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural, printable
from figureground.core.hashing import content_hash
from figureground.diffusion.composite import widen_to_latents
from figureground.finetune.training_images import format_notes
from figureground.sources.companions import describe_shared
from figureground.sources.images import (
    MASK_SUFFIX,
    UnreadableImage,
    UnusedFiles,
    center_square,
    list_images,
    list_non_files,
    read_distinct,
)
from figureground.sources.mask import find_mask, read_mask, to_shares
from figureground.sources.references import MIN_REFERENCES


class LearnedImage(NamedTuple):
    """One image for learning a token."""

    name: str
    """Name of its file; with a number if several files have the same name."""
    sha256: str
    """SHA-256 of its file."""
    image: Image.Image
    """RGB, the largest square around the centre, size × size."""
    mask: Image.Image | None
    """L, the same square of the mask, in the mask's own resolution."""
    mask_sha256: str | None
    """SHA-256 of the mask's file."""


def read_images(
    images: Path | Sequence[Path], size: int, masked: bool, masks: Sequence[Path] | None
) -> tuple[list[LearnedImage], UnusedFiles]:
    """Read images in the order of their names, without duplicates; also return what was left out.

    Args:
        images: A folder, or files.
        size: Edge in pixels.
        masked: Whether to read masks.
        masks: The mask of each image; None takes the masks beside the images.

    Raises:
        FiguregroundError: Fewer than three images are readable, or masks are missing or unusable.
    """
    unused = UnusedFiles()
    if isinstance(images, str | Path):
        folder = Path(images)
        if not folder.is_dir():
            raise FiguregroundError(f"images: there is no directory {folder}.")
        files, where = list_images(folder), f"{folder} holds"
        unused.unreadable += list_non_files(folder)
    else:
        files = [Path(path) for path in images]
        where = f"of {plural(len(files), 'file')} there {'is' if len(files) == 1 else 'are'}"
    pairs = sorted(
        zip(files, _choose_masks(files, masked, masks), strict=True), key=lambda pair: (pair[0].name, str(pair[0]))
    )
    mask_by_file = dict(reversed(pairs))  # for a file given twice, the first mask
    learned: list[LearnedImage] = []
    for path, sha256, image in read_distinct([path for path, _ in pairs], unused):
        mask = mask_by_file[path]
        square = None if mask is None else _read_mask(mask, path, image.size)
        learned.append(
            LearnedImage(
                path.name, sha256, center_square(image, size), square,
                None if mask is None else content_hash(mask),
            )
        )  # fmt: skip
    if len(learned) < MIN_REFERENCES:
        usable = plural(len(learned), "image") if learned else "no image"
        message = (
            f"images: {where} {usable} that can be used, and a token needs at least {MIN_REFERENCES} different ones."
        )
        raise FiguregroundError(" ".join([message, *format_notes(unused)]))
    learned.sort(key=lambda image: (image.name, image.sha256))
    return _number_repeated_names(learned), unused


def _number_repeated_names(images: Sequence[LearnedImage]) -> list[LearnedImage]:
    """Append numbers to repeated names."""
    counts: dict[str, int] = {}
    renamed = []
    for image in images:
        counts[image.name] = n = counts.get(image.name, 0) + 1
        renamed.append(image if n == 1 else image._replace(name=f"{image.name} ({n})"))
    return renamed


def _choose_masks(files: Sequence[Path], masked: bool, masks: Sequence[Path] | None) -> Sequence[Path | None]:
    """Return the mask file of each image, or None for all."""
    if not masked:
        if masks is not None:
            raise RecipeError(
                "masked",
                "masks were given, but masked is false, so the loss would ignore them. Set it "
                "to true, or give no masks.",
            )
        return [None] * len(files)
    if masks is None:
        missing = [path.name for path in files if find_mask(path) is None]
        if missing:
            raise FiguregroundError(
                f"masked: {len(missing)} of {plural(len(files), 'image')} have no mask, x.mask.png beside x.jpg: "
                f"{join_names(map(printable, missing), 4)}. Add them, or set masked to false."
            )
        if problem := describe_shared(files, MASK_SUFFIX, "mask"):
            raise FiguregroundError(f"masked: {problem}")
        return [find_mask(path) for path in files]
    if len(masks) != len(files):
        raise FiguregroundError(f"masks: {len(masks)} for {plural(len(files), 'image')}; give one per image.")
    return [Path(path) for path in masks]


def _read_mask(path: Path, image: Path, size: tuple[int, int]) -> Image.Image:
    """Read the largest centred square of a mask, L."""
    where, remedy = f"{printable(path.parent.name)}/{printable(path.name)}", "Fix the mask, or leave the image out."
    try:
        mask = to_shares(read_mask(path, image, size))
    except UnreadableImage as error:
        raise FiguregroundError(f"{where}: {error.reason}. {remedy}") from None
    square = center_square(mask, min(mask.size))
    if square.getbbox() is None:
        raise FiguregroundError(
            f"{where}: the mask is empty inside the image's centre square, so nothing could be learned. {remedy}"
        )
    return square


def to_grid(mask: Image.Image, edge: int, flip: bool) -> Tensor:
    """Return a mask's share of each latent pixel, float32 (1 or 2 with the mirrored one, 1, edge, edge)."""
    small = mask.convert("F").resize((edge, edge), Image.Resampling.BOX)  # in 8 bits a small mask could vanish
    shares = torch.from_numpy(np.array(small, np.float32) / 255)[None, None]
    return torch.cat([shares, shares.flip(-1)]) if flip else shares


def hide_region(image: LearnedImage, factor: int, margin: int) -> tuple[Image.Image, Image.Image]:
    """Return an image with its repainted region in grey, and the region itself, L of 0 and 255, for inpainting.

    The region is the image's mask, widened as for drawing; the whole image if it has no mask.

    Args:
        factor: Image pixels per latent pixel along an edge.
        margin: Latent pixels around the mask.
    """
    size = image.image.size
    region = np.ones(size[::-1], bool)
    if image.mask is not None:
        region = widen_to_latents(np.asarray(image.mask.resize(size, Image.Resampling.BOX)) > 0, factor, margin)
    mask = Image.fromarray(region.astype(np.uint8) * 255)
    return Image.composite(Image.new("RGB", size, (128, 128, 128)), image.image, mask), mask
