"""`figureground compare`: methods against a bias, side by side on one data set, by the accuracy of the worst group."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from figureground import recipe as recipes
from figureground.errors import FiguregroundError, RecipeError, counted, listed, nearest, nearest_or_all
from figureground.learn.backbones import MOST_POCKET, Backbone, check_saving, open_backbone
from figureground.learn.groups import GroupedPictures
from figureground.learn.layouts import read_groups
from figureground.learn.material import Material, gather
from figureground.learn.paste import MARKER, QUANTILE, AttendedMasks, Masks, TrueMasks, paste
from figureground.learn.settings import METHODS, Training
from figureground.learn.trained import spread
from figureground.learn.training import list_seeds, refuse_unfit, train
from figureground.run import disk
from figureground.shards.writer import lock, replace_text

GENERATORS = {
    "paste": "objects on scenes of other classes, by cutting and pasting",
    "scgs": "what ERM gets wrong, with the wrongly attended region repainted (Li et al. 2024)",
    "ddb": "objects of another class inpainted into the scene, then pruned (Parast et al. 2025)",
}
"""What makes pictures that are added to training, and what each makes."""
PRUNED = ("ddb",)
"""Generators whose pictures are pruned by a rule of theirs before they are added."""
BY_GROUP = ("groupdro", "reweight")
"""Trainings that need to know the attribute of each added picture, where the data say attributes."""
TRAINED = "train"
"""The folder of trained classifiers, one directory a row, or a row and seed."""

SHARED = (
    "backbone", "revision", "from_scratch", "augment", "epochs", "batch_size", "learning_rate", "weight_decay",
    "add_weight",
)  # fmt: skip
"""Settings of training that all methods may share; the others belong to one method."""
UNSHARED = ("epochs", "add_weight")
"""Settings of training that the classifiers which generators train have of their own."""

INPUTS = "compare.json"
"""What is compared on what: it makes the directory ours."""
REPORT, TABLE, PAGE, PNG = "comparison.json", "comparison.txt", "comparison.md", "comparison.png"
LOCK = ".compare.lock"

ATTENDED, TRUE = "attended", "true"
"""Where paste takes objects from: what ERM attends to, or the data's own masks."""
PASTE = ("masks", "quantile", "count_per_class")
"""Settings of paste."""
MOST_GROUPS = 12
"""Groups whose accuracies the tables show; of more, the JSON tells."""


class Row(NamedTuple):
    """A method of the comparison."""

    name: str
    generator: str | None
    """What makes the pictures that are added; one of `GENERATORS`."""
    training: str
    """One of `settings.METHODS`."""


def parse_methods(names: Sequence[str]) -> list[Row]:
    """The rows that are asked for: `jtt`, `ddb` (which is ddb and ERM), `ddb+jtt`.

    Raises:
        RecipeError: None, one that there isn't, or one that is named twice.
    """
    known = [*METHODS, *GENERATORS, *(f"{made}+{method}" for made in GENERATORS for method in METHODS)]
    rows: list[Row] = []
    for name in names:
        first, plus, second = name.partition("+")
        if name not in known:
            near = nearest(name, known) or (
                f"; there is {listed([*METHODS, *GENERATORS])}, and a generator with a training, such as scgs+jtt."
            )
            raise RecipeError("methods", f"there is no {name!r}{near}")
        generator = first if first in GENERATORS else None
        training = second if plus else "erm" if generator else first
        row = Row(generator if generator and training == "erm" else name, generator, training)
        if row in rows:
            raise RecipeError("methods", f"{row.name!r} is named twice.")
        rows.append(row)
    if not rows:
        raise RecipeError("methods", f"name some, such as erm,jtt,ddb; there is {listed([*METHODS, *GENERATORS])}.")
    return rows


