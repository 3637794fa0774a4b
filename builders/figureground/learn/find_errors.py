"""Finds the training images that ERM misclassifies: by cross-fitting, or by early stopping.

A converged network makes almost no errors on its own training images. So every image is judged by a network trained
on the other folds (cross-fitting, Chernozhukov et al. 2018, arXiv 1608.00060), or all images by a network stopped
early, as in JTT (Liu et al. 2021, arXiv 2107.09044). The attribute is never used.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from figureground.core.accelerator import choose_device
from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural
from figureground.core.files import replace_bytes, replace_text
from figureground.core.hashing import digest
from figureground.core.terminal import print_note
from figureground.data.groups import GroupedImages
from figureground.learn.backbones import open_backbone, save_backbone
from figureground.learn.directory import lock_directory
from figureground.learn.errors import Errors, read_arrays, save_errors, write_arrays
from figureground.learn.fit import Fit
from figureground.learn.inference import run_network, softmax
from figureground.learn.objective import WeightedMean
from figureground.learn.preflight import INPUTS
from figureground.learn.settings import LAST, WORST_CLASS, WORST_GROUP, Training
from figureground.learn.training import advise_memory, read_versions, record_inputs, run_fit
from figureground.learn.training_data import Album, Part, TrainingData, default_workers
from figureground.recipe.sample import derive_seed
from figureground.training.saved_run import explain_errors

MAX_FOLDS = 100
EARLY = "early-stopped"
"""Folder of the early-stopped classifier."""


class _Job(NamedTuple):
    """A classifier to train, and the images that it judges."""

    name: str
    """Name of its folder; it also determines the randomness."""
    trained: np.ndarray
    """bool (n,): the images that it is trained on."""
    judged: np.ndarray
    """bool (n,): the images that it classifies."""
    epochs: int
    rule: str
    """Rule that chooses the epoch, one of `settings.RULES`."""


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
    jobs, fold, inputs = _plan_folds(groups, settings, folds, seed)
    return _run_jobs(groups, settings, jobs, fold, inputs, Path(out), device, show_progress)


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
    jobs, _, inputs = _plan_folds(groups, settings, folds, seed)
    with _open_session(groups, settings, inputs, Path(out), device, show_progress, lambda: "") as session:
        session.predict(jobs[number])


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


def _plan_folds(
    groups: GroupedImages, settings: Training, folds: int, seed: int
) -> tuple[list[_Job], np.ndarray, dict[str, Any]]:
    """Return the jobs of `cross_fit`, the fold of each image, and what identifies them.

    Raises:
        RecipeError: The number of folds doesn't fit the data.
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
    jobs = [_Job(f"fold-{i}", fold != i, fold == i, settings.epochs, rule) for i in range(folds)]
    inputs = {"errors": "cross-fit", "folds": folds, "seed": seed}
    return jobs, fold, inputs


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
    inputs = {"errors": EARLY, "first_epochs": epochs, "seed": seed}
    jobs = [_Job(EARLY, all_images, all_images, epochs, LAST)]
    fold = np.zeros(len(all_images), np.int64)
    return _run_jobs(groups, settings, jobs, fold, inputs, Path(out), device, show_progress)


def _run_jobs(
    groups: GroupedImages, settings: Training, jobs: Sequence[_Job], fold: np.ndarray, inputs: dict[str, Any],
    out: Path, device: str, show_progress: bool,
) -> Errors:  # fmt: skip
    """Run the unfinished jobs and combine their predictions."""
    train = groups.of_split(0)
    probability = np.empty((len(train), len(groups.classes)))
    num_finished = 0

    def describe_progress() -> str:
        return f"{num_finished} of {plural(len(jobs), 'classifier')} are finished and kept."

    with _open_session(groups, settings, inputs, out, device, show_progress, describe_progress) as session:
        for job in jobs:
            probability[job.judged] = session.predict(job)
            num_finished += 1
        models = tuple(out / job.name for job in jobs)
        errors = Errors(train.keys, train.y, probability.argmax(axis=1), probability, fold, models)
        save_errors(errors, groups.classes, out)
    return errors


