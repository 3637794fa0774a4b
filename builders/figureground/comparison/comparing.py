"""`figureground compare`: compare bias-mitigation methods on one data set by worst-group accuracy."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from figureground.comparison import tables as compared
from figureground.comparison.generators import Generators, PasteSettings
from figureground.comparison.rows import PASTE, Row, generator_names, parse_methods
from figureground.core.devices import check_device
from figureground.core.differences import differences
from figureground.core.errors import FiguregroundError, RecipeError, counted, listed, nearest_or_all
from figureground.core.files import replace_text
from figureground.core.terminal import remark
from figureground.core.values import FieldsOf
from figureground.data.groups import GroupedImages
from figureground.data.layouts import read_groups
from figureground.learn.directory import held, read_inputs, refuse_other, refuse_strangers, remove_drafts
from figureground.learn.preflight import check_workers, list_seeds, refuse_backbone, refuse_revision, refuse_unfit
from figureground.learn.settings import MASKS, MOST_POCKET, RULES, Training, choose_backbone
from figureground.learn.training_data import TrainingData, gather
from figureground.learn.way import WAYS
from figureground.recipe import document as recipes
from figureground.tracking.reporting import begin, tracked
from figureground.tracking.tracker import check_tracker

if TYPE_CHECKING:
    from figureground.learn.backbones import Backbone

TRAINED = "train"
"""Folder of trained classifiers, one directory per row, or per row and seed."""

SHARED = (
    "backbone", "revision", "from_scratch", "augment", "epochs", "batch_size", "learning_rate", "weight_decay",
    "add_weight", "add_steps", "select", "validate_every",
)  # fmt: skip
"""Training settings that all methods may share; the others belong to one method."""

INPUTS = "compare.json"
"""Record of the compared methods and data; it marks the directory as ours."""


def parse_overrides(settings: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Parse settings of single methods and generators: `jtt.upweight=20`, `ddb.strength=0.9`.

    Raises:
        UsageError: A setting isn't of this form.
    """
    settings = list(settings)
    named = {recipes.parse_setting(text)[0][0] for text in settings}
    kinds = {name: kind for name in named if (kind := _settings_of(name)) is not None}
    found = recipes.apply_settings({}, settings, {}, kinds)
    for name, fields in found.items():
        if not isinstance(fields, Mapping):
            raise RecipeError("--set", f"{name!r} lacks its method: write it as jtt.upweight=20.")
    return found


def _settings_of(name: str) -> Any:
    """Return the type of a method's or generator's settings, or None for an unknown name."""
    if name in WAYS:
        return Annotated[dict[str, Any], FieldsOf(Training)]
    if name == PASTE:
        return PasteSettings
    if name not in generator_names():
        return None
    from figureground.methods.registry import method_class

    kind = method_class(name)
    return Annotated[dict[str, Any], FieldsOf(type(kind.CONFIGS[kind.DEFAULT]))]