def parse_overrides(settings: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Settings of single methods and generators from a command line: `jtt.upweight=20`, `ddb.strength=0.9`.

    Raises:
        UsageError: One that isn't written so.
    """
    found = recipes.apply_settings({}, settings, {})
    for name, fields in found.items():
        if not isinstance(fields, Mapping):
            raise RecipeError("--set", f"{name!r} says not of which method: write it as jtt.upweight=20.")
    return found


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
    device: str = "auto",
    workers: int | None = None,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Compares methods, or goes on with it: what is finished is never done again, methods and seeds may be added.

    Where a method adds pictures, a seed is the whole pipeline: the pictures are made with it, pruned where the
    generator prunes, and the classifier is trained with it. All that can be wrong with settings and data is said
    before anything is trained or made.

    Args:
        data: As `read_groups` takes it, and so are `layout`, `root`, `y` and `a`.
        methods: Names of `settings.METHODS` and `GENERATORS`, and `GENERATOR+METHOD`. A generator alone is with erm.
        seeds: How many, from 0 on; or the seeds themselves.
        out: A directory that is new, empty, or holds a comparison on the same data.
        training: Settings of `Training` that all methods share, of `SHARED`. The classifiers that generators train
            share them too, but for those of `UNSHARED`.
        overrides: By method or generator, settings of its own. Of paste: `masks` (`attended` or `true`), `quantile` and
            `count_per_class`; without, as many as training has pictures a class.
        config: Of the builders scgs and ddb; `pocket` for small pictures and `photographs` for others, unless said.
        device: auto, cpu, cuda, cuda:1 or mps.
        workers: Threads that decode pictures; they change no result.

    Returns:
        The comparison, as `comparison.json` holds it.

    Raises:
        FiguregroundError: Data, backbone or directory can't be used, or a method can't work with the data.
        RecipeError: A method or a setting that can't be used.
        Stopped: A signal asked for it.
    """
    out, rows, chosen = Path(out), parse_methods(methods), list_seeds(seeds)
    where = {"layout": layout, "root": root, "y": y, "a": a}
    groups = read_groups(data, layout, root=root, y=y, a=a)
    door = _Door(groups, gather(groups), training or {}, overrides or {})
    settings = door.check_trainings(rows)
    work = _Work(
        data, groups.of_split(0), rows, chosen, out, settings, overrides or {}, training or {}, config or door.config,
        where, device, workers, show_progress,
    )  # fmt: skip
    generators = door.check_generators(rows, work)
    identity = {"data": groups.fingerprint, "methods": door.identities, "generators": generators}
    made = disk.first_missing(out)
    try:
        with _held(out):
            _take_up(out, json.loads(json.dumps(identity)))
            return work.run(door.about())
    except OSError as error:
        if trouble := disk.explain(error, out):
            raise FiguregroundError(trouble) from error
        raise
    finally:
        if made is not None and out.is_dir() and not any(out.iterdir()):
            with contextlib.suppress(OSError):
                out.rmdir()


# What is checked before anything is done


@dataclass(eq=False)
class _Door:
    """Refuses what can't work."""

    groups: GroupedPictures
    material: Material
    training: Mapping[str, Any]
    overrides: Mapping[str, Mapping[str, Any]]
    identities: dict[str, Any] = field(default_factory=dict)
    """By training, what decides it."""
    backbone: Backbone | None = None
    """That of the first training."""

    def __post_init__(self) -> None:
        self.edge = max(self.material.train.album.draw(0).size)
        for name in self.training:
            if name not in SHARED:
                raise RecipeError(
                    name, f"no setting that all methods share is called so{nearest_or_all(name, SHARED)} "
                    "What belongs to one method is set for it, as jtt.upweight is."
                )  # fmt: skip

    @property
    def config(self) -> str:
        return "pocket" if self.edge <= MOST_POCKET else "photographs"

    def check_trainings(self, rows: Sequence[Row]) -> dict[str, Training]:
        """The settings of each training, erm's included where paste looks at its classifiers."""
        used = {row.training for row in rows} | {row.generator for row in rows if row.generator}
        if "paste" in used:
            used.add("erm")
        for name in self.overrides:
            if name not in used:
                raise RecipeError(
                    name, f"no method that is compared has settings of that name{nearest_or_all(name, used)}"
                )
        settings = {
            method: Training(method, **{**self.training, **self._own(method)}) for method in METHODS if method in used
        }
        for method, each in settings.items():
            refuse_unfit(each, self.groups, self.material)
            backbone = open_backbone(each, self.groups.classes, self.edge, 0)
            check_saving(backbone)
            self.backbone = self.backbone or backbone
            self.identities[method] = {**each.to_json(), "backbone": backbone.facts}
        return settings

    def _own(self, method: str) -> Mapping[str, Any]:
        own = self.overrides.get(method, {})
        recipes.check_names(own, {each.name for each in dataclasses.fields(Training)} - {"method"}, method)
        return own

    def check_generators(self, rows: Sequence[Row], work: _Work) -> dict[str, Any]:
        """What decides each generator's pictures, beside the seed."""
        found: dict[str, Any] = {}
        for name in dict.fromkeys(row.generator for row in rows if row.generator):
            if name == "paste":
                found[name] = self._check_paste(work)
                continue
            builder = work.builder(name, work.seeds[0])
            if name in PRUNED:
                work.refuse_other_pruning(name, builder.pruning_rule())
            found[name] = {key: value for key, value in builder.identity().items() if key != "seed"}
            unknown = set(builder.columns().backgrounds) - set(self.groups.attributes or ())
            for row in rows:
                if self.groups.attributes and unknown and row.generator == name and row.training in BY_GROUP:
                    raise RecipeError(
                        "methods",
                        f"{row.name} can't be done: {row.training} counts by groups, and pictures that {name} makes "
                        f"say no attribute of {self.groups.name}. Choose {name} or {name}+jtt.",
                    )
        return found

    def _check_paste(self, work: _Work) -> dict[str, Any]:
        own = work.overrides.get("paste", {})
        recipes.check_names(own, PASTE, "paste")
        masks, train = work.masks, work.train
        if masks not in (ATTENDED, TRUE):
            raise RecipeError("paste.masks", f"there is no {masks!r}{nearest_or_all(str(masks), (ATTENDED, TRUE))}")
        if masks == TRUE and "quantile" in own:
            raise RecipeError("paste.quantile", "true masks have no use for it.")
        if masks == TRUE and not train.masked.all():
            bare = np.flatnonzero(~train.masked)
            raise RecipeError(
                "paste.masks",
                f"{counted(len(bare), 'training picture')} of {train.name} have no true mask, such as "
                f"{train.keys[bare[0]]}; {ATTENDED} needs none.",
            )
        quantile, count = own.get("quantile", QUANTILE), work.count_per_class
        if not _is_number(quantile, float) or not 0 < quantile < 1:
            raise RecipeError("paste.quantile", f"{quantile!r} is not a number between 0 and 1.")
        if not _is_number(count, int) or count < 1:
            raise RecipeError("paste.count_per_class", f"{count!r} is not a whole number from 1 on.")
        if masks == ATTENDED and self.backbone is not None and not hasattr(self.backbone.network, "save_pretrained"):
            raise RecipeError(
                "paste.masks", f"the attention of {self.backbone.name} can't be read: choose a transformers backbone, "
                f"or masks={TRUE}.",
            )  # fmt: skip
        return {"masks": masks, "count_per_class": count, **({"quantile": quantile} if masks == ATTENDED else {})}

    def about(self) -> dict[str, Any]:
        material, known = self.material, self.groups.attributes is not None
        return {
            "data": self.groups.name, "backbone": self.backbone.name if self.backbone else None,
            "selection": "worst group" if known else "worst class", "classes": list(self.groups.classes),
            "attributes": list(self.groups.attributes) if self.groups.attributes is not None else None,
            "pictures": {
                "train": len(material.train), "validation": len(material.validation), "test": len(material.test),
            },
        }  # fmt: skip


def _is_number(value: Any, kind: type) -> bool:
    kinds = int if kind is int else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


@contextlib.contextmanager
def _held(out: Path) -> Iterator[None]:
    """Holds a directory for this process alone, after making sure that it is nobody else's."""
    if out.exists() and not out.is_dir():
        raise FiguregroundError(f"--out {out} is a file; give a directory.")
    names = sorted(path.name for path in out.iterdir() if path.name != LOCK) if out.is_dir() else []
    if names and INPUTS not in names:
        raise FiguregroundError(
            f"--out {out} holds something else ({listed(names, 3)}) and was left as it is. Give a new directory."
        )
    out.mkdir(parents=True, exist_ok=True)
    with lock(out / LOCK) as alone:
        if not alone:
            raise FiguregroundError(f"{out}: another process compares there.")
        try:
            yield
        finally:
            (out / LOCK).unlink(missing_ok=True)


def _take_up(out: Path, identity: dict[str, Any]) -> None:
    """Writes down what is compared, beside what was before, or makes sure that it is the same."""
    path = out / INPUTS
    theirs: dict[str, Any] = {"data": identity["data"], "methods": {}, "generators": {}}
    if path.exists():
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FiguregroundError(f"{path} is damaged ({error}). Give another directory.") from None
    changed = recipes.differences(theirs["data"], identity["data"], "data")
    for kind in ("methods", "generators"):
        for name, mine in identity[kind].items():
            changed += recipes.differences(theirs[kind].setdefault(name, mine), mine, name)
    if changed:
        raise FiguregroundError(
            f"--out {out} holds another comparison:\n  " + "\n  ".join(changed[:12])
            + "\nGive another directory, or the same settings and data again."
        )  # fmt: skip
    for left in out.glob(".*.part"):
        left.unlink()
    for left in out.glob(".*.tmp"):
        left.unlink()
    replace_text(path, json.dumps(theirs, indent=2, ensure_ascii=False) + "\n")


# The work


@dataclass(eq=False)
class _Work:
    """What is done in one directory."""

    data: Path | str
    train: GroupedPictures
    """The training split."""
    rows: Sequence[Row]
    seeds: Sequence[int]
    out: Path
    settings: Mapping[str, Training]
    overrides: Mapping[str, Mapping[str, Any]]
    training: Mapping[str, Any]
    config: str
    where: Mapping[str, Any]
    """How the data lie."""
    device: str
    workers: int | None
    show_progress: bool

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
                comparison = summarise(about, self.seeds, done, [*notes, *self._notes(done, waiting)])
                write(self.out, comparison)
        except KeyboardInterrupt as stop:
            stop.add_note(
                f"Of the comparison, {len(done)} of {counted(len(self.rows), 'row')} are finished. The same command "
                "goes on from there."
            )
            raise
        return comparison

    def _say(self, text: str) -> None:
        if self.show_progress:
            tqdm.write(f"figureground: {text}", file=sys.stderr)

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
                added = {"added": report["pictures"]["added"], "made": made}
                results.append({**report["seeds"][0], **added})
                notes += [note for note in report["notes"] if note not in notes]
        return summarise_row(row, results)

    def _train(self, method: str, name: str, seeds: Sequence[int], add: Sequence[Path] = ()) -> dict[str, Any]:
        return train(
            self.settings[method], self.data, self.out / TRAINED / name, add=add, seeds=seeds, device=self.device,
            workers=self.workers, show_progress=self.show_progress, **self.where,
        )  # fmt: skip

    # Pictures that are made

    @property
    def masks(self) -> Any:
        """Where paste takes objects from; YAML makes a truth value of `true`."""
        given = self.overrides.get("paste", {}).get("masks", ATTENDED)
        return TRUE if given is True else given

    @property
    def count_per_class(self) -> Any:
        classes = len(np.unique(self.train.y))
        return self.overrides.get("paste", {}).get("count_per_class", max(1, len(self.train) // classes))

    def builder(self, name: str, seed: int) -> Any:
        """The builder of scgs or ddb, for the data and a seed."""
        from figureground.builder import builder_class

        kind, own = builder_class(name), dict(self.overrides.get(name, {}))
        recipes.check_names(own, set(type(kind.CONFIGS[kind.DEFAULT]).field_names()) - {"data", "seed"}, name)
        shared = {key: value for key, value in self.training.items() if key not in UNSHARED}
        theirs = getattr(kind.CONFIGS.get(self.config), "training", {})
        given = own.get("training", {})
        if not isinstance(given, Mapping):
            raise RecipeError(f"{name}.training", f"{given!r} is not a mapping; write {name}.training.epochs=5.")
        fields: dict[str, Any] = {key: str(value) for key, value in self.where.items() if value is not None}
        fields |= {**own, "training": {**theirs, **shared, **given}}
        if self.device != "auto":
            fields.setdefault("device", self.device)
        return kind(self.config, data=str(self.data), seed=seed, **fields)

    def _made(self, generator: str, seed: int) -> dict[str, Any]:
        """Makes pictures unless they are there, and tells of them: `directory`, `pictures`, `kept`, `seconds`."""
        name = f"{generator}-seed-{seed}"
        marker = self.out / f"{name}.json"
        done = _read_told(marker)
        if done is not None and (self.out / done["directory"]).is_dir():
            return done
        self._say(f"making {name}")
        began = time.monotonic()
        with _told_of(f"seed {seed}"):
            told = self._paste(name, seed) if generator == "paste" else self._build(generator, name, seed)
        told["seconds"] = round(time.monotonic() - began, 1)
        replace_text(marker, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        return told

    def refuse_other_pruning(self, generator: str, rule: str) -> None:
        """The rule decides no picture that is made, so it isn't part of what `INPUTS` says.

        Raises:
            FiguregroundError: Pictures that are there were pruned by another rule.
        """
        for marker in sorted(self.out.glob(f"{generator}-seed-*.json")):
            told = _read_told(marker)
            if told is not None and told.get("rule") != rule:
                raise FiguregroundError(
                    f"--out {self.out} holds pictures of {generator} that were pruned by\n  {told.get('rule')}\n"
                    f"and not by\n  {rule}\n"
                    "Give another directory, or the same least_probability and least_attribution again."
                )

    def _paste(self, name: str, seed: int) -> dict[str, Any]:
        own = self.overrides.get("paste", {})
        masks: Masks = TrueMasks()
        if self.masks == ATTENDED:
            from figureground.diffusion.checkpoint import choose_device
            from figureground.vision.classifiers import open_classifier

            models = self.out / TRAINED / "erm"
            if not (models / f"seed-{seed}.json").exists():
                self._train("erm", "erm", self.seeds)
            classifier = open_classifier(str(models / f"erm-seed-{seed}"), device=choose_device(self.device))
            masks = AttendedMasks(classifier, own.get("quantile", QUANTILE))
        whole = read_groups(self.data, **self.where)
        paste(whole, masks, self.count_per_class, seed, self.out / name, show_progress=self.show_progress)
        said = json.loads((self.out / name / MARKER).read_text(encoding="utf-8"))
        return {"directory": name, "pictures": said["pictures"], "passed_over": len(said["passed_over"])}

    def _build(self, generator: str, name: str, seed: int) -> dict[str, Any]:
        from figureground.diffusion.render import release_memory
        from figureground.trust.curate import curate

        builder = self.builder(generator, seed)
        built = self.out / name
        builder.build(built, show_progress=self.show_progress)
        told: dict[str, Any] = {"directory": name, "pictures": _count(built)}
        if generator in PRUNED:
            rule = builder.pruning_rule()
            try:
                pruned = curate(built, self.out / f"{name}-pruned", rule, show_progress=self.show_progress)
            except RecipeError as error:
                raise FiguregroundError(
                    f"{error} What was made is kept: choose lower --set {generator}.least_probability=… and "
                    f"{generator}.least_attribution=…, and give the same command again."
                ) from None
            told |= {"directory": pruned.name, "rule": rule, "kept": _count(pruned) / told["pictures"]}
        del builder
        release_memory()
        return told

    # What is said below the table

    def _notes(self, done: Sequence[Mapping[str, Any]], waiting: Sequence[str]) -> Iterator[str]:
        if any(row["generator"] for row in done):
            yield (
                "Where pictures are added, a seed is the whole pipeline: it makes the pictures too, not the classifier "
                "alone."
            )
        if any(row["generator"] == "paste" for row in done):
            own = self.overrides.get("paste", {})
            share = f"{1 - own.get('quantile', QUANTILE):.0%}"
            objects = "by the true masks" if self.masks == TRUE else f"as what ERM attends to, {share} of each picture"
            yield f"paste cuts objects out {objects}. The other picture's own object may stay in view."
        if len(self.seeds) == 1:
            yield "One seed tells no spread."
        if waiting:
            yield f"Not done yet: {listed(waiting)}."


def _read_told(marker: Path) -> dict[str, Any] | None:
    """What is told of pictures that were made; None where they aren't finished."""
    try:
        told = json.loads(marker.read_text(encoding="utf-8"))
        return {**told, "directory": str(told["directory"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(
            f"{marker} is damaged ({error}). Remove it and give the same command again: the pictures are kept."
        ) from None


@contextlib.contextmanager
def _told_of(name: str) -> Iterator[None]:
    """Puts what was done before an error's text."""
    try:
        yield
    except FiguregroundError as error:
        error.args = (f"{name}: {error}",)
        raise


def _count(directory: Path) -> int:
    return len(read_groups(directory).of_split(0))


# What came of it


def summarise_row(row: Row, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of the comparison, JSON-able.

    Args:
        results: Of each seed, what `train` reports; of a generator's also `added`, how many pictures were added, and
            `made`, what is told of those.

    Returns:
        `method`, `generator`, `training`; of `average`, `reweighted`, `worst`, `added`, `kept`, and `precision` and
        `recall` of JTT's errors: `mean` and `std`, None where there is none; `groups`, the same of each; `seeds`.
    """
    tests = [result["test"] for result in results]
    over = {name: spread([test[name] for test in tests]) for name in ("average", "reweighted", "worst")}
    groups = [
        {**{key: each[key] for key in ("name", "pictures", "train")},
         **spread([test["groups"][i]["accuracy"] for test in tests])}
        for i, each in enumerate(tests[0]["groups"])
    ]  # fmt: skip
    seeds = [
        {"seed": result["seed"], "epoch": result["epoch"], "model": result["model"],
         **{name: result["test"][name] for name in ("average", "reweighted", "worst", "worst_name")},
         "validation": result["validation"], "added": result.get("added"),
         **{name: result.get("jtt", {}).get(name) for name in ("precision", "recall")},
         "made": result.get("made"), "kept": (result.get("made") or {}).get("kept"), "seconds": result["seconds"]}
        for result in results
    ]  # fmt: skip
    more = {name: spread([seed[name] for seed in seeds]) for name in ("added", "kept", "precision", "recall")}
    return {"method": row.name, "generator": row.generator, "training": row.training, **over, **more,
            "groups": groups, "seeds": seeds}  # fmt: skip


def summarise(
    about: Mapping[str, Any], seeds: Sequence[int], rows: Sequence[Mapping[str, Any]], notes: Sequence[str]
) -> dict[str, Any]:
    """The comparison, JSON-able.

    Args:
        about: `data`, `backbone`, `selection`, `classes`, `attributes` and `pictures`.
        rows: As `summarise_row` gives them.
    """
    return {**about, "seeds": list(seeds), "rows": list(rows), "notes": list(notes)}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _accuracy(each: Mapping[str, float | None]) -> str:
    return _percent(each["mean"]) + ("" if each["std"] is None else f" ± {_percent(each['std'])}")


def _number(each: Mapping[str, float | None]) -> str:
    return "–" if each["mean"] is None else f"{each['mean']:,.0f}"


_COLUMNS = {"added": "added", "kept": "kept", "precision": "JTT precision", "recall": "JTT recall"}
"""Columns that are shown where a row has something to say there."""


def _tables(comparison: Mapping[str, Any]) -> list[list[list[str]]]:
    """The cells of the tables: the comparison, and the accuracy of each group."""
    rows = comparison["rows"]
    names = {"average": "average", "reweighted": "re-weighted average", "worst": comparison["selection"]}
    shown = {n: text for n, text in names.items() if any(row[n]["mean"] is not None for row in rows)}
    more = {n: text for n, text in _COLUMNS.items() if any(row[n]["mean"] is not None for row in rows)}
    first = [["test accuracy, %", *shown.values(), *more.values()]]
    for row in rows:
        cells = [_accuracy(row[name]) for name in shown]
        first.append(
            [row["method"], *cells, *((_number if n == "added" else _accuracy)(row[n]) for n in more)]
        )  # fmt: skip
    groups = rows[0]["groups"]
    if len(groups) > MOST_GROUPS:
        return [first]
    kind = "group" if comparison["attributes"] is not None else "class"
    second = [[f"by {kind}, %", *(f"{each['name']} ({each['pictures']:,})" for each in groups)]]
    second += [[row["method"], *(_accuracy(each) for each in row["groups"])] for row in rows]
    return [first, second]


def _heading(comparison: Mapping[str, Any]) -> str:
    seeds = comparison["seeds"]
    spreads = ", mean ± sample standard deviation" if len(seeds) > 1 else ""
    return (
        f"{comparison['data']}, {comparison['backbone']}, {counted(len(seeds), 'seed')}{spreads}; epochs chosen by the "
        f"{comparison['selection']} of validation"
    )


def tabulate(comparison: Mapping[str, Any]) -> str:
    """The comparison as text: accuracies on test in %."""
    blocks = [_heading(comparison)]
    for table in _tables(comparison):
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        blocks.append("\n".join(
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in table
        ))  # fmt: skip
    if comparison["notes"]:
        blocks.append("\n".join(f"note: {note}" for note in comparison["notes"]))
    return "\n\n".join(blocks)


def to_markdown(comparison: Mapping[str, Any]) -> str:
    """The same as Markdown."""
    blocks = [f"{_heading(comparison)}."]
    for table in _tables(comparison):
        head, *body = [[cell.replace("|", "\\|") for cell in row] for row in table]
        ruled = [head, ["---", *["---:"] * (len(head) - 1)], *body]
        blocks.append("\n".join(f"| {' | '.join(row)} |" for row in ruled))
    if comparison["notes"]:
        blocks.append("\n".join(f"- {note}" for note in comparison["notes"]))
    return "\n\n".join(blocks)


def write(out: Path, comparison: Mapping[str, Any]) -> None:
    """Writes the comparison as JSON, text, Markdown and, where matplotlib is installed, a drawing, each whole."""
    replace_text(out / REPORT, json.dumps(comparison, indent=2, ensure_ascii=False) + "\n")
    replace_text(out / TABLE, tabulate(comparison) + "\n")
    replace_text(out / PAGE, to_markdown(comparison) + "\n")
    _draw(out, comparison)


def _draw(out: Path, comparison: Mapping[str, Any]) -> None:
    """Draws `comparison.png`: a bar for the worst group and one for the average, a pair a row."""
    try:
        import matplotlib as mpl
    except ImportError:
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = comparison["rows"]
    figure, axis = plt.subplots(figsize=(7.2, 1.2 + 0.42 * len(rows)), layout="constrained")
    places = np.arange(len(rows))
    for name, offset, colour in (("average", -0.19, "#c3c9d1"), (comparison["selection"], 0.19, "#2c6fad")):
        each = [row["average" if name == "average" else "worst"] for row in rows]
        means = [100 * one["mean"] for one in each]
        ends = [100 * (one["std"] or 0.0) for one in each]
        axis.barh(places + offset, means, 0.36, color=colour, label=name)
        if len(comparison["seeds"]) > 1:
            axis.errorbar(means, places + offset, xerr=ends, fmt="none", ecolor="#30343a", elinewidth=1, capsize=2)
        for place, mean, end in zip(places + offset, means, ends, strict=True):
            axis.annotate(
                f"{mean:.1f}", (mean + end, place), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
    axis.set_yticks(places, [row["method"] for row in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 109)
    axis.set_xticks(range(0, 101, 20))
    axis.set_xlabel("test accuracy, %" + (" (bars: mean, whiskers: ± std)" if len(comparison["seeds"]) > 1 else ""))
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    draft = out / f".{PNG}.part"
    figure.savefig(draft, dpi=110, format="png")
    plt.close(figure)
    draft.replace(out / PNG)
