"""`figureground disentangle`: separate the features of a backbone for several seeds, and probe each part for labels."""

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
from figureground.core.errors import plural
from figureground.core.files import read_json, replace_text
from figureground.core.hashing import digest
from figureground.core.seeding import seed_default_generators
from figureground.core.terminal import print_note
from figureground.disentangling import reporting
from figureground.disentangling.cache import cached_features
from figureground.disentangling.correlation import judge_task
from figureground.disentangling.cross_probes import SIDES, Features, run_cross_probes
from figureground.disentangling.learner import Heads, SeparationLearner, TrainingRows, TrainingSchedule
from figureground.disentangling.logistic import fit_logistic
from figureground.disentangling.model import Disentangled
from figureground.disentangling.parts import Cut, Erased, Mapped, Parting, Whole, choose_width
from figureground.disentangling.preflight import INPUTS, WORK, DisentangleRequest, read_request
from figureground.disentangling.separator import SEPARATORS, Eraser, Shape, TrainedSeparator
from figureground.disentangling.settings import Disentangling
from figureground.disentangling.sources import FrozenSource, ImageSource, Source
from figureground.disentangling.trunk import Trunk
from figureground.learn.backbones import check_saving, open_backbone
from figureground.learn.training import read_versions
from figureground.learn.training_data import Album, default_workers
from figureground.recipe.document import FORMAT
from figureground.recipe.sample import derive_seed
from figureground.recipe.table import cramers_v
from figureground.tracking.reporting import RunReport, begin_training, tracked
from figureground.tracking.tracker import check_tracker
from figureground.training.loop import Hooks, Loop, Saving
from figureground.training.processes import single_process
from figureground.training.saved_run import SavedRun, explain_errors
from figureground.training.work_directory import hold, record_inputs

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
    """Separate a backbone's features into a foreground and a background part, and measure what each predicts.

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
    request = read_request(
        Disentangling(method=method, **settings), directory, out, photographs=photographs, splits=splits,
        pairing=pairing, allow_empty=allow_empty, seeds=seeds, device=device, workers=workers,
    )  # fmt: skip
    return disentangle_request(request, show_progress, track)


def disentangle_request(
    request: DisentangleRequest, show_progress: bool = True, track: str | None = None
) -> dict[str, Any]:
    """Work like `disentangle`, with inputs read and checked by `preflight.read_request`."""
    device = choose_device(request.device)
    session = _Session(request, device, show_progress)
    memory = (
        f"{plural(request.settings.batch_size, 'image')} a step don't fit into the memory of {device}. Lower "
        "--batch-size in a new --out, or choose a smaller backbone."
    )
    advice = (
        "Lower --learning-rate or --penalty (for critics: --critic-learning-rate) in a new --out, or look for a "
        "damaged backbone."
    )
    with (
        hold(request.out, WORK),
        explain_errors(request.out, session.describe, advice, memory),
        tracked(track, request.out, {"data": request.data.name, **request.settings.to_json()}),
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

    def __init__(self, request: DisentangleRequest, device: torch.device, show_progress: bool):
        self.request, self.device, self.show_progress = request, device, show_progress
        self.settings, self.data, self.division, self.out = (
            request.settings,
            request.data,
            request.division,
            request.out,
        )
        self.workers = request.workers or default_workers()
        self.separator = SEPARATORS[self.settings.method]()
        self._saved_run: SavedRun | None = None
        self._num_finished = 0
        self.images = self._gather_images()

    def describe(self) -> str:
        """Describe what is saved, for the message after a stop."""
        saved = "" if self._saved_run is None else self._saved_run.describe()
        seeds = f"{plural(self._num_finished, 'seed')} done and kept." if self._num_finished else ""
        return " ".join(filter(None, [seeds, saved]))

    def _gather_images(self) -> _Images:
        data, photographs = self.data, self.request.photographs
        parts: list[Any] = [data.images, *([] if photographs is None else [photographs])]
        photograph_labels = np.zeros(0, np.int64) if photographs is None else photographs.foreground
        photograph_content = {} if photographs is None else photographs.content()
        return _Images(
            Album(parts), np.concatenate([data.foreground, photograph_labels]),
            np.concatenate([data.background, np.full(len(photograph_labels), -1)]),
            digest({"data": data.images.fingerprint, **photograph_content}),
        )  # fmt: skip

    def run(self) -> dict[str, Any]:
        backbone = open_backbone(self.settings, self.data.foregrounds, self.request.edge, 0)
        check_saving(backbone)
        self.pretrained = backbone.pretrained
        self.settings.count_pretraining_steps(self.pretrained)  # refuses frozen features of random weights
        trunk = Trunk(backbone)
        if self.separator.TRAINED:
            choose_width(trunk.dimensions, self.settings.foreground_share or 0.0, backbone.name)
        self.identity = record_inputs(self.out, INPUTS, {
            "format": FORMAT, **self.settings.to_json(), "backbone": backbone.facts, "content": self.images.content,
            "division": digest([rows.tolist() for rows in self._list_parts()]),
        }, "run")  # fmt: skip
        self.notes = [*self.division.notes, *backbone.notes, *self._note_dependence()]
        for note in self.notes:
            print_note(note)
        about = self._describe_run(backbone.name, trunk.dimensions)
        results = []
        for seed in self.request.seeds:
            results.append(self._train_seed(seed))
            self._num_finished += 1
        report = reporting.summarise(about, results)
        reporting.write(self.out, report)
        return report

    def _list_parts(self) -> list[np.ndarray]:
        division = self.division
        return [division.features, division.probes, division.test, division.heads, division.correlated,
                division.anti_correlated]  # fmt: skip

    def _note_dependence(self) -> list[str]:
        data, rows = self.data, self.division.features
        counts = np.zeros((len(data.foregrounds), len(data.backgrounds)), np.int64)
        np.add.at(counts, (data.foreground[rows], data.background[rows]), 1)
        if (v := cramers_v(counts)) <= DEPENDENT:
            return []
        return [
            f"In the images that train the features, the labels depend on each other (Cramér's V {v:.2f}): removing "
            "one label also removes a part of the other. Train on a set with independent labels."
        ]

    def _describe_run(self, backbone: str, dimensions: int) -> dict[str, Any]:
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

    def _train_seed(self, seed: int) -> dict[str, Any]:
        marker, state_folder = self.out / f"seed-{seed}.json", self.out / f"seed-{seed}"
        if marker.exists():
            return dict(read_json(marker))
        start_time, self._training_report = time.monotonic(), RunReport()
        state_folder.mkdir(exist_ok=True)
        trunk = Trunk(open_backbone(self.settings, self.data.foregrounds, self.request.edge, seed))
        trunk.to(self.device)
        classes = (len(self.data.foregrounds), len(self.data.backgrounds))
        steps: dict[str, int] = {}
        if num_steps := self.settings.count_pretraining_steps(self.pretrained):
            parting: Parting = Whole(trunk.dimensions)
            heads = Heads(parting.widths, classes, seed)
            source = self._make_image_source(trunk, seed)
            schedule = self._make_schedule(num_steps, source)
            self._train(source, parting, heads, None, schedule, seed, "pretraining", state_folder)
            steps["pretraining"] = num_steps
        facts: dict[str, Any] = {}
        if isinstance(self.separator, TrainedSeparator):
            parting, heads = self._separate(trunk, seed, state_folder)
            steps["model"] = self.settings.max_train_steps
            features, sha256 = self._read_features(trunk)
        else:
            features, sha256 = self._read_features(trunk)
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
            "seconds": round(time.monotonic() - start_time, 1),
        }  # fmt: skip
        self._report(result)
        replace_text(marker, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        for path in state_folder.rglob("*.pt"):
            path.unlink()
        if not any(state_folder.iterdir()):
            state_folder.rmdir()
        return result

    def _report(self, result: Mapping[str, Any]) -> None:
        """Report a seed's probes, in the run of its training if there was one."""
        seed = result["seed"]
        report = self._training_report
        if not report.active:
            report = begin_training(f"{self.settings.method} seed {seed}", {"seed": seed})
        values = {
            f"probes/{crossing.replace(' ', '_')}/{kind}": accuracy["value"]
            for crossing, probe in result["probes"].items()
            for kind, accuracy in probe["accuracy"].items()
        }
        report.log(values, self.settings.max_train_steps)

    def _make_image_source(self, trunk: Trunk, seed: int) -> ImageSource:
        return ImageSource(trunk, self.images.album, seed, self.settings.augment, self.device, self.workers)

    def _make_schedule(self, steps: int, source: Source, has_penalty: bool = False) -> TrainingSchedule:
        settings = self.settings
        is_fine_tuned = source.trained_network is not None and self.pretrained
        return TrainingSchedule(
            steps, (settings.label_steps or 0) if has_penalty else steps, settings.batch_size,
            round(settings.photograph_share * settings.batch_size),
            settings.learning_rate or (1e-4 if is_fine_tuned else 1e-3), settings.weight_decay,
            (settings.penalty or 0.0) if has_penalty else 0.0,
        )  # fmt: skip

    def _make_training_rows(self) -> TrainingRows:
        rows, images = self.division.features, self.images
        photographs = np.flatnonzero(images.background < 0)
        return TrainingRows(
            rows, images.foreground[rows], images.background[rows], photographs, images.foreground[photographs]
        )

    def _train(
        self, source: Source, parting: Parting, heads: Heads, penalty: Any, schedule: TrainingSchedule, seed: int,
        purpose: str, state_folder: Path,
    ) -> None:  # fmt: skip
        """Train to the end, or resume; a finished training is read from its final state."""
        folder = state_folder / purpose
        folder.mkdir(exist_ok=True)
        saved_run = SavedRun(folder, schedule.steps)
        made_with = {
            "inputs": self.identity, "seed": seed, "purpose": purpose, "device": self.device.type,
            "versions": read_versions(),
        }  # fmt: skip
        with torch.random.fork_rng():
            learner = SeparationLearner(
                source, parting, heads, penalty, self._make_training_rows(), schedule, seed, purpose, self.device
            )
            loop = Loop(
                learner, Hooks(), saved_run, made_with, Saving(SAVED_EVERY, SAVED_SECONDS),
                single_process(self.device), f"{self.settings.method} seed {seed}, {purpose}", self.show_progress,
            )  # fmt: skip
            self._saved_run = saved_run
            loop.resume()
            if loop.step < schedule.steps:
                loop.run()
                self._training_report = loop.report
            loop.curves.draw(folder)
        self._saved_run = None
        for module in (source.trained_network, parting, heads):
            if module is not None:
                module.eval()

    def _separate(self, trunk: Trunk, seed: int, state_folder: Path) -> tuple[Parting, Heads]:
        """Train the separation, on frozen features or on images."""
        assert isinstance(self.separator, TrainedSeparator)
        settings, d = self.settings, trunk.dimensions
        width = choose_width(d, settings.foreground_share or 0.0, trunk.backbone.name)
        classes = (len(self.data.foregrounds), len(self.data.backgrounds))
        parting: Parting
        source: Source
        if settings.fine_tune:
            parting, source = Cut(d, width), self._make_image_source(trunk, seed)
        else:
            table = self._read_features(trunk)[0].to(self.device)
            parting = _make_map(d, width, settings.hidden or 1, seed)
            parting.standardise(table[torch.from_numpy(self.division.features).to(self.device)].cpu())
            source = FrozenSource(table)
        heads = Heads(parting.widths, classes, seed)
        penalty = self.separator.penalty(settings, Shape(parting.widths, classes), derive_seed(seed, "penalty"))
        schedule = self._make_schedule(settings.max_train_steps, source, has_penalty=True)
        self._train(source, parting, heads, penalty, schedule, seed, "separation", state_folder)
        return parting, heads

    def _read_features(self, trunk: Trunk) -> tuple[Tensor, str]:
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
            matrix, bias, erasure_facts = self.separator.erase(
                x, torch.from_numpy(labels[other]), counts[other], self.settings, derive_seed(seed, "erase", part)
            )
            parting.set(part, matrix, bias)
            facts |= {part: erasure_facts} if erasure_facts else {}
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

    def _measure(self, parting: Parting, pooled: Tensor, seed: int) -> dict[str, Any]:
        """Return the cross-probes and the task with a broken correlation."""
        data, division = self.data, self.division
        count = len(data.images)
        with torch.inference_mode():
            parts = parting.cpu()(pooled[:count])
        by_part = dict(zip(SIDES, (part.clone() for part in parts), strict=True))
        labels = {"foreground": torch.from_numpy(data.foreground), "background": torch.from_numpy(data.background)}
        features = Features(by_part, labels, data.objects)
        classes = {"foreground": len(data.foregrounds), "background": len(data.backgrounds)}
        probes = run_cross_probes(
            features.select(division.features), features.select(division.probes), features.select(division.test),
            classes, seed,
        )  # fmt: skip
        tests = {
            "correlated": features.select(division.correlated),
            "anti_correlated": features.select(division.anti_correlated),
        }  # fmt: skip
        return {"probes": probes, "task": judge_task(features.select(division.heads), tests, classes, seed)}


def _make_map(dimensions: int, width: int, hidden: int, seed: int) -> Mapped:
    """Return a new map, whose random weights depend on the seed alone."""
    with torch.random.fork_rng():
        seed_default_generators(derive_seed(seed, "map"))
        return Mapped(dimensions, width, hidden)
