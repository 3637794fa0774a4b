"""Worst-group accuracy of mitigation methods on the test-beds: `python benchmarks/mitigate.py`.

The test-beds of `figureground.pocket.birds` correlate class and attribute in training, but not in validation and test.
Rows are ways of training, and ERM with added images: pasted ones, images drawn from plain prompts, and images made by
D3S, SCGS and DDB. Added images are mixed with the real ones, or form a first stage of training.

**Equal budgets.** All rows take the same number of optimiser steps: added images add none, and JTT's first model and
the first stage of two-stage training use the same budget. Each row tries the same number of settings (`--tune`) on the
pipeline seeds `TUNED_WITH`, which are not used for results, and validation chooses; with `--untuned` all rows have the
default settings. One rule chooses the epoch in all rows.

**Two tables.** In `known`, the attributes of the validation split are known, and its worst group chooses epochs and
settings. In `unknown`, its average does. One training serves both tables if they chose the same settings. Each row
lists the information that it uses.

**Seeds.** A pipeline seed determines the drawings of the bed and the added images: one set of about `IMAGES` per
method, shared by all trainings and backbones; its error sets come from the first backbone. It has `TRAININGS` training
seeds, which are averaged before rows are paired, so the number of pairs is the number of pipeline seeds.

**Primary comparisons.** Four were fixed before any result was seen: `PRIMARY` − ERM on both beds, with the first
backbone, in the table `PRIMARY_TABLE`, worst group of test, over `PRIMARY_SEEDS`, with 95 % intervals of paired
differences and Holm's adjusted p. All others are exploratory, on `EXPLORATORY_SEEDS`, and uncorrected.

A unit of work is a bed, biased or not, and a pipeline seed. Its JSON file in `results/mitigate/` is written after each
row, and finished rows are not repeated, so the same command resumes a stopped run. `--report` makes tables and chart
from these files alone. `--time` estimates the duration of the whole plan.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from results import ROOT, arguments, machine, origin, without_places
from tqdm import tqdm

from figureground.core.errors import FiguregroundError
from figureground.core.files import replace_text
from figureground.learn.settings import AVERAGE, MASKS, TWO_STAGE, WORST_GROUP, Training
from figureground.pocket import birds
from figureground.recipe.sample import Sample, Spec, derive_seed

BEDS = ("pocketbirds", "pocketlooks")
BACKBONES = ("pocket", "regnet")
"""Backbones of different families. SCGS, DDB and paste use the errors of the first."""
EPOCHS = 40
"""Passes over the real training images; `beds.py` tests convergence with the same number."""
VALIDATE_EVERY = 2
"""Epochs between evaluations on validation, in all rows."""
TRAININGS = 3
"""Number of training seeds per pipeline seed."""
IMAGES = 300
"""Number of added images in a row."""

TABLES = {"known": WORST_GROUP, "unknown": AVERAGE}
"""Rule that chooses epochs and settings in each table, with and without the attributes of validation."""
PRIMARY, PRIMARY_TABLE = ("ddb", "scgs"), "known"
PRIMARY_SEEDS, EXPLORATORY_SEEDS, MASK_SEEDS = tuple(range(12)), tuple(range(6)), tuple(range(3))
TUNED_WITH = (100, 101)
"""Pipeline seeds for choosing settings; they give no results."""
UNBIASED = ("erm", "d3s", "scgs", "ddb")
"""Rows measured on unbiased beds, where a method must do no harm."""

RESULTS = ROOT / "benchmarks" / "results" / "mitigate"
KEPT_FORMAT = 1
"""Format of the units' JSON files."""


# --- the rows ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row of the tables."""

    name: str
    tried: Sequence[Mapping[str, Any]]
    """Settings among which validation chooses, as changes to the defaults; the same number in each row. `rate_times`
    multiplies the backbone's learning rate."""
    training: str = "erm"
    """Name of the way of training."""
    made: str | None = None
    """Added images: a key of `MAKERS`."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the defaults in all settings."""
    tables: tuple[str, ...] = tuple(TABLES)
    like: str | None = None
    """Row whose chosen settings are used instead of own ones. Such a row is measured on the first bed only."""

    def uses(self, table: str) -> list[str]:
        """Return the information it uses beyond images and classes."""
        training = Training(self.training, **{"select": TABLES[table], **self.fixed})
        made = self.made or ""
        masks = [MASKS] if made == "scgs-true-masks" else []
        scenes = ["scene names"] if made.startswith(("d3s", "scgs")) else []  # SCGS's prompts name scenes
        segmenter = ["segmenter"] if made.startswith("ddb") else []
        return [*training.uses(attributes=True), *scenes, *segmenter, *masks]


