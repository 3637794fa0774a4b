"""Inputs of a separation, read and checked before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from figureground.core.devices import check_device
from figureground.core.errors import FiguregroundError, RecipeError, plural
from figureground.data.content_hashes import hash_files
from figureground.data.images import find_typical_edge
from figureground.disentangling.data import LabelledImages, Photographs, open_data
from figureground.disentangling.division import PARTS, Division, assign
from figureground.disentangling.separator import SEPARATORS
from figureground.disentangling.settings import Disentangling
from figureground.learn.backbone_settings import POCKET, choose_backbone
from figureground.learn.preflight import check_workers, list_seeds, refuse_backbone, refuse_revision
from figureground.learn.training_data import hash_images
from figureground.models.needs import missing_packages
from figureground.recipe.table import read_pairing
from figureground.training.work_directory import Work, refuse_other_content

INPUTS = "disentangling.json"
"""File that records the inputs of a run and marks its directory as ours."""
WORK = Work((INPUTS,), ".disentangle.lock", "is at work there (disentangle)")
"""Disentangling in a directory."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DisentangleRequest:
    """Checked inputs, as far as they can be checked without torch."""

    settings: Disentangling
    data: LabelledImages
    division: Division
    photographs: Photographs | None
    out: Path
    seeds: list[int]
    edge: int
    """Longer edge of the images, in pixels."""
    device: str
    workers: int | None


def read_request(
    settings: Disentangling,
    directory: Path | str,
    out: Path | str,
    *,
    photographs: Path | str | None = None,
    splits: Mapping[str, str | None] | None = None,
    pairing: Mapping[str, str | Sequence[str]] | None = None,
    allow_empty: bool = False,
    seeds: int | Sequence[int] = 6,
    device: str = "auto",
    workers: int | None = None,
) -> DisentangleRequest:
    """Read and check the inputs of `disentangling.training.disentangle`.

    Raises:
        FiguregroundError: Data, backbone or directory can't be used, or a package is missing.
        RecipeError: A setting is invalid.
    """
    out, seed_list = Path(out), list_seeds(seeds)
    check_workers(workers)
    check_device(device, "--device")
    refuse_other_content(out, WORK)
    for need in missing_packages("method", SEPARATORS[settings.method].NEEDS):
        raise FiguregroundError(f"method {settings.method}: {need.what}: {need.command}")
    refuse_backbone(settings)
    if settings.backbone == POCKET or settings.from_scratch:
        settings.count_pretraining_steps(pretrained=False)
    data = open_data(Path(directory))
    paired = read_pairing(pairing, data.foregrounds, data.backgrounds)
    requested_splits = splits or {}
    if unknown := sorted(set(requested_splits) - set(PARTS)):
        raise RecipeError("splits", f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}.")
    division = assign(data, requested_splits, paired, allow_empty=allow_empty)
    photograph_images = None if photographs is None else Photographs(Path(photographs), data.foregrounds)
    edge = find_typical_edge(data.images)
    name = choose_backbone(settings, edge)
    refuse_revision(settings, name)
    pretrained = not (name == POCKET or settings.from_scratch)
    trains = settings.trains_features or settings.count_pretraining_steps(pretrained) > 0
    if photograph_images is not None and not trains:
        raise RecipeError(
            "photographs",
            f"{settings.method} trains nothing here, so photographs can't be mixed in. Choose another method, "
            "--fine-tune or --pretrain-steps.",
        )
    if photograph_images is not None:
        _refuse_seen(data, division, photograph_images)
    return DisentangleRequest(
        settings=settings, data=data, division=division, photographs=photograph_images, out=out, seeds=seed_list,
        edge=edge, device=device, workers=workers,
    )  # fmt: skip


def _refuse_seen(data: LabelledImages, division: Division, photographs: Photographs) -> None:
    """Raise RecipeError for photographs, which train the features, that train the probes or test too."""
    used = (division.probes, division.test, division.heads, division.correlated, division.anti_correlated)
    hashes = hash_images(data.images.select(np.concatenate(used)))
    if hashes and (count := len(hashes & set(hash_files(photographs.images.paths)))):
        raise RecipeError(
            "photographs",
            f"{plural(count, 'file')} with the bytes of an image of {data.name} that trains the probes or tests, so "
            "accuracy would be measured on images seen in training. Remove them.",
        )
