"""A run that trains classifiers with ERM, each of which judges training images, in one directory."""

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

from figureground.core.accelerator import choose_device
from figureground.core.errors import FiguregroundError, RecipeError, plural
from figureground.core.files import replace_text
from figureground.core.hashing import digest
from figureground.core.terminal import print_note
from figureground.data.groups import GroupedImages
from figureground.data.images import find_typical_edge
from figureground.learn.backbones import open_backbone, save_backbone
from figureground.learn.errors import Errors, read_arrays, save_errors, write_arrays
from figureground.learn.fit import Fit
from figureground.learn.inference import run_network, softmax
from figureground.learn.objective import WeightedMean
from figureground.learn.preflight import INPUTS, WORK
from figureground.learn.settings import WORST_CLASS, WORST_GROUP, Training
from figureground.learn.training import advise_memory, read_versions, run_fit
from figureground.learn.training_data import Album, Part, TrainingData, default_workers
from figureground.recipe.document import FORMAT
from figureground.training.saved_run import explain_errors
from figureground.training.work_directory import hold, record_inputs


class ClassifierJob(NamedTuple):
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


@dataclass(eq=False, kw_only=True)
class ErrorRun:
    """A run in one directory; resumed if begun before.

    Raises:
        FiguregroundError: The data can't be used.
        RecipeError: A setting is invalid.
    """

    groups: GroupedImages
    """Training images, and validation images that choose the epoch; neither attribute nor test split is used."""
    settings: Training
    """Settings of erm."""
    jobs: Sequence[ClassifierJob]
    fold: np.ndarray
    """int64 (n,): the job that judges each training image."""
    inputs: dict[str, Any]
    """Identifies the jobs; its `seed` determines all randomness."""
    out: Path
    device: str
    """auto, cpu, cuda, cuda:1 or mps."""
    show_progress: bool

    def __post_init__(self) -> None:
        if self.settings.method != "erm":
            raise RecipeError("method", f"errors are determined with erm, not with {self.settings.method}.")
        if WORST_GROUP in (self.settings.select or "").split(","):
            raise RecipeError(
                "select",
                f"errors don't depend on attributes, so there are no groups: choose {WORST_CLASS}, average or last.",
            )
        self._data = self.groups.without_attribute()
        self._train, self._validation = self._data.of_split(0), _make_part(self._data.of_split(1))
        if len(labels := np.unique(self._train.y)) < 2:
            raise FiguregroundError(
                f"{self._data.name}: all its training images are of one class, {self._data.classes[labels[0]]!r}. "
                "Errors require at least two."
            )
        self._seed: int = self.inputs["seed"]
        self._torch_device = choose_device(self.device)
        self._edge = find_typical_edge(self._train)

    def predict(self) -> Errors:
        """Run the unfinished jobs, combine their predictions, and save them with `save_errors`.

        Raises:
            FiguregroundError: Backbone or directory can't be used, or a loss isn't finite.
            Stopped: A signal requested a stop.
        """
        train = self._train
        probability = np.empty((len(train), len(train.classes)))
        num_finished = 0

        def describe_progress() -> str:
            return f"{num_finished} of {plural(len(self.jobs), 'classifier')} are finished and kept."

        with self._open(describe_progress) as made_with:
            for job in self.jobs:
                probability[job.judged] = self._predict_job(job, made_with)
                num_finished += 1
            models = tuple(self.out / job.name for job in self.jobs)
            errors = Errors(train.keys, train.y, probability.argmax(axis=1), probability, self.fold, models)
            save_errors(errors, train.classes, self.out)
        return errors

    def predict_one(self, number: int) -> None:
        """Run a single job, numbered from 0; raise as `predict` does."""
        with self._open(lambda: "") as made_with:
            self._predict_job(self.jobs[number], made_with)

    @contextmanager
    def _open(self, describe_saved: Callable[[], str]) -> Iterator[dict[str, Any]]:
        """Hold the directory, after checking that it is new or belongs to the same run.

        Args:
            describe_saved: Describes what is saved, for the message of a stop.

        Yields:
            What a saved state must match, besides its job.
        """
        backbone = open_backbone(self.settings, self._data.classes, self._edge, self._seed)
        if not hasattr(backbone.network, "save_pretrained"):
            raise RecipeError(
                "backbone", f"{backbone.name} is a timm network, whose trained state can't be reopened. Give pocket, "
                "or a transformers directory or Hub id."
            )  # fmt: skip
        for note in backbone.notes:
            print_note(note)
        with (
            explain_errors(self.out, describe_saved, "", advise_memory(self.settings, self._torch_device)),
            hold(self.out, WORK),
        ):
            content = self._data.select(self._data.split != 2).fingerprint
            identity = {
                "format": FORMAT, **self.settings.to_json(), "backbone": backbone.facts, "content": content,
                **self.inputs,
            }  # fmt: skip
            yield {
                "inputs": record_inputs(self.out, INPUTS, identity, "training"), "device": self._torch_device.type,
                "versions": read_versions(), "seed": self._seed,
            }  # fmt: skip

    def _predict_job(self, job: ClassifierJob, made_with: dict[str, Any]) -> np.ndarray:
        """Return the probabilities of a job's classifier, float64 (judged images, classes)."""
        marker, arrays, state = (self.out / f"{job.name}{suffix}" for suffix in (".json", ".npz", ".pt"))
        if marker.exists():
            state.unlink(missing_ok=True)
            return read_arrays(arrays, ["probability"])["probability"]
        start_time = time.monotonic()
        backbone = open_backbone(self.settings, self._train.classes, self._edge, self._seed)
        data = self._make_training_data(job)
        fit = Fit(
            backbone=backbone, training_data=data, settings=self.settings, seed=self._seed, purpose=job.name,
            objective=WeightedMean(np.ones(len(data.train)), self._torch_device), epochs=job.epochs, rules=(job.rule,),
            device=self._torch_device, workers=default_workers(), file=state,
            made_with={**made_with, "purpose": job.name}, show_progress=self.show_progress,
        )  # fmt: skip
        epoch = run_fit(fit)
        judged_part = data.train if job.judged is job.trained else _make_part(self._train.select(job.judged))
        probability = softmax(run_network(backbone, judged_part, self._torch_device, default_workers()))
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

    def _make_training_data(self, job: ClassifierJob) -> TrainingData:
        part = self._train.select(job.trained)
        # A fit uses only training and validation; the test split is not opened here.
        return TrainingData(
            name=part.name, classes=part.classes, attributes=None, group_names=part.group_names, train=_make_part(part),
            added=np.zeros(len(part), bool), validation=self._validation, test=self._validation,
            train_counts=part.counts(0).ravel(), content={}, notes=(),
        )  # fmt: skip


def _make_part(part: GroupedImages) -> Part:
    return Part(Album([part]), part.y, None)
