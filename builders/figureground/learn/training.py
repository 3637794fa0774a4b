"""`figureground train`: train a method on a dataset for several seeds, and report the results in a directory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from figureground.core.accelerator import choose_device, is_out_of_memory
from figureground.core.differences import differences
from figureground.core.errors import FiguregroundError, OutOfMemory, counted
from figureground.core.files import read_json, replace_text
from figureground.core.numerics import library_versions, usable_cores
from figureground.core.terminal import remark
from figureground.learn import dfr, erm, jtt, trained
from figureground.learn.backbones import Backbone, check_saving, find_last, open_backbone, save
from figureground.learn.directory import held, read_inputs, refuse_other, remove_drafts
from figureground.learn.groupdro import GroupDRO
from figureground.learn.preflight import INPUTS, Request, ask
from figureground.learn.settings import LAST, RULES, TWO_STAGE, Training
from figureground.learn.training_data import Part, TrainingData
from figureground.learn.weights import balance, normalise, weigh_added
from figureground.recipe.document import FORMAT
from figureground.vision.classifiers import Classifier

MOST_WORKERS = 8
"""Default maximum number of decoding threads."""


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
) -> dict[str, Any]:
    """Train classifiers, or resume training, and evaluate them on the test split.

    A finished seed is not trained again, so more seeds can be added later. A stopped run resumes after its last
    finished epoch; on a CPU the final weights are bit-identical.

    Args:
        settings: Method, backbone and hyperparameters.
        data: As for `read_groups`; likewise `layout`, `root`, `y`, `a`, `file` and `split_column`.
        out: A directory that is new, empty, or holds the same training.
        add: Datasets whose training images are added, matched to the classes by name.
        seeds: Number of seeds, counted from 0; or the seeds themselves.
        device: auto, cpu, cuda, cuda:1 or mps.
        workers: Number of decoding threads; it doesn't affect results.

    Returns:
        The report, as in `report.json`.

    Raises:
        FiguregroundError: Data, backbone or directory can't be used, or a loss isn't finite.
        RecipeError: A setting is invalid.
        Stopped: A signal requested a stop.
    """
    asked = ask(
        settings, data, out, add=add, seeds=seeds, layout=layout, root=root, y=y, a=a, file=file,
        split_column=split_column, device=device, workers=workers,
    )  # fmt: skip
    return train_asked(asked, show_progress)


def train_asked(asked: Request, show_progress: bool = True) -> dict[str, Any]:
    """Train like `train`, with inputs read and checked by `door.ask`."""
    settings, out, chosen = asked.settings, asked.out, asked.seeds
    where = choose_device(asked.device)
    workers = asked.workers or min(MOST_WORKERS, usable_cores())
    session = _Session(settings, asked.material, out, asked.edge, where, workers, show_progress)
    kept = _SavedProgress()
    try:
        with explained(settings, where), held(out, INPUTS, "train"):
            return session.run(chosen, kept)
    except KeyboardInterrupt as stop:
        stop.add_note(f"{kept.said()} The same command goes on from there.")
        raise


@contextlib.contextmanager
def explained(settings: Training, device: torch.device) -> Iterator[None]:
    """Translate out-of-memory errors in training into an error with advice.

    Raises:
        OutOfMemory: A batch doesn't fit.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"{counted(settings.batch_size, 'image')} a step don't fit into the memory of {device}. Lower "
                "--batch-size in a new --out, or choose a smaller backbone."
            ) from None
        raise


