"""Which training images ERM gets wrong: cross-fitted, early-stopped, or by a classifier that is given.

A network that has converged gets next to nothing wrong of what it was trained on. So every image is judged by a
network that was trained on the other folds (cross-fitting, Chernozhukov et al. 2018, arXiv 1608.00060), or all are
judged by one that was stopped early, as JTT does (Liu et al. 2021, arXiv 2107.09044). The attribute is never used.
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
from figureground.learn import erm
from figureground.learn.backbones import open_backbone, save
from figureground.learn.directory import held
from figureground.learn.door import INPUTS
from figureground.learn.material import Album, Material, Part
from figureground.learn.settings import LAST, WORST_CLASS, WORST_GROUP, Training
from figureground.learn.training import MOST_WORKERS, explained, take_up, versions, watched
from figureground.recipe.sample import derive_seed
from figureground.vision.classifiers import Classifier, Reading

CSV, ARRAYS = "errors.csv", "errors.npz"
"""A table for people, and the same in full."""
MOST_FOLDS = 100
EARLY = "early-stopped"
"""Folder of the classifier that was stopped early."""


@dataclass(frozen=True, eq=False)
class Errors:
    """What a classifier, or one a fold, says of each image of the training split, in its order."""

    keys: tuple[str, ...]
    """Names of the images."""
    y: np.ndarray
    """int64 (n,): the class."""
    predicted: np.ndarray
    """int64 (n,): the likeliest class."""
    probability: np.ndarray
    """float64 (n, classes): of each class, 0 to 1, the image shown whole, without augmentation."""
    fold: np.ndarray
    """int64 (n,): the fold that an image was held out in; 0 where one classifier judged all."""
    models: tuple[Path, ...]
    """Folder of each fold's classifier, as `open_classifier` opens it; none where the classifier was given."""

    @property
    def wrong(self) -> np.ndarray:
        """bool (n,): whether the likeliest class is another one than y."""
        return self.predicted != self.y

    @property
    def loss(self) -> np.ndarray:
        """float64 (n,): cross-entropy of the true class, 0 or more."""
        own = np.arange(self.probability.shape[1]) == self.y[:, None]
        true = self.probability[own]
        others = np.where(own, 0.0, self.probability).sum(axis=1)
        # Of what is nearly certain the logarithm would be 0; the rest still tells such images apart.
        sure = -np.log1p(-np.minimum(others, 0.5))
        return np.where(true > 0.5, sure, -np.log(np.maximum(true, np.finfo(np.float64).tiny)))


def lowest_loss(errors: Errors, y: int, k: int) -> np.ndarray:
    """Rows, int64, of the images of a class that have the lowest loss, lowest first; of equal ones by key.

    Only images that are predicted right are taken: where fewer than k are, it is fewer.
    """
    rows = np.flatnonzero((errors.y == y) & ~errors.wrong)
    loss = errors.loss
    return np.array(sorted(rows.tolist(), key=lambda row: (loss[row], errors.keys[row]))[:k], np.int64)


# On disk


