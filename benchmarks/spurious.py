"""Benefit of the similarity loss: `python benchmarks/spurious.py --select`, `--final`, `--report`.

The pocket model is fine-tuned on references of spurious features and draws images in the scenes of
`spurious --config pocket`. DreamBooth with prior preservation is compared with DreamBooth and the spurious-feature
similarity loss (SFSL), by two measures: the share of images in which independent classifiers, the judges, predict the
class, and the share in which an oracle sees the object itself.

`--select` chooses a setting for each method from equally many candidates (`SETTINGS`) by successive halving, on the
development classes and judges. `--final` measures both choices on held-out classes and on the development classes,
with new seeds, and with judges and an oracle trained for it. Every row trains for at most the same number of steps,
from the same seeds. `--report` makes the tables and the chart from the JSON files alone.

Each concept writes one JSON file in `--results` when it has been evaluated, and is skipped from then on, so a stopped
run can be resumed. `--time` reports the remaining work and its duration.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import biased as judges
import numpy as np
import oracle
import spurious_tables as tables
import torch
from results import ROOT, Row, describe_command, describe_machine, describe_origin, make_parser, report
from spurious_tables import DREAMBOOTH, REFERENCES, SFSL, UNTOUCHED
from tqdm import tqdm

from figureground.core.errors import FiguregroundError
from figureground.core.files import replace_text
from figureground.evaluation.metrics import average_precision, roc_auc
from figureground.finetune.settings import POCKET, Finetuning
from figureground.methods.spurious import Spurious
from figureground.pocket import biased, world
from figureground.recipe.prompts import fill_noun
from figureground.recipe.sample import Sample, Spec, derive_seed
from figureground.sources.references import gather

DEVELOPMENT_CLASSES = ("bird", "boat", "mug")
"""Classes for choosing settings."""
HELD_OUT_CLASSES = ("fish", "cat", "snail", "car", "rocket", "cactus")
"""Classes that were not inspected when settings were chosen."""
SELECTION_SEEDS = (0, 1, 2)
"""Seed of each round of the selection."""
FINAL_SEEDS = (100, 101, 102, 103, 104, 105)
KEPT = (3, 2, 1)
"""Number of settings that each round of the selection keeps."""
PER_SCENE = 12
"""Number of images of a concept per scene."""
BASE = dataclasses.replace(
    POCKET, max_train_steps=350, prior_weight=1.0, num_class_images=64, sfsl_weight=0.5, features="penultimate",
    distance="cosine", weighting="alpha-bar", class_direction=None, early_stopping=None, preview_images=0,
)  # fmt: skip
"""Base of all settings; the number of steps is the same in all."""
FEW, MANY = 16, 48
"""Numbers of references of a concept."""


@dataclass(frozen=True)
class Setting:
    """Fine-tuning settings under test."""

    name: str
    text: str
    changes: Mapping[str, Any]
    """Changes to `BASE`."""
    references: int = FEW

    def settings(self, seed: int) -> Finetuning:
        return dataclasses.replace(BASE, **self.changes, seed=seed)


_OUT: dict[str, Any] = {"class_direction": "images"}
_STOP: dict[str, Any] = {"early_stopping": "without-class"}
_PLAIN: dict[str, Any] = {"sfsl_weight": 0.0}
SETTINGS: dict[str, tuple[Setting, ...]] = {
    SFSL: (
        Setting("sfsl", "weight 0.5", {}),
        Setting("sfsl-many-stop", f"weight 0.5, {MANY} references, stopped early", _STOP, MANY),
        Setting("sfsl-direction", "weight 0.5, without the class's direction", _OUT),
        Setting("sfsl-direction-strong", "weight 1, without the class's direction", {**_OUT, "sfsl_weight": 1.0}),
        Setting(
            "sfsl-direction-many-stop",
            f"weight 0.5, without the class's direction, {MANY} references, stopped early", {**_OUT, **_STOP}, MANY,
        ),
        Setting(
            "sfsl-direction-many-prior",
            f"weight 0.5, without the class's direction, {MANY} references, prior weight 2",
            {**_OUT, "prior_weight": 2.0}, MANY,
        ),
    ),
    DREAMBOOTH: (
        Setting("plain", "prior weight 1", _PLAIN),
        Setting("plain-weak-prior", "prior weight 0.5", {**_PLAIN, "prior_weight": 0.5}),
        Setting("plain-prior", "prior weight 2", {**_PLAIN, "prior_weight": 2.0}),
        Setting("plain-many", f"{MANY} references", _PLAIN, MANY),
        Setting("plain-many-stop", f"{MANY} references, stopped early", {**_PLAIN, **_STOP}, MANY),
        Setting(
            "plain-many-weak-prior", f"{MANY} references, prior weight 0.5", {**_PLAIN, "prior_weight": 0.5}, MANY
        ),
    ),
}  # fmt: skip
"""Settings to choose from, equally many for both methods, so that neither is tuned more than the other."""
DRAWN = (REFERENCES, UNTOUCHED)
"""Rows without fine-tuning."""
FINAL_ORACLE = 1
"""Seed of the oracle of the final run; the selection uses that of `fidelity.py`, 0."""


def find_setting(name: str) -> Setting:
    return next(setting for settings in SETTINGS.values() for setting in settings if setting.name == name)


@dataclass(frozen=True)
class Job:
    """A row, class and seed whose images are drawn and evaluated."""

    stage: str
    """`select` or `final`."""
    setting: str
    """A name from `SETTINGS`, or a row without settings."""
    name: str
    """The class."""
    seed: int

    @property
    def row(self) -> str:
        families = {setting.name: family for family, settings in SETTINGS.items() for setting in settings}
        return families.get(self.setting, self.setting)


@dataclass(frozen=True)
class Judges:
    """Judges and oracle of a stage."""

    classifiers: Mapping[str, Path]
    """Directories by name."""
    oracle_seed: int


@dataclass(frozen=True)
class Plan:
    """Parameters and folders of a run."""

    work: Path
    results: Path
    cache: Path
    """Folder of cached judges."""
    oracle_cache: Path
    development: tuple[str, ...]
    held_out: tuple[str, ...]
    selection_seeds: tuple[int, ...]
    final_seeds: tuple[int, ...]
    settings: Mapping[str, tuple[Setting, ...]]
    per_scene: int
    device: str
    origin: Mapping[str, Any]
    command: str
    judges: Mapping[str, Judges] = dataclasses.field(default_factory=dict)
    """Judges by stage."""
    smaller: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Changed settings of every fine-tuning, for `--quick`."""
    oracle_settings: oracle.Settings = dataclasses.field(default_factory=oracle.Settings)

    def result_path(self, job: Job) -> Path:
        return self.results / f"{job.stage}-{job.setting}-{job.name}-{job.seed}.json"

    def finetuning(self, job: Job) -> Finetuning:
        return dataclasses.replace(find_setting(job.setting).settings(job.seed), **self.smaller)

    def describe_settings(self, job: Job) -> dict[str, Any]:
        """Return the settings of a row for its JSON, without the seed."""
        if job.setting in DRAWN:
            return {}
        settings = self.finetuning(job).identity_fields()
        del settings["seed"]
        return {**settings, "references": find_setting(job.setting).references}

    def key(self, job: Job) -> str:
        """Return a hash of everything that determines a reading."""
        stage_judges = self.judges[job.stage]
        facts = [
            job.stage, job.setting, job.name, job.seed, self.describe_settings(job), biased.LOOK_BY_CLASS[job.name],
            self.per_scene,
            {name: folder.name for name, folder in stage_judges.classifiers.items()}, stage_judges.oracle_seed,
            dataclasses.asdict(self.oracle_settings), self.origin["format"], self.weights(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def weights(self) -> dict[str, str]:
        """Return the hashes of the pocket model and the feature network, on which images depend."""
        return {name: self.origin["weights"][name] for name in tables.WEIGHTS}

    def concept_folder(self, job: Job) -> Path:
        """Return the folder of a concept, which is removed once its images are evaluated."""
        return self.work / "concepts" / f"{job.stage}-{job.setting}-{job.name}-{job.seed}-{self.key(job)}"

    def is_done(self, job: Job) -> bool:
        path = self.result_path(job)
        return path.exists() and json.loads(path.read_text())["key"] == self.key(job)

    def hash_weights(self) -> str:
        """Return a short name of the weights, for folders of the original model's images."""
        return hashlib.sha256(json.dumps([self.weights(), self.origin["format"]]).encode()).hexdigest()[:8]


# --- images -------------------------------------------------------------------------------------------


@functools.cache
def open_recipe(references: int) -> Spurious:
    """Return the builder that provides references, nouns and scenes."""
    return Spurious("pocket", reference_count=references)


def make_specs(builder: Spurious, name: str, identifier: str, per_scene: int, seed: int) -> list[Spec]:
    """Return the Specs of a class: the builder's prompts, with the same seeds for all models."""
    noun = next(feature.noun for feature in builder.features if feature.name == name)
    template = builder.settings.prompt
    plain = fill_noun(template if identifier else template.replace("{V} ", ""), noun, identifier)
    specs = []
    for b, scene in enumerate(builder.backgrounds):
        for i in range(per_scene):
            prompt = f"{plain} {scene.text}".strip() if scene.name != "plain" else plain
            image_seed = derive_seed(seed, "spurious benchmark", name, scene.name, str(i))
            specs.append(Spec(f"{name}-{b}-{i}", name, 0, b, noun, scene.name, prompt, image_seed))
    return specs


def render(checkpoint: Any, specs: Sequence[Spec], builder: Spurious, steps: int | None = None) -> np.ndarray:
    """Draw Specs like a build, uint8 (n, 3, SIZE, SIZE); rejected images are black."""
    from figureground.diffusion.render import Renderer, Sampling, refuse_guide

    config = builder.config
    sampling = Sampling(world.SIZE, steps or config.num_inference_steps, 1.0, config.guidance_scale, batch_size=20)
    drawn = np.zeros((len(specs), 3, world.SIZE, world.SIZE), np.uint8)
    for i, sample in enumerate(Renderer(checkpoint, sampling, refuse_guide).render(specs)):
        if isinstance(sample, Sample):
            drawn[i] = np.asarray(sample.image).transpose(2, 0, 1)
    return drawn


def draw_real(name: str, seed: int, count: int) -> np.ndarray:
    """Draw the class itself without its look, as negatives of the generated images in the rankings."""
    rng = world.generator(f"spurious benchmark real {name}", seed)
    return judges.stack_images([biased.draw_balanced(name, rng) for _ in range(count)])


def draw(plan: Plan, job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the images of a job, and how they were made."""
    builder = open_recipe(FEW)
    if job.setting == REFERENCES:  # new drawings, not used for training
        rng = world.generator(f"spurious benchmark references {job.name}", job.seed)
        count = plan.per_scene * len(builder.backgrounds)
        return judges.stack_images([biased.reference(job.name, rng) for _ in range(count)]), {}
    began, cpu = time.monotonic(), time.process_time()
    device, steps = torch.device(plan.device), plan.smaller.get("num_inference_steps")
    facts: dict[str, Any] = {}
    if job.setting == UNTOUCHED:
        from figureground.diffusion.checkpoint import open_checkpoint

        checkpoint = open_checkpoint("pocket", device=device, dtype=torch.float32, safety="off")
        identifier = ""
    else:
        from figureground.finetune.concept import open_concept, read_concept

        folder = learn(plan, job)
        concept = read_concept(folder)
        facts = {
            "seconds_learning": round(time.monotonic() - began, 1),
            "early_stopping": concept.facts.get("early_stopping"),
            "losses": concept.facts["losses"], "peak_memory_mb": concept.facts["peak_memory_mb"],
        }  # fmt: skip
        checkpoint = open_concept(concept, device=device, dtype=torch.float32, safety="off")
        identifier = concept.identifier
    drawing_began = time.monotonic()
    images = render(checkpoint, make_specs(builder, job.name, identifier, plan.per_scene, job.seed), builder, steps)
    return images, {
        **facts, "seconds_drawing": round(time.monotonic() - drawing_began, 1),
        "seconds_cpu": round(time.process_time() - cpu, 1),
    }  # fmt: skip


def learn(plan: Plan, job: Job) -> Path:
    """Return the finished concept of a job; learn it, or resume learning, if necessary."""
    from figureground.finetune.dreambooth import finetune

    setting, settings = find_setting(job.setting), plan.finetuning(job)
    builder = open_recipe(setting.references)
    feature = next(feature for feature in builder.features if feature.name == job.name)
    references = gather(builder.references[feature.slug], plan.work / "references" / f"{job.name}-{setting.references}")
    suffix = f"{settings.num_inference_steps}-{job.seed}-{plan.hash_weights()}"
    return finetune(
        references, feature.noun, job.name, plan.concept_folder(job), settings,
        prior=plan.work / "prior" / f"{feature.noun}-{settings.num_class_images}-{suffix}",
        class_folder=plan.work / "class" / f"{job.name}-{settings.class_images}-{suffix}",
        device=plan.device, show_progress=False,
    )  # fmt: skip


# --- reading ------------------------------------------------------------------------------------------


@functools.cache
def open_judges(folders: tuple[Path, ...]) -> list[Any]:
    return [judges.open_model(folder) for folder in folders]


@functools.cache
def open_oracle(seed: int, cache: Path, settings: oracle.Settings) -> oracle.Classifier:
    return oracle.load_or_train("oracle", seed, cache, "cpu", settings)


def judge_images(plan: Plan, job: Job, images: np.ndarray) -> dict[str, Any]:
    """Return the predictions of a stage's judges and oracle for images."""
    stage_judges = plan.judges[job.stage]
    class_index = world.FOREGROUNDS.index(job.name)
    positives = draw_real(job.name, job.seed, len(images))
    results: dict[str, dict[str, Any]] = {name: {} for name in ("says_k", "p", "average_precision", "roc_auc")}
    for name, model in zip(
        stage_judges.classifiers, open_judges(tuple(stage_judges.classifiers.values())), strict=True
    ):
        probabilities = judges.probabilities(model, images)
        p = probabilities[:, class_index].astype(np.float64)
        p_real = judges.probabilities(model, positives)[:, class_index].astype(np.float64)
        results["says_k"][name] = tables.encode_bits(probabilities.argmax(1) == class_index)
        results["p"][name] = round(float(p.mean()), 5)
        results["average_precision"][name] = round(average_precision(p_real, p), 5)
        results["roc_auc"][name] = round(roc_auc(p_real, p), 5)
    heads = list(oracle.HEADS)
    labels = open_oracle(stage_judges.oracle_seed, plan.oracle_cache, plan.oracle_settings).read(images).labels
    names = {head: [oracle.HEADS[head][i] for i in labels[:, heads.index(head)]] for head in ("foreground", "look")}
    return {
        **results, "object": tables.encode_bits(name != oracle.NOTHING for name in names["foreground"]),
        "class_object": tables.encode_bits(name == job.name for name in names["foreground"]),
        "look": tables.encode_bits(name == biased.LOOK_BY_CLASS[job.name] for name in names["look"]),
    }  # fmt: skip


def run_job(task: tuple[Plan, Job]) -> Job:
    """Draw and evaluate the images of a job, and write its JSON."""
    torch.set_num_threads(1)
    plan, job = task
    if plan.is_done(job):
        return job
    images, facts = draw(plan, job)
    stage_judges = plan.judges[job.stage]
    document = {
        "command": plan.command, **plan.origin, "key": plan.key(job), "stage": job.stage, "row": job.row,
        "setting": job.setting, "settings": plan.describe_settings(job), "class": job.name, "seed": job.seed,
        "images": len(images),
        "judges": {name: folder.name for name, folder in stage_judges.classifiers.items()},
        "oracle": stage_judges.oracle_seed,
        **judge_images(plan, job, images), "device": plan.device, "cpu": describe_machine()["cpu"], **facts,
    }  # fmt: skip
    if job.stage == "final" and job.seed == plan.final_seeds[0]:
        tables.save_samples(images, plan.results / f"samples-{job.row}-{job.name}.jpg")
    plan.results.mkdir(parents=True, exist_ok=True)
    replace_text(plan.result_path(job), json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    shutil.rmtree(plan.concept_folder(job), ignore_errors=True)  # some 30 MB each, no longer needed
    return job


def run(plan: Plan, jobs: Sequence[Job], workers: int) -> None:
    """Run the unfinished jobs, `workers` in parallel with one thread each."""
    unfinished = [(plan, job) for job in jobs if not plan.is_done(job)]
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(unfinished), unit="concept", disable=None)
    with bar:
        if workers == 1:
            for task in unfinished:
                run_job(task)
                bar.update()
        elif unfinished:
            with multiprocessing.get_context("spawn").Pool(min(workers, len(unfinished))) as processes:
                for _ in processes.imap_unordered(run_job, unfinished):
                    bar.update()


def open_stage(plan: Plan, stage: str, settings: judges.Settings, workers: int) -> Plan:
    """Return the plan with the judges of a stage, training missing ones."""
    names: tuple[str, ...] = judges.DEVELOPMENT if stage == "select" else judges.FINAL
    seed = 0 if stage == "select" else judges.FINAL_SEED
    names = names[: len(names) if not plan.smaller else 2]
    folders, _ = judges.train_all(names, seed, plan.cache, settings, workers)
    if not plan.smaller:
        judges.refuse_untrained(folders, seed)
    oracle_seed = 0 if stage == "select" else FINAL_ORACLE
    open_oracle(oracle_seed, plan.oracle_cache, plan.oracle_settings)  # trained once, not in each worker
    stage_judges = Judges({name: folders[name] for name in names}, oracle_seed)
    return dataclasses.replace(plan, judges={**plan.judges, stage: stage_judges})


# --- stages -------------------------------------------------------------------------------------------

CHOSEN = "chosen.json"


def select(plan: Plan, workers: int) -> dict[str, Any]:
    """Run successive halving with one seed per round on all development classes; write and return the choice."""
    remaining = {family: [setting.name for setting in settings] for family, settings in plan.settings.items()}
    rounds: dict[str, list[dict[str, Any]]] = {family: [] for family in remaining}
    for i, seed in enumerate(plan.selection_seeds):
        names = [name for settings in remaining.values() for name in settings]
        run(plan, [Job("select", n, c, seed) for c in plan.development for n in (REFERENCES, *names)], workers)
        seeds = plan.selection_seeds[: i + 1]
        for family, settings in remaining.items():
            scores = {
                name: tables.score_setting(_read_readings(plan, "select", name, plan.development, seeds))
                for name in settings
            }
            remaining[family] = tables.select_best(
                scores, KEPT[min(i + len(KEPT) - len(plan.selection_seeds), len(KEPT) - 1)]
            )
            rounds[family].append({"seeds": list(seeds), "scores": scores, "kept": remaining[family]})
        print(
            f"round {i + 1}: kept {', '.join(name for settings in remaining.values() for name in settings)}", flush=True
        )
    chosen = {
        "command": plan.command, **plan.origin, "rule": tables.RULE, "classes": list(plan.development),
        "seeds": list(plan.selection_seeds), "judges": list(plan.judges["select"].classifiers),
        "settings": {setting.name: setting.text for settings in plan.settings.values() for setting in settings},
        "rounds": rounds, "chosen": {family: settings[0] for family, settings in remaining.items()},
        "finetuning": {
            settings[0]: {**plan.describe_settings(Job("select", settings[0], plan.development[0], 0))}
            for settings in remaining.values()
        },
    }  # fmt: skip
    replace_text(plan.results / CHOSEN, json.dumps(chosen, indent=1, ensure_ascii=False) + "\n")
    return chosen


def _read_readings(
    plan: Plan, stage: str, setting: str, classes: Sequence[str], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    jobs = [Job(stage, setting, name, seed) for name in classes for seed in seeds]
    return [json.loads(plan.result_path(job).read_text()) for job in jobs]


def read_chosen(plan: Plan) -> dict[str, Any]:
    """Return the choice of `select` with the current weights.

    Raises:
        FiguregroundError: No choice exists, or it was made with other weights.
    """
    path = plan.results / CHOSEN
    if not path.exists():
        raise FiguregroundError(f"{path.name} doesn't exist: choose the settings first, with --select.")
    chosen = json.loads(path.read_text())
    chosen_weights = {name: chosen["weights"][name] for name in plan.weights()}
    if chosen_weights != plan.weights() or chosen["format"] != plan.origin["format"]:
        raise FiguregroundError(f"{path.name} was chosen with other weights: choose again, with --select.")
    return chosen


def final_jobs(plan: Plan, chosen: Mapping[str, Any]) -> list[Job]:
    """Return all rows of all classes, seed by seed, held-out classes first."""
    rows = (REFERENCES, UNTOUCHED, chosen["chosen"][DREAMBOOTH], chosen["chosen"][SFSL])
    classes = (*plan.held_out, *plan.development)
    return [Job("final", row, name, seed) for seed in plan.final_seeds for name in classes for row in rows]


# --- time ---------------------------------------------------------------------------------------------

KINDS = {SFSL: "concept with SFSL", DREAMBOOTH: "concept with DreamBooth", UNTOUCHED: "untouched model"}


def find_seconds_per_job(plan: Plan) -> tuple[dict[str, float], str]:
    """Return CPU seconds per job of each kind, and their source: existing readings, or a trial."""
    seconds_by_row: dict[str, list[float]] = {}
    for path in plan.results.glob("*-*.json"):
        reading = json.loads(path.read_text())
        if "seconds_cpu" in reading:
            seconds_by_row.setdefault(reading["row"], []).append(reading["seconds_cpu"])
    means = {kind: float(np.mean(values)) for kind, values in seconds_by_row.items()}
    if set(means) == set(KINDS):
        return means, "means of the readings so far"
    source = "a trial of a few steps and images"
    return {**_run_trial(plan), **means}, f"means of the readings so far, and {source}" if means else source


def _run_trial(plan: Plan) -> dict[str, float]:
    """Train for a few steps, draw a few images, and extrapolate."""
    from figureground.diffusion.checkpoint import open_checkpoint

    torch.set_num_threads(1)
    builder = open_recipe(FEW)

    def cpu(work: Any) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    with tempfile.TemporaryDirectory(prefix="spurious-trial-") as folder:
        trial = dataclasses.replace(plan, work=Path(folder), judges={"select": Judges({}, 0)})

        def steps(name: str, count: int) -> float:
            smaller = {"max_train_steps": count, "num_class_images": 20, "class_images": 20, "early_stopping": None}
            short_plan = dataclasses.replace(trial, smaller={**smaller, "num_inference_steps": 4})
            return cpu(lambda: learn(short_plan, Job("select", name, plan.development[0], 0)))

        steps("sfsl-direction", 1)  # opens libraries, draws priors
        seconds_per_step = {
            family: (steps(name, 13) - steps(name, 3)) / 10
            for family, name in ((SFSL, "sfsl-direction"), (DREAMBOOTH, "plain"))
        }
        checkpoint = open_checkpoint("pocket", device=torch.device("cpu"), dtype=torch.float32, safety="off")
        specs = make_specs(builder, plan.development[0], "", 4, 0)  # one batch of 20
        render(checkpoint, specs, builder, 2)
        seconds_per_image = cpu(lambda: render(checkpoint, specs, builder)) / len(specs)
    images = plan.per_scene * len(builder.backgrounds)
    fixed = 5.0  # opening, saving, reading
    return {
        SFSL: fixed
        + BASE.max_train_steps * seconds_per_step[SFSL]
        + seconds_per_image * (images + 30),  # priors are shared by rows
        DREAMBOOTH: fixed + BASE.max_train_steps * seconds_per_step[DREAMBOOTH] + seconds_per_image * (images + 30),
        UNTOUCHED: fixed + seconds_per_image * images,
    }


def print_time(plan: Plan) -> dict[str, float]:
    """Print the number of remaining concepts and their duration on one core; return core-hours by stage."""
    seconds_by_kind, source = find_seconds_per_job(plan)
    rounds = [len(plan.development) * n for n in (len(SETTINGS[SFSL]), *KEPT[: len(plan.selection_seeds) - 1])]
    pairs = (len(plan.development) + len(plan.held_out)) * len(plan.final_seeds)
    planned = {
        "select": Counter({family: sum(rounds) for family in (SFSL, DREAMBOOTH)}),
        "final": Counter({SFSL: pairs, DREAMBOOTH: pairs, UNTOUCHED: pairs}),
    }
    hours = {}
    for stage, counts in planned.items():
        finished = Counter(json.loads(path.read_text())["row"] for path in plan.results.glob(f"{stage}-*.json"))
        remaining = {kind: max(0, n - finished[kind]) for kind, n in counts.items()}
        hours[stage] = sum(remaining[kind] * seconds_by_kind[kind] for kind in remaining) / 3600
        parts = ", ".join(f"{n} of {counts[kind]} {KINDS[kind]}" for kind, n in remaining.items())
        print(f"{stage}: {parts} left: {hours[stage]:.1f} core-hours")
    print(
        ", ".join(f"{KINDS[kind]} {value:.0f} s" for kind, value in seconds_by_kind.items())
        + f" on one core ({source})"
    )
    print(f"If missing, {len(judges.DEVELOPMENT)} + {len(judges.FINAL)} judges and 2 oracles are trained in addition.")
    return hours


# --- report -------------------------------------------------------------------------------------------


def write_report(plan: Plan, out: Path) -> tuple[list[Row], dict[str, Any]]:
    """Write the tables and the chart beside `out`, from the JSON files alone; return rows and further JSON entries."""
    readings = tables.read_readings(plan.results, "final")
    path = plan.results / CHOSEN
    chosen = json.loads(path.read_text()) if path.exists() else None
    selection = tables.read_readings(plan.results, "select")
    groups = {
        "held-out classes": tables.Final.select(readings, plan.held_out),
        "development classes, new seeds": tables.Final.select(readings, plan.development),
    }
    lines = ["# Does the similarity loss earn its place?", "", f"Made by `{plan.command}` from `spurious/*.json`.", ""]
    if readings:
        lines += [
            f"Judges: {', '.join(readings[0]['judges'])}, trained for this run. Commits: "
            + ", ".join(sorted({str(r["commit"])[:10] for r in readings})) + ".", "",
        ]  # fmt: skip
    for title, final in groups.items():
        lines += tables.format_final(title, final)
    if chosen:
        lines += tables.format_selection(chosen, selection)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out.with_suffix(".md"), "\n".join(lines))
    tables.draw_chart(groups, plan.results, out.with_suffix(".png"))
    rows = [row for title, final in groups.items() if final.seeds for row in make_rows(title, final)]
    seconds = {
        row: round(float(np.mean([r["seconds_cpu"] for r in readings if r["row"] == row])))
        for row in (SFSL, DREAMBOOTH) if any(r["row"] == row for r in readings)
    }  # fmt: skip
    return rows, {
        "chosen": chosen and chosen["chosen"], "seconds_cpu_a_concept": seconds,
        "readings": {"select": len(selection), "final": len(readings)},
        "seeds": {title: list(final.seeds) for title, final in groups.items()},
    }  # fmt: skip


def make_rows(title: str, final: tables.Final) -> list[Row]:
    """Return targets and results of SFSL on some classes; ranges are 95 % intervals."""

    def row(name: str, interval: tables.Interval, unit: str, **targets: float) -> Row:
        ends = (100 * interval.low, 100 * interval.high) if np.isfinite(interval.low) else (None, None)
        return Row(f"{title}: {name}", 100 * interval.value, unit, *ends, **targets)

    gain = final.difference(SFSL, DREAMBOOTH)
    rows = [
        row(f"{text}: says k", tables.student_interval(final.table(name, tables.share_saying_k).mean(0)), "%")
        for name, text in tables.ROWS.items()
    ]
    rows += [
        row("SFSL − references", final.difference(SFSL, REFERENCES)["seeds"], "points", at_least=-5.0),
        row("SFSL − DreamBooth, over seeds", gain["seeds"], "points"),
        row("SFSL − DreamBooth, over classes", gain["classes"], "points"),
        *([row("SFSL − DreamBooth, over both", gain["both"], "points")] if "both" in gain else []),
        row("SFSL: object seen", final.object_share(SFSL), "%", at_most=5.0),
        row("DreamBooth: object seen", final.object_share(DREAMBOOTH), "%"),
    ]
    if np.isfinite(gain["seeds"].low):
        lower = 100 * gain["seeds"].low
        rows.append(Row(f"{title}: SFSL − DreamBooth, lower end over seeds", lower, "points", at_least=0.0))
    return rows


# --- the command --------------------------------------------------------------------------------------


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__, "spurious")
    parser.set_defaults(work=ROOT / "out" / "spurious-benchmark")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--select", action="store_true", help="choose the settings, on development classes")
    what.add_argument("--final", action="store_true", help="measure the chosen settings, on all classes with new seeds")
    what.add_argument("--report", action="store_true", help="make tables and chart from the existing JSON files")
    what.add_argument("--time", action="store_true", help="report the remaining work and its duration")
    parser.add_argument(
        "--results", type=Path, help="folder for each concept's JSON (default: benchmarks/results/spurious)"
    )
    parser.add_argument("--cache", type=Path, default=judges.CACHE, help="folder of trained judges")
    parser.add_argument("--workers", type=int, default=2, help="number of parallel concepts, with one thread each")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    args = parser.parse_args()
    if not (args.quick or args.select or args.final or args.report or args.time):
        parser.error("give one of --select, --final, --report and --time, or --quick for all of them in a tiny size")
    return args


def _plan(args: argparse.Namespace) -> Plan:
    quick = args.quick
    results = args.results or (args.work / "quick" / "results" if quick else ROOT / "benchmarks/results/spurious")
    command = describe_command("spurious")
    plan = Plan(
        args.work, results, args.cache, ROOT / "out" / "fidelity", DEVELOPMENT_CLASSES, HELD_OUT_CLASSES,
        SELECTION_SEEDS, FINAL_SEEDS, SETTINGS, PER_SCENE, args.device, describe_origin(), command,
    )  # fmt: skip
    if not quick:
        return plan
    tiny = {
        "max_train_steps": 2,
        "num_class_images": 4,
        "class_images": 2,
        "num_inference_steps": 2,
        "stop_every": 1,
        "stop_images": 2,
    }
    few = {
        SFSL: (SETTINGS[SFSL][0], find_setting("sfsl-direction-many-stop")),
        DREAMBOOTH: SETTINGS[DREAMBOOTH][:1],
    }
    return dataclasses.replace(
        plan, work=args.work / "quick", cache=args.work / "quick" / "judges", oracle_cache=args.work / "quick",
        development=("bird",), held_out=("fish",), selection_seeds=(0,), final_seeds=(100,), settings=few,
        per_scene=1, smaller=tiny, oracle_settings=oracle.Settings(pool=128, epochs=1),
    )  # fmt: skip


def main() -> None:
    args = _parse()
    began = time.monotonic()
    plan = _plan(args)
    all_stages = args.quick and not (args.select or args.final or args.report or args.time)
    if args.time:
        print_time(plan)
        return
    training = judges.Settings(pool=128, epochs=1) if args.quick else judges.Settings()
    workers = 1 if args.quick else args.workers
    if args.select or all_stages:
        plan = open_stage(plan, "select", training, workers)
        print(json.dumps(select(plan, workers)["chosen"]))
    if args.final or all_stages:
        chosen = read_chosen(plan)
        plan = open_stage(plan, "final", training, workers)
        run(plan, final_jobs(plan, chosen), workers)
    if args.select:
        return
    out = args.out or (args.work / "quick" if args.quick else ROOT / "benchmarks/results") / "spurious.json"
    rows, entries = write_report(plan, out)
    if not rows:
        print(f"No seed has all rows of all classes yet; {out.with_suffix('.md').name} describes the selection.")
        return
    report(
        "spurious", args, rows,
        {
            "base": BASE.to_json(), "held_out_classes": plan.held_out, "development_classes": plan.development,
            "final_seeds": plan.final_seeds, "selection_seeds": plan.selection_seeds,
            "images_a_concept": plan.per_scene * len(open_recipe(FEW).backgrounds), "rule": tables.RULE,
        },
        began, **entries,
    )  # fmt: skip


if __name__ == "__main__":
    main()
