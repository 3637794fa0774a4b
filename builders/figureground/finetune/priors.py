"""Prior images: images of the noun drawn by the original model, drawn once and kept in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError, join_names, printable
from figureground.core.files import read_json, replace_bytes, replace_text
from figureground.core.hashing import content_hash
from figureground.core.locks import lock, remove_held
from figureground.core.progress import Progress
from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.render import Renderer, Sampling, find_batch_size, refuse_guide
from figureground.recipe.sample import Sample, Spec, derive_seed
from figureground.sources.images import (
    UnreadableImage,
    center_square,
    encode,
    list_images,
    read_image,
)

RECIPE = "prior.json"
"""File that records how a folder's images were drawn. A folder without it holds a user's own images."""
FLAG = "--prior"
LOCK = ".prior.lock"
"""Lock file of the process that draws."""


@dataclass(frozen=True)
class Prior:
    """The images for prior preservation."""

    images: tuple[Image.Image, ...]
    """RGB, size × size."""
    facts: dict[str, Any]
    """Number of images, whether they were drawn here, and the SHA-256 of all their files."""


def has_own_images(folder: Path | None) -> bool:
    """Whether a folder holds images that weren't drawn here; these are used as they are."""
    return folder is not None and folder.is_dir() and not (folder / RECIPE).exists() and bool(list_images(folder))


def hash_own_images(folder: Path) -> dict[str, Any]:
    """Return the recipe entry for a user's own images."""
    hashes = [f"{path.name} {content_hash(path)}" for path in list_images(folder)]
    return {"images": len(hashes), "drawn": False, "sha256": _hash_lines(hashes)}


def read_own_images(folder: Path, size: int, flag: str = FLAG) -> Prior:
    """Read a user's own images in a folder; errors name it by its flag.

    Raises:
        FiguregroundError: None of the images can be read.
    """
    images, unreadable = [], []
    for path in list_images(folder):
        try:
            images.append(center_square(read_image(path), size))
        except UnreadableImage as error:
            unreadable.append(f"{printable(path.name)} ({error.reason})")
    if not images:
        raise FiguregroundError(f"{flag} {folder}: none of its images can be read: {join_names(unreadable, 4)}.")
    return Prior(tuple(images), {**hash_own_images(folder), "images": len(images)})


def draw_missing(
    folder: Path,
    recipe: dict[str, Any],
    count: int,
    checkpoint: Checkpoint,
    sampling: Sampling,
    between_steps: Callable[[], None],
    show_progress: bool,
    flag: str = FLAG,
) -> None:
    """Draw the missing ones of the first `count` prior images in a folder.

    Each image has its own seed, so a stopped run can resume, and a larger count keeps existing images. Rejected images
    (flat or not finite) are recorded in `prior.json` and replaced by others.

    Args:
        recipe: Everything that determines the images, as JSON, including `prompt` and `seed`; one per folder.
        checkpoint: The original model, which draws them.
        sampling: Sampling settings; the batch size is chosen here.
        flag: Name of the folder's flag in errors.

    Raises:
        FiguregroundError: The folder holds images drawn with another recipe, or most images are rejected.
    """
    with _lock_folder(folder):
        rejected = _record_recipe(folder, recipe, flag)
        missing = _list_missing(folder, count, rejected)
        if missing:
            sampling = replace(sampling, batch_size=find_batch_size(checkpoint, sampling))
        renderer = Renderer(checkpoint, sampling, refuse_guide, between_steps)
        show = show_progress and bool(missing)
        with Progress(count, initial=count - len(missing), unit="image", desc="prior images", show=show) as bar:
            while missing:
                for i, result in zip(missing, renderer.render([_make_spec(i, recipe) for i in missing]), strict=True):
                    if isinstance(result, Sample):
                        replace_bytes(_image_path(folder, i), encode(result.image, "png"))
                        bar.update()
                    else:
                        rejected[i] = result.reason
                        _write_recipe(folder, recipe, rejected)
                if len(rejected) > count:
                    raise FiguregroundError(
                        f"more than half of the images for {recipe['prompt']!r} can't be kept "
                        f"({join_names(sorted(set(rejected.values())))}). Give images of your own with {flag} DIR."
                    )
                missing = _list_missing(folder, count, rejected)


