"""`figureground disentangle`: separate the features of a backbone for several seeds, and measure what each tells."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from figureground.core.accelerator import choose_device
from figureground.core.differences import differences
from figureground.core.errors import counted
from figureground.core.files import read_json, replace_text
from figureground.core.hashing import digest
from figureground.core.seeding import seed_default_generators
from figureground.core.terminal import remark
from figureground.disentangling import reporting
from figureground.disentangling.cache import cached_features
from figureground.disentangling.correlation import judge_task
from figureground.disentangling.crossing import SIDES, Features, cross
from figureground.disentangling.learner import Course, Heads, Rows, Separating
from figureground.disentangling.logistic import fit_logistic
from figureground.disentangling.model import Disentangled
from figureground.disentangling.parting import Cut, Erased, Mapped, Parting, Whole, cut_width
from figureground.disentangling.preflight import INPUTS, Request, ask
from figureground.disentangling.separator import SEPARATORS, Eraser, Shape, TrainedSeparator
from figureground.disentangling.settings import Disentangling
from figureground.disentangling.sources import FromImages, Frozen, Source
from figureground.disentangling.trunk import Trunk
from figureground.learn.backbones import check_saving, open_backbone
from figureground.learn.directory import held, read_inputs, refuse_other, remove_drafts
from figureground.learn.training import versions
from figureground.learn.training_data import Album, default_workers
from figureground.recipe.document import FORMAT
from figureground.recipe.sample import derive_seed
from figureground.recipe.table import cramers_v
from figureground.tracking.reporting import Report, begin_training, tracked
from figureground.tracking.tracker import check_tracker
from figureground.training.loop import Hooks, Loop, Saving
from figureground.training.processes import alone
from figureground.training.unfinished import Unfinished, explained

SAVED_EVERY, SAVED_SECONDS = 200, 60.0
"""Steps, and seconds, between saved states."""
DEPENDENT = 0.1
"""Cramér's V of the labels from which the report warns that they depend on each other."""


