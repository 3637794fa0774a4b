"""Does the similarity loss earn its place? `python benchmarks/spurious.py`.

Fine-tunes the pocket model on references of spurious features, with plain DreamBooth and with the spurious-feature
similarity loss (SFSL) in several ways, draws pictures in the scenes that `spurious --config pocket` builds, and
measures how far classifiers that never took part take them for the class. Defaults are chosen on three classes with
two classifiers; what is claimed is measured on the other classes with the other classifiers.

Everything that is made is kept in `--work` and used again: a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import biased as judges
import numpy as np
import oracle
import torch
from PIL import Image, ImageDraw
from results import ROOT, Row, arguments, report
from tqdm import tqdm

from figureground.finetuning import POCKET, Finetuning, fill
from figureground.pocket import ROBUST, biased, world
from figureground.references import gather
from figureground.sample import Sample, Spec, derive_seed
from figureground.spurious import Spurious
from figureground.vision.metrics import average_precision, roc_auc

DEVELOPMENT_CLASSES = ("bird", "boat", "mug")
"""With these, defaults are chosen."""
VARIED_CLASSES = ("bird", "mug")
"""Those of them on which one factor at a time is varied."""
HELD_OUT_CLASSES = ("fish", "cat", "snail", "car", "rocket", "cactus")
"""On these, claims are measured."""
SEEDS = (0, 1, 2)
SHIPPED = dataclasses.replace(POCKET, preview_images=0)
"""The default, about which claims are made."""
VARIED_FROM = dataclasses.replace(
    SHIPPED, sfsl_weight=0.5, features="class-weighted", distance="cosine", weighting="alpha-bar"
)
"""From here one factor at a time is varied; the default was chosen among what came out."""
TWIN = "twin"
"""Stands for the path of the feature network's twin, which was trained without an adversary."""
REFERENCES, UNTOUCHED, PLAIN = "references", "untouched model, same prompts", "DreamBooth with prior preservation"
DEFAULT = f"the default: + SFSL, weight {SHIPPED.sfsl_weight:g}, features {SHIPPED.features}"
START = "+ SFSL: weight 0.5, class-weighted, cosine, alpha-bar"
NOT_ROBUST = "+ SFSL on a non-robust network"
WAYS: dict[str, dict[str, Any]] = {
    START: {},
    "+ SFSL, features penultimate": {"features": "penultimate"},
    "+ SFSL, features neural-pca": {"features": "neural-pca"},
    "+ SFSL, distance l2": {"distance": "l2"},
    "+ SFSL, weighting threshold": {"weighting": "threshold"},
    "+ SFSL, weighting none": {"weighting": "none"},
    "+ SFSL, weight 0.17": {"sfsl_weight": 0.5 / 3},
    "+ SFSL, weight 1.5": {"sfsl_weight": 1.5},
    NOT_ROBUST: {"feature_model": TWIN},
}
"""Where the variants start, and what each changes there."""
COMPONENT_IMAGES = 300
"""Drawings of a class, look and all, in which neural-PCA components are found."""


@dataclass(frozen=True)
class Job:
    """A concept to learn and pictures to draw with it."""

    way: str
    name: str
    """The class."""
    seed: int


@dataclass(frozen=True)
class Plan:
    """What a run makes, and where."""

    work: Path
    classes: tuple[str, ...]
    varied: tuple[str, ...]
    seeds: tuple[int, ...]
    per_scene: int
    twin: Path
    ways: Sequence[str] = tuple(WAYS)
    """The variants."""
    steps: int | None = None
    """Steps of a fine-tuning, if not the default's."""

    def jobs(self) -> list[Job]:
        """The variants with one seed on their classes; plain DreamBooth and the default with all seeds on all.

        What claims are made of comes before the rest of what defaults were chosen with.
        """
        some = [Job(way, name, self.seeds[0]) for way in self.ways for name in self.varied]
        every = [Job(way, name, seed) for seed in self.seeds for name in self.classes for way in (PLAIN, DEFAULT)]
        return some + sorted(every, key=lambda job: job.name in DEVELOPMENT_CLASSES)

    def pictures(self, job: Job) -> Path:
        """Where what a concept drew is kept: the last thing of a job."""
        return self.folder(job) / f"pictures-{self.per_scene}.npy"

    def settings(self, job: Job) -> Finetuning:
        base = SHIPPED if job.way in (PLAIN, DEFAULT) else VARIED_FROM
        changes = {**WAYS.get(job.way, {}), "seed": job.seed}
        if job.way == PLAIN:
            changes["sfsl_weight"] = 0.0
        if changes.get("feature_model") == TWIN:
            changes["feature_model"] = str(self.twin)
        if self.steps:
            changes |= {"steps": self.steps, "prior_images": 4, "sampling_steps": 2}
        return dataclasses.replace(base, **changes)

    def folder(self, job: Job) -> Path:
        """Named after everything that decides its content."""
        settings = {n: v for n, v in self.settings(job).to_json().items() if n not in Finetuning.EXECUTION}
        network = self.twin if job.way == NOT_ROBUST else ROBUST
        del settings["feature_model"]
        if not settings["sfsl_weight"]:
            settings = {n: v for n, v in settings.items() if n not in ("features", "distance", "weighting", "leading")}
        decided = [settings, biased.LOOKS_OF[job.name], _content(network) if settings["sfsl_weight"] else ""]
        digest = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:10]
        return self.work / "concepts" / f"{job.name}-{job.seed}-{digest}"


