"""The paste baseline: an object cut out of a training image is pasted onto a training image of another class.

This is the baseline that diffusion has to beat. The object keeps its position and gets the scene of another class,
which decorrelates the two. A known weakness: nothing is removed, so the scene image's own object stays visible where
the pasted object doesn't cover it.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from figureground.core import signals
from figureground.core.differences import differences
from figureground.core.errors import FiguregroundError, RecipeError, counted, listed
from figureground.core.files import read_json, replace_bytes, replace_text
from figureground.core.hashing import digest
from figureground.core.progress import Progress
from figureground.data.groups import GroupedImages
from figureground.learn.directory import held
from figureground.recipe.sample import derive_seed
from figureground.sources.images import encode

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier

MARKER = "paste.json"
"""File that records the inputs, and finally that all images exist; it marks the directory as ours."""
TABLE = "metadata.csv"
FOLDER = "train"

QUANTILE = 0.8
"""Default share of an image that is not in the mask."""
FEATHER = 1
"""Pixels over which the edge of a pasted object fades, on either side."""
ATTENDED = 64
"""Batch size for computing attention."""
MOST = {"count_per_class": (1, 1_000_000), "seed": (0, 2**63 - 1)}
"""Minimum and maximum of these arguments."""


class Masks(Protocol):
    """Source of object masks."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return everything that determines the masks, JSON-serialisable, without paths."""

    def __call__(self, groups: GroupedImages, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield masks for ascending rows: bool (height, width), of the size of the image that `groups` reads."""


class TrueMasks:
    """The masks included in the data."""

    facts: Mapping[str, Any] = {"masks": "true"}

    def __call__(self, groups: GroupedImages, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for row, draw in groups.read_masks(rows):
            yield row, draw()


@dataclass(frozen=True, eq=False)
class AttendedMasks:
    """Masks from a trained classifier's Grad-CAM++ attention to the true class (Chattopadhay et al. 2018)."""

    classifier: Classifier
    quantile: float = QUANTILE
    """Share of each image that is left out of the mask, 0 to 1."""

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"masks": "attended", "classifier": self.classifier.facts.get("sha256"), "quantile": self.quantile}

    def __call__(self, groups: GroupedImages, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """See `Masks.__call__`.

        Raises:
            FiguregroundError: The classifier lacks a class.
        """
        from figureground.vision.attention import compute_attention, mask_by_quantile

        known = {name: label for label, name in enumerate(self.classifier.labels)}
        if missing := [name for name in groups.classes if name not in known]:
            raise FiguregroundError(
                f"classifier {self.classifier.name!r} has no class {missing[0]!r}; it has "
                f"{listed(self.classifier.labels, 5)}. Give one that was trained on {groups.name}."
            )
        for start in range(0, len(rows), ATTENDED):
            batch = list(groups.read(rows[start : start + ATTENDED]))
            images = [draw() for _, draw in batch]
            targets = [known[groups.classes[groups.y[row]]] for row, _ in batch]
            for (row, _), attention in zip(batch, compute_attention(self.classifier, images, targets), strict=True):
                yield row, mask_by_quantile(attention, self.quantile)


def paste(
    groups: GroupedImages,
    masks: Masks,
    count_per_class: int,
    seed: int,
    out: Path | str,
    *,
    show_progress: bool = True,
) -> Path:
    """Write images of each class on scenes of other classes, or resume; `read_groups` reads the result.

    Objects are taken in turn from a class's training images in random order, scenes at random from the training
    images of all other classes. A scene is scaled and cropped around its centre to the size of the object's image.
    Each result has the class of its object and, if the data have attributes, the attribute of its scene. An image
    whose mask covers nothing or everything is skipped.

    Results depend only on the seed and each result's name, so a resumed run writes only the missing images.

    Args:
        groups: The dataset; its training split is used.
        masks: Where the objects are.
        count_per_class: Number of images to make for each class that has training images.
        seed: From 0.
        out: A directory that is new, empty, or holds the same images: PNGs, and the table `filename,split,y[,a]`.

    Returns:
        `out`.

    Raises:
        FiguregroundError: Training has only one class, a class has no usable mask, or the directory holds something
            else or isn't writable.
        RecipeError: A count or a seed is invalid.
    """
    out = Path(out)
    for name, value in (("count_per_class", count_per_class), ("seed", seed)):
        least, most = MOST[name]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise RecipeError(name, f"{value!r} is not a whole number from {least} to {most:,}.")
    train = groups.of_split(0)
    if len(np.unique(train.y)) < 2:
        raise FiguregroundError(
            f"{groups.name}: all its training images are of one class, so no scenes of other classes exist."
        )
    inputs = json.loads(json.dumps({
        "data": groups.fingerprint, **masks.facts, "count_per_class": count_per_class, "seed": seed,
    }))  # fmt: skip
    with held(out, MARKER, "paste", option=""):
        _take_up(out / MARKER, inputs)
        if not _read_marker(out / MARKER)["done"]:
            _write(*_plan(train, count_per_class, seed), train, masks, out, inputs, show_progress)
    return out


# The plan


@dataclass(frozen=True)
class Job:
    """Plan of one image."""

    file: str
    """Path relative to the directory."""
    y: int
    turn: int
    """Position in the order of the class's training images from which the object's image is searched."""
    scene: int
    """Row of the image onto which the object is pasted."""


Orders = Mapping[int, Sequence[int]]
"""For each class, the rows of its training images in the order in which they provide objects."""


def _plan(train: GroupedImages, count_per_class: int, seed: int) -> tuple[list[Job], Orders]:
    jobs, orders = [], {}
    for y in np.unique(train.y).tolist():
        own, others = np.flatnonzero(train.y == y), np.flatnonzero(train.y != y)
        rng = np.random.default_rng(derive_seed(seed, "figures", train.classes[y]))
        orders[y] = rng.permutation(own).tolist()
        for i in range(count_per_class):
            file = f"{FOLDER}/{y:04d}-{i:05d}.png"
            scene = np.random.default_rng(derive_seed(seed, "scene", file)).choice(others)
            jobs.append(Job(file, y, i % len(own), int(scene)))
    return jobs, orders


# The work


def _take_up(marker: Path, inputs: Mapping[str, Any]) -> None:
    """Record the inputs of the images, or check that they are the same as before."""
    if not marker.exists():
        _mark(marker, inputs, {"done": False, "passed_over": {}})
    elif changed := differences(_read_marker(marker)["inputs"], inputs):
        raise FiguregroundError(
            f"{marker.parent} holds other pasted images:\n  " + "\n  ".join(changed)
            + "\nGive another directory, or the same data and settings again."
        )  # fmt: skip


def _mark(marker: Path, inputs: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    said = {"inputs": inputs, "sha256": digest(inputs), **told}
    replace_text(marker, json.dumps(said, indent=2, ensure_ascii=False) + "\n")


def _read_marker(path: Path) -> dict[str, Any]:
    try:
        said = read_json(path)
        return {name: said[name] for name in ("inputs", "done", "passed_over")}
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(f"{path} is damaged ({error}). Give another directory.") from None


def _write(
    jobs: Sequence[Job], orders: Orders, train: GroupedImages, masks: Masks, out: Path, inputs: Mapping[str, Any],
    show_progress: bool,
) -> None:  # fmt: skip
    (out / FOLDER).mkdir(exist_ok=True)
    for path in (*out.glob(".*.tmp"), *(out / FOLDER).glob(".*.tmp")):  # left by a killed run
        path.unlink()
    there = {f"{FOLDER}/{path.name}" for path in (out / FOLDER).iterdir()}
    waiting = [job for job in jobs if job.file not in there]
    draws = dict(train.read(np.arange(len(train))))
    passed_over = _read_marker(out / MARKER)["passed_over"]
    with Progress(len(jobs), initial=len(jobs) - len(waiting), unit="image", desc="pasting", show=show_progress) as bar:
        while waiting:
            by_figure = _first_usable(waiting, orders, passed_over, train)
            rows = np.array(sorted(by_figure), np.int64)
            waiting = []
            for row, mask in masks(train, rows):
                if not mask.any() or mask.all():
                    passed_over[train.keys[row]] = "everything" if mask.any() else "nothing"
                    _mark(out / MARKER, inputs, {"done": False, "passed_over": passed_over})
                    waiting += by_figure[row]
                    continue
                for job in by_figure[row]:
                    signals.check()
                    image = compose(draws[row](), draws[job.scene](), mask, train.keys[row])
                    replace_bytes(out / job.file, encode(image, "png"))
                    bar.update()
    replace_text(out / TABLE, _table(jobs, train))
    _mark(out / MARKER, inputs, {"done": True, "images": len(jobs), "passed_over": passed_over})


def _first_usable(
    jobs: Sequence[Job], orders: Orders, passed_over: Mapping[str, str], train: GroupedImages
) -> dict[int, list[Job]]:
    """Group jobs by the image that provides their object."""
    found: dict[int, list[Job]] = defaultdict(list)
    for job in jobs:
        order = orders[job.y]
        tried = (order[(job.turn + i) % len(order)] for i in range(len(order)))
        row = next((row for row in tried if train.keys[row] not in passed_over), None)
        if row is None:
            first = train.keys[order[0]]
            raise FiguregroundError(
                f"{train.name}: none of {counted(len(order), 'training image')} of {train.classes[job.y]!r} has a "
                f"usable mask: that of {first} covers {passed_over[first]}. Check the masks, or change the quantile."
            )
        found[row].append(job)
    return found


def compose(figure: Image.Image, scene: Image.Image, mask: np.ndarray, key: str = "image") -> Image.Image:
    """Paste the object of one image onto another, at the same position.

    Args:
        figure: RGB.
        scene: RGB; scaled and cropped around its centre to the size of `figure`.
        mask: bool (height, width) of `figure`: the object. Its edge is feathered by `FEATHER` pixels.
        key: Name of `figure`, for errors.

    Returns:
        RGB, of the size of `figure`.

    Raises:
        FiguregroundError: The sizes of mask and image differ.
    """
    if mask.shape != (figure.height, figure.width):
        raise FiguregroundError(
            f"{key}: its mask has {mask.shape[1]} by {mask.shape[0]} pixels, but the image has {figure.width} by "
            f"{figure.height}."
        )
    fitted = scene if scene.size == figure.size else ImageOps.fit(scene, figure.size, Image.Resampling.BILINEAR)
    alpha = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).filter(ImageFilter.BoxBlur(FEATHER))
    return Image.composite(figure.convert("RGB"), fitted.convert("RGB"), alpha)


# The table


def _table(jobs: Sequence[Job], train: GroupedImages) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    classes = _spelled(train.classes, {job.y for job in jobs})
    if train.a is None or train.attributes is None:
        rows.writerow(("filename", "split", "y"))
        rows.writerows((job.file, 0, classes[job.y]) for job in jobs)
    else:
        of_scene = train.a[[job.scene for job in jobs]].tolist()
        attributes = _spelled(train.attributes, set(of_scene))
        rows.writerow(("filename", "split", "y", "a"))
        rows.writerows((job.file, 0, classes[job.y], attributes[a]) for job, a in zip(jobs, of_scene, strict=True))
    return text.getvalue()


def _spelled(names: Sequence[str], used: set[int]) -> Sequence[str]:
    """Return names for the table. Numbers with gaps would be refused there, so they become names that still match."""
    plain = all(re.fullmatch(r"\d+", name) for name in names)
    return [f"_{name}" for name in names] if plain and used != set(range(len(used))) else names