def disentangle(
    directory: Path | str,
    out: Path | str,
    method: str = "wasserstein",
    *,
    photographs: Path | str | None = None,
    splits: Mapping[str, str | None] | None = None,
    pairing: Mapping[str, str | Sequence[str]] | None = None,
    allow_empty: bool = False,
    seeds: int | Sequence[int] = 6,
    device: str = "auto",
    workers: int | None = None,
    show_progress: bool = True,
    track: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Separate a backbone's features into a foreground part and a background part, and measure what each still tells.

    A finished seed is kept, so that more can be added later. A stopped run resumes after its last saved step; on a CPU
    the final weights are bit-identical. Each seed's model is saved in `METHOD-seed-N`.

    Args:
        directory: A finished dataset, or another data set with an attribute, as `figureground groups` reads it.
        out: A directory that is new, empty, or holds the same run.
        method: wasserstein, adversarial, hsic, inlp, leace, none, or one of another package.
        photographs: Real photographs of the classes, one folder each. They have no background label, so they enter the
            cross-entropy of the foreground only.
        splits: Split of each part, `features`, `probes` and `test`; by default they follow from the data's splits.
        pairing: A class's own backgrounds, for the task with a broken correlation; by default class i has background i.
        allow_empty: Whether a part may lack cells that another has.
        seeds: Number of seeds, counted from 0; or the seeds themselves.
        device: auto, cpu, cuda, cuda:1 or mps.
        workers: Number of decoding threads; it doesn't affect results.
        show_progress: Whether to show progress bars.
        track: The tracker to report to: trackio, tensorboard, wandb, or one of another package; None reports nothing.
        settings: Fields of `Disentangling`, such as `backbone`, `fine_tune` or `penalty`; `figureground disentangle
            --help` lists them.

    Returns:
        The report, as in `report.json`; see `docs/disentangle.md`.

    Raises:
        FiguregroundError: Data, backbone or directory can't be used, or a loss isn't finite.
        RecipeError: A setting is invalid.
        Stopped: A signal requested a stop.
    """
    check_tracker(track)
    asked = ask(
        Disentangling(method=method, **settings), directory, out, photographs=photographs, splits=splits,
        pairing=pairing, allow_empty=allow_empty, seeds=seeds, device=device, workers=workers,
    )  # fmt: skip
    return disentangle_asked(asked, show_progress, track)


def disentangle_asked(asked: Request, show_progress: bool = True, track: str | None = None) -> dict[str, Any]:
    """Work like `disentangle`, with inputs read and checked by `preflight.ask`."""
    device = choose_device(asked.device)
    session = _Session(asked, device, show_progress)
    memory = (
        f"{counted(asked.settings.batch_size, 'image')} a step don't fit into the memory of {device}. Lower "
        "--batch-size in a new --out, or choose a smaller backbone."
    )
    advice = (
        "Lower --learning-rate or --penalty (for critics: --critic-learning-rate) in a new --out, or look for a "
        "damaged backbone."
    )
    with (
        held(asked.out, INPUTS, "disentangle"),
        explained(asked.out, session.said, advice, memory),
        tracked(track, asked.out, {"data": asked.data.name, **asked.settings.to_json()}),
    ):
        return session.run()


@dataclass(frozen=True, eq=False)
class _Images:
    """All images, photographs last, with labels; a photograph's background label is -1."""

    album: Album
    foreground: np.ndarray
    background: np.ndarray
    content: str


class _Session:
    """A run in one directory."""

    def __init__(self, asked: Request, device: torch.device, show_progress: bool):
        self.asked, self.device, self.show_progress = asked, device, show_progress
        self.settings, self.data, self.division, self.out = asked.settings, asked.data, asked.division, asked.out
        self.workers = asked.workers or default_workers()
        self.separator = SEPARATORS[self.settings.method]()
        self._unfinished: Unfinished | None = None
        self._done = 0
        self.images = self._gather()

    def said(self) -> str:
        """Describe what is saved, for the message after a stop."""
        saved = "" if self._unfinished is None else self._unfinished.said()
        seeds = f"{counted(self._done, 'seed')} done and kept." if self._done else ""
        return " ".join(filter(None, [seeds, saved]))

    def _gather(self) -> _Images:
        data, photographs = self.data, self.asked.photographs
        parts: list[Any] = [data.images, *([] if photographs is None else [photographs])]
        shown = np.zeros(0, np.int64) if photographs is None else photographs.foreground
        more = {} if photographs is None else photographs.content()
        return _Images(
            Album(parts), np.concatenate([data.foreground, shown]),
            np.concatenate([data.background, np.full(len(shown), -1)]),
            digest({"data": data.images.fingerprint, **more}),
        )  # fmt: skip

    def run(self) -> dict[str, Any]:
        backbone = open_backbone(self.asked.backbone, self.data.foregrounds, self.asked.edge, 0)
        check_saving(backbone)
        self.pretrained = backbone.pretrained
        self.settings.pretraining(self.pretrained)  # refuses frozen features of random weights
        trunk = Trunk(backbone)
        if self.separator.TRAINED:
            cut_width(trunk.dimensions, self.settings.foreground_share or 0.0, backbone.name)
        self.identity = json.loads(json.dumps({
            "format": FORMAT, **self.settings.to_json(), "backbone": backbone.facts, "content": self.images.content,
            "division": digest([rows.tolist() for rows in self._rows()]),
        }))  # fmt: skip
        path = self.out / INPUTS
        if path.exists():
            refuse_other(self.out, "run", differences(read_inputs(path), self.identity))
            remove_drafts(self.out)
        else:
            replace_text(path, json.dumps(self.identity, indent=2, ensure_ascii=False) + "\n")
        self.notes = [*self.division.notes, *backbone.notes, *self._dependence()]
        for note in self.notes:
            remark(note)
        about = self._about(backbone.name, trunk.dimensions)
        results = []
        for seed in self.asked.seeds:
            results.append(self._seed(seed))
            self._done += 1
        report = reporting.summarise(about, results)
        reporting.write(self.out, report)
        return report

    def _rows(self) -> list[np.ndarray]:
        division = self.division
        return [division.features, division.probes, division.test, division.heads, division.correlated,
                division.anti_correlated]  # fmt: skip

    def _dependence(self) -> list[str]:
        data, rows = self.data, self.division.features
        counts = np.zeros((len(data.foregrounds), len(data.backgrounds)), np.int64)
        np.add.at(counts, (data.foreground[rows], data.background[rows]), 1)
        if (v := cramers_v(counts)) <= DEPENDENT:
            return []
        return [
            f"In the images that train the features, the labels depend on each other (Cramér's V {v:.2f}): removing "
            "one label also removes a part of the other. Train on a set with independent labels."
        ]

    def _about(self, backbone: str, dimensions: int) -> dict[str, Any]:
        data, division = self.data, self.division
        return {
            "method": self.settings.method, "data": data.name, "backbone": backbone, "dimensions": dimensions,
            "settings": self.settings.to_json(), "foregrounds": list(data.foregrounds),
            "backgrounds": list(data.backgrounds), "content": self.images.content,
            "division": self.identity["division"],
            "images": {
                "features": len(division.features), "probes": len(division.probes), "test": len(division.test),
                "photographs": len(self.images.foreground) - len(data.images),
            },
            "notes": self.notes,
        }  # fmt: skip

    # One seed

    def _seed(self, seed: int) -> dict[str, Any]:
        marker, work = self.out / f"seed-{seed}.json", self.out / f"seed-{seed}"
        if marker.exists():
            return dict(read_json(marker))
        began, self._trained = time.monotonic(), Report()
        work.mkdir(exist_ok=True)
        trunk = Trunk(open_backbone(self.asked.backbone, self.data.foregrounds, self.asked.edge, seed))
        trunk.to(self.device)
        classes = (len(self.data.foregrounds), len(self.data.backgrounds))
        steps: dict[str, int] = {}
        if count := self.settings.pretraining(self.pretrained):
            parting: Parting = Whole(trunk.dimensions)
            heads = Heads(parting.widths, classes, seed)
            source = self._from_images(trunk, seed)
            self._train(source, parting, heads, None, self._course(count, source), seed, "pretraining", work)
            steps["pretraining"] = count
        facts: dict[str, Any] = {}
        if isinstance(self.separator, TrainedSeparator):
            parting, heads = self._separate(trunk, seed, work)
            steps["model"] = self.settings.max_train_steps
            features, sha256 = self._features(trunk)
        else:
            features, sha256 = self._features(trunk)
            parting, heads, facts = self._erase(features, seed)
        model = Disentangled(trunk, parting, heads, self.data.foregrounds, self.data.backgrounds, {
            "method": self.settings.method, "seed": seed, "data": self.data.name,
        }).to(self.device)  # fmt: skip
        folder = self.out / f"{self.settings.method}-seed-{seed}"
        model.save_pretrained(folder)
        result = {
            "seed": seed, "model": folder.name, "features_sha256": sha256, "steps": steps,
            "widths": list(parting.widths), **({self.settings.method: facts} if facts else {}),
            **self._measure(parting, features, seed),
            "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip
        self._report(result)
        replace_text(marker, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        for path in work.rglob("*.pt"):
            path.unlink()
        if not any(work.iterdir()):
            work.rmdir()
        return result

    def _report(self, result: Mapping[str, Any]) -> None:
        """Report a seed's probes, in the run of its training if there was one."""
        seed = result["seed"]
        report = self._trained
        if not report.active:
            report = begin_training(f"{self.settings.method} seed {seed}", {"seed": seed})
        values = {
            f"probes/{what.replace(' ', '_')}/{kind}": accuracy["value"]
            for what, probe in result["probes"].items()
            for kind, accuracy in probe["accuracy"].items()
        }
        report.log(values, self.settings.max_train_steps)

    def _from_images(self, trunk: Trunk, seed: int) -> FromImages:
        return FromImages(trunk, self.images.album, seed, self.settings.augment, self.device, self.workers)

    def _course(self, steps: int, source: Source, penalised: bool = False) -> Course:
        settings = self.settings
        fine = source.trained is not None and self.pretrained
        return Course(
            steps, (settings.label_steps or 0) if penalised else steps, settings.batch_size,
            round(settings.photograph_share * settings.batch_size), settings.learning_rate or (1e-4 if fine else 1e-3),
            settings.weight_decay, (settings.penalty or 0.0) if penalised else 0.0,
        )  # fmt: skip

    def _training_rows(self) -> Rows:
        rows, images = self.division.features, self.images
        photographs = np.flatnonzero(images.background < 0)
        return Rows(rows, images.foreground[rows], images.background[rows], photographs, images.foreground[photographs])

    def _train(
        self, source: Source, parting: Parting, heads: Heads, penalty: Any, course: Course, seed: int, purpose: str,
        work: Path,
    ) -> None:  # fmt: skip
        """Train to the end, or resume; a finished training is read from its final state."""
        folder = work / purpose
        folder.mkdir(exist_ok=True)
        unfinished = Unfinished(folder, course.steps)
        made_with = {
            "inputs": self.identity, "seed": seed, "purpose": purpose, "device": self.device.type,
            "versions": versions(),
        }  # fmt: skip
        with torch.random.fork_rng():
            learner = Separating(
                source, parting, heads, penalty, self._training_rows(), course, seed, purpose, self.device
            )
            loop = Loop(
                learner, Hooks(), unfinished, made_with, Saving(SAVED_EVERY, SAVED_SECONDS), alone(self.device),
                f"{self.settings.method} seed {seed}, {purpose}", self.show_progress,
            )  # fmt: skip
            self._unfinished = unfinished
            loop.resume()
            if loop.step < course.steps:
                loop.run()
                self._trained = loop.tracked
            loop.curves.draw(folder)
        self._unfinished = None
        for module in (source.trained, parting, heads):
            if module is not None:
                module.eval()

    def _separate(self, trunk: Trunk, seed: int, work: Path) -> tuple[Parting, Heads]:
        """Train the separation, on frozen features or on images."""
        assert isinstance(self.separator, TrainedSeparator)
        settings, d = self.settings, trunk.dimensions
        width = cut_width(d, settings.foreground_share or 0.0, trunk.backbone.name)
        classes = (len(self.data.foregrounds), len(self.data.backgrounds))
        parting: Parting
        source: Source
        if settings.fine_tune:
            parting, source = Cut(d, width), self._from_images(trunk, seed)
        else:
            table = self._features(trunk)[0].to(self.device)
            parting = _mapped(d, width, settings.hidden or 1, seed)
            parting.standardise(table[torch.from_numpy(self.division.features).to(self.device)].cpu())
            source = Frozen(table)
        heads = Heads(parting.widths, classes, seed)
        penalty = self.separator.penalty(settings, Shape(parting.widths, classes), derive_seed(seed, "penalty"))
        course = self._course(settings.max_train_steps, source, penalised=True)
        self._train(source, parting, heads, penalty, course, seed, "separation", work)
        return parting, heads

    def _features(self, trunk: Trunk) -> tuple[Tensor, str]:
        """Return the pooled features of all images and photographs, on the CPU, and their hash."""
        return cached_features(self.out, trunk, self.images.album, self.images.content, self.device, self.workers)

    def _erase(self, features: Tensor, seed: int) -> tuple[Parting, Heads, dict[str, Any]]:
        """Fit the erasures and the heads to the images that train the features."""
        assert isinstance(self.separator, Eraser)
        rows = self.division.features
        x = features[torch.from_numpy(rows)].double()
        labels = dict(zip(SIDES, (self.data.foreground[rows], self.data.background[rows]), strict=True))
        counts = dict(zip(SIDES, (len(self.data.foregrounds), len(self.data.backgrounds)), strict=True))
        parting = Erased(x.shape[1])
        facts: dict[str, Any] = {}
        for part, other in zip(SIDES, reversed(SIDES), strict=True):
            matrix, bias, told = self.separator.erase(
                x, torch.from_numpy(labels[other]), counts[other], self.settings, derive_seed(seed, "erase", part)
            )
            parting.set(part, matrix, bias)
            facts |= {part: told} if told else {}
        heads = Heads(parting.widths, (counts["foreground"], counts["background"]), seed)
        for part, erased in zip(SIDES, parting(x), strict=True):
            layer = fit_logistic(
                erased, torch.from_numpy(labels[part]), counts[part], self.settings.inverse_strength or 1.0
            )
            head: nn.Linear = getattr(heads, part)
            with torch.no_grad():
                head.weight.copy_(layer.weight)
                head.bias.copy_(layer.bias)
        return parting, heads, facts

    def _measure(self, parting: Parting, features: Tensor, seed: int) -> dict[str, Any]:
        """Return the cross-probes and the task with a broken correlation."""
        data, division = self.data, self.division
        count = len(data.images)
        with torch.inference_mode():
            parts = parting.cpu()(features[:count])
        kept = dict(zip(SIDES, (part.clone() for part in parts), strict=True))
        labels = {"foreground": torch.from_numpy(data.foreground), "background": torch.from_numpy(data.background)}
        known = Features(kept, labels, data.objects)
        classes = {"foreground": len(data.foregrounds), "background": len(data.backgrounds)}
        probes = cross(
            known.select(division.features), known.select(division.probes), known.select(division.test), classes, seed
        )
        tests = {
            "correlated": known.select(division.correlated), "anti_correlated": known.select(division.anti_correlated)
        }  # fmt: skip
        return {"probes": probes, "task": judge_task(known.select(division.heads), tests, classes, seed)}


def _mapped(dimensions: int, width: int, hidden: int, seed: int) -> Mapped:
    """Return a new map, whose random weights depend on the seed alone."""
    with torch.random.fork_rng():
        seed_default_generators(derive_seed(seed, "map"))
        return Mapped(dimensions, width, hidden)