def compare(
    data: Path | str,
    methods: Sequence[str],
    seeds: int | Sequence[int],
    out: Path | str,
    *,
    training: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    config: str | None = None,
    layout: str | None = None,
    root: Path | str | None = None,
    y: str | None = None,
    a: str | None = None,
    file: str | None = None,
    split_column: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    show_progress: bool = True,
    on_row: Callable[[dict[str, Any]], None] | None = None,
    track: str | None = None,
) -> dict[str, Any]:
    """Compare methods, or resume a comparison; finished work is kept, and methods and seeds may be added.

    For a method that adds images, a seed covers the whole pipeline: generating the images, pruning them if the
    generator prunes, and training the classifier. Settings and data are checked before anything is trained or
    generated.

    Args:
        data: As for `read_groups`, like `layout`, `root`, `y`, `a`, `file` and `split_column`.
        methods: Names of `way.WAYS` and `rows.generator_names`, and `GENERATOR+METHOD`. A generator alone is
            combined with erm.
        seeds: Number of seeds, from 0; or the seeds themselves.
        out: A directory that is new, empty, or holds a comparison on the same data.
        training: Settings of `Training` shared by all methods; names from `SHARED`. Classifiers trained by generators
            share them too, except those in `generators.UNSHARED`.
        overrides: Settings by method or generator. For paste: `masks` (`attended` or `true`), `quantile` and
            `count_per_class` (default: the mean number of training images per class).
        config: Config of the methods scgs and ddb; default `pocket` for small images, `photographs` for others.
        device: auto, cpu, cuda, cuda:1 or mps.
        workers: Threads that decode images; no effect on results.
        on_row: Called with the comparison so far after each row, so that it is available if a later row fails.
        track: The tracker to report to: trackio, tensorboard, wandb, or one of another package; None reports nothing.

    Returns:
        The comparison, as stored in `comparison.json`.

    Raises:
        FiguregroundError: Data, backbone or directory can't be used, or a method doesn't support the data.
        RecipeError: A method or a setting is invalid.
        Stopped: A signal requested a stop.
    """
    out, rows, chosen = Path(out), parse_methods(methods), list_seeds(seeds)
    check_workers(workers)
    check_device(device, "--device")
    check_tracker(track)
    refuse_strangers(out, INPUTS)
    training, overrides = training or {}, overrides or {}
    where: dict[str, Any] = {"layout": layout, "root": root, "y": y, "a": a, "file": file, "split_column": split_column}
    groups = read_groups(data, **where)
    door = _Preflight(groups, gather(groups), training, overrides)
    settings = door.check_trainings(rows)
    generators = Generators(
        data, where, groups.of_split(0), out, overrides, training, config or door.config, device, show_progress,
        config is not None,
    )  # fmt: skip
    made = door.check_generators(rows, generators, chosen[0])
    door.open_backbones(settings)
    if "paste" in made:
        generators.check_paste(door.backbone)
    identity = {"data": groups.fingerprint, "methods": door.identities, "generators": made}
    work = _Runner(data, where, rows, chosen, out, settings, generators, device, workers, show_progress, on_row)
    told = {"data": groups.name, "methods": list(methods), "seeds": chosen, **training, **overrides}
    with held(out, INPUTS, "compare"), tracked(track, out, told):
        _take_up(out, json.loads(json.dumps(identity)))
        for name, rule in door.rules.items():  # checked again: another comparison may have pruned meanwhile
            generators.refuse_other_pruning(name, rule)
        comparison = work.run(door.about())
        begin("comparison").table("comparison", *compared.tracked_table(comparison))
        return comparison


# Checks before any work