PLAIN_TRIED = ({}, {"weight_decay": 1.0}, {"rate_times": 3.0}, {"rate_times": 1 / 3})
ADDED_TRIED = ({}, {"weight_decay": 1.0}, {"add_weight": 0.5}, {"add_weight": 2.0})
STAGED_TRIED = ({}, {"weight_decay": 1.0}, {"first_share": 0.25}, {"first_share": 0.75})
JTT_TRIED = tuple({"first_epochs": n, "upweight": x} for n in (2, 5) for x in (5.0, 20.0))
DRO_TRIED = ({}, {"weight_decay": 1.0}, {"step_size": 0.1}, {"weight_decay": 1.0, "step_size": 0.1})

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("erm", PLAIN_TRIED),
        Row("reweight", PLAIN_TRIED, "reweight"),
        Row("jtt", JTT_TRIED, "jtt", fixed={"count_first": True}),
        Row("groupdro", DRO_TRIED, "groupdro"),
        Row("dfr", PLAIN_TRIED, "dfr", tables=("known",)),
        Row("paste", ADDED_TRIED, made="paste"),
        Row("plain images", ADDED_TRIED, made="plain"),
        Row("d3s", ADDED_TRIED, made="d3s"),
        Row("scgs", ADDED_TRIED, made="scgs"),
        Row("ddb", ADDED_TRIED, made="ddb"),
        Row("d3s, two-stage", STAGED_TRIED, TWO_STAGE, made="d3s"),
        Row("scgs, two-stage", STAGED_TRIED, TWO_STAGE, made="scgs"),
        Row("ddb, two-stage", STAGED_TRIED, TWO_STAGE, made="ddb"),
        Row("scgs, random regions", (), made="scgs-random", like="scgs"),
        Row("scgs, whole images", (), made="scgs-whole", like="scgs"),
        Row("scgs, true masks", (), made="scgs-true-masks", like="scgs"),
        Row("ddb, not pruned", (), made="ddb-unpruned", like="ddb"),
    )
}
"""All rows by name: added images, way of training, and settings to try."""


class Unit(NamedTuple):
    """A unit of work, done by one process."""

    bed: str
    biased: bool
    seed: int
    """The pipeline seed: that of the bed and the builders; `training_seeds` derives those of the trainings."""

    @property
    def name(self) -> str:
        """Name of its folder and its JSON."""
        return f"{self.bed}-{'biased' if self.biased else 'unbiased'}-{self.seed:03d}"

    @property
    def kind(self) -> str:
        return "biased" if self.biased else "unbiased"


def training_seeds(seed: int, count: int) -> list[int]:
    """Return the training seeds of a pipeline seed; different ones share none if `count` is at most 10."""
    return [10 * seed + i for i in range(count)]


def rows_of(unit: Unit) -> list[str]:
    """Return the planned rows of a unit in order, primary ones first."""
    if unit.seed in TUNED_WITH:
        return [name for name, row in ROWS.items() if row.like is None] if unit.biased else []
    if not unit.biased:
        return list(UNBIASED) if unit.seed in EXPLORATORY_SEEDS else []
    wanted = ["erm", *PRIMARY] if unit.seed in PRIMARY_SEEDS else []
    if unit.seed in EXPLORATORY_SEEDS:
        wanted += [name for name, row in ROWS.items() if row.like is None and name not in wanted]
    if unit.seed in MASK_SEEDS and unit.bed == BEDS[0]:
        wanted += [name for name, row in ROWS.items() if row.like is not None]
    return wanted


def whole_plan(beds: Sequence[str] = BEDS) -> list[Unit]:
    """Return all units of the plan: those of the primary comparisons first, seed by seed."""
    units = [Unit(bed, True, seed) for seed in PRIMARY_SEEDS for bed in beds]
    return units + [Unit(bed, False, seed) for seed in EXPLORATORY_SEEDS for bed in beds]


@dataclass(frozen=True)
class Plan:
    """Folders and sizes of a run, and the part of the plan that it covers."""

    work: Path
    kept: Path
    """Folder of the units' JSON files."""
    rows: tuple[str, ...] | None = None
    """Names of rows; None for those of `rows_of`."""
    backbones: tuple[str, ...] = BACKBONES
    epochs: int = EPOCHS
    trainings: int = TRAININGS
    images: int = IMAGES
    sizes: tuple[int | None, int | None, int | None] = (None, None, None)
    """Numbers of images for training, validation and test; None for the bed's own."""
    smaller: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of each builder for smaller sizes than planned."""
    everything: bool = False
    """Whether each unit has all rows, for timing."""
    choose: bool = True
    """Whether rows use the settings chosen by tuning, instead of the defaults."""
    oracle: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the training of the oracle."""
    command: str = ""

    def facts(self) -> dict[str, Any]:
        """Return the facts that all units in one report must share."""
        return {
            "epochs": self.epochs, "validate_every": VALIDATE_EVERY, "trainings": self.trainings,
            "images": self.images, "tuned": self.choose, "sizes": list(self.sizes),
            "first_backbone": BACKBONES[0], "tables": TABLES,
        }  # fmt: skip

    def wanted(self, unit: Unit) -> list[str]:
        """Return the rows of a unit to be done: those requested that the plan has for it."""
        planned = list(ROWS) if self.everything else rows_of(unit)
        return planned if self.rows is None else [name for name in planned if name in self.rows]


# --- what is kept -----------------------------------------------------------------------------------


