"""Parts that panels of SCGS and DDB share: sources, their regions, and the classifier's predictions on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError, safe_join
from figureground.learn.errors import ARRAYS, read_errors
from figureground.methods.panels.panel import Missing, missing_stage_error
from figureground.shards.shard import STAGES
from figureground.shards.stages import read_finished_facts
from figureground.sources.images import UnreadableImage, center_square, read_image

if TYPE_CHECKING:
    from figureground.methods.repaint import Repaint

JOBS, MASKS = "jobs", "masks"
"""Stages of both methods: the images to make with their sources, and the regions to repaint."""
GROUPS_SHOWN = 12
"""Maximum number of groups or classes that a panel counts."""


def read_stage(method: Repaint, directory: Path, name: str) -> dict[str, Any] | None:
    """Return the facts of a stage of the method's recipe; None if it is missing, damaged or another recipe's."""
    return read_finished_facts(directory / STAGES / name, method.identity_hash)


def read_source(method: Repaint, key: str) -> Image.Image:
    """Return the centre square of a source as it was repainted, RGB; at most as large as the images made from it.

    Raises:
        Missing: The source can't be read; names it.
    """
    row = method.rows.get(key)
    if row is None:
        raise Missing(f"{key} is not in the training split of {method.data.name}")
    try:
        image = method.image(row)
    except (FiguregroundError, OSError, ValueError) as error:
        cause = error.__cause__
        reason = cause.reason if isinstance(cause, UnreadableImage) else "its dataset can't be read"
        raise Missing(f"{key} of {method.data.name}: {reason}") from None
    return image if image.width <= method.config.size else center_square(image, method.config.size)


def read_region(method: Repaint, directory: Path, key: str) -> Image.Image:
    """Return the stored mask of a source's region, L, size × size, 255 inside.

    Raises:
        Missing: The stage that names it is missing, or doesn't list it.
        UnreadableImage: The file is missing or damaged.
    """
    jobs = read_stage(method, directory, JOBS)
    if jobs is None:
        raise missing_stage_error(JOBS)
    if key not in jobs["masks"]:
        raise Missing(f"the stage {JOBS} lists no region of {key}")
    try:
        path = safe_join(directory / STAGES, jobs["masks"][key])
    except FileError as error:
        raise Missing(error.reason) from None
    return read_image(path).convert("L")


def masked_share(mask: Image.Image) -> float:
    """Return the share of pixels inside a mask, 0 to 1."""
    return float((np.asarray(mask) >= 128).mean())


class SavedPredictions(NamedTuple):
    """A classifier's predictions for the training images, in split order."""

    y: np.ndarray
    """int64 (n,): the class."""
    predicted: np.ndarray
    """int64 (n,): the most likely class."""
    probability: np.ndarray
    """float64 (n,): probability of that class, 0 to 1."""
    fold: np.ndarray
    """int64 (n,): the fold in which an image was held out."""


def read_predictions(method: Repaint, directory: Path, name: str) -> SavedPredictions | None:
    """Return the predictions that a stage saved; None if they are missing, damaged or another recipe's."""
    if read_stage(method, directory, name) is None:
        return None
    folder = directory / STAGES / name
    try:
        status = (folder / ARRAYS).stat()
        predictions = _read_unchanged(folder, status.st_mtime_ns, status.st_size)
    except (OSError, FiguregroundError):
        return None
    return predictions if len(predictions.y) == len(method.train) else None


@lru_cache(maxsize=4)
def _read_unchanged(folder: Path, modified: int, size: int) -> SavedPredictions:
    """Read predictions; the file's time of modification and size are part of the cache's key."""
    errors = read_errors(folder)
    probability = errors.probability[np.arange(len(errors.y)), errors.predicted]
    return SavedPredictions(errors.y, errors.predicted, probability, errors.fold)


def source_facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a source's name, class and attribute from a sample's provenance."""
    attribute = provenance.get("source_attribute")
    return [
        ("source", str(provenance.get("source", "unknown"))),
        ("class of the source", str(provenance.get("source_class", "unknown"))),
        *([("attribute of the source", str(attribute))] if attribute is not None else []),
    ]


def group_of(method: Repaint, row: int) -> str:
    """Return `class × attribute` of a training image, or its class if the data have no attribute."""
    train = method.train
    name = train.classes[int(train.y[row])]
    if train.a is None or train.attributes is None:
        return name
    return f"{name} × {train.attributes[int(train.a[row])]}"


def format_counts(counts: Counter[str]) -> str:
    """Return counts by name as text, largest first: `mug 6, umbrella 2`."""
    texts = [f"{name} {n:,}" for name, n in counts.most_common(GROUPS_SHOWN)]
    texts += [f"{len(counts) - GROUPS_SHOWN} more"] if len(counts) > GROUPS_SHOWN else []
    return ", ".join(texts) or "none"


def format_shares(part_names: Iterable[str], all_names: Sequence[str]) -> list[tuple[str, str]]:
    """Return for each name how many of all there are in a part: `3 of 12 (25.0%)`, most in the part first.

    Args:
        part_names: Name of the class or group of each image in the part.
        all_names: The same of all images.
    """
    part_counts, all_counts = Counter(part_names), Counter(all_names)
    names = sorted(all_counts, key=lambda name: (-part_counts[name], name))
    facts = [
        (name, f"{part_counts[name]:,} of {all_counts[name]:,} ({part_counts[name] / all_counts[name]:.1%})")
        for name in names[:GROUPS_SHOWN]
    ]
    return [*facts, *([("others", f"{len(names) - GROUPS_SHOWN} more")] if len(names) > GROUPS_SHOWN else [])]