@contextmanager
def _open_session(
    groups: GroupedImages, settings: Training, inputs: dict[str, Any], out: Path, device: str, show_progress: bool,
    describe_saved: Callable[[], str],
) -> Iterator[_Session]:  # fmt: skip
    """Hold a directory, and check that it is new or belongs to the same run.

    Args:
        describe_saved: Describes what is saved, for the message of a stop.
    """
    if settings.method != "erm":
        raise RecipeError("method", f"errors are determined with erm, not with {settings.method}.")
    if WORST_GROUP in (settings.select or "").split(","):
        raise RecipeError(
            "select",
            f"errors don't depend on attributes, so there are no groups: choose {WORST_CLASS}, average or last.",
        )
    data = groups.without_attribute()
    train, validation = data.of_split(0), data.of_split(1)
    if len(labels := np.unique(train.y)) < 2:
        raise FiguregroundError(
            f"{groups.name}: all its training images are of one class, {groups.classes[labels[0]]!r}. Errors require "
            "at least two."
        )
    torch_device, edge = choose_device(device), max(Album([train]).draw(0).size)
    backbone = open_backbone(settings, groups.classes, edge, inputs["seed"])
    if not hasattr(backbone.network, "save_pretrained"):
        raise RecipeError(
            "backbone", f"{backbone.name} is a timm network, whose trained state can't be reopened. Give pocket, or a "
            "transformers directory or Hub id."
        )  # fmt: skip
    for note in backbone.notes:
        print_note(note)
    with (
        explain_errors(out, describe_saved, "", advise_memory(settings, torch_device)),
        lock_directory(out, INPUTS, "train"),
    ):
        content = data.select(data.split != 2).fingerprint
        identity = record_inputs(out, {**settings.to_json(), "backbone": backbone.facts, "content": content, **inputs})
        made_with = {
            "inputs": identity, "device": torch_device.type, "versions": read_versions(), "seed": inputs["seed"],
        }  # fmt: skip
        yield _Session(
            settings, train, _make_part(validation), inputs["seed"], out, edge, torch_device, show_progress, made_with,
        )  # fmt: skip


@dataclass(eq=False)
class _Session:
    """A run in one directory."""

    settings: Training
    train: GroupedImages
    validation: Part
    seed: int
    out: Path
    edge: int
    device: torch.device
    show_progress: bool
    made_with: dict[str, Any]

    def predict(self, job: _Job) -> np.ndarray:
        """Return the probabilities of a job's classifier, float64 (judged images, classes)."""
        marker, arrays, state = (self.out / f"{job.name}{suffix}" for suffix in (".json", ".npz", ".pt"))
        if marker.exists():
            state.unlink(missing_ok=True)
            return read_arrays(arrays, ["probability"])["probability"]
        start_time = time.monotonic()
        backbone = open_backbone(self.settings, self.train.classes, self.edge, self.seed)
        data = self._make_training_data(job)
        fit = Fit(
            backbone=backbone, training_data=data, settings=self.settings, seed=self.seed, purpose=job.name,
            objective=WeightedMean(np.ones(len(data.train)), self.device), epochs=job.epochs, rules=(job.rule,),
            device=self.device, workers=default_workers(), file=state,
            made_with={**self.made_with, "purpose": job.name}, show_progress=self.show_progress,
        )  # fmt: skip
        epoch = run_fit(fit)
        judged_part = data.train if job.judged is job.trained else _make_part(self.train.select(job.judged))
        probability = softmax(run_network(backbone, judged_part, self.device, default_workers()))
        save_backbone(backbone, self.out / job.name)
        write_arrays(arrays, probability=probability)
        chosen_epoch = fit.curve[epoch - 1]
        record = {
            "model": job.name, "epoch": epoch,
            "validation": {"average": chosen_epoch.average, "worst": chosen_epoch.worst},
            "trained_on": {"images": len(data.train), "keys_sha256": digest(list(data.train.album.keys))},
            "judged": {"images": len(judged_part), "wrong": int((probability.argmax(axis=1) != judged_part.y).sum())},
            "seconds": round(time.monotonic() - start_time, 1),
            "curve": [dataclasses.asdict(result) for result in fit.curve],
        }  # fmt: skip
        replace_text(marker, json.dumps(record, indent=2) + "\n")
        state.unlink(missing_ok=True)
        return probability

    def _make_training_data(self, job: _Job) -> TrainingData:
        part = self.train.select(job.trained)
        # A fit uses only training and validation; the test split is not opened here.
        return TrainingData(
            name=part.name, classes=part.classes, attributes=None, group_names=part.group_names, train=_make_part(part),
            added=np.zeros(len(part), bool), validation=self.validation, test=self.validation,
            train_counts=part.counts(0).ravel(), content={}, notes=(),
        )  # fmt: skip


def _make_part(part: GroupedImages) -> Part:
    return Part(Album([part]), part.y, None)