def save_errors(errors: Errors, classes: Sequence[str], folder: Path) -> None:
    """Writes `errors.csv` and `errors.npz`; of the classifiers' folders, which lie in the same, only their names.

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
    """What `save_errors` wrote.

    Raises:
        FiguregroundError: There is nothing, or it is damaged.
    """
    if not (folder / ARRAYS).is_file():
        raise FiguregroundError(
            f"{folder} holds no {ARRAYS}: the errors weren't determined, or not to the end. Remove {folder} to begin "
            "anew."
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
        raise FiguregroundError(f"{path} is damaged ({error}). Remove {path.parent} to begin anew.") from None


# Classifiers that are trained for it


class _Job(NamedTuple):
    """A classifier to be trained, and what it judges."""

    name: str
    """Of its folder; it also decides what is random."""
    trained: np.ndarray
    """bool (n,): the training images that it sees."""
    judged: np.ndarray
    """bool (n,): those whose class it is asked for."""
    epochs: int
    rule: str
    """Rule that chooses the epoch, one of `settings.RULES`."""


def make_folds(y: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Draws folds, int64 (n,), each from 0 on. In number of images, and of those of each class, no two differ by
    more than 1.

    Args:
        y: int (n,): the class of each image.
        folds: How many, 2 or more.
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
    """Judges each training image by a classifier that was trained on the other folds, or goes on with it.

    The epoch that does best on the worst class of validation is taken, unless the settings select another. A finished
    fold is not trained again; a run that was stopped goes on after the last epoch that it finished, and on a CPU ends
    with the same bits.

    Args:
        groups: The training split is divided into folds by class; the test split is not looked at.
        settings: Of erm.
        folds: How many, 2 or more.
        seed: Decides the folds and all else that is random.
        out: A directory that is new, empty, or holds the same. It comes to hold `fold-I`, a classifier each, and what
            `save_errors` writes.
        device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        FiguregroundError: Data, backbone or directory can't be used, or a loss is no finite number.
        RecipeError: A setting that can't be used, or a class with fewer training images than folds.
        Stopped: A signal asked for it.
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
    """Judges all training images by one classifier that was trained on them for a few epochs, as JTT does.

    Args:
        groups: The test split is not looked at.
        settings: Of erm; the learning rate falls as if it went on to their epochs.
        epochs: After how many it stops.
        seed, out, device, show_progress: As `cross_fit` takes them; the classifier's folder is
            `early-stopped`.

    Raises:
        FiguregroundError, RecipeError, Stopped: As `cross_fit` does.
    """
    if not isinstance(epochs, int) or not 1 <= epochs <= settings.epochs:
        raise RecipeError("epochs", f"{epochs} is not a whole number from 1 to {settings.epochs}, those in all.")
    every = np.ones(len(groups.of_split(0)), bool)
    how = {"errors": EARLY, "first_epochs": epochs, "seed": seed}
    jobs = [_Job(EARLY, every, every, epochs, LAST)]
    fold = np.zeros(len(every), np.int64)
    return _judge(groups, settings, jobs, fold, how, Path(out), device, show_progress)


def _judge(
    groups: GroupedImages, settings: Training, jobs: Sequence[_Job], fold: np.ndarray, how: dict[str, Any], out: Path,
    device: str, show_progress: bool,
) -> Errors:  # fmt: skip
    """Does the jobs that aren't done yet, and puts together what they say."""
    if settings.method != "erm":
        raise RecipeError("method", f"errors are those of erm, not of {settings.method}.")
    if WORST_GROUP in (settings.select or "").split(","):
        raise RecipeError(
            "select",
            f"attributes take no part in what is wrong, so there are no groups: choose {WORST_CLASS}, average or last.",
        )
    hidden = groups.without_attribute()
    train, validation = hidden.of_split(0), hidden.of_split(1)
    if len(there := np.unique(train.y)) < 2:
        raise FiguregroundError(
            f"{groups.name}: all its training images are of one class, {groups.classes[there[0]]!r}. It takes two to "
            "get one wrong."
        )
    where, edge = choose_device(device), max(Album([train]).draw(0).size)
    backbone = open_backbone(settings, groups.classes, edge, how["seed"])
    if not hasattr(backbone.network, "save_pretrained"):
        raise RecipeError(
            "backbone", f"{backbone.name} is one of timm, whose trained states aren't opened again. Give pocket, or a "
            "transformers directory or Hub id."
        )  # fmt: skip
    for note in backbone.notes:
        remark(note)
    probability = np.empty((len(train), len(groups.classes)))
    with explained(settings, where), held(out, INPUTS, "train"):
        content = hidden.select(hidden.split != 2).fingerprint
        identity = take_up(out, {**settings.to_json(), "backbone": backbone.facts, "content": content, **how})
        made_with = {"inputs": identity, "device": where.type, "versions": versions(), "seed": how["seed"]}
        session = _Session(
            settings, train, _part(validation), how["seed"], out, edge, where, show_progress, made_with,
        )  # fmt: skip
        for done, job in enumerate(jobs):
            try:
                probability[job.judged] = session.probability(job)
            except KeyboardInterrupt as stop:
                stop.add_note(f"{done} of {counted(len(jobs), 'classifier')} whose errors are taken are kept.")
                raise
        models = tuple(out / job.name for job in jobs)
        errors = Errors(train.keys, train.y, probability.argmax(axis=1), probability, fold, models)
        save_errors(errors, groups.classes, out)
    return errors