def read_drawn_images(folder: Path, recipe: dict[str, Any], count: int, flag: str = FLAG) -> Prior:
    """Read the first `count` images from `draw_missing`; errors name the folder by its flag.

    Raises:
        FiguregroundError: An image is damaged, or the images were drawn with another recipe.
    """
    rejected = _record_recipe(folder, recipe, flag)
    images, hashes = [], []
    for path in (_image_path(folder, i) for i in _list_numbers(count, rejected)):
        try:
            images.append(read_image(path))
        except UnreadableImage as error:
            remedy = "Remove that file" if path.exists() else "Give the same command again"
            raise FiguregroundError(f"{flag} {error}. {remedy} to draw it again.") from None
        hashes.append(f"{path.name} {content_hash(path)}")
    facts = {"images": count, "drawn": True, "rejected": len(rejected), "sha256": _hash_lines(hashes)}
    return Prior(tuple(images), facts)


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Within, no other process draws into a folder. No lock file stays behind, whatever happens."""
    with lock(folder / LOCK, wait=True):
        try:
            yield
        finally:
            remove_held(folder / LOCK)


def remove_other_images(folder: Path, recipe: dict[str, Any], flag: str = FLAG) -> None:
    """Remove images that were drawn with another recipe; errors name the folder by its flag."""
    if not (folder / RECIPE).exists():
        return
    with _lock_folder(folder):
        if (folder / RECIPE).exists() and describe_differences(_read_recipe(folder, flag)[0], recipe):
            for image in folder.glob("[0-9]*.png"):
                image.unlink()
            (folder / RECIPE).unlink()


def _read_recipe(folder: Path, flag: str = FLAG) -> tuple[dict[str, Any], dict[int, str]]:
    """Read the recipe of a folder's images, and which were rejected."""
    try:
        saved = read_json(folder / RECIPE)
        return saved, {int(i): reason for i, reason in saved.pop("rejected").items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise FiguregroundError(
            f"{flag} {folder}: its {RECIPE} is damaged ({error}). Give another directory."
        ) from None


def _record_recipe(folder: Path, recipe: dict[str, Any], flag: str) -> dict[int, str]:
    """Record the recipe in a folder, or check that it matches; return the rejected images."""
    if not (folder / RECIPE).exists():
        _write_recipe(folder, recipe, {})
        return {}
    saved, rejected = _read_recipe(folder, flag)
    if changes := describe_differences(saved, recipe):
        raise FiguregroundError(
            f"{flag} {folder} holds images drawn with other settings:\n  " + "\n  ".join(changes)
            + "\nGive another directory."
        )  # fmt: skip
    return rejected


def _write_recipe(folder: Path, recipe: dict[str, Any], rejected: dict[int, str]) -> None:
    saved = {**recipe, "rejected": {str(i): reason for i, reason in rejected.items()}}
    replace_text(folder / RECIPE, json.dumps(saved, indent=2, ensure_ascii=False) + "\n")


def _list_numbers(count: int, rejected: dict[int, str]) -> list[int]:
    """Return the first `count` image numbers that aren't rejected."""
    return [i for i in range(count + len(rejected)) if i not in rejected][:count]


def _list_missing(folder: Path, count: int, rejected: dict[int, str]) -> list[int]:
    return [i for i in _list_numbers(count, rejected) if not _image_path(folder, i).is_file()]


def _image_path(folder: Path, i: int) -> Path:
    return folder / f"{i:05d}.png"


def _make_spec(i: int, recipe: dict[str, Any]) -> Spec:
    seed = derive_seed(recipe["seed"], "prior", str(i))
    return Spec(f"prior-{i:05d}", "prior", 0, 0, "", "", recipe["prompt"], seed)


def _hash_lines(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