class Record:
    """A unit's JSON file with its finished rows.

    Raises:
        FiguregroundError: An existing file was made with another plan, other weights or another dataset format.
    """

    def __init__(self, path: Path, plan: Plan, unit: Unit):
        self.path = path
        self.here = origin()
        own = {
            "kept_format": KEPT_FORMAT, "bed": unit.bed, "bias": unit.kind, "seed": unit.seed,
            "plan": json.loads(json.dumps(plan.facts())),
            "drawn": json.loads(json.dumps(dataclasses.asdict(birds.find_bed(unit.bed)))),
        }  # fmt: skip
        self.said: dict[str, Any] = {
            **own,
            "command": plan.command,
            "machine": machine(),
            "origins": [],
            "made": {},
            "rows": {},
            "failed": {},
        }
        if path.exists():
            self.said = json.loads(path.read_text())
            if changed := [name for name, value in own.items() if self.said.get(name) != value]:
                raise FiguregroundError(
                    f"{path.name} was made by another plan: {', '.join(changed)} differ. Move it away."
                )
            for each in self.said["origins"]:
                if (each["format"], each["weights"]) != (self.here["format"], self.here["weights"]):
                    raise FiguregroundError(
                        f"{path.name} was made with other weights, or another format of datasets. Move it away."
                    )

    @property
    def origin(self) -> int:
        """Index of this run's origin in the file's `origins`."""
        if self.here not in self.said["origins"]:
            self.said["origins"].append(self.here)
        return int(self.said["origins"].index(self.here))

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.path, json.dumps(self.said, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


# --- settings ---------------------------------------------------------------------------------------


def settings_of(row: Row, change: Mapping[str, Any], rules: Sequence[str], plan: Plan, backbone: str) -> Training:
    """Return the training settings of a row.

    Args:
        change: One of the row's `tried` settings.
        rules: Rules that choose epochs; the first chooses the kept classifier.
    """
    import backbones

    options = backbones.training(backbone, plan.work / "backbones")
    change = {**row.fixed, **change}
    if times := change.pop("rate_times", None):
        options = {**options, "learning_rate": options.get("learning_rate", 1e-3) * times}
    common = {"epochs": plan.epochs, "validate_every": min(VALIDATE_EVERY, plan.epochs), "select": ",".join(rules)}
    return Training(row.training, **{**common, **options, **change})


def tuning_file(kept: Path, bed: str, seed: int) -> Path:
    """Return the path of a tuning seed's JSON file."""
    return kept / f"tuning-{bed}-{seed:03d}.json"


def choose_settings(kept: Path, bed: str, row: Row, table: str, backbone: str) -> Mapping[str, Any]:
    """Return a row's setting with the best validation accuracy by the table's rule, averaged over `TUNED_WITH`; the
    first of equal ones. A backbone without tuning uses the setting of the first backbone.

    Raises:
        FiguregroundError: The row's tuning is missing or incomplete.
    """
    if row.like is not None:
        row = ROWS[row.like]
    found = [read_json(path) for seed in TUNED_WITH if (path := tuning_file(kept, bed, seed)).exists()]
    for name in dict.fromkeys((backbone, BACKBONES[0])):
        tried = [each["tried"].get(row.name, {}).get(name, []) for each in found]
        if len(tried) == len(TUNED_WITH) and all(len(each) == len(row.tried) for each in tried):
            if any([t["change"] for t in each] != [dict(change) for change in row.tried] for each in tried):
                raise FiguregroundError(f"{row.name} on {bed} was tuned with other settings than are tried now.")
            means = [np.mean([each[i]["validation"][table] for each in tried]) for i in range(len(row.tried))]
            return row.tried[int(np.argmax(means))]
    raise FiguregroundError(f"{row.name} on {bed} has not been tuned: run --tune --beds {bed} first.")


# --- what is made -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Folders of a unit."""

    plan: Plan
    unit: Unit

    @property
    def folder(self) -> Path:
        return self.plan.work / self.unit.name

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def made(self, name: str) -> Path:
        """Return the folder of a method's added images and their table."""
        return self.folder / "made" / name

    def settings(self, name: str) -> dict[str, Any]:
        """Return the changes of a builder's defaults."""
        return {"threads": 1, **self.plan.smaller.get(name, {})}

    def draw(self) -> float:
        """Draw the bed if it is missing; return the duration in seconds."""
        began = time.monotonic()
        if not (self.data / birds.TABLE).exists():
            shutil.rmtree(self.data, ignore_errors=True)
            share = None if self.unit.biased else 0.5
            birds.write(self.data, *self.plan.sizes, bed=self.unit.bed, bias_aligned_share=share, seed=self.unit.seed,
                        show_progress=False)  # fmt: skip
        return round(time.monotonic() - began, 1)


class Drawn(NamedTuple):
    """A made image that may be added."""

    key: str
    y: str
    """Name of its class."""
    a: str | None
    """Name of the scene or attribute that it should show, if the method states one."""
    image: Callable[[], Any]
    """Decodes the image."""


def take_evenly(images: Sequence[Drawn], most: int) -> list[Drawn]:
    """Return the first images in order, balanced by class. Within a class, each scene or attribute keeps its share, so
    a smaller number of images has the same distribution."""
    by_class: dict[str, dict[str | None, list[Drawn]]] = {}
    for each in images:
        by_class.setdefault(each.y, {}).setdefault(each.a, []).append(each)
    ordered = [
        [each for _, each in sorted(
            (((i + 0.5) / len(cell), each) for cell in cells.values() for i, each in enumerate(cell)),
            key=lambda pair: pair[0],
        )] for cells in by_class.values()
    ]  # fmt: skip
    return [each for turn in itertools.zip_longest(*ordered) for each in turn if each is not None][:most]


def read_made(directory: Path, keep: Callable[[str], bool] = lambda key: True) -> list[Drawn]:
    """Return the training images of a dataset or folder that `read_groups` reads, in order."""
    from figureground.data.layouts import read_groups

    train = read_groups(directory).of_split(0)
    names = [None if train.a is None or train.attributes is None else train.attributes[a] for a in
             (train.y if train.a is None else train.a)]  # fmt: skip
    return [
        Drawn(train.keys[row], train.classes[train.y[row]], names[row], draw)
        for row, draw in train.read(np.arange(len(train)))
        if keep(train.keys[row])
    ]


def make_pasted(place: Place, out: Path) -> tuple[list[Drawn], dict[str, Any]]:
    """Paste the regions that ERM attends to on images of other classes; ERM's epoch is chosen without attributes."""
    from figureground.data.layouts import read_groups
    from figureground.learn.paste import AttendedMasks, paste
    from figureground.vision.classifiers import open_classifier

    models, seed = trained_folder(place, ROWS["erm"], BACKBONES[0], "unknown"), training_seeds(place.unit.seed, 1)[0]
    if not (models / f"erm-seed-{seed}").exists():
        train_row(place, ROWS["erm"], BACKBONES[0], ROWS["erm"].tables, trainings=1)
    masks = AttendedMasks(open_classifier(str(models / f"erm-seed-{seed}")))
    paste(read_groups(place.data), masks, place.plan.images // 2, place.unit.seed, out, show_progress=False)
    return read_made(out), {}


def make_plain(place: Place, out: Path) -> tuple[list[Drawn], dict[str, Any]]:
    """Draw images of each class from plain prompts, equally many, with the unmodified checkpoint."""
    import torch

    from figureground.diffusion.checkpoint import open_checkpoint
    from figureground.diffusion.render import Renderer, Sampling
    from figureground.finetune.settings import fill
    from figureground.methods.ddb import DDB

    config, classes = DDB.CONFIGS["pocket"], birds.find_bed(place.unit.bed).objects
    steps = place.settings("ddb").get("num_inference_steps", config.num_inference_steps)
    checkpoint = open_checkpoint("pocket", device=torch.device("cpu"), dtype=torch.float32, safety="off")
    sampling = Sampling(config.size, steps, 1.0, config.guidance_scale, batch_size=config.batch_size or 1)
    specs = [
        Spec(f"{label}-{i:05d}", "train", label, 0, name, "unknown", fill("a photo of a {noun}", name, ""),
             derive_seed(place.unit.seed, "plain images", name, str(i)))
        for label, name in enumerate(classes) for i in range(place.plan.images // len(classes))
    ]  # fmt: skip

    def no_guide(spec: Spec) -> Any:
        raise AssertionError(spec)

    found = [each for each in Renderer(checkpoint, sampling, no_guide).render(specs) if isinstance(each, Sample)]
    return [Drawn(s.spec.key, s.spec.foreground_name, None, functools.partial(getattr, s, "image")) for s in found], {}


def make_d3s(place: Place, out: Path) -> tuple[list[Drawn], dict[str, Any]]:
    """Build each class on each scene of the bed, equally often, from the bundled cut-outs and scenes."""
    from figureground.methods.d3s import D3S

    bed = birds.find_bed(place.unit.bed)
    scenes = list(bed.scenes or bed.attributes)
    per_cell = -(-place.plan.images // (len(bed.objects) * len(scenes)))
    builder = D3S(
        "pocket", classes=list(bed.objects), backgrounds=scenes, per_cell={"train": per_cell}, seed=place.unit.seed,
        **place.settings("d3s"),
    )  # fmt: skip
    builder.build(out, show_progress=False)
    return read_made(out), {"scenes": scenes}


def build(place: Place, name: str, out: Path, **changes: Any) -> Any:
    """Build a dataset by SCGS or DDB from the unit's bed, or resume it; return the builder."""
    from figureground.methods.registry import method_class

    settings = {**changes, **place.settings(name)}
    builder = method_class(name)("pocket", data=str(place.data), seed=place.unit.seed, **settings)
    builder.build(out, show_progress=False)
    return builder


def make_scgs(place: Place, out: Path, **changes: Any) -> tuple[list[Drawn], dict[str, Any]]:
    builder = build(place, "scgs", out, **{"per_class": place.plan.images // 2, **changes})
    return read_made(out), {"error_set": builder.told["error_set"], "clusters": builder.told["clusters"]}


def make_ddb(place: Place, out: Path, pruned: bool = True) -> tuple[list[Drawn], dict[str, Any]]:
    """Build at least twice as many candidates as needed; return those that DDB's pruning rule keeps, or all."""
    from figureground.curation.curating import curate
    from figureground.data.layouts import read_groups
    from figureground.learn.errors import read_errors
    from figureground.learn.jtt import minority_groups, tell_errors
    from figureground.shards.stages import read_marker

    out = place.folder / "built" / "ddb"  # both rows take from the same candidates
    builder = build(place, "ddb", out, per_source=4)
    groups = read_groups(place.data)
    train, counts = groups.of_split(0), groups.counts(0)
    stages = out / "_figureground" / "stages"
    wrong = read_errors(stages / "classifier").wrong
    told: dict[str, Any] = {
        "error_set": tell_errors(wrong, np.zeros(len(wrong), bool), train.group, counts),
        "sources": {"images": 0, "with_the_bias": 0},
    }  # fmt: skip
    marker = read_marker(stages / "sources")
    assert marker is not None
    rows = [row for some in marker["facts"]["rows"].values() for row in some]
    told["sources"] = {
        "images": len(rows),
        "with_the_bias": int((~minority_groups(counts).ravel()[train.group[rows]]).sum()),
    }
    whole = read_made(out)
    if not pruned:
        return whole, told
    kept = place.folder / "built" / "ddb-pruned"
    curate(out, kept, builder.pruning_rule(), show_progress=False)
    found = read_made(kept)
    return found, {**told, "rule": builder.pruning_rule(), "kept": len(found) / len(whole), "candidates": len(whole)}


Maker = Callable[[Place, Path], tuple[list[Drawn], dict[str, Any]]]
"""Takes a folder; returns the images made there, in order, and facts about them for the report."""

MAKERS: dict[str, Maker] = {
    "paste": make_pasted,
    "plain": make_plain,
    "d3s": make_d3s,
    "scgs": make_scgs,
    "ddb": make_ddb,
    "ddb-unpruned": functools.partial(make_ddb, pruned=False),
    **{f"scgs-{mask}": functools.partial(make_scgs, mask=mask) for mask in ("random", "whole", "true-masks")},
}


def make(place: Place, name: str, record: Record) -> Path:
    """Make a method's images if they are missing; return the folder to add to training."""
    out = place.made(name)
    if name in record.said["made"] and (out / birds.TABLE).exists():
        return out
    began = time.monotonic()
    found, told = MAKERS[name](place, place.folder / "built" / name)
    found = take_evenly(found, place.plan.images)
    write_made(found, birds.find_bed(place.unit.bed).objects, out)
    seconds = round(time.monotonic() - began, 1)
    if (before := record.said["made"].get(name)) is not None:  # the same images again, after the folder was lost
        seconds = before["seconds"]
    record.said["made"][name] = {
        "images": len(found), "by_class": dict(sorted(Counter(each.y for each in found).items())), **told,
        "oracle": read_by_oracle(place, found), "seconds": seconds, "origin": record.origin,
    }  # fmt: skip
    record.write()
    return out


def write_made(images: Sequence[Drawn], classes: Sequence[str], out: Path) -> None:
    """Write images as PNG, and finally the table `filename,split,y`.

    A class without images, such as one without errors in SCGS, gets an empty image in another split, which is not added
    to training: `read_groups` requires two classes.
    """
    shutil.rmtree(out, ignore_errors=True)
    (out / "train").mkdir(parents=True)
    with (out / "draft.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("filename", "split", "y"))
        for i, each in enumerate(images):
            name = f"train/{i:05d}.png"
            each.image().convert("RGB").save(out / name)
            table.writerow((name, 0, each.y))
        for missing in [name for name in classes if name not in {each.y for each in images}]:
            Image.new("RGB", (64, 64)).save(out / f"no-{missing}.png")
            table.writerow((f"no-{missing}.png", 2, missing))
    (out / "draft.csv").rename(out / birds.TABLE)


ORACLE = ROOT / "out" / "fidelity"
"""Folder of trained oracles, shared with `fidelity.py`."""


def open_oracle(plan: Plan) -> Any:
    """Return the oracle, a classifier trained only on drawings that labels made images."""
    import oracle

    settings = oracle.Settings(**plan.oracle)
    return oracle.trained("oracle", 0, plan.work / "oracle" if plan.oracle else ORACLE, "cpu", settings)


def read_by_oracle(place: Place, images: Sequence[Drawn]) -> dict[str, Any]:
    """Return the shares of made images whose class, and whose intended scene or look, the oracle confirms, 0 to 1; and
    counts of its backgrounds and looks by class."""
    import oracle

    bed = birds.find_bed(place.unit.bed)
    heads = list(oracle.HEADS)
    read = open_oracle(place.plan).read(np.stack([oracle.pixels(each.image()) for each in images])).labels

    def names(head: str) -> list[str]:
        return [oracle.HEADS[head][label] for label in read[:, heads.index(head)]]

    found = {head: names(head) for head in heads}
    right = np.array([said == each.y for said, each in zip(found["foreground"], images, strict=True)])
    looks = dict(zip(bed.attributes, bed.looks, strict=True)) if bed.looks else {}
    asked = [(i, each.a) for i, each in enumerate(images) if each.a in looks or each.a in oracle.HEADS["background"]]
    shown = [found["look"][i] == looks[a] if a in looks else found["background"][i] == a for i, a in asked]
    by_class = {
        name: {
            "label": float(right[[each.y == name for each in images]].mean()),
            **{
                head: dict(Counter(said for said, each in zip(found[head], images, strict=True) if each.y == name))
                for head in ("foreground", "background", "look")
            },
        }
        for name in dict.fromkeys(each.y for each in images)
    }
    return {
        "label": float(right.mean()), "attribute": float(np.mean(shown)) if shown else None, "by_class": by_class,
    }  # fmt: skip


# --- training ---------------------------------------------------------------------------------------


def trained_folder(place: Place, row: Row, backbone: str, name: str) -> Path:
    """Return the folder of a row's classifiers.

    Args:
        name: Name of the training: that of a table, or of a tried setting.
    """
    folder = row.name.replace(", ", "-").replace(" ", "-")
    return place.folder / "trained" / f"{folder}-{backbone}-{name}"


def fit(
    place: Place, row: Row, backbone: str, change: Mapping[str, Any], rules: Sequence[str], name: str,
    add: Path | None, trainings: int,
) -> dict[str, Any]:  # fmt: skip
    """Train or resume; return the report of `figureground train`."""
    from figureground.learn.training import train

    return train(
        settings_of(row, change, rules, place.plan, backbone), place.data, trained_folder(place, row, backbone, name),
        add=[add] if add else [], seeds=training_seeds(place.unit.seed, trainings), workers=1, device="cpu",
        show_progress=False,
    )  # fmt: skip


def chosen(place: Place, row: Row, backbone: str, table: str) -> dict[str, Any]:
    """Return the setting of a row's results; during tuning, the first tried one."""
    if not place.plan.choose or place.unit.seed in TUNED_WITH:
        return dict(ROWS[row.like or row.name].tried[0])
    return dict(choose_settings(place.plan.kept, place.unit.bed, row, table, backbone))


def train_row(
    place: Place, row: Row, backbone: str, tables: Sequence[str], add: Path | None = None, trainings: int | None = None
) -> dict[str, dict[str, Any]]:
    """Train a row's classifiers, once for all tables that chose the same setting; return the results by table.

    The rule without attributes comes first, so it chooses the kept classifiers if both tables share a training.
    """
    by_setting: dict[str, list[str]] = {}
    for table in sorted(tables, reverse=True):
        by_setting.setdefault(json.dumps(chosen(place, row, backbone, table)), []).append(table)
    found: dict[str, dict[str, Any]] = {}
    for text, served in by_setting.items():
        change = json.loads(text)
        told = fit(
            place, row, backbone, change, [TABLES[table] for table in served], served[0], add,
            trainings or place.plan.trainings,
        )  # fmt: skip
        for table in served:
            found[table] = {
                "settings": change, "rule": TABLES[table], "uses": row.uses(table),
                "added": told["images"]["added"], "seeds": [keep_seed(each, table) for each in told["seeds"]],
            }  # fmt: skip
    return {table: found[table] for table in tables}


def keep_seed(told: Mapping[str, Any], table: str) -> dict[str, Any]:
    """Return the part of a classifier's report that is kept."""
    of_rule = told.get("selected", {}).get(TABLES[table], told)
    test = of_rule["test"]
    return {
        "seed": told["seed"], "epoch": of_rule["epoch"], "steps": told["steps"], "budget": told["budget"],
        "seconds": told["seconds"], "validation": of_rule["validation"], "average": test["average"],
        "worst": test["worst"], "groups": [group["accuracy"] for group in test["groups"]],
        **({"error_set": told["jtt"]} if "jtt" in told else {}),
    }  # fmt: skip


def describe_bed(place: Place) -> dict[str, Any]:
    """Return classes, attributes and group sizes of the unit's bed."""
    from figureground.data.layouts import read_groups
    from figureground.learn.jtt import minority_groups

    groups = read_groups(place.data)
    counts = groups.counts(0)
    return {
        "classes": list(groups.classes), "attributes": list(groups.attributes or ()),
        "groups": list(groups.group_names), "fingerprint": groups.fingerprint,
        "images": {name: groups.counts(i).ravel().tolist() for i, name in enumerate(("train", "validation", "test"))},
        "against_the_bias": np.flatnonzero(minority_groups(counts).ravel()).tolist(),
    }  # fmt: skip


def limit_threads() -> None:
    """Limit this process, and builders that it starts, to one thread."""
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # what builders count as cores


def do(task: tuple[Plan, Unit]) -> list[str]:
    """Do the missing rows of a unit; return an error message for each failure."""
    limit_threads()
    plan, unit = task
    try:
        place, record = Place(plan, unit), Record(plan.kept / f"{unit.name}.json", plan, unit)
    except FiguregroundError as error:
        return [str(error)]
    waiting = [
        (name, backbone)
        for backbone in plan.backbones
        for name in plan.wanted(unit)
        if set(ROWS[name].tables) - set(record.said["rows"].get(name, {}).get(backbone, {}))
    ]
    failed = []
    for name, backbone in waiting:
        try:
            do_row(place, record, ROWS[name], backbone)
            record.said["failed"].pop(f"{name}, {backbone}", None)
        except FiguregroundError as error:
            why = str(error).replace(f"{plan.work}/", "")  # places are nobody's business
            failed.append(f"{unit.name}, {name}, {backbone}: {why}")
            record.said["failed"][f"{name}, {backbone}"] = why
            record.write()
    return failed


def do_row(place: Place, record: Record, row: Row, backbone: str) -> None:
    for table in row.tables:
        chosen(place, row, backbone, table)  # before anything is made for a row that wasn't tuned
    drawn = place.draw()
    record.said.setdefault("data", {**describe_bed(place), "seconds": drawn})
    add = make(place, row.made, record) if row.made else None
    kept = record.said["rows"].setdefault(row.name, {}).setdefault(backbone, {})
    for table, told in train_row(place, row, backbone, row.tables, add).items():
        kept[table] = {**told, "origin": record.origin}
    record.write()
    if row.name != "erm" or backbone != BACKBONES[0]:  # paste looks at those
        for name in row.tables:
            shutil.rmtree(trained_folder(place, row, backbone, name), ignore_errors=True)


# --- choosing settings ------------------------------------------------------------------------------


def tune(task: tuple[Plan, Unit]) -> list[str]:
    """Train each setting of each row once on a tuning seed, and keep its validation accuracy; test is never kept."""
    limit_threads()
    plan, unit = task
    try:
        place, record = Place(plan, unit), Record(tuning_file(plan.kept, unit.bed, unit.seed), plan, unit)
    except FiguregroundError as error:
        return [str(error)]
    tried, failed = record.said.setdefault("tried", {}), []
    for backbone, name in itertools.product(plan.backbones, plan.wanted(unit)):
        row = ROWS[name]
        done = tried.setdefault(name, {}).setdefault(backbone, [])
        if len(done) == len(row.tried):
            continue
        try:
            place.draw()
            add = make(place, row.made, record) if row.made else None
            for i, change in list(enumerate(row.tried))[len(done) :]:
                rules = [TABLES[table] for table in sorted(row.tables, reverse=True)]
                told = fit(place, row, backbone, change, rules, f"tried-{i}", add, 1)
                (seed,) = told["seeds"]
                validation = {
                    table: keep_seed(seed, table)["validation"]["worst" if rule == WORST_GROUP else "average"]
                    for table, rule in TABLES.items()
                    if table in row.tables
                }
                done.append(
                    {
                        "change": dict(change),
                        "validation": validation,
                        "seconds": seed["seconds"],
                        "origin": record.origin,
                    }
                )
                record.write()
                shutil.rmtree(trained_folder(place, row, backbone, f"tried-{i}"), ignore_errors=True)
        except FiguregroundError as error:
            failed.append(f"{unit.name}, {name}, {backbone}: {error}")
    return failed


# --- how long it takes ------------------------------------------------------------------------------


def estimate(
    record: Mapping[str, Any], backbones: Sequence[str], beds: Sequence[str] = BEDS
) -> dict[str, dict[str, float]]:
    """Return the core-hours of the whole plan by row: `training`, `making` and `tuning`.

    Args:
        record: Record of a unit with one training per row, at full size.
        backbones: Planned backbones; one that wasn't timed counts as the first that was.
    """
    hours = {name: {"training": 0.0, "making": 0.0, "tuning": 0.0} for name in record["rows"]}

    def once(name: str, backbone: str) -> float:
        tables = record["rows"][name].get(backbone) or next(iter(record["rows"][name].values()))
        return float(next(iter(tables.values()))["seeds"][0]["seconds"]) / 3600

    units = [*whole_plan(beds), *(Unit(bed, True, seed) for bed in beds for seed in TUNED_WITH)]
    for unit in units:
        made: set[str] = set()
        for name in (name for name in rows_of(unit) if name in hours):
            row, tuned = ROWS[name], unit.seed in TUNED_WITH
            if row.made and row.made not in made:
                made.add(row.made)
                hours[name]["making"] += record["made"][row.made]["seconds"] / 3600
            if tuned:
                hours[name]["tuning"] += len(row.tried) * once(name, backbones[0])
            else:
                hours[name]["training"] += TRAININGS * sum(once(name, backbone) for backbone in backbones)
    hours["the beds"] = {"training": 0.0, "making": len(units) * record["data"]["seconds"] / 3600, "tuning": 0.0}
    return hours


def print_hours(hours: Mapping[str, Mapping[str, float]]) -> None:
    kinds = ("training", "making", "tuning")
    print(f"\n{'core-hours':<24}" + "".join(f"{kind:>10}" for kind in (*kinds, "all")))
    lines = {**hours, "all": {kind: sum(each[kind] for each in hours.values()) for kind in kinds}}
    for name, each in lines.items():
        print(f"{name:<24}" + "".join(f"{value:>10.2f}" for value in (*(each[k] for k in kinds), sum(each.values()))))
    print("One training serves both tables where they choose the same setting: where they don't, training takes up to "
          "twice as long.")  # fmt: skip


# --- the command ------------------------------------------------------------------------------------


def parse_seeds(text: str) -> list[int]:
    """Parse a seed, `3`, or a range, `0-5`.

    Raises:
        ValueError: The text is neither.
    """
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1)) if dash else [int(first)]


QUICK: dict[str, Any] = {
    "epochs": 4, "trainings": 1, "images": 4, "sizes": (40, 16, 16), "choose": False,
    "oracle": {"pool": 128, "epochs": 1},
    "smaller": {
        "d3s": {"num_inference_steps": 2, "batch_size": 4},
        "scgs": {"num_inference_steps": 2, "batch_size": 4, "folds": 2, "training": {"epochs": 1}},
        "ddb": {
            "num_inference_steps": 2, "batch_size": 4, "sources": 4, "per_source": 1, "token_images": 3,
            "inversion": {"max_train_steps": 2},
            "training": {"epochs": 1}, "min_probability": 0.0, "min_attribution_ratio": 0.0,
        },
    },
}  # fmt: skip
"""Sizes of a smoke test."""
QUICK_ROWS = ("erm", "jtt", "dfr", "paste", "d3s", "scgs", "ddb", "ddb, two-stage")


def _parse() -> argparse.Namespace:
    parser = arguments(__doc__, "mitigate")
    parser.set_defaults(work=ROOT / "out" / "mitigate")
    add = parser.add_argument
    add("--beds", nargs="+", choices=BEDS, default=list(BEDS), help="test-beds")
    add("--bias", nargs="+", choices=("biased", "unbiased"), default=["biased", "unbiased"], help="(both)")
    add("--seeds", nargs="+", type=parse_seeds, metavar="N|N-M", help="pipeline seeds (all of the plan)")
    add("--rows", nargs="+", choices=list(ROWS), metavar="NAME", help=f"of {'; '.join(ROWS)} (all of the plan)")
    add("--backbones", nargs="+", default=list(BACKBONES), metavar="NAME", help="(%(default)s)")
    add("--untuned", action="store_true", help="use the default settings in all rows")
    add("--workers", type=int, default=2, help="processes, a thread each (%(default)s)")
    add("--kept", type=Path, default=RESULTS, help="folder of the units' JSON files")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--tune", action="store_true", help="try the settings of each row on the tuning seeds")
    what.add_argument("--report", action="store_true", help="only make tables and chart from the kept results")
    what.add_argument(
        "--time", action="store_true", help="do each row once, and estimate the core-hours of the whole plan"
    )
    return parser.parse_args()


def _plan(args: argparse.Namespace) -> Plan:
    command = " ".join(["python benchmarks/mitigate.py", *without_places(sys.argv[1:])])
    rows = tuple(args.rows) if args.rows else None
    if args.quick:
        work = args.work / "quick"
        return Plan(work, work / "kept", rows or QUICK_ROWS, tuple(args.backbones[:1]), command=command, **QUICK)
    if args.time:
        work = args.work / "timing"
        return Plan(work, work / "kept", rows, tuple(args.backbones), trainings=1, everything=True, choose=False,
                    command=command)  # fmt: skip
    backbones = tuple(args.backbones)
    if args.tune and backbones == BACKBONES:
        backbones = BACKBONES[:1]  # the second takes the settings of the first, unless it is named
    return Plan(args.work, args.kept, rows, backbones, choose=not args.untuned, command=command)


def _units(args: argparse.Namespace) -> list[Unit]:
    if args.quick:
        return [Unit(args.beds[0], True, 0)]
    asked = None if args.seeds is None else {seed for some in args.seeds for seed in some}
    if args.tune:
        units = [Unit(bed, True, seed) for seed in TUNED_WITH for bed in args.beds]
    else:
        units = [unit for unit in whole_plan(args.beds) if unit.kind in args.bias]
    return [unit for unit in units if asked is None or unit.seed in asked]


def _run(work: Callable[[tuple[Plan, Unit]], list[str]], plan: Plan, units: Sequence[Unit], workers: int) -> list[str]:
    tasks = [(plan, unit) for unit in units]
    with multiprocessing.get_context("spawn").Pool(min(workers, max(1, len(tasks))), maxtasksperchild=1) as processes:
        done = processes.imap_unordered(work, tasks)
        return [failure for failures in tqdm(done, total=len(tasks), unit="unit", disable=None) for failure in failures]


def main() -> int:
    args = _parse()
    plan, began = _plan(args), time.monotonic()
    failures: list[str] = []
    if not args.report:
        limit_threads()
        open_oracle(plan)  # once, before several processes would
        if args.time:
            unit = Unit(args.beds[0], True, TUNED_WITH[0])  # none that is judged
            failures = _run(do, plan, [unit], 1)
            print_hours(estimate(read_json(plan.kept / f"{unit.name}.json"), args.backbones, args.beds))
        else:
            failures = _run(tune if args.tune else do, plan, _units(args), args.workers)
    import mitigate_report

    try:
        if args.report or args.quick:
            mitigate_report.write(plan.kept, args, began)
        elif args.tune:
            print(mitigate_report.tuning_table(plan.kept) or "Nothing has been tuned.")
        elif not args.time:
            print("Tables and chart of the kept results: python benchmarks/mitigate.py --report")
    except FiguregroundError as error:
        failures.append(str(error))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
