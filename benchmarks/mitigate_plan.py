"""Plan of `mitigate.py`: rows, units, settings, and the files of results."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from results import ROOT, describe_machine, describe_origin, read_cpu

from figureground.core.errors import FiguregroundError
from figureground.core.files import replace_text
from figureground.learn.settings import AVERAGE, MASKS, TWO_STAGE, WORST_GROUP, Training
from figureground.pocket import birds

BEDS = ("pocketbirds", "pocketlooks")
BACKBONES = ("pocket", "regnet")
"""Backbones of different families. SCGS, DDB and paste use the errors of the first."""
EPOCHS = 40
"""Passes over the real training images; `beds.py` tests convergence with the same number."""
VALIDATE_EVERY = 2
"""Epochs between evaluations on validation, in all rows."""
TRAININGS = 3
"""Number of training seeds per pipeline seed."""
LONGER = 2
"""Factor by which `--longer` multiplies `EPOCHS`; it trains once per pipeline seed."""
LONGER_ROWS = ("erm", "ddb", "scgs")
"""Rows that `--longer` trains, on biased beds and `EXPLORATORY_SEEDS`."""
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


# Rows and units


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


Tried = tuple[Mapping[str, Any], ...]
PLAIN_TRIED: Tried = ({}, {"weight_decay": 1.0}, {"rate_times": 3.0}, {"rate_times": 1 / 3})
ADDED_TRIED: Tried = ({}, {"weight_decay": 1.0}, {"add_weight": 0.5}, {"add_weight": 2.0})
STAGED_TRIED: Tried = ({}, {"weight_decay": 1.0}, {"first_share": 0.25}, {"first_share": 0.75})
JTT_TRIED: Tried = ({}, {"upweight": 5.0}, {"first_epochs": 5}, {"first_epochs": 5, "upweight": 5.0})
DRO_TRIED: Tried = ({}, {"weight_decay": 1.0}, {"step_size": 0.1}, {"weight_decay": 1.0, "step_size": 0.1})

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


def list_rows(unit: Unit) -> list[str]:
    """Return the planned rows of a unit in order, primary ones first."""
    if unit.seed in TUNED_WITH:
        return [name for name, row in ROWS.items() if row.like is None] if unit.biased else []
    if not unit.biased:
        return list(UNBIASED) if unit.seed in EXPLORATORY_SEEDS else []
    names = ["erm", *PRIMARY] if unit.seed in PRIMARY_SEEDS else []
    if unit.seed in EXPLORATORY_SEEDS:
        names += [name for name, row in ROWS.items() if row.like is None and name not in names]
    if unit.seed in MASK_SEEDS and unit.bed == BEDS[0]:
        names += [name for name, row in ROWS.items() if row.like is not None]
    return names


def whole_plan(beds: Sequence[str] = BEDS) -> list[Unit]:
    """Return all units of the plan: those of the primary comparisons first, seed by seed."""
    units = [Unit(bed, True, seed) for seed in PRIMARY_SEEDS for bed in beds]
    return units + [Unit(bed, False, seed) for seed in EXPLORATORY_SEEDS for bed in beds]


@dataclass(frozen=True)
class Plan:
    """Folders and sizes of a run, and the part of the plan that it covers."""

    work: Path
    results_folder: Path
    """Folder of the units' JSON files."""
    rows: tuple[str, ...] | None = None
    """Names of rows; None for those of `list_rows`."""
    backbones: tuple[str, ...] = BACKBONES
    epochs: int = EPOCHS
    trainings: int = TRAININGS
    images: int = IMAGES
    sizes: tuple[int | None, int | None, int | None] = (None, None, None)
    """Numbers of images for training, validation and test; None for the bed's own."""
    smaller: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of each builder for smaller sizes than planned."""
    images_of: Path | None = None
    """Folder of another plan's JSON files: its units' added images, and the facts about them, are used. None to make
    images."""
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

    def select_rows(self, unit: Unit) -> list[str]:
        """Return the rows of a unit to be done: those requested that the plan has for it."""
        planned = list(ROWS) if self.everything else list_rows(unit)
        return planned if self.rows is None else [name for name in planned if name in self.rows]


# Files of results


class Record:
    """A unit's JSON file with its finished rows.

    Raises:
        FiguregroundError: An existing file, or that of the unit whose images are used, was made with another plan,
            other weights or another dataset format, or lacks images.
    """

    def __init__(self, path: Path, plan: Plan, unit: Unit):
        self.path = path
        self.current_origin = {**describe_origin(), "cpu": read_cpu()}  # another CPU rounds in another way
        identity = {
            "kept_format": KEPT_FORMAT, "bed": unit.bed, "bias": unit.kind, "seed": unit.seed,
            "plan": json.loads(json.dumps(plan.facts())),
            "drawn": json.loads(json.dumps(dataclasses.asdict(birds.find_bed(unit.bed)))),
        }  # fmt: skip
        self.content: dict[str, Any] = {
            **identity,
            "command": plan.command,
            "machine": describe_machine(),
            "origins": [],
            "made": {},
            "rows": {},
            "failed": {},
        }
        if path.exists():
            self.content = self._read(path, identity)
        if plan.images_of is not None:
            self._use_images_of(plan.images_of / path.name, identity, plan.select_rows(unit))

    def _read(self, path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Return the contents of a unit's file; raise FiguregroundError if it can't be used with this plan."""
        content = read_json(path)
        name = f"{path.parent.name}/{path.name}"
        if changed := [entry for entry, value in identity.items() if content.get(entry) != value]:
            raise FiguregroundError(f"{name} was made by another plan: {', '.join(changed)} differ. Move it away.")
        current = self.current_origin["format"], self.current_origin["weights"]
        if any((earlier["format"], earlier["weights"]) != current for earlier in content["origins"]):
            raise FiguregroundError(f"{name} was made with other weights, or another format of datasets. Move it away.")
        return content

    def _use_images_of(self, path: Path, identity: Mapping[str, Any], rows: Sequence[str]) -> None:
        """Take over the facts about the drawings and the added images from another plan's file."""
        if not path.exists():
            raise FiguregroundError(f"{path.parent.name}/{path.name} is missing: train for the usual length first.")
        shorter = read_json(path)["plan"]
        plan = {**identity["plan"], "epochs": shorter["epochs"], "trainings": shorter["trainings"]}
        other = self._read(path, {**identity, "plan": plan})
        missing = [name for name in rows if ROWS[name].made and ROWS[name].made not in other["made"]]
        if missing:
            raise FiguregroundError(
                f"{path.parent.name}/{path.name} has no images of {', '.join(missing)}: train these rows for the "
                "usual length first."
            )
        self.content.setdefault("data", other["data"])
        for name in (str(ROWS[row].made) for row in rows if ROWS[row].made):
            if name not in self.content["made"]:
                facts = other["made"][name]
                self.content["made"][name] = {**facts, "origin": self._number(other["origins"][facts["origin"]])}

    @property
    def origin(self) -> int:
        """Index of this run's origin in the file's `origins`."""
        return self._number(self.current_origin)

    def _number(self, origin: Mapping[str, Any]) -> int:
        if origin not in self.content["origins"]:
            self.content["origins"].append(origin)
        return int(self.content["origins"].index(origin))

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.path, json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")


def find_longer(kept: Path) -> Path:
    """Return the folder of the units trained longer, beside that of the usual ones."""
    return kept.with_name(f"{kept.name}-longer")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


# Settings


def make_settings(row: Row, change: Mapping[str, Any], rules: Sequence[str], plan: Plan, backbone: str) -> Training:
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
    records = [read_json(path) for seed in TUNED_WITH if (path := tuning_file(kept, bed, seed)).exists()]
    for name in dict.fromkeys((backbone, BACKBONES[0])):
        tried = [each["tried"].get(row.name, {}).get(name, []) for each in records]
        if len(tried) == len(TUNED_WITH) and all(len(each) == len(row.tried) for each in tried):
            if any([trial["change"] for trial in each] != [dict(change) for change in row.tried] for each in tried):
                raise FiguregroundError(f"{row.name} on {bed} was tuned with other settings than are tried now.")
            means = [np.mean([each[i]["validation"][table] for each in tried]) for i in range(len(row.tried))]
            return row.tried[int(np.argmax(means))]
    raise FiguregroundError(f"{row.name} on {bed} has not been tuned: run --tune --beds {bed} first.")
