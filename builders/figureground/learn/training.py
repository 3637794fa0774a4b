"""`figureground train`: train a method on a dataset for several seeds, and report the results in a directory."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from figureground.core.accelerator import choose_device
from figureground.core.errors import plural
from figureground.core.files import read_json, replace_text
from figureground.core.numerics import library_versions
from figureground.core.terminal import print_note
from figureground.data.data_source import DataSource
from figureground.learn import training_results
from figureground.learn.backbones import Backbone, check_saving, open_backbone, save_backbone
from figureground.learn.epochs import Epoch, Stage
from figureground.learn.fit import Fit
from figureground.learn.inference import predict
from figureground.learn.objective import Objective, WeightedMean
from figureground.learn.preflight import INPUTS, WORK, TrainRequest, read_request, refuse_unused
from figureground.learn.settings import LAST, RULES, Training
from figureground.learn.training_data import TrainingData, default_workers
from figureground.learn.way import WAYS, Way
from figureground.learn.weights import normalise, weigh_added
from figureground.recipe.document import FORMAT
from figureground.tracking.reporting import tracked
from figureground.tracking.tracker import check_tracker
from figureground.training.saved_run import explain_errors
from figureground.training.work_directory import hold, record_inputs


def train(
    settings: Training,
    data: Path | str,
    out: Path | str,
    *,
    add: Sequence[Path | str] = (),
    seeds: int | Sequence[int] = 3,
    layout: str | None = None,
    root: Path | str | None = None,
    y: str | None = None,
    a: str | None = None,
    file: str | None = None,
    split_column: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    show_progress: bool = True,
    track: str | None = None,
) -> dict[str, Any]:
    """Train classifiers, or resume training, and evaluate them on the test split.

    A finished seed is not trained again, so more seeds can be added later. A stopped run resumes after its last
    finished epoch; on a CPU the final weights are bit-identical.

    Args:
        settings: Method, backbone and hyperparameters.
        data: The dataset's directory, CSV or JSON Lines file, in a layout that `figureground groups` reads; its options
            are `layout`, `root`, `y`, `a`, `file` and `split_column`.
        out: A directory that is new, empty, or holds the same training.
        add: Datasets whose training images are added, matched to the classes by name.
        seeds: Number of seeds, counted from 0; or the seeds themselves.
        device: auto, cpu, cuda, cuda:1 or mps.
        workers: Number of decoding threads; it doesn't affect results.
        track: The tracker to report to: trackio, tensorboard, wandb, or one of another package; None reports nothing.

    Returns:
        The report, as in `report.json`.

    Raises:
        FiguregroundError: Data, backbone or directory can't be used, or a loss isn't finite.
        RecipeError: A setting is invalid.
        Stopped: A signal requested a stop.
    """
    check_tracker(track)
    refuse_unused(settings, add)
    source = DataSource.of(data, layout, root=root, y=y, a=a, file=file, split_column=split_column)
    request = read_request(settings, source, out, add=add, seeds=seeds, device=device, workers=workers)
    return train_request(request, show_progress, track)


def train_request(request: TrainRequest, show_progress: bool = True, track: str | None = None) -> dict[str, Any]:
    """Train like `train`, with inputs read and checked by `preflight.read_request`."""
    settings, out, seeds = request.settings, request.out, request.seeds
    device = choose_device(request.device)
    workers = request.workers or default_workers()
    session = Session(
        settings=settings, training_data=request.training_data, out=out, edge=request.edge, device=device,
        workers=workers, show_progress=show_progress,
    )  # fmt: skip
    progress = _SavedProgress()
    with (
        explain_errors(out, progress.describe, "", advise_memory(settings, device)),
        hold(out, WORK),
        tracked(track, out, {"data": request.training_data.name, **settings.to_json()}),
    ):
        return session.run(seeds, progress)


def advise_memory(settings: Training, device: torch.device) -> str:
    """Return the message for full memory."""
    return (
        f"{plural(settings.batch_size, 'image')} a step don't fit into the memory of {device}. Lower --batch-size in "
        "a new --out, or choose a smaller backbone."
    )


def run_fit(fit: Fit) -> int:
    """Run a fit, and restore torch's random state afterwards; return the number of the chosen epoch."""
    with torch.random.fork_rng():
        return fit.run()


