"""Finds the training images that ERM misclassifies: by cross-fitting, or by early stopping.

A converged network makes almost no errors on its own training images. So every image is judged by a network trained
on the other folds (cross-fitting, Chernozhukov et al. 2018, arXiv 1608.00060), or all images by a network stopped
early, as in JTT (Liu et al. 2021, arXiv 2107.09044). The attribute is never used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, join_names
from figureground.core.files import replace_bytes
from figureground.data.groups import GroupedImages
from figureground.learn.error_run import ClassifierJob, ErrorRun
from figureground.learn.errors import Errors
from figureground.learn.preflight import INPUTS
from figureground.learn.settings import LAST, Training
from figureground.recipe.sample import derive_seed

MAX_FOLDS = 100
EARLY = "early-stopped"
"""Folder of the early-stopped classifier."""


def make_folds(y: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Draw folds, int64 (n,), numbered from 0. Sizes of two folds differ by at most 1, also within each class.

    Args:
        y: int (n,): the class of each image.
        folds: Number of folds, 2 or more.
    """
    fold, start = np.empty(len(y), np.int64), 0
    for label in np.unique(y).tolist():
        rows = np.flatnonzero(y == label)
        order = np.random.default_rng(derive_seed(seed, "folds", str(label))).permutation(len(rows))
        fold[rows[order]] = (start + np.arange(len(rows))) % folds
        start += len(rows)
    return fold


def cross_fit(
    groups: GroupedImages,
    settings: Training,
    folds: int,
    seed: int,
    out: Path,
    *,
    device: str = "auto",
    show_progress: bool = True,
) -> Errors:
    """Predict each training image with a classifier trained on the other folds; resume if begun before.

    The epoch with the best worst-class accuracy on validation is chosen, unless the settings select otherwise. A
    finished fold is not trained again. A stopped run resumes after its last finished epoch, with bit-identical results
    on a CPU.

    Args:
        groups: The training split is divided into folds by class; the test split is not used.
        settings: Settings of erm.
        folds: Number of folds, 2 or more.
        seed: Determines the folds and all other randomness.
        out: A directory that is new, empty, or holds the same run. A classifier per fold (`fold-I`) and the output of
            `save_errors` are written to it.
        device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        FiguregroundError: Data, backbone or directory can't be used, or a loss isn't finite.
        RecipeError: A setting is invalid, or a class has fewer training images than folds.
        Stopped: A signal requested a stop.
    """
    run = _make_fold_run(groups, settings, folds, seed, out, device=device, show_progress=show_progress)
    return run.predict()


def fit_fold(
    groups: GroupedImages,
    settings: Training,
    folds: int,
    seed: int,
    out: Path,
    number: int,
    *,
    device: str = "auto",
    show_progress: bool = True,
) -> None:
    """Train the classifier of one fold of `cross_fit` in a directory of its own; resume if begun before.

    Args:
        groups, settings, folds, seed, device, show_progress: As for `cross_fit`.
        out: A directory that is new, empty, or holds the same run; `import_fold` makes it part of a `cross_fit`.
        number: The fold, from 0.

    Raises:
        FiguregroundError, RecipeError, Stopped: As in `cross_fit`.
    """
    run = _make_fold_run(groups, settings, folds, seed, out, device=device, show_progress=show_progress)
    run.predict_one(number)


def import_fold(source: Path, out: Path, number: int) -> None:
    """Bring what `fit_fold` left in a directory into that of `cross_fit`, which then doesn't train this fold.

    Files are linked where the file system can, and copied otherwise.

    Raises:
        FiguregroundError: A file is missing.
    """
    name = f"fold-{number}"
    parts = [source / INPUTS, source / name, source / f"{name}.npz", source / f"{name}.json"]
    if missing := [path for path in parts if not path.exists()]:
        raise FiguregroundError(
            f"{missing[0]} is missing. Remove {source} and run the same command again: only that fold is trained again."
        )
    files = [path for part in parts for path in (sorted(part.iterdir()) if part.is_dir() else [part])]
    (out / name).mkdir(parents=True, exist_ok=True)
    for path in files:
        target = out / path.relative_to(source)
        if not target.exists():
            try:
                target.hardlink_to(path)
            except OSError:
                replace_bytes(target, path.read_bytes())


def _make_fold_run(
    groups: GroupedImages, settings: Training, folds: int, seed: int, out: Path, *, device: str, show_progress: bool
) -> ErrorRun:
    """Return the run of `cross_fit`.

    Raises:
        FiguregroundError: The data can't be used.
        RecipeError: A setting is invalid, or the number of folds doesn't fit the data.
    """
    if not isinstance(folds, int) or not 2 <= folds <= MAX_FOLDS:
        raise RecipeError("folds", f"{folds} is not a whole number from 2 to {MAX_FOLDS}.")
    y = groups.of_split(0).y
    counts = np.bincount(y, minlength=len(groups.classes))
    if too_small := [f"{groups.classes[label]} ({n:,})" for label, n in enumerate(counts.tolist()) if 0 < n < folds]:
        raise RecipeError(
            "folds",
            f"{groups.name} has fewer than {folds} training images of {join_names(too_small)}. Ask for fewer folds.",
        )
    fold = make_folds(y, folds, seed)
    rule = settings.rules(attributes=False)[0]
    return ErrorRun(
        groups=groups, settings=settings, out=Path(out), device=device, show_progress=show_progress, fold=fold,
        jobs=[ClassifierJob(f"fold-{i}", fold != i, fold == i, settings.epochs, rule) for i in range(folds)],
        inputs={"errors": "cross-fit", "folds": folds, "seed": seed},
    )  # fmt: skip


def fit_early_stopped(
    groups: GroupedImages,
    settings: Training,
    epochs: int,
    seed: int,
    out: Path,
    *,
    device: str = "auto",
    show_progress: bool = True,
) -> Errors:
    """Predict all training images with one classifier trained on them for a few epochs, as in JTT.

    Args:
        groups: The test split is not used.
        settings: Settings of erm; the learning rate falls as if training continued for all their epochs.
        epochs: Number of epochs after which training stops.
        seed, out, device, show_progress: As for `cross_fit`; the classifier's folder is `early-stopped`.

    Raises:
        FiguregroundError, RecipeError, Stopped: As in `cross_fit`.
    """
    if not isinstance(epochs, int) or not 1 <= epochs <= settings.epochs:
        raise RecipeError("epochs", f"{epochs} is not a whole number from 1 to {settings.epochs}, the total.")
    all_images = np.ones(len(groups.of_split(0)), bool)
    run = ErrorRun(
        groups=groups, settings=settings, out=Path(out), device=device, show_progress=show_progress,
        jobs=[ClassifierJob(EARLY, all_images, all_images, epochs, LAST)], fold=np.zeros(len(all_images), np.int64),
        inputs={"errors": EARLY, "first_epochs": epochs, "seed": seed},
    )  # fmt: skip
    return run.predict()