@dataclass(eq=False)
class _Preflight:
    """Checks of settings, data and backbones before any work."""

    groups: GroupedImages
    material: TrainingData
    training: Mapping[str, Any]
    overrides: Mapping[str, Mapping[str, Any]]
    identities: dict[str, Any] = field(default_factory=dict)
    """By training, the settings and backbone that determine it."""
    backbone: Backbone | None = None
    """Backbone of the first training."""
    rules: dict[str, str] = field(default_factory=dict)
    """By generator that prunes, its pruning rule."""

    def __post_init__(self) -> None:
        self.edge = max(self.material.train.album.draw(0).size)
        for name in self.training:
            if name not in SHARED:
                raise RecipeError(
                    name, f"not a setting that all methods share{nearest_or_all(name, SHARED)} "
                    "Set a method's own settings as METHOD.KEY, such as jtt.upweight."
                )  # fmt: skip

    @property
    def config(self) -> str:
        return "pocket" if self.edge <= MOST_POCKET else "photographs"

    def check_trainings(self, rows: Sequence[Row]) -> dict[str, Training]:
        """Return the settings of each training, including erm's if paste uses its classifiers."""
        used = {row.training for row in rows} | {row.generator for row in rows if row.generator}
        if PASTE in used:
            used.add("erm")
        for name in self.overrides:
            if name not in used:
                raise RecipeError(name, f"not one of the compared methods{nearest_or_all(name, used)}")
        settings = {
            method: Training(method, **{**self.training, **self._own(method)})
            for method in WAYS.names()
            if method in used
        }
        for each in settings.values():
            refuse_unfit(each, self.groups, self.material)
            refuse_backbone(each)
            refuse_revision(each, choose_backbone(each, self.edge))
        known = self.groups.attributes is not None
        rules = {each.rules(known)[0] for each in settings.values()}
        if len(rules) > 1:
            by_method = listed(f"{method} by {RULES[own.rules(known)[0]]}" for method, own in settings.items())
            raise RecipeError(
                "select",
                f"all methods must select their epoch by one rule, but here it is {by_method}. Give --select for all, "
                "and omit methods that can't follow it.",
            )
        self.rule = rules.pop()
        return settings

    def open_backbones(self, settings: Mapping[str, Training]) -> None:
        """Open each training's backbone and record its facts."""
        from figureground.learn.backbones import check_saving, open_backbone

        for method, each in settings.items():
            backbone = open_backbone(each, self.groups.classes, self.edge, 0)
            check_saving(backbone)
            self.backbone = self.backbone or backbone
            self.identities[method] = {**each.to_json(), "backbone": backbone.facts}

    def _own(self, method: str) -> Mapping[str, Any]:
        own = self.overrides.get(method, {})
        recipes.check_names(own, {each.name for each in dataclasses.fields(Training)} - {"method"}, method)
        return own

    def check_generators(self, rows: Sequence[Row], generators: Generators, seed: int) -> dict[str, Any]:
        """Return the settings that determine each generator's images, besides the seed."""
        found: dict[str, Any] = {}
        for name in dict.fromkeys(row.generator for row in rows if row.generator):
            if name == PASTE:
                found[name] = generators.check_paste(None)
                continue
            method = generators.method(name, seed)
            if (rule := method.pruning_rule()) is not None:
                self.rules[name] = rule
                generators.refuse_other_pruning(name, self.rules[name])
            found[name] = {key: value for key, value in method.identity().items() if key != "seed"}
            unknown = set(method.columns().backgrounds) - set(self.groups.attributes or ())
            for row in rows:
                if self.groups.attributes and unknown and row.generator == name and WAYS[row.training].BY_GROUP:
                    raise RecipeError(
                        "methods",
                        f"{row.name} isn't possible: {row.training} needs groups, but images made by {name} have no "
                        f"attribute of {self.groups.name}. Choose {name} or {name}+jtt.",
                    )
        return found

    def about(self) -> dict[str, Any]:
        material = self.material
        return {
            "data": self.groups.name, "backbone": self.backbone.name if self.backbone else None,
            "selection": RULES[self.rule], "classes": list(self.groups.classes),
            "attributes": list(self.groups.attributes) if self.groups.attributes is not None else None,
            "images": {
                "train": len(material.train), "validation": len(material.validation), "test": len(material.test),
            },
        }  # fmt: skip


def _take_up(out: Path, identity: dict[str, Any]) -> None:
    """Record the compared methods and data, and refuse if they differ from an earlier record."""
    path = out / INPUTS
    theirs = read_inputs(path) if path.exists() else {"data": identity["data"], "methods": {}, "generators": {}}
    changed = differences(theirs["data"], identity["data"], "data")
    for kind in ("methods", "generators"):
        for name, mine in identity[kind].items():
            changed += differences(theirs[kind].setdefault(name, mine), mine, name)
    refuse_other(out, "comparison", changed)
    remove_drafts(out)
    replace_text(path, json.dumps(theirs, indent=2, ensure_ascii=False) + "\n")


# The work