@dataclass(eq=False)
class _Session:
    """The work in one directory."""

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
        """What a job's classifier says, float64 (images that it judges, classes)."""
        marker, arrays, state = (self.out / f"{job.name}{suffix}" for suffix in (".json", ".npz", ".pt"))
        if marker.exists():
            state.unlink(missing_ok=True)
            return _read_arrays(arrays, ["probability"])["probability"]
        began = time.monotonic()
        backbone = open_backbone(self.settings, self.train.classes, self.edge, self.seed)
        material = self._material(job)
        fit = erm.Fit(
            backbone, material, self.settings, self.seed, job.name,
            erm.WeightedMean(np.ones(len(material.train)), self.device), job.epochs, (job.rule,), self.device,
            _workers(), state, {**self.made_with, "purpose": job.name}, None, self.show_progress,
        )  # fmt: skip
        epoch = watched(fit)
        judged = material.train if job.judged is job.trained else _part(self.train.select(job.judged))
        probability = _softmax(erm.read(backbone, judged, self.device, _workers()))
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

    def _material(self, job: _Job) -> Material:
        part = self.train.select(job.trained)
        # A fit looks at training and validation alone; the test split stays closed here.
        return Material(
            part.name, part.classes, None, part.group_names, _part(part), np.zeros(len(part), bool), self.validation,
            self.validation, part.counts(0).ravel(), {}, (),
        )  # fmt: skip


def _part(part: GroupedImages) -> Part:
    return Part(Album([part]), part.y, None)


def _workers() -> int:
    """Threads that decode images; they change no result."""
    return min(MOST_WORKERS, usable_cores())


def _softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, so that probabilities close to 1 stay apart."""
    return torch.from_numpy(logits).double().softmax(1).numpy()


# A classifier that is given


def of_classifier(
    groups: GroupedImages,
    classifier: Classifier,
    classes: Sequence[str],
    *,
    show_progress: bool = True,
) -> Errors:
    """Judges all training images by a classifier.

    Args:
        classifier: On the device where it shall work.
        classes: What the classifier calls the classes of `groups`, in their order: such as `groups.classes`.

    Raises:
        FiguregroundError: The classifier has another number of classes, or others; an image can't be decoded, or
            logits aren't finite.
        Stopped: A signal asked for it.
    """
    if len(classes) != len(groups.classes):
        raise FiguregroundError(
            f"{groups.name} has {len(groups.classes):,} classes ({listed(groups.classes, 5)}), and {len(classes):,} "
            f"names are given for them ({listed(classes, 5)})."
        )
    order = match_classes(classifier, classes)
    train = groups.of_split(0)
    logits, _ = read_images(classifier, train, show_progress=show_progress)
    probability = _softmax(logits.numpy())[:, order]
    fold = np.zeros(len(train), np.int64)
    return Errors(train.keys, train.y, probability.argmax(axis=1), probability, fold, ())


def match_classes(classifier: Classifier, classes: Sequence[str]) -> list[int]:
    """The position of each class in the logits. Where all have the very same names, nothing else is asked.

    Raises:
        FiguregroundError: The classifier has another number of classes, or others.
    """
    order = classifier.positions(classes)
    if order is None:
        raise FiguregroundError(
            f"The classifier {classifier.name} tells {len(classifier.labels):,} classes apart "
            f"({listed(classifier.labels, 5)}), and the data have {len(classes):,} ({listed(classes, 5)}): its errors "
            "can be taken only where both have the same, by name. Name its labels so (id2label in its config.json), or "
            "train one on the data."
        )
    return order


@torch.inference_mode()
def read_images(classifier: Classifier, images: GroupedImages, *, show_progress: bool = True) -> Reading:
    """What a classifier says of images, in their order, on the CPU: logits and features, float32.

    Raises:
        FiguregroundError: An image can't be decoded, or an answer is no finite number.
        Stopped: A signal asked for it.
    """
    n, album = len(images), Album([images])
    device = next(classifier.parameters()).device
    chosen = [np.arange(i, min(i + erm.JUDGED, n)) for i in range(0, n, erm.JUDGED)]
    logits = [torch.empty(0, len(classifier.labels))]
    features = [torch.empty(0, classifier.weight.shape[1])]
    batches = album.batches(chosen, erm.as_array, _workers())
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
            f"The classifier {classifier.name} gave numbers that aren't finite for "
            f"{images.keys[int(odd.nonzero()[0])]}. Its weights are damaged."
        )
    return found