@dataclass
class _SavedProgress:
    """Progress, for the message after a stop."""

    seeds: int = 0
    """Number of finished seeds."""
    seed: int = 0
    """The seed in progress."""
    curve: Sequence[Epoch] = ()
    in_first_model: bool = False
    """Whether the first of a seed's two models is in progress, as in JTT."""

    def describe(self) -> str:
        prefix = "the first model of " if self.in_first_model else ""
        epochs = plural(len(self.curve), "epoch")
        return (
            f"{plural(self.seeds, 'seed')} and {epochs} of {prefix}seed {self.seed} are done and kept. The same "
            "command resumes from there."
        )


@dataclass(eq=False, kw_only=True)
class Session:
    """A training run in one directory."""

    settings: Training
    training_data: TrainingData
    out: Path
    edge: int
    device: torch.device
    workers: int
    show_progress: bool

    @cached_property
    def way(self) -> Way:
        """The way of training."""
        return WAYS[self.settings.method]()

    def run(self, seeds: Sequence[int], progress: _SavedProgress) -> dict[str, Any]:
        backbone = open_backbone(self.settings, self.training_data.classes, self.edge, 0)
        check_saving(backbone)
        identity = {
            "format": FORMAT, **self.settings.to_json(), "backbone": backbone.facts,
            "content": self.training_data.content,
        }  # fmt: skip
        identity = record_inputs(self.out, INPUTS, identity, "training")
        self.made_with = {"inputs": identity, "device": self.device.type, "versions": read_versions()}
        self.rules = self.settings.rules(self.training_data.attributes is not None)
        self.notes = [*self.training_data.notes, *backbone.notes]
        if self.settings.add_steps and self.training_data.added.any():
            self.notes.append(
                "Added images also add optimiser steps (add_steps). Compare with a training on real images alone that "
                "has the same number of steps."
            )
        if note := self.way.note(self.settings):
            self.notes.append(note)
        if not hasattr(backbone.network, "save_pretrained"):
            self.notes.append("The classifiers are saved as timm states, which figureground evaluate can't open.")
        for note in self.notes:
            print_note(note)
        results = []
        for num_finished, seed in enumerate(seeds):
            progress.seeds, progress.seed, progress.curve, progress.in_first_model = num_finished, seed, (), False
            results.append(self._train_seed(seed, progress))
        report = training_results.summarise(self._describe_run(backbone), results)
        training_results.write(self.out, report, results)
        return report

    def _describe_run(self, backbone: Backbone) -> dict[str, Any]:
        training_data = self.training_data
        return {
            "method": self.settings.method, "data": training_data.name, "backbone": backbone.name,
            "selection": RULES[self.rules[0]], "uses": self.settings.uses(training_data.attributes is not None),
            "settings": self.settings.to_json(), "classes": list(training_data.classes),
            "attributes": None if training_data.attributes is None else list(training_data.attributes),
            "groups": list(training_data.group_names), "content": training_data.content,
            "images": {
                "train": int((~training_data.added).sum()), "added": int(training_data.added.sum()),
                "validation": len(training_data.validation), "test": len(training_data.test),
            },
            "notes": self.notes,
        }  # fmt: skip

    # One seed

    def _train_seed(self, seed: int, progress: _SavedProgress) -> dict[str, Any]:
        marker, state = self.out / f"seed-{seed}.json", self.out / f"seed-{seed}.pt"
        if marker.exists():
            state.unlink(missing_ok=True)
            return read_json(marker)
        start_time = time.monotonic()
        backbone = open_backbone(self.settings, self.training_data.classes, self.edge, seed)
        weights = weigh_added(self.training_data.added, self.settings.add_weight)
        self._progress = progress
        preparation = self.way.prepare(self, seed, weights)
        objective, chances = self.way.objective(self, preparation.weights)
        steps, facts = preparation.steps, preparation.facts
        fit = self._make_fit(
            backbone, objective, purpose="main", seed=seed, state=state, epochs=self.way.epochs(self.settings),
            rules=self.rules, chances=chances, stages=self.way.stages(self),
        )  # fmt: skip
        progress.curve, progress.in_first_model = fit.curve, False
        epoch = run_fit(fit)
        budget = self.way.count_steps(self.settings, fit, steps)
        facts |= self.way.finish(self, backbone, seed, objective, steps)
        predicted = predict(backbone, self.training_data.test, self.device, self.workers)
        folder = self.out / f"{self.settings.method}-seed-{seed}"
        save_backbone(backbone, folder)
        test, names = self.training_data.test, self.training_data.group_names
        groups = test.y if test.group is None else test.group
        chosen = self._summarise_epoch(fit, epoch, predicted)
        if self.way.CHANGES_TRAINED:  # the epoch's accuracies are those before the change
            refitted = predict(backbone, self.training_data.validation, self.device, self.workers)
            facts["validation_before"] = chosen["validation"]
            chosen["validation"] = fit.score_validation(refitted)
        extra: dict[str, Any] = {self.way.NAME: facts} if facts else {}
        accuracies = {f"test/{name}": chosen["test"][name] for name in ("average", "worst")}
        fit.report.log({**accuracies, "test/epoch": epoch}, fit.curve[-1].steps)
        if len(self.rules) > 1:
            extra["selected"] = self._summarise_rules(fit, chosen)
        result = {
            "seed": seed, "epoch": epoch, "steps": steps, "budget": budget, "model": folder.name,
            "validation": chosen["validation"], **extra, "test": chosen["test"],
            "seconds": round(time.monotonic() - start_time, 1),
            "curve": [dataclasses.asdict(result) for result in fit.curve],
            "confusion": training_results.count_confusions(
                predicted, groups, len(names), len(self.training_data.classes)
            ),
        }  # fmt: skip
        replace_text(marker, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        for path in (state, *self.out.glob(f"seed-{seed}-*")):
            path.unlink(missing_ok=True)
        return result

    def _summarise_epoch(self, fit: Fit, epoch: int, predicted: np.ndarray) -> dict[str, Any]:
        """Return validation and test accuracies of an epoch."""
        test, training_data, result = self.training_data.test, self.training_data, fit.curve[epoch - 1]
        return {
            "epoch": epoch,
            "validation": {"average": result.average, "worst": result.worst, "worst_class": result.worst_class},
            "test": training_results.score(
                predicted, test.y, test.group, training_data.group_names, training_data.train_counts, test.objects
            ),
        }  # fmt: skip

    def _summarise_rules(self, fit: Fit, chosen: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the accuracies of the epoch that each rule chooses, the first included. Changes the network."""
        by_epoch = {chosen["epoch"]: chosen}
        by_rule: dict[str, dict[str, Any]] = {}
        for rule in self.rules:
            epoch = fit.load_best(rule)
            if epoch not in by_epoch:
                predicted = predict(fit.backbone, self.training_data.test, self.device, self.workers)
                by_epoch[epoch] = self._summarise_epoch(fit, epoch, predicted)
            by_rule[rule] = by_epoch[epoch]
        return by_rule

    def count_groups(self) -> np.ndarray:
        """Real training images by class and attribute, int64 (classes, attributes)."""
        return self.training_data.train_counts.reshape(len(self.training_data.classes), -1)

    def _make_fit(
        self, backbone: Backbone, objective: Objective, *, purpose: str, seed: int, state: Path, epochs: int,
        rules: Sequence[str], chances: np.ndarray | None = None, stages: Sequence[Stage] = (),
    ) -> Fit:  # fmt: skip
        return Fit(
            backbone=backbone, training_data=self.training_data, settings=self.settings, seed=seed, purpose=purpose,
            objective=objective, epochs=epochs, rules=rules, device=self.device, workers=self.workers, file=state,
            made_with={**self.made_with, "seed": seed, "purpose": purpose}, chances=chances,
            show_progress=self.show_progress, stages=stages,
        )  # fmt: skip

    def find_first_errors(self, seed: int) -> tuple[np.ndarray, int]:
        """Return the first model's training errors, bool (n,), and its optimiser steps; it is trained once."""
        path = self.out / f"seed-{seed}-errors.json"
        if path.exists():
            saved = read_json(path)
            return np.array(saved["errors"], bool), int(saved["steps"])
        backbone = open_backbone(self.settings, self.training_data.classes, self.edge, seed)
        weights = normalise(weigh_added(self.training_data.added, self.settings.add_weight))
        objective = WeightedMean(weights, self.device)
        state = self.out / f"seed-{seed}-first.pt"
        fit = self._make_fit(
            backbone, objective, purpose="first", seed=seed, state=state, epochs=self.settings.first_epochs or 1,
            rules=(LAST,),
        )  # fmt: skip
        self._progress.curve, self._progress.in_first_model = fit.curve, True
        run_fit(fit)
        errors = predict(backbone, self.training_data.train, self.device, self.workers) != self.training_data.train.y
        steps = fit.curve[-1].steps
        replace_text(path, json.dumps({"steps": steps, "errors": errors.astype(int).tolist()}) + "\n")
        return errors, steps


def read_versions() -> dict[str, str]:
    """Return the library versions that a resumed training must match."""
    installed = library_versions()
    return {name: installed[name] for name in ("torch", "transformers", "pillow", "numpy")}
