"""Inputs of training, read and checked before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from figureground.core.devices import check_device
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.data.data_source import DataSource
from figureground.data.groups import GroupedImages
from figureground.data.images import find_typical_edge
from figureground.data.layouts import read_data
from figureground.learn.backbone_settings import BackboneSettings, choose_backbone
from figureground.learn.settings import TWO_STAGE, WORST_GROUP, Training, explain_missing_attributes
from figureground.learn.training_data import TrainingData, gather
from figureground.learn.way import WAYS
from figureground.models.classifier_files import find_kind
from figureground.models.needs import refuse_absent_classifier, refuse_featureless
from figureground.training.work_directory import Work, refuse_other_content

INPUTS = "training.json"
"""File that records the inputs of a directory's classifiers and marks the directory as ours."""
WORK = Work((INPUTS,), ".train.lock", "is at work there (train)")
"""Training in a directory."""
MAX_SEEDS = 1000
MAX_DECODERS = 256
"""Maximum number of decoding threads."""


@dataclass(frozen=True, eq=False)
class TrainRequest:
    """Checked inputs of a training, as far as they can be checked without torch."""

    settings: Training
    training_data: TrainingData
    out: Path
    seeds: list[int]
    edge: int
    """Longer edge of a training image, in pixels."""
    device: str
    workers: int | None


def read_request(
    settings: Training,
    source: DataSource,
    out: Path | str,
    *,
    add: Sequence[Path | str] = (),
    seeds: int | Sequence[int] = 3,
    device: str = "auto",
    workers: int | None = None,
) -> TrainRequest:
    """Read and check the inputs of `learn.training.train`.

    Raises:
        FiguregroundError: Data, backbone or directory can't be used.
        RecipeError: A setting is invalid.
    """
    out, seed_list = Path(out), list_seeds(seeds)
    check_workers(workers)
    check_device(device, "--device")
    refuse_other_content(out, WORK)
    refuse_backbone(settings)
    groups = read_data(source)
    training_data = gather(groups, [read_data(DataSource.of(path)) for path in add])
    refuse_unfit_data(settings, groups, training_data)
    if settings.method == TWO_STAGE and not training_data.added.any():
        raise RecipeError("add", "two-stage begins with added images, but there are none. Add some: --add DIR.")
    edge = find_typical_edge(groups.of_split(0))
    refuse_revision(settings, choose_backbone(settings, edge))
    return TrainRequest(settings, training_data, out, seed_list, edge, device, workers)


def refuse_unused(settings: Training, add: Sequence[Path | str]) -> None:
    """Raise RecipeError for settings of added images if none are added, which are probably forgotten."""
    if settings.of_added_images and not add:
        raise RecipeError(
            settings.of_added_images[0],
            "it has no effect, because no images are added. Add some with --add DIR, or leave it out.",
        )


def refuse_backbone(settings: BackboneSettings) -> None:
    """Raise FiguregroundError for a backbone path that doesn't exist or is a file."""
    if settings.backbone is not None:
        refuse_featureless("backbone", settings.backbone)
        refuse_absent_classifier("backbone", settings.backbone)
        if Path(settings.backbone).expanduser().is_file():
            raise RecipeError(
                "backbone", f"{settings.backbone} is a file; give a transformers directory, a Hub id or timm:NAME."
            )


def refuse_revision(settings: BackboneSettings, backbone: str) -> None:
    """Raise RecipeError for a revision of a backbone that isn't on the Hub."""
    kind, rest = find_kind(backbone)
    if settings.revision is not None and not kind.on_hub(rest):
        raise RecipeError("revision", "it applies only to backbones on the Hub.")


def check_workers(workers: int | None) -> None:
    """Raise RecipeError for an invalid number of decoding threads."""
    if workers is not None and not 1 <= workers <= MAX_DECODERS:
        raise RecipeError("workers", f"{workers} is not a whole number from 1 to {MAX_DECODERS}.")


def list_seeds(seeds: int | Sequence[int]) -> list[int]:
    """Return the requested seeds.

    Args:
        seeds: Number of seeds, counted from 0; or the seeds themselves.

    Raises:
        RecipeError: There are no or too many seeds, or a seed is negative or repeated.
    """
    if isinstance(seeds, Sequence):
        for seed in seeds:
            if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
                raise RecipeError("seeds", f"{seed!r} is not a whole number of 0 or more.")
            if list(seeds).count(seed) > 1:
                raise RecipeError("seeds", f"{seed} is named twice.")
    count = len(seeds) if isinstance(seeds, Sequence) else seeds
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_SEEDS:
        raise RecipeError("seeds", f"{count} is not a whole number from 1 to {MAX_SEEDS:,}.")
    return list(seeds) if isinstance(seeds, Sequence) else list(range(seeds))


def refuse_unfit_data(settings: Training, groups: GroupedImages, training_data: TrainingData) -> None:
    """Check that a method can be used with the data.

    Raises:
        FiguregroundError: The method needs attributes (of added images too), or validation images of each class, and
            they are missing.
    """
    if settings.needs_attributes and training_data.attributes is None:
        raise FiguregroundError(explain_missing_attributes(settings, groups.name))
    if WORST_GROUP in (settings.select or "").split(",") and training_data.attributes is None:
        raise RecipeError(
            "select",
            f"{groups.name} has no attribute, so there are no groups: choose worst-class, average or last, or give a "
            "table filename,split,y,a (--a NAME takes another column).",
        )
    WAYS[settings.method]().refuse(settings, groups, training_data)
