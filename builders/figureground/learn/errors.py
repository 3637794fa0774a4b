"""Training images that ERM misclassifies: by cross-fitting, early stopping, or a given classifier.

A converged network makes almost no errors on its own training images. So every image is judged by a network trained
on the other folds (cross-fitting, Chernozhukov et al. 2018, arXiv 1608.00060), or all images by a network stopped
early, as in JTT (Liu et al. 2021, arXiv 2107.09044). The attribute is never used.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from figureground.core import signals
from figureground.core.accelerator import choose_device
from figureground.core.errors import FiguregroundError, RecipeError, counted, listed
from figureground.core.files import replace_bytes, replace_text
from figureground.core.hashing import digest
from figureground.core.numerics import usable_cores
from figureground.core.progress import Progress
from figureground.core.terminal import remark
from figureground.data.groups import GroupedImages
from figureground.learn.backbones import open_backbone, save
from figureground.learn.directory import held
from figureground.learn.fit import Fit
from figureground.learn.objective import WeightedMean
from figureground.learn.preflight import INPUTS
from figureground.learn.reading import JUDGED, as_array, read
from figureground.learn.settings import LAST, WORST_CLASS, WORST_GROUP, Training
from figureground.learn.training import MOST_WORKERS, advise_memory, run_fit, take_up, versions
from figureground.learn.training_data import Album, Part, TrainingData
from figureground.recipe.sample import derive_seed
from figureground.training.unfinished import explained
from figureground.vision.classifiers import Classifier, Reading

CSV, ARRAYS = "errors.csv", "errors.npz"
"""A human-readable table, and the full arrays."""
MOST_FOLDS = 100
EARLY = "early-stopped"
"""Folder of the early-stopped classifier."""


@dataclass(frozen=True, eq=False)
class Errors:
    """Predictions of a classifier (or one per fold) for each training image, in split order."""

    keys: tuple[str, ...]
    """Names of the images."""
    y: np.ndarray
    """int64 (n,): the class."""
    predicted: np.ndarray
    """int64 (n,): the most likely class."""
    probability: np.ndarray
    """float64 (n, classes): probability of each class, 0 to 1, for the whole image without augmentation."""
    fold: np.ndarray
    """int64 (n,): the fold in which an image was held out; 0 if one classifier judged all."""
    models: tuple[Path, ...]
    """Folder of each fold's classifier, for `open_classifier`; empty if the classifier was given."""

    @property
    def wrong(self) -> np.ndarray:
        """bool (n,): whether the most likely class differs from y."""
        return self.predicted != self.y

    @property
    def loss(self) -> np.ndarray:
        """float64 (n,): cross-entropy of the true class, 0 or more."""
        own = np.arange(self.probability.shape[1]) == self.y[:, None]
        true = self.probability[own]
        others = np.where(own, 0.0, self.probability).sum(axis=1)
        # For near-certain images log p would round to 0; the other probabilities still distinguish them.
        sure = -np.log1p(-np.minimum(others, 0.5))
        return np.where(true > 0.5, sure, -np.log(np.maximum(true, np.finfo(np.float64).tiny)))


def lowest_loss(errors: Errors, y: int, k: int) -> np.ndarray:
    """Return the rows, int64, of a class's k images with the lowest loss, lowest first; ties are ordered by key.

    Only correctly predicted images count, so there may be fewer than k.
    """
    rows = np.flatnonzero((errors.y == y) & ~errors.wrong)
    loss = errors.loss
    return np.array(sorted(rows.tolist(), key=lambda row: (loss[row], errors.keys[row]))[:k], np.int64)


# On disk