def take_up(out: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Record the inputs of a directory's classifiers, or check that they are the same as before.

    Temporary files of a killed run are removed.

    Args:
        out: A directory locked by `held`.
        identity: The inputs, JSON-serialisable.

    Returns:
        The identity after a JSON round trip.

    Raises:
        FiguregroundError: The directory is damaged or holds another training (the message lists the differences).
    """
    path, identity = out / INPUTS, json.loads(json.dumps({"format": FORMAT, **identity}))
    if not path.exists():
        replace_text(path, json.dumps(identity, indent=2, ensure_ascii=False) + "\n")
        return identity
    refuse_other(out, "training", differences(read_inputs(path), identity))
    remove_drafts(out)
    return identity


def watched(fit: erm.Fit) -> int:
    """Run a fit. Signals take effect between steps, and torch's random state is restored afterwards."""
    from figureground.core import signals

    with signals.at_checks(), torch.random.fork_rng():
        return fit.run()


@dataclass
class _SavedProgress:
    """Progress, for the message after a stop."""

    seeds: int = 0
    """Number of finished seeds."""
    seed: int = 0
    """The seed in progress."""
    curve: Sequence[erm.Epoch] = ()
    first: bool = False

    def said(self) -> str:
        which = "the first model of " if self.first else ""
        epochs = counted(len(self.curve), "epoch")
        return f"{counted(self.seeds, 'seed')} and {epochs} of {which}seed {self.seed} are done and kept."


@dataclass(eq=False)
class _Session:
    """A training run in one directory."""

    settings: Training
    material: TrainingData
    out: Path
    edge: int
    device: torch.device
    workers: int
    show_progress: bool

    def run(self, seeds: Sequence[int], kept: _SavedProgress) -> dict[str, Any]:
        backbone = open_backbone(self.settings, self.material.classes, self.edge, 0)
        check_saving(backbone)
        identity = {**self.settings.to_json(), "backbone": backbone.facts, "content": self.material.content}
        identity = take_up(self.out, identity)
        self.made_with = {"inputs": identity, "device": self.device.type, "versions": versions()}
        self.rules = self.settings.rules(self.material.attributes is not None)
        self.notes = [*self.material.notes, *backbone.notes]
        if self.settings.add_steps and self.material.added.any():
            self.notes.append(
                "Added images also add optimiser steps (add_steps). Compare with a training on real images alone that "
                "has the same number of steps."
            )
        if self.settings.method == TWO_STAGE:
            first, then = self.settings.stage_epochs
            self.notes.append(
                f"{counted(first, 'epoch')} on added images, then {then:,} on real ones, each stage with its own "
                "optimiser and schedule; an epoch of the second stage is chosen."
            )
        if not hasattr(backbone.network, "save_pretrained"):
            self.notes.append("The classifiers are saved as timm states, which figureground evaluate can't open.")
        for note in self.notes:
            remark(note)
        results = []
        for done, seed in enumerate(seeds):
            kept.seeds, kept.seed, kept.curve, kept.first = done, seed, (), False
            results.append(self._seed(seed, kept))
        report = trained.summarise(self._about(backbone), results)
        trained.write(self.out, report, results)
        return report

    def _about(self, backbone: Backbone) -> dict[str, Any]:
        material = self.material
        return {
            "method": self.settings.method, "data": material.name, "backbone": backbone.name,
            "selection": RULES[self.rules[0]], "uses": self.settings.uses(material.attributes is not None),
            "settings": self.settings.to_json(), "classes": list(material.classes),
            "attributes": None if material.attributes is None else list(material.attributes),
            "groups": list(material.group_names), "content": material.content,
            "images": {
                "train": int((~material.added).sum()), "added": int(material.added.sum()),
                "validation": len(material.validation), "test": len(material.test),
            },
            "notes": self.notes,
        }  # fmt: skip

    # One seed

    def _seed(self, seed: int, kept: _SavedProgress) -> dict[str, Any]:
        marker, state = self.out / f"seed-{seed}.json", self.out / f"seed-{seed}.pt"
        if marker.exists():
            state.unlink(missing_ok=True)
            return read_json(marker)
        began = time.monotonic()
        backbone = open_backbone(self.settings, self.material.classes, self.edge, seed)
        more: dict[str, Any] = {}
        steps: dict[str, int] = {}
        weights = weigh_added(self.material.added, self.settings.add_weight)
        if self.settings.method == "jtt":
            errors, steps["first"] = self._errors(seed, kept)
            weights = weights * jtt.weigh_errors(errors, self.settings.upweight or 1.0)
            train = self.material.train
            more["jtt"] = jtt.tell_errors(errors, self.material.added, train.group, self._counts())
        objective, chances = self._objective(weights)
        epochs, stages = self.settings.epochs, self._stages()
        if self.settings.count_first:
            epochs -= self.settings.first_epochs or 0
            stages = (erm.Stage(np.arange(len(self.material.train)), epochs),)
        fit = self._fit(backbone, objective, "main", seed, state, epochs, self.rules, chances, stages)
        kept.curve, kept.first = fit.curve, False
        epoch = watched(fit)
        steps["main"] = fit.curve[-1].steps
        budget = steps["main"] + (steps["first"] if self.settings.count_first else 0)
        if self.settings.method == TWO_STAGE:
            steps["added"] = fit.steps_per_epoch * stages[0].epochs
            steps["main"] -= steps["added"]
        if isinstance(objective, GroupDRO):
            more["groupdro"] = {"group_weights": objective.state()}
        if self.settings.method == "dfr":
            more["dfr"] = self._refit(backbone, seed)
            steps["refit"] = more["dfr"]["steps"]
        predicted = erm.predict(backbone, self.material.test, self.device, self.workers)
        folder = self.out / f"{self.settings.method}-seed-{seed}"
        save(backbone, folder)
        test, names = self.material.test, self.material.group_names
        by = test.y if test.group is None else test.group
        chosen = self._told(fit, epoch, predicted)
        if len(self.rules) > 1:
            more["selected"] = self._by_each_rule(fit, chosen)
        result = {
            "seed": seed, "epoch": epoch, "steps": steps, "budget": budget, "model": folder.name,
            "validation": chosen["validation"], **more, "test": chosen["test"],
            "seconds": round(time.monotonic() - began, 1),
            "curve": [dataclasses.asdict(each) for each in fit.curve],
            "confusion": trained.confuse(predicted, by, len(names), len(self.material.classes)),
        }  # fmt: skip
        replace_text(marker, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        for path in (state, *self.out.glob(f"seed-{seed}-*")):
            path.unlink(missing_ok=True)
        return result

    def _told(self, fit: erm.Fit, epoch: int, predicted: np.ndarray) -> dict[str, Any]:
        """Return validation and test accuracies of an epoch."""
        test, material, each = self.material.test, self.material, fit.curve[epoch - 1]
        return {
            "epoch": epoch,
            "validation": {"average": each.average, "worst": each.worst, "worst_class": each.worst_class},
            "test": trained.score(
                predicted, test.y, test.group, material.group_names, material.train_counts, test.objects
            ),
        }  # fmt: skip

    def _by_each_rule(self, fit: erm.Fit, chosen: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the accuracies of the epoch that each rule chooses, the first included. Changes the network."""
        found = {chosen["epoch"]: chosen}
        by_rule: dict[str, dict[str, Any]] = {}
        for rule in self.rules:
            epoch = fit.take(rule)
            if epoch not in found:
                predicted = erm.predict(fit.backbone, self.material.test, self.device, self.workers)
                found[epoch] = self._told(fit, epoch, predicted)
            by_rule[rule] = found[epoch]
        return by_rule

    def _stages(self) -> tuple[erm.Stage, ...]:
        """Return the stages of a training; empty if there is only one."""
        if self.settings.method != TWO_STAGE:
            return ()
        added, (first, then) = self.material.added, self.settings.stage_epochs
        return erm.Stage(np.flatnonzero(added), first), erm.Stage(np.flatnonzero(~added), then)

    def _counts(self) -> np.ndarray:
        return self.material.train_counts.reshape(len(self.material.classes), -1)

    def _fit(
        self, backbone: Backbone, objective: erm.Objective, purpose: str, seed: int, state: Path, epochs: int,
        rules: Sequence[str], chances: np.ndarray | None = None, stages: Sequence[erm.Stage] = (),
    ) -> erm.Fit:  # fmt: skip
        return erm.Fit(
            backbone, self.material, self.settings, seed, purpose, objective, epochs, rules, self.device, self.workers,
            state, {**self.made_with, "seed": seed, "purpose": purpose}, chances, self.show_progress, stages,
        )  # fmt: skip

    def _objective(self, weights: np.ndarray) -> tuple[erm.Objective, np.ndarray | None]:
        """Return the objective and the sampling probabilities of the training images."""
        train, settings = self.material.train, self.settings
        if settings.method == "groupdro":
            if train.group is None or settings.step_size is None or settings.adjustment is None:
                raise ValueError("GroupDRO needs groups, a step size and an adjustment.")
            # Batches contain all groups, as in Algorithm 1; otherwise small groups would rarely be sampled.
            chances = balance(np.ones(len(train)), train.group)
            counts = np.bincount(train.group, minlength=len(self.material.group_names))
            loss = GroupDRO(train.group, weights, counts, settings.step_size, settings.adjustment, self.device)
            return loss, chances / chances.sum()
        if settings.method == "reweight":
            weights = balance(weights, train.y if train.group is None else train.group)
        return erm.WeightedMean(normalise(weights), self.device), None

    def _errors(self, seed: int, kept: _SavedProgress) -> tuple[np.ndarray, int]:
        """Return the first model's training errors, bool (n,), and its optimiser steps; it is trained once."""
        path = self.out / f"seed-{seed}-errors.json"
        if path.exists():
            found = read_json(path)
            return np.array(found["errors"], bool), int(found["steps"])
        backbone = open_backbone(self.settings, self.material.classes, self.edge, seed)
        weights = normalise(weigh_added(self.material.added, self.settings.add_weight))
        objective = erm.WeightedMean(weights, self.device)
        state = self.out / f"seed-{seed}-first.pt"
        fit = self._fit(backbone, objective, "first", seed, state, self.settings.first_epochs or 1, (LAST,))
        kept.curve, kept.first = fit.curve, True
        watched(fit)
        errors = erm.predict(backbone, self.material.train, self.device, self.workers) != self.material.train.y
        steps = fit.curve[-1].steps
        replace_text(path, json.dumps({"steps": steps, "errors": errors.astype(int).tolist()}) + "\n")
        return errors, steps

    def _refit(self, backbone: Backbone, seed: int) -> dict[str, Any]:
        """Refit the last layer and return facts for the report."""
        validation = self.material.validation
        if validation.group is None:
            raise ValueError("DFR needs groups.")
        classifier = Classifier(
            backbone.network, backbone.preprocessing, self.material.classes, backbone.name, {}, edge=backbone.size[0]
        )
        classifier.need_features()
        parent, name = find_last(backbone.network, classifier.weight)
        last = getattr(parent, name)

        def features_of(part: Part) -> np.ndarray:
            kept: list[torch.Tensor] = []
            with last.register_forward_pre_hook(lambda _, given: kept.append(given[0].float().cpu())):
                erm.read(backbone, part, self.device, self.workers)
            return torch.cat(kept).numpy()

        layer, told = dfr.refit(
            features_of(validation), validation.y, validation.group, len(self.material.classes),
            training=features_of(self.material.train), draws=self.settings.draws or 1,
            inverse_strength=self.settings.inverse_strength, seed=seed,
        )  # fmt: skip
        if last.bias is None:
            raise FiguregroundError(f"backbone {backbone.name!r} has a last layer without a bias, which dfr sets.")
        with torch.no_grad():
            last.weight.copy_(layer.weight)
            last.bias.copy_(layer.bias)
        return told


def versions() -> dict[str, str]:
    """Return the library versions that a resumed training must match."""
    known = library_versions()
    return {name: known[name] for name in ("torch", "transformers", "pillow", "numpy")}