def _content(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()


# --- pictures -----------------------------------------------------------------------------------------


def recipe() -> Spurious:
    """The builder whose references, nouns and scenes are used."""
    return Spurious("pocket")


def specs(builder: Spurious, name: str, identifier: str, per_scene: int, seed: int) -> list[Spec]:
    """The pictures of a class: the prompts of the builder, the same seeds whatever draws them."""
    noun = next(feature.noun for feature in builder.features if feature.name == name)
    template = builder.settings.prompt
    plain = fill(template if identifier else template.replace("{V} ", ""), noun, identifier)
    found = []
    for b, scene in enumerate(builder.scenes):
        for i in range(per_scene):
            prompt = f"{plain} {scene.text}".strip() if scene.name != "plain" else plain
            each = derive_seed(seed, "spurious benchmark", name, scene.name, str(i))
            found.append(Spec(f"{name}-{b}-{i}", name, 0, b, noun, scene.name, prompt, each))
    return found


def render(checkpoint: Any, wanted: Sequence[Spec], builder: Spurious) -> np.ndarray:
    """Draws them as a build does, uint8 (n, 3, SIZE, SIZE); what a build would reject is black."""
    from figureground.diffusion.render import Renderer, Sampling

    config = builder.config
    sampling = Sampling(world.SIZE, config.steps, 1.0, config.guidance_scale, batch_size=20)
    drawn = np.zeros((len(wanted), 3, world.SIZE, world.SIZE), np.uint8)
    renderer = Renderer(checkpoint, sampling, lambda spec: (_ for _ in ()).throw(AssertionError(spec.key)))
    for i, sample in enumerate(renderer.render(wanted)):
        if isinstance(sample, Sample):
            drawn[i] = np.asarray(sample.image).transpose(2, 0, 1)
    return drawn


def _save(path: Path, pictures: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, pictures)
    part.replace(path)
    return pictures


def draw_untouched(plan: Plan, builder: Spurious, name: str, seed: int) -> np.ndarray:
    """What the untouched model makes of the prompts without [V]."""
    from figureground.diffusion.checkpoint import open_checkpoint

    path = plan.work / "untouched" / f"{name}-{seed}-{plan.per_scene}.npy"
    if path.exists():
        return np.load(path)
    checkpoint = open_checkpoint("pocket", device=torch.device("cpu"), dtype=torch.float32, safety="off")
    return _save(path, render(checkpoint, specs(builder, name, "", plan.per_scene, seed), builder))


def draw_concept(plan: Plan, builder: Spurious, job: Job) -> np.ndarray:
    """What a finished concept makes of the prompts."""
    from figureground.diffusion.concept import open_concept, read_concept

    path = plan.pictures(job)
    if path.exists():
        return np.load(path)
    found = read_concept(path.parent)
    checkpoint = open_concept(found, device=torch.device("cpu"), dtype=torch.float32, safety="off")
    wanted = specs(builder, job.name, found.identifier, plan.per_scene, job.seed)
    return _save(path, render(checkpoint, wanted, builder))


def components_of(plan: Plan, name: str) -> Path:
    """Neural-PCA components of a class of the feature network, found in drawings of its biased training world."""
    from figureground.vision.classifiers import open_classifier
    from figureground.vision.neural_pca import fit, weigh, write_components

    path = plan.work / "components" / f"{name}-{_content(ROBUST)[:10]}.safetensors"
    if not path.exists():
        network = open_classifier("pocket")
        label = network.index(name)
        rng = world.generator(f"spurious components {name}", 0)
        drawn: list[Image.Image] = []
        while len(drawn) < COMPONENT_IMAGES:
            picture, k = biased.draw_biased(rng)
            if world.FOREGROUNDS[k] == name:
                drawn.append(picture)
        with torch.inference_mode():
            features = network(torch.from_numpy(judges.stack(drawn)).float().div_(255)).features
        path.parent.mkdir(parents=True, exist_ok=True)
        write_components(fit(weigh(features, network.weight[label]), label), path, {"classifier": network.facts})
    return path


def make(task: tuple[Plan, Job]) -> tuple[Job, dict[str, float]]:
    """Learns a concept and draws with it, as far as that isn't done; returns the seconds that it took.

    Of what is drawn the concept is needed no more, and may have been removed.
    """
    from figureground.diffusion.dreambooth import finetune

    torch.set_num_threads(1)
    plan, job = task
    builder = recipe()
    if job.way == PLAIN:  # once for each class and seed
        draw_untouched(plan, builder, job.name, job.seed)
    if plan.pictures(job).exists():
        return job, {}
    feature = next(feature for feature in builder.features if feature.name == job.name)
    references = gather(builder.references[feature.slug], plan.work / "references" / job.name)
    settings = plan.settings(job)
    components = components_of(plan, job.name) if settings.features == "neural-pca" else None
    folder = plan.folder(job)
    prior = plan.work / "prior" / f"{feature.noun}-{settings.prior_images}-{settings.sampling_steps}-{job.seed}"
    began = time.monotonic()
    finetune(
        references, feature.noun, job.name, folder, settings, prior=prior, components=components, device="cpu",
        show_progress=False,
    )  # fmt: skip
    learned = time.monotonic()
    draw_concept(plan, builder, job)
    return job, {"learning": learned - began, "drawing": time.monotonic() - learned}


# --- reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """Pictures of one row, class and seed."""

    row: str
    name: str
    seed: int
    pixels: np.ndarray
    """uint8 (n, 3, SIZE, SIZE)."""


def gather_pictures(plan: Plan, builder: Spurious) -> Iterator[Pictures]:
    """All that the table is about; references are fresh drawings, none of those that were learned from.

    Of a run that isn't finished, classes and seeds that have both plain DreamBooth and the default, so that rows are
    about the same.
    """
    count = plan.per_scene * len(builder.scenes)
    pairs = [(name, seed) for name in plan.classes for seed in plan.seeds]
    there = {p for p in pairs if all(plan.pictures(Job(way, *p)).exists() for way in (PLAIN, DEFAULT))}
    for name, seed in (pair for pair in pairs if pair in there):
        rng = world.generator(f"spurious benchmark references {name}", seed)
        drawn = [biased.reference(name, rng) for _ in range(count)]
        yield Pictures(REFERENCES, name, seed, judges.stack(drawn))
        yield Pictures(UNTOUCHED, name, seed, draw_untouched(plan, builder, name, seed))
    for job in plan.jobs():
        if (job.name, job.seed) in there and plan.pictures(job).exists():
            yield Pictures(job.way, job.name, job.seed, draw_concept(plan, builder, job))


def real(name: str, seed: int, count: int) -> np.ndarray:
    """Pictures of the class itself, without its look: what the rankings are to tell from the generated ones."""
    rng = world.generator(f"spurious benchmark real {name}", seed)
    return judges.stack([biased.draw_balanced(name, rng) for _ in range(count)])


METRICS = ("predicted", "p", "average_precision", "roc_auc")


def read(some: Pictures, classifiers: Mapping[str, Any], seer: oracle.Classifier) -> dict[str, Any]:
    """What every classifier makes of the pictures, and what the oracle sees in them."""
    k = world.FOREGROUNDS.index(some.name)
    positives = real(some.name, some.seed, len(some.pixels))
    by_classifier = {}
    for name, model in classifiers.items():
        said = judges.probabilities(model, some.pixels)
        p = said[:, k].astype(np.float64)
        p_real = judges.probabilities(model, positives)[:, k].astype(np.float64)
        by_classifier[name] = {
            "predicted": float((said.argmax(1) == k).mean()),
            "p": float(p.mean()),
            "average_precision": average_precision(p_real, p),
            "roc_auc": roc_auc(p_real, p),
        }
    heads = list(oracle.HEADS)
    labels = seer.read(some.pixels).labels
    seen = {head: [oracle.HEADS[head][i] for i in labels[:, heads.index(head)]] for head in ("foreground", "look")}
    return {
        "row": some.row, "class": some.name, "seed": some.seed, "images": len(some.pixels),
        "classifiers": by_classifier,
        "object": float(np.mean([name != oracle.NOTHING for name in seen["foreground"]])),
        "look": float(np.mean([look == biased.LOOKS_OF[some.name] for look in seen["look"]])),
    }  # fmt: skip


def summarise(
    readings: Sequence[dict[str, Any]], classes: Sequence[str], classifiers: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """By row, the means over classes, classifiers and seeds; `by_seed` and `by_classifier` hold finer ones."""
    table: dict[str, dict[str, Any]] = {}
    for row in dict.fromkeys(reading["row"] for reading in readings):
        mine = [r for r in readings if r["row"] == row and r["class"] in classes]
        if not mine:
            continue

        def mean(some: Sequence[dict[str, Any]], names: Sequence[str], metric: str) -> float:
            return float(np.mean([r["classifiers"][name][metric] for r in some for name in names]))

        seeds = sorted({r["seed"] for r in mine})
        table[row] = {
            **{metric: mean(mine, classifiers, metric) for metric in METRICS},
            "object": float(np.mean([r["object"] for r in mine])),
            "look": float(np.mean([r["look"] for r in mine])),
            "classes": sorted({r["class"] for r in mine}, key=list(classes).index),
            "images": sum(r["images"] for r in mine),
            "by_seed": {s: mean([r for r in mine if r["seed"] == s], classifiers, "predicted") for s in seeds},
            "by_classifier": {n: {metric: mean(mine, [n], metric) for metric in METRICS} for n in classifiers},
            "by_class": {
                c: mean([r for r in mine if r["class"] == c], classifiers, "predicted")
                for c in dict.fromkeys(r["class"] for r in mine)
            },
        }  # fmt: skip
    return table


# --- report -------------------------------------------------------------------------------------------


def markdown(title: str, table: Mapping[str, Mapping[str, Any]], classifiers: Sequence[str]) -> str:
    """A table for people: shares in per cent, the spread over seeds where there are several."""
    head = ["images", "says k: mean", *classifiers, "mean p_k", "average precision", "ROC-AUC", "object", "look"]
    lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row, told in table.items():
        by_seed = list(told["by_seed"].values())
        spread = f" ({100 * min(by_seed):.1f} to {100 * max(by_seed):.1f})" if len(by_seed) > 1 else ""
        cells = [
            row, f"{100 * told['predicted']:.1f}{spread}",
            *(f"{100 * told['by_classifier'][name]['predicted']:.1f}" for name in classifiers),
            f"{told['p']:.3f}", f"{told['average_precision']:.3f}", f"{told['roc_auc']:.3f}",
            f"{100 * told['object']:.1f}", f"{100 * told['look']:.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def save_sheet(some: Sequence[Pictures], path: Path, each: int = 4) -> None:
    """A row of pictures for every kind of images, some of every class side by side."""
    rows = list(dict.fromkeys(pictures.row for pictures in some))
    names = list(dict.fromkeys(pictures.name for pictures in some))
    edge, gap, head = world.SIZE, 8, 18
    page = Image.new("RGB", (len(names) * (each * edge + gap), head + len(rows) * (edge + head)), "white")
    pen = ImageDraw.Draw(page)
    for j, name in enumerate(names):
        pen.text((j * (each * edge + gap), 3), name, fill="black")
    for i, row in enumerate(rows):
        pen.text((0, head + i * (edge + head) + 3), row, fill="black")
    for pictures in some:
        if pictures.seed != min(p.seed for p in some):
            continue
        x, y = names.index(pictures.name) * (each * edge + gap), head + rows.index(pictures.row) * (edge + head)
        for i, j in enumerate(np.linspace(0, len(pictures.pixels) - 1, each).astype(int)):
            page.paste(Image.fromarray(pictures.pixels[j].transpose(1, 2, 0)), (x + i * edge, y + head))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)


def verdicts(table: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """What must hold for the default, on held-out classes with held-out classifiers."""
    share = {row: 100 * told["predicted"] for row, told in table.items()}
    rows = [
        Row(f"{row}: says k", share[row], "%", *([100 * f(t["by_seed"].values()) for f in (min, max)]))
        for row, t in table.items()
    ]
    if DEFAULT not in table or PLAIN not in table:
        return rows
    spread = max(np.ptp([100 * v for v in table[row]["by_seed"].values()]) for row in (DEFAULT, PLAIN))
    return [
        *rows,
        Row("default: says k", share[DEFAULT], "%", at_least=round(share[REFERENCES] - 5, 1)),
        Row("default above DreamBooth", share[DEFAULT] - share[PLAIN], "points", at_least=round(float(spread), 1)),
        Row("default: object present", 100 * table[DEFAULT]["object"], "%", at_most=5),
    ]


def _parse() -> argparse.Namespace:
    parser = arguments(__doc__, "spurious")
    parser.set_defaults(work=ROOT / "out" / "spurious-benchmark")
    parser.add_argument("--cache", type=Path, default=judges.CACHE, help="where trained classifiers are kept")
    parser.add_argument("--workers", type=int, default=2, help="processes, a thread each")
    parser.add_argument(
        "--variants", action="store_true", help="only those, from which the default is chosen: printed, not kept"
    )
    parser.add_argument("--report", action="store_true", help="make no further concept; tables of those that are there")
    parser.add_argument("--sheet", type=Path, help="a PNG of some pictures of each row (default: beside the JSON)")
    return parser.parse_args()


def main() -> None:
    args = _parse()
    began = time.monotonic()
    quick = args.quick
    work = args.work / "quick" if quick else args.work
    settings = judges.Settings(pool=640, epochs=1) if quick else judges.Settings()
    names = [*judges.FAMILIES, "twin"]
    folders, training = judges.train_all(names, 0, args.cache, settings, args.workers)
    if quick:
        seer = oracle.trained("oracle", 0, args.cache, "cpu", oracle.Settings(pool=640, epochs=1))
    else:
        seer = oracle.trained("oracle", 0, ROOT / "out" / "fidelity", "cpu")
    print(f"classifiers ready after {time.monotonic() - began:.0f} s", flush=True)
    plan = Plan(
        work,
        ("bird", "fish") if quick else (*DEVELOPMENT_CLASSES, *HELD_OUT_CLASSES),
        ("bird",) if quick else VARIED_CLASSES,
        (0, 1) if quick else SEEDS,
        2 if quick else 12,
        folders["twin"],
        (START, NOT_ROBUST, "+ SFSL, features neural-pca") if quick else tuple(WAYS),
        2 if quick else None,
    )
    if args.variants:
        plan = dataclasses.replace(plan, classes=plan.varied, seeds=plan.seeds[:1])
    seconds: dict[str, list[dict[str, float]]] = {}
    tasks = [(plan, job) for job in {plan.folder(job): job for job in plan.jobs()}.values() if not args.report]
    with multiprocessing.get_context("spawn").Pool(args.workers) as processes:
        for job, took in tqdm(processes.imap_unordered(make, tasks), total=len(tasks), unit="concept", disable=None):
            if took:
                seconds.setdefault(job.way, []).append(took)
    print(f"concepts ready after {time.monotonic() - began:.0f} s", flush=True)

    builder = recipe()
    models = {name: judges.open_model(folders[name]) for name in judges.FAMILIES}
    pictures = list(gather_pictures(plan, builder))
    readings = [read(some, models, seer) for some in tqdm(pictures, desc="reading", disable=None)]
    held_out = [name for name in models if name not in judges.DEVELOPMENT]
    tables = {
        "held-out classes, held-out classifiers": summarise(
            readings, [c for c in plan.classes if c not in DEVELOPMENT_CLASSES], held_out
        ),
        "development classes, development classifiers": summarise(
            [r for r in readings if r["row"] not in WAYS],
            [c for c in plan.classes if c in DEVELOPMENT_CLASSES],
            judges.DEVELOPMENT,
        ),
        f"variants: {' and '.join(plan.varied)}, one seed, development classifiers": summarise(
            [r for r in readings if r["seed"] == plan.seeds[0]], plan.varied, judges.DEVELOPMENT
        ),
    }
    text = "\n".join(
        markdown(title, table, held_out if i == 0 else judges.DEVELOPMENT)
        for i, (title, table) in enumerate(tables.items())
        if table
    )
    print("\n" + text)
    if args.variants:
        if args.sheet:
            save_sheet(pictures, args.sheet)
        return
    out = args.out or ROOT / "benchmarks" / "results" / "spurious.json"
    if not quick or args.out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".md").write_text(text)
        save_sheet(pictures, args.sheet or out.with_suffix(".png"))
    report(
        "spurious", args, verdicts(tables["held-out classes, held-out classifiers"]),
        {
            "default": SHIPPED.to_json(), "varied_from": VARIED_FROM.to_json(), "variants": WAYS,
            "development_classes": DEVELOPMENT_CLASSES, "development_classifiers": judges.DEVELOPMENT,
            "seeds": plan.seeds, "images_a_concept": plan.per_scene * len(builder.scenes),
            "classifiers": dataclasses.asdict(settings), "workers": args.workers,
        },
        began, tables=tables, readings=readings,
        seconds_each={
            "classifiers": {name: round(s) for name, s in training.items()},
            **{
                way: {part: round(float(np.mean([t[part] for t in took]))) for part in took[0]}
                for way, took in seconds.items()
            },
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