def save_errors(errors: Errors, classes: Sequence[str], folder: Path) -> None:
    """Write `errors.csv` and `errors.npz`. Classifiers' folders, which are in the same folder, are stored by name.

    Args:
        classes: Names of the classes, for the table.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("key", "class", "predicted", "wrong", "probability", "loss", "fold"))
    for i, loss in enumerate(errors.loss.tolist()):
        y, predicted = int(errors.y[i]), int(errors.predicted[i])
        own = f"{errors.probability[i, y]:.6g}"
        rows.writerow((errors.keys[i], classes[y], classes[predicted], int(y != predicted), own, f"{loss:.6g}",
                       int(errors.fold[i])))  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / CSV, text.getvalue())
    _write_arrays(folder / ARRAYS, keys=np.array(errors.keys, str), y=errors.y, predicted=errors.predicted,
                  probability=errors.probability, fold=errors.fold,
                  models=np.array([model.name for model in errors.models], str))  # fmt: skip


def read_errors(folder: Path) -> Errors:
    """Read the output of `save_errors`.

    Raises:
        FiguregroundError: The files are missing or damaged.
    """
    if not (folder / ARRAYS).is_file():
        raise FiguregroundError(
            f"{folder} holds no {ARRAYS}: the errors weren't determined, or not completely. Remove {folder} to start "
            "over."
        )
    found = _read_arrays(folder / ARRAYS, ("keys", "y", "predicted", "probability", "fold", "models"))
    models = tuple(folder / name for name in found["models"].tolist())
    return Errors(tuple(found["keys"].tolist()), found["y"], found["predicted"], found["probability"], found["fold"],
                  models)  # fmt: skip


def _write_arrays(path: Path, **arrays: np.ndarray) -> None:
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays)
    replace_bytes(path, data.getvalue())


def _read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FiguregroundError(f"{path} is damaged ({error}). Remove {path.parent} to start over.") from None


# Training of classifiers


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
    if not isinstance(folds, int) or not 2 <= folds <= MOST_FOLDS:
        raise RecipeError("folds", f"{folds} is not a whole number from 2 to {MOST_FOLDS}.")
    y = groups.of_split(0).y
    counts = np.bincount(y, minlength=len(groups.classes))
    if few := [f"{groups.classes[label]} ({n:,})" for label, n in enumerate(counts.tolist()) if 0 < n < folds]:
        raise RecipeError(
            "folds", f"{groups.name} has fewer than {folds} training images of {listed(few)}. Ask for fewer folds."
        )
    fold = make_folds(y, folds, seed)
    rule = settings.rules(attributes=False)[0]
    jobs = [_Job(f"fold-{i}", fold != i, fold == i, settings.epochs, rule) for i in range(folds)]
    how = {"errors": "cross-fit", "folds": folds, "seed": seed}
    return _judge(groups, settings, jobs, fold, how, Path(out), device, show_progress)


def early_stopped(
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
    every = np.ones(len(groups.of_split(0)), bool)
    how = {"errors": EARLY, "first_epochs": epochs, "seed": seed}
    jobs = [_Job(EARLY, every, every, epochs, LAST)]
    fold = np.zeros(len(every), np.int64)
    return _judge(groups, settings, jobs, fold, how, Path(out), device, show_progress)


def _judge(
    groups: GroupedImages, settings: Training, jobs: Sequence[_Job], fold: np.ndarray, how: dict[str, Any], out: Path,
    device: str, show_progress: bool,
) -> Errors:  # fmt: skip
    """Run the unfinished jobs and combine their predictions."""
    if settings.method != "erm":
        raise RecipeError("method", f"errors are determined with erm, not with {settings.method}.")
    if WORST_GROUP in (settings.select or "").split(","):
        raise RecipeError(
            "select",
            f"errors don't depend on attributes, so there are no groups: choose {WORST_CLASS}, average or last.",
        )
    hidden = groups.without_attribute()
    train, validation = hidden.of_split(0), hidden.of_split(1)
    if len(there := np.unique(train.y)) < 2:
        raise FiguregroundError(
            f"{groups.name}: all its training images are of one class, {groups.classes[there[0]]!r}. Errors require at "
            "least two."
        )
    where, edge = choose_device(device), max(Album([train]).draw(0).size)
    backbone = open_backbone(settings, groups.classes, edge, how["seed"])
    if not hasattr(backbone.network, "save_pretrained"):
        raise RecipeError(
            "backbone", f"{backbone.name} is a timm network, whose trained state can't be reopened. Give pocket, or a "
            "transformers directory or Hub id."
        )  # fmt: skip
    for note in backbone.notes:
        remark(note)
    probability = np.empty((len(train), len(groups.classes)))
    done = 0

    def said() -> str:
        return f"{done} of {counted(len(jobs), 'classifier')} are finished and kept."

    with explained(out, said, "", advise_memory(settings, where)), held(out, INPUTS, "train"):
        content = hidden.select(hidden.split != 2).fingerprint
        identity = take_up(out, {**settings.to_json(), "backbone": backbone.facts, "content": content, **how})
        made_with = {"inputs": identity, "device": where.type, "versions": versions(), "seed": how["seed"]}
        session = _Session(
            settings, train, _part(validation), how["seed"], out, edge, where, show_progress, made_with,
        )  # fmt: skip
        for job in jobs:
            probability[job.judged] = session.probability(job)
            done += 1
        models = tuple(out / job.name for job in jobs)
        errors = Errors(train.keys, train.y, probability.argmax(axis=1), probability, fold, models)
        save_errors(errors, groups.classes, out)
    return errors


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

    def probability(self, job: _Job) -> np.ndarray:
        """Return the probabilities of a job's classifier, float64 (judged images, classes)."""
        marker, arrays, state = (self.out / f"{job.name}{suffix}" for suffix in (".json", ".npz", ".pt"))
        if marker.exists():
            state.unlink(missing_ok=True)
            return _read_arrays(arrays, ["probability"])["probability"]
        began = time.monotonic()
        backbone = open_backbone(self.settings, self.train.classes, self.edge, self.seed)
        material = self._material(job)
        fit = Fit(
            backbone, material, self.settings, self.seed, job.name,
            WeightedMean(np.ones(len(material.train)), self.device), job.epochs, (job.rule,), self.device,
            _workers(), state, {**self.made_with, "purpose": job.name}, None, self.show_progress,
        )  # fmt: skip
        epoch = run_fit(fit)
        judged = material.train if job.judged is job.trained else _part(self.train.select(job.judged))
        probability = _softmax(read(backbone, judged, self.device, _workers()))
        save(backbone, self.out / job.name)
        _write_arrays(arrays, probability=probability)
        chosen = fit.curve[epoch - 1]
        told = {
            "model": job.name, "epoch": epoch, "validation": {"average": chosen.average, "worst": chosen.worst},
            "trained_on": {"images": len(material.train), "keys_sha256": digest(list(material.train.album.keys))},
            "judged": {"images": len(judged), "wrong": int((probability.argmax(axis=1) != judged.y).sum())},
            "seconds": round(time.monotonic() - began, 1), "curve": [dataclasses.asdict(each) for each in fit.curve],
        }  # fmt: skip
        replace_text(marker, json.dumps(told, indent=2) + "\n")
        state.unlink(missing_ok=True)
        return probability

    def _material(self, job: _Job) -> TrainingData:
        part = self.train.select(job.trained)
        # A fit uses only training and validation; the test split is not opened here.
        return TrainingData(
            part.name, part.classes, None, part.group_names, _part(part), np.zeros(len(part), bool), self.validation,
            self.validation, part.counts(0).ravel(), {}, (),
        )  # fmt: skip