@dataclass(eq=False)
class _Runner:
    """The work of one comparison in its output directory."""

    data: Path | str
    where: Mapping[str, Any]
    """Layout arguments of `read_groups`."""
    rows: Sequence[Row]
    seeds: Sequence[int]
    out: Path
    settings: Mapping[str, Training]
    generators: Generators
    device: str
    workers: int | None
    show_progress: bool
    on_row: Callable[[dict[str, Any]], None] | None = None

    def run(self, about: Mapping[str, Any]) -> dict[str, Any]:
        done: list[dict[str, Any]] = []
        notes: list[str] = []
        comparison: dict[str, Any] = {}
        try:
            for row in self.rows:
                self._say(f"{row.name} ({len(done) + 1} of {len(self.rows)})")
                with _told_of(row.name):
                    done.append(self._row(row, notes))
                waiting = [each.name for each in self.rows[len(done) :]]
                comparison = compared.summarise(about, self.seeds, done, [*notes, *self._notes(done, waiting)])
                compared.write(self.out, comparison)
                if self.on_row is not None:
                    self.on_row(comparison)
        except KeyboardInterrupt as stop:
            stop.add_note(
                f"{len(done)} of {counted(len(self.rows), 'row')} of the comparison are finished. The same command "
                "resumes it."
            )
            raise
        return comparison

    def _say(self, text: str) -> None:
        if self.show_progress:
            remark(text)

    def _row(self, row: Row, notes: list[str]) -> dict[str, Any]:
        if row.generator is None:
            report = self._train(row.training, row.name, self.seeds)
            results = list(report["seeds"])
            notes += [note for note in report["notes"] if note not in notes]
        else:
            results = []
            for seed in self.seeds:
                made = self._made(row.generator, seed)
                name = f"{row.name}-seed-{seed}"
                report = self._train(row.training, name, [seed], [self.out / made["directory"]])
                added = {"added": report["images"]["added"], "made": made}
                results.append({**report["seeds"][0], **added})
                notes += [note for note in report["notes"] if note not in notes]
        uses = self.settings[row.training].uses(self.generators.train.attributes is not None)
        if row.generator and self.generators.uses_masks(row.generator):
            uses.append(MASKS)
        return compared.summarise_row(row, results, uses)

    def _train(self, method: str, name: str, seeds: Sequence[int], add: Sequence[Path] = ()) -> dict[str, Any]:
        from figureground.learn.training import train

        return train(
            self.settings[method], self.data, self.out / TRAINED / name, add=add, seeds=seeds, device=self.device,
            workers=self.workers, show_progress=self.show_progress, **self.where,
        )  # fmt: skip

    def _made(self, generator: str, seed: int) -> dict[str, Any]:
        """Generate images unless they exist; return their record as `Generators.make` does."""
        told = self.generators.read_made(generator, seed)
        if told is None:
            self._say(f"making {generator}-seed-{seed}")
            with _told_of(f"seed {seed}"):
                told = self.generators.make(generator, seed, self._erm)
        return told

    def _erm(self, seed: int) -> Path:
        """Return the folder of a seed's ERM classifier, training it if needed."""
        models = self.out / TRAINED / "erm"
        if not (models / f"seed-{seed}.json").exists():
            self._train("erm", "erm", self.seeds)
        return models / f"erm-seed-{seed}"

    def _notes(self, done: Sequence[Mapping[str, Any]], waiting: Sequence[str]) -> Iterator[str]:
        if any(row["generator"] for row in done):
            yield (
                "If images are added, the seed covers the whole pipeline: it also determines the images, not only the "
                "classifier."
            )
        if any(row["generator"] == "paste" for row in done):
            yield self.generators.paste_note()
        yield from compared.notes_on_steps(done)
        kind = "class" if self.generators.train.attributes is None else "group"
        yield from compared.notes_on_small_groups(done, kind)
        if len(self.seeds) == 1:
            yield "With one seed, the spread over seeds is unknown."
        if waiting:
            yield f"Not done yet: {listed(waiting)}."


@contextlib.contextmanager
def _told_of(name: str) -> Iterator[None]:
    """Prefix an error's text with a name."""
    try:
        yield
    except FiguregroundError as error:
        error.args = (f"{name}: {error}",)
        raise
