"""The paste baseline: an object cut out of a training image is pasted onto a training image of another class.

This is the baseline that diffusion has to beat. The object keeps its position and gets the scene of another class,
which decorrelates the two. A known weakness: nothing is removed, so the scene image's own object stays visible where
the pasted object doesn't cover it.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from figureground.core import disk, signals
from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural
from figureground.core.files import read_json, replace_bytes, replace_text
from figureground.core.hashing import digest
from figureground.core.progress import Progress
from figureground.data.groups import GroupedImages
from figureground.data.tables import is_number
from figureground.recipe.sample import derive_seed
from figureground.sources.images import encode
from figureground.training.work_directory import Work, hold

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier

MARKER = "paste.json"
"""File that records the inputs, and finally that all images exist; it marks the directory as ours."""
WORK = Work((MARKER,), ".paste.lock", "is at work there (paste)", option="")
"""Pasting in a directory."""
TABLE = "metadata.csv"
FOLDER = "train"

QUANTILE = 0.8
"""Default share of an image that is not in the mask."""
FEATHER = 1
"""Pixels over which the edge of a pasted object fades, on either side."""
ATTENTION_BATCH = 64
"""Batch size for computing attention."""
RANGES = {"count_per_class": (1, 1_000_000), "seed": (0, 2**63 - 1)}
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
class AttentionMasks:
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

        labels = {name: label for label, name in enumerate(self.classifier.labels)}
        if missing := [name for name in groups.classes if name not in labels]:
            raise FiguregroundError(
                f"classifier {self.classifier.name!r} has no class {missing[0]!r}; it has "
                f"{join_names(self.classifier.labels, 5)}. Give one that was trained on {groups.name}."
            )
        for start in range(0, len(rows), ATTENTION_BATCH):
            batch = list(groups.read(rows[start : start + ATTENTION_BATCH]))
            images = [draw() for _, draw in batch]
            targets = [labels[groups.classes[groups.y[row]]] for row, _ in batch]
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
        minimum, maximum = RANGES[name]
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise RecipeError(name, f"{value!r} is not a whole number from {minimum} to {maximum:,}.")
    train = groups.of_split(0)
    if len(np.unique(train.y)) < 2:
        raise FiguregroundError(
            f"{groups.name}: all its training images are of one class, so no scenes of other classes exist."
        )
    inputs = json.loads(json.dumps({
        "data": groups.fingerprint, **masks.facts, "count_per_class": count_per_class, "seed": seed,
    }))  # fmt: skip
    with disk.explained(out), hold(out, WORK):
        _record_inputs(out / MARKER, inputs)
        if not _read_marker(out / MARKER)["done"]:
            _write_images(*_plan_jobs(train, count_per_class, seed), train, masks, out, inputs, show_progress)
    return out


# The plan


@dataclass(frozen=True)
class PastePlan:
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


def _plan_jobs(train: GroupedImages, count_per_class: int, seed: int) -> tuple[list[PastePlan], Orders]:
    jobs, orders = [], {}
    for y in np.unique(train.y).tolist():
        own_rows, scene_rows = np.flatnonzero(train.y == y), np.flatnonzero(train.y != y)
        rng = np.random.default_rng(derive_seed(seed, "figures", train.classes[y]))
        orders[y] = rng.permutation(own_rows).tolist()
        for i in range(count_per_class):
            file = f"{FOLDER}/{y:04d}-{i:05d}.png"
            scene = np.random.default_rng(derive_seed(seed, "scene", file)).choice(scene_rows)
            jobs.append(PastePlan(file, y, i % len(own_rows), int(scene)))
    return jobs, orders


# The work


def _record_inputs(marker: Path, inputs: Mapping[str, Any]) -> None:
    """Record the inputs of the images, or check that they are the same as before."""
    if not marker.exists():
        _write_marker(marker, inputs, {"done": False, "passed_over": {}})
    elif changed := describe_differences(_read_marker(marker)["inputs"], inputs):
        raise FiguregroundError(
            f"{marker.parent} holds other pasted images:\n  " + "\n  ".join(changed)
            + "\nGive another directory, or the same data and settings again."
        )  # fmt: skip


def _write_marker(marker: Path, inputs: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
    record = {"inputs": inputs, "sha256": digest(inputs), **progress}
    replace_text(marker, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _read_marker(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
        return {name: record[name] for name in ("inputs", "done", "passed_over")}
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(f"{path} is damaged ({error}). Give another directory.") from None


def _write_images(
    jobs: Sequence[PastePlan], orders: Orders, train: GroupedImages, masks: Masks, out: Path, inputs: Mapping[str, Any],
    show_progress: bool,
) -> None:  # fmt: skip
    (out / FOLDER).mkdir(exist_ok=True)
    for path in (*out.glob(".*.tmp"), *(out / FOLDER).glob(".*.tmp")):  # left by a killed run
        path.unlink()
    existing = {f"{FOLDER}/{path.name}" for path in (out / FOLDER).iterdir()}
    remaining = [job for job in jobs if job.file not in existing]
    draws = dict(train.read(np.arange(len(train))))
    passed_over = _read_marker(out / MARKER)["passed_over"]
    with Progress(
        len(jobs), initial=len(jobs) - len(remaining), unit="image", desc="pasting", show=show_progress
    ) as bar:
        while remaining:
            by_figure = _group_by_figure(remaining, orders, passed_over, train)
            rows = np.array(sorted(by_figure), np.int64)
            remaining = []
            for row, mask in masks(train, rows):
                if not mask.any() or mask.all():
                    passed_over[train.keys[row]] = "everything" if mask.any() else "nothing"
                    _write_marker(out / MARKER, inputs, {"done": False, "passed_over": passed_over})
                    remaining += by_figure[row]
                    continue
                for job in by_figure[row]:
                    signals.check()
                    image = compose(draws[row](), draws[job.scene](), mask, train.keys[row])
                    replace_bytes(out / job.file, encode(image, "png"))
                    bar.update()
    replace_text(out / TABLE, _format_table(jobs, train))
    _write_marker(out / MARKER, inputs, {"done": True, "images": len(jobs), "passed_over": passed_over})


def _group_by_figure(
    jobs: Sequence[PastePlan], orders: Orders, passed_over: Mapping[str, str], train: GroupedImages
) -> dict[int, list[PastePlan]]:
    """Group jobs by the image that provides their object."""
    by_figure: dict[int, list[PastePlan]] = defaultdict(list)
    for job in jobs:
        order = orders[job.y]
        candidates = (order[(job.turn + i) % len(order)] for i in range(len(order)))
        row = next((row for row in candidates if train.keys[row] not in passed_over), None)
        if row is None:
            first_key = train.keys[order[0]]
            raise FiguregroundError(
                f"{train.name}: none of {plural(len(order), 'training image')} of {train.classes[job.y]!r} has a "
                f"usable mask: that of {first_key} covers {passed_over[first_key]}. Check the masks, or change the "
                "quantile."
            )
        by_figure[row].append(job)
    return by_figure


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


def _format_table(jobs: Sequence[PastePlan], train: GroupedImages) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    classes = _spell_names(train.classes, {job.y for job in jobs})
    if train.a is None or train.attributes is None:
        writer.writerow(("filename", "split", "y"))
        writer.writerows((job.file, 0, classes[job.y]) for job in jobs)
    else:
        scene_attributes = train.a[[job.scene for job in jobs]].tolist()
        attributes = _spell_names(train.attributes, set(scene_attributes))
        writer.writerow(("filename", "split", "y", "a"))
        writer.writerows(
            (job.file, 0, classes[job.y], attributes[a]) for job, a in zip(jobs, scene_attributes, strict=True)
        )
    return buffer.getvalue()


def _spell_names(names: Sequence[str], used: set[int]) -> Sequence[str]:
    """Return names for the table. Numbers that it would refuse become names that still match."""
    written = {names[label] for label in used}
    fits = written == {str(label) for label in range(len(written))}
    return names if fits or not any(map(is_number, written)) else [f"_{name}" for name in names]