def _part(part: GroupedImages) -> Part:
    return Part(Album([part]), part.y, None)


def _workers() -> int:
    """Return the number of decoding threads; it doesn't affect results."""
    return min(MOST_WORKERS, usable_cores())


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Compute the softmax in float64, so that probabilities near 1 stay distinct."""
    return torch.from_numpy(logits).double().softmax(1).numpy()


# Errors of a given classifier


def of_classifier(
    groups: GroupedImages,
    classifier: Classifier,
    classes: Sequence[str],
    *,
    show_progress: bool = True,
) -> Errors:
    """Predict all training images with a given classifier.

    Args:
        classifier: On the device to use.
        classes: The classifier's names for the classes of `groups`, in their order, such as `groups.classes`.

    Raises:
        FiguregroundError: The classifier's classes differ; an image can't be decoded, or logits aren't finite.
        Stopped: A signal requested a stop.
    """
    if len(classes) != len(groups.classes):
        raise FiguregroundError(
            f"{groups.name} has {len(groups.classes):,} classes ({listed(groups.classes, 5)}), but {len(classes):,} "
            f"names are given ({listed(classes, 5)})."
        )
    order = match_classes(classifier, classes)
    train = groups.of_split(0)
    logits, _ = read_images(classifier, train, show_progress=show_progress)
    probability = _softmax(logits.numpy())[:, order]
    fold = np.zeros(len(train), np.int64)
    return Errors(train.keys, train.y, probability.argmax(axis=1), probability, fold, ())


def match_classes(classifier: Classifier, classes: Sequence[str]) -> list[int]:
    """Return the position of each class in the logits, matching identical names first.

    Raises:
        FiguregroundError: The classifier's classes differ.
    """
    order = classifier.positions(classes)
    if order is None:
        raise FiguregroundError(
            f"The classifier {classifier.name} has {len(classifier.labels):,} classes "
            f"({listed(classifier.labels, 5)}), but the data have {len(classes):,} ({listed(classes, 5)}): determining "
            "errors requires the same class names. Rename its labels (id2label in its config.json), or train a "
            "classifier on the data."
        )
    return order


@torch.inference_mode()
def read_images(classifier: Classifier, images: GroupedImages, *, show_progress: bool = True) -> Reading:
    """Return a classifier's logits and features for images, in order, float32 on the CPU.

    Raises:
        FiguregroundError: An image can't be decoded, or an output isn't finite.
        Stopped: A signal requested a stop.
    """
    n, album = len(images), Album([images])
    device = next(classifier.parameters()).device
    chosen = [np.arange(i, min(i + JUDGED, n)) for i in range(0, n, JUDGED)]
    logits = [torch.empty(0, len(classifier.labels))]
    features = [torch.empty(0, classifier.weight.shape[1])]
    batches = album.batches(chosen, as_array, _workers())
    bar = Progress(n, unit="image", desc=f"{classifier.name} on {images.name}", show=show_progress)
    with signals.at_checks(), bar:
        for rows, batch in zip(chosen, batches, strict=True):
            signals.check()
            alike = len({pixels.shape for pixels in batch}) == 1
            for some in [batch] if alike else [[pixels] for pixels in batch]:
                reading = classifier(torch.from_numpy(np.stack(some)).to(device).float() / 255)
                logits.append(reading.logits.float().cpu())
                features.append(reading.features.float().cpu())
            bar.update(len(rows))
    found = Reading(torch.cat(logits), torch.cat(features))
    odd = ~(found.logits.isfinite().all(1) & found.features.isfinite().all(1))
    if odd.any():
        raise FiguregroundError(
            f"The classifier {classifier.name} returned non-finite numbers for "
            f"{images.keys[int(odd.nonzero()[0])]}. Its weights are damaged."
        )
    return found
