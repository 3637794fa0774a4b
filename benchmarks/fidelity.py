"""Fidelity of the pocket model: `python benchmarks/fidelity.py`.

Measures, on drawings and seeds not used in training: the cost of an autoencoder round trip in PSNR and in classifiers'
predictions; the predictions of an oracle, trained only on drawn images, for generated images and a built dataset; and
the Fréchet distance between generated and drawn images. Prints a table and writes JSON. Nothing measured here is used
to select images or to tune the model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import DatasetDict, load_dataset
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from oracle import HEADS, NOTHING, Answers, Classifier, Settings, blur_images, draw_many, load_or_train, to_pixels
from PIL import Image
from results import ROOT, describe_command, describe_origin, make_parser, make_scratch, strip_location
from tqdm import tqdm

from figureground.core.seeding import make_generator
from figureground.models.bundled import WEIGHTS
from figureground.models.opening import make_network
from figureground.models.opening import open_pipeline as open_safely
from figureground.pocket import captions, world
from figureground.recipe.sample import derive_seed

BLUR = 1.0
"""Standard deviation of the oracle's test blur, in pixels."""
LIBRARIES = ("torch", "diffusers", "transformers", "datasets", "numpy", "pillow")


@dataclass(frozen=True)
class Measure:
    """One number, and its target."""

    name: str
    value: float
    unit: str
    count: int
    """Number of images it was measured on."""
    at_least: float | None = None
    below: float | None = None

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g} {self.unit}"
        return f"< {self.below:g} {self.unit}" if self.below is not None else "-"

    @property
    def verdict(self) -> str:
        """`OK`, the distance from the target, or an empty string without a target."""
        if self.at_least is not None:
            gap = self.at_least - self.value
            return "OK" if gap <= 0 else f"short by {gap:.2f}"
        if self.below is not None:
            gap = self.value - self.below
            return "OK" if gap < 0 else f"over by {gap:.2f}"
        return ""


@dataclass(frozen=True)
class Table:
    """The oracle's predictions for the images of each class."""

    name: str
    classes: dict[str, Counter[str]]
    """For each true name, the count of each predicted name."""

    @property
    def count(self) -> int:
        return sum(counts.total() for counts in self.classes.values())

    @property
    def lowest_class(self) -> Measure:
        """The lowest accuracy of a class; biased low, as the minimum of several shares."""
        shares = {true: 100 * counts[true] / counts.total() for true, counts in self.classes.items()}
        name = min(shares, key=shares.__getitem__)
        count = self.classes[name].total()
        return Measure(f"  least of the classes, {name}", shares[name], "%", count, at_least=96)

    @property
    def share_right(self) -> float:
        """Share of correct predictions, in per cent."""
        return 100 * sum(counts[true] for true, counts in self.classes.items()) / self.count


class Prompted(NamedTuple):
    """A prompt, and the names in it; None for a missing name."""

    text: str
    foreground: str | None
    background: str | None
    prop: str | None


# --- the autoencoder --------------------------------------------------------------------------------


@torch.inference_mode()
def round_trip(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """Encode (to the posterior's mean) and decode uint8 images (n, 3, h, w)."""
    decoded_batches = []
    for start in tqdm(range(0, len(images), 32), desc="round trip", unit="batch", disable=None, leave=False):
        x = torch.from_numpy(images[start : start + 32]).to(vae.device).float() / 127.5 - 1
        y = vae.decode(vae.encode(x).latent_dist.mean).sample
        decoded_batches.append(((y + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy())
    return np.concatenate(decoded_batches)


def psnr(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio in dB of each uint8 image (n, 3, h, w)."""
    error = np.square(one.astype(np.float64) - other).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1 / 12))  # 1 / 12: error of rounding to 8 bits


def measure_autoencoder(vae: AutoencoderKL, classifier: Classifier, count: int, seed: int) -> list[Measure]:
    """Measure the PSNR of a round trip, and how often it changes the classifier's predictions."""
    drawn = draw_many(count, world.generator("fidelity round trip, held out", seed))
    round_tripped = round_trip(vae, drawn.images)
    before, after = classifier.read(drawn.images).labels, classifier.read(round_tripped).labels
    rows = [
        Measure("VAE reconstruction, PSNR", float(psnr(drawn.images, round_tripped).mean()), "dB", count, at_least=30)
    ]
    for i, (head, classes) in enumerate(HEADS.items()):
        # Images without a prop have no look.
        is_labelled = drawn.labels[:, i] != classes.index(NOTHING) if head == "look" else np.ones(count, bool)
        num_labelled = int(is_labelled.sum())
        changed = 100 * float((before[is_labelled, i] != after[is_labelled, i]).mean())
        accuracy = 100 * float((before[is_labelled, i] == drawn.labels[is_labelled, i]).mean())
        accuracy_after = 100 * float((after[is_labelled, i] == drawn.labels[is_labelled, i]).mean())
        rows += [
            Measure(f"round trip changes {head}", changed, "%", num_labelled, below=5 if head == "look" else 2),
            Measure(f"  classifier right on drawings: {head}", accuracy, "%", num_labelled),
            Measure(f"  and after the round trip: {head}", accuracy_after, "%", num_labelled),
        ]
    return rows


# --- the oracle -------------------------------------------------------------------------------------


def measure_oracle(oracle: Classifier, count: int, seed: int) -> list[Measure]:
    """Measure the oracle's accuracy on held-out drawings, sharp and blurred, and with pasted cut-outs."""
    rows = []
    for kind, pasted in (("drawings", 0.0), ("pasted cut-outs", 1.0)):
        drawn = draw_many(count, world.generator(f"fidelity oracle, held out {kind}", seed), pasted)
        for look, images in (("", drawn.images), (", blurred", blur_images(drawn.images, BLUR))):
            accuracies = 100 * (oracle.read(images).labels == drawn.labels).mean(0)
            for head, value in zip(HEADS, accuracies, strict=True):
                target = 99.5 if head in ("foreground", "background") and not pasted else None
                rows.append(Measure(f"oracle on {kind}{look}: {head}", float(value), "%", count, at_least=target))
    return rows


def tabulate(name: str, head: str, true_names: list[str | None], answers: Answers) -> Table:
    """Count the oracle's predictions for each wanted name; images without a wanted name are left out."""
    names = HEADS[head]
    predictions = answers.labels[:, list(HEADS).index(head)]
    classes: dict[str, Counter[str]] = {k: Counter() for k in names if k in true_names}
    for true, i in zip(true_names, predictions, strict=True):
        if true is not None:
            classes[true][names[i]] += 1
    return Table(name, classes)


def print_table(table: Table) -> None:
    """Print the accuracy per class, and the confusions."""
    print(f"\n{table.name}: {table.share_right:.2f} % of {table.count} right")
    wrong: Counter[tuple[str, str]] = Counter()
    for true, counts in table.classes.items():
        confusions = [(predicted, n) for predicted, n in counts.most_common() if predicted != true]
        wrong.update({(true, predicted): n for predicted, n in confusions})
        confusion_text = "  ".join(f"{predicted} {n}" for predicted, n in confusions)
        share = 100 * counts[true] / counts.total()
        print(f"  {true:<10} {counts[true]:>5} of {counts.total():<5} {share:6.1f} %   {confusion_text}")
    if wrong:
        print(
            "  confusions: "
            + ", ".join(f"{true} read as {predicted} {n}" for (true, predicted), n in wrong.most_common(20))
        )


# --- text to image ----------------------------------------------------------------------------------


def cell_prompts(per_cell: int) -> list[Prompted]:
    """Return prompts for every foreground on every background, every second one with the foreground's definition."""
    prompts = []
    for f, foreground in enumerate(world.FOREGROUNDS):
        for b, (background, phrase) in enumerate(captions.PHRASES.items()):
            for i in range(per_cell):
                definition = f", {captions.DEFINITIONS[foreground]}" if (f + b + i) % 2 else ""
                text = f"a photo of a {foreground}{definition}, {phrase}"
                prompts.append(Prompted(text, foreground, background, None))
    return prompts


def prop_prompts(per_pair: int, with_foreground: bool) -> list[Prompted]:
    """Return prompts for every prop, `per_pair` times with every foreground, or alone on every background."""
    prompts = []
    for p, prop in enumerate(world.PROPS):
        for i, foreground in enumerate(world.FOREGROUNDS if with_foreground else [None] * len(world.BACKGROUNDS)):
            for j in range(per_pair):
                background = world.BACKGROUNDS[(i + 3 * j + p) % len(world.BACKGROUNDS)]
                subject = f"{foreground} with a {prop}" if foreground else prop
                text = f"a photo of a {subject}, {captions.PHRASES[background]}"
                prompts.append(Prompted(text, foreground, background, prop))
    return prompts


def open_pipeline(checkpoint: Path, device: str) -> StableDiffusionPipeline:
    """Open a checkpoint in float32 with DDIM.

    Raises:
        FileNotFoundError: The directory holds no checkpoint.
    """
    if not (checkpoint / "model_index.json").exists():
        raise FileNotFoundError(
            f"{checkpoint} holds no checkpoint (no model_index.json). Name one with --checkpoint, "
            "or train one: python -m figureground.pocket.train"
        )
    pipeline = open_safely(StableDiffusionPipeline, checkpoint, str(checkpoint), dtype=torch.float32).to(device)
    pipeline.scheduler = make_network(DDIMScheduler, pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: StableDiffusionPipeline, prompts: list[Prompted], purpose: str, seed: int, steps: int, guidance: float
) -> np.ndarray:
    """Generate one image per prompt, uint8 (n, 3, size, size), each with its own seed."""
    arrays = []
    batch = 16 if pipeline.device.type == "cpu" else 100
    with tqdm(total=len(prompts), desc=purpose, unit="image", disable=None, leave=False) as bar:
        for start in range(0, len(prompts), batch):
            texts = [p.text for p in prompts[start : start + batch]]
            seeds = [derive_seed(seed, "fidelity", purpose, str(start + i)) for i in range(len(texts))]
            generators = [make_generator(s) for s in seeds]
            images = pipeline(texts, num_inference_steps=steps, guidance_scale=guidance, generator=generators).images
            arrays += [to_pixels(image) for image in images]
            bar.update(len(texts))
    return np.stack(arrays)


def read_prompted(title: str, prompts: list[Prompted], answers: Answers) -> list[Table]:
    """Return a table for each factor that any prompt names."""
    tables = []
    for head in ("foreground", "background", "prop"):
        true_names = [getattr(p, head) for p in prompts]
        if any(true_names):
            tables.append(tabulate(f"{title}: {head}", head, true_names, answers))
    return tables


def save_misread(prompts: list[Prompted], images: np.ndarray, answers: Answers, path: Path) -> None:
    """Save a sheet of up to 100 images in which the oracle misses something named in the prompt, for inspection."""
    rows = []
    for head in ("foreground", "background", "prop"):
        predicted = [HEADS[head][i] for i in answers.labels[:, list(HEADS).index(head)]]
        rows.append([getattr(p, head) not in (None, name) for p, name in zip(prompts, predicted, strict=True)])
    wrong = np.flatnonzero(np.any(rows, axis=0))[:100]
    edge = 2 * world.SIZE
    sheet = Image.new("RGB", (10 * edge, max(1, -(-len(wrong) // 10)) * edge))
    for i, j in enumerate(wrong):
        image = Image.fromarray(images[j].transpose(1, 2, 0)).resize((edge, edge), Image.Resampling.NEAREST)
        sheet.paste(image, (i % 10 * edge, i // 10 * edge))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


# --- distance ---------------------------------------------------------------------------------------


def _root(matrix: np.ndarray) -> np.ndarray:
    """Return the symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Fréchet distance of the Gaussians fitted to two sets of features (n, d) (Heusel et al. 2017).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the last trace through the symmetric
    C1^(1/2) C2 C1^(1/2), which has the same eigenvalues as C1 C2.
    """
    mean = np.square(one.mean(0) - other.mean(0)).sum()
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = _root(first)
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    return float(mean + np.trace(first) + np.trace(second) - 2 * shared)


def draw_like(prompts: list[Prompted], rng: np.random.Generator) -> np.ndarray:
    """Draw the content of each prompt, uint8 (n, 3, size, size)."""
    return np.stack([to_pixels(world.render(p.foreground, p.background, p.prop, rng).image) for p in prompts])


def measure_distance(oracle: Classifier, prompts: list[Prompted], generated: Answers, seed: int) -> list[Measure]:
    """Measure the Fréchet distance of generated images from drawings, and of as many other drawings."""
    drawn_features, other_features = (
        oracle.read(draw_like(prompts, world.generator(f"fidelity distance {i}", seed))).features for i in (0, 1)
    )
    return [
        Measure(
            "Fréchet distance, generated to drawn",
            frechet(generated.features, drawn_features),
            "",
            len(prompts),
            below=12,
        ),
        Measure("Fréchet distance, drawn to other drawn", frechet(other_features, drawn_features), "", len(prompts)),
    ]


# --- a built dataset --------------------------------------------------------------------------------


def read_dataset(oracle: Classifier, directory: Path) -> tuple[list[Measure], list[Table]]:
    """Evaluate every split of a D3S dataset of pocket classes, built with `figureground build d3s`.

    Raises:
        ValueError: The dataset has a class that the pocket world doesn't have.
    """
    dataset = load_dataset(str(directory))
    assert isinstance(dataset, DatasetDict)
    true_names: dict[str, list[str | None]] = {"foreground": [], "background": []}
    splits: list[str] = []
    images = []
    for split, rows in dataset.items():
        for head, values in true_names.items():
            names = rows.features[head].names
            unknown = [name for name in names if name not in HEADS[head]]
            if unknown:
                raise ValueError(
                    f"{directory}, column {head!r}: the oracle knows only the pocket world, not "
                    f"{', '.join(unknown[:5])}; give --dataset a dataset built with the config `pocket`."
                )
            values += [names[i] for i in rows[head]]
        splits += [str(split)] * len(rows)
        images += [to_pixels(row["image"]) for row in tqdm(rows, desc=str(split), disable=None, leave=False)]
    answers = oracle.read(np.stack(images))
    tables, measures = [], []
    for head, at_least in (("foreground", 99), ("background", 99.5)):
        table = tabulate(f"D3S set: {head}", head, true_names[head], answers)
        tables.append(table)
        measures.append(Measure(table.name, table.share_right, "%", table.count, at_least=at_least))
        if head == "foreground":
            measures.append(table.lowest_class)
        for split in dataset:
            split_names = [name if s == split else None for name, s in zip(true_names[head], splits, strict=True)]
            part = tabulate(f"  {split}: {head}", head, split_names, answers)
            measures.append(Measure(part.name, part.share_right, "%", part.count))
    return measures, tables


# --- report -----------------------------------------------------------------------------------------


def print_measures(measures: list[Measure]) -> None:
    width = max(len(m.name) for m in measures)
    print(f"\n{'':<{width}}  {'measured':>11}  {'target':<12} {'images':>8}")
    for m in measures:
        print(f"{m.name:<{width}}  {m.value:>8.2f} {m.unit:<2}  {m.target:<12} {m.count:>8}  {m.verdict}")


def main() -> None:
    parser = make_parser(__doc__, "fidelity")
    add = parser.add_argument
    add("--checkpoint", type=Path, default=WEIGHTS, help="a checkpoint directory (default: the bundled one)")
    add("--dataset", type=Path, help="a D3S dataset of pocket classes to evaluate too")
    add("--cache", type=Path, default=ROOT / "out" / "fidelity", help="trained classifiers, sheets of misread images")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seed", type=int, default=0, help="seed of drawings, classifiers and sampling")
    add("--steps", type=int, default=25, help="DDIM steps")
    add("--guidance", type=float, default=5.0, help="guidance scale (that of D3S)")
    add("--per-cell", type=int, default=5, help="generated images per cell, and per prop's cell")
    add("--held-out", type=int, default=4000, help="number of drawings for testing the oracle")
    args = parser.parse_args()
    if not args.quick:
        measure(args, Settings(), every=1, num_round_trips=max(1000, args.held_out // 2))
        return
    # Barely trained classifiers and images of some prompts: all of the code runs, but the numbers are meaningless.
    args.per_cell, args.steps, args.held_out = 1, 2, 40
    with make_scratch(args.work) as work:
        args.cache = work
        measure(args, Settings(pool=640, epochs=2), every=9, num_round_trips=20)


def measure(args: argparse.Namespace, settings: Settings, every: int, num_round_trips: int) -> None:
    """Measure everything, print it, and write the JSON.

    Args:
        args: The parsed command line.
        settings: Training settings of the classifiers.
        every: Draw every n-th prompt.
        num_round_trips: Number of drawings for the autoencoder's round trip.
    """
    began = time.monotonic()
    pipeline = open_pipeline(args.checkpoint, args.device)
    classifier = load_or_train("round-trip classifier", args.seed, args.cache, args.device, settings)
    oracle = load_or_train("oracle", args.seed, args.cache, args.device, settings)
    print(f"classifiers ready after {time.monotonic() - began:.0f} s")

    measures = measure_autoencoder(pipeline.vae, classifier, num_round_trips, args.seed)
    print_measures(measures)
    measures += (oracle_measures := measure_oracle(oracle, args.held_out, args.seed))
    print_measures(oracle_measures)

    tables: list[Table] = []
    generated_measures: list[Measure] = []
    for title, prompts, targets in (
        ("text to image", cell_prompts(args.per_cell), {"foreground": 99, "background": 99.5}),
        ("text to image, foreground with prop", prop_prompts(args.per_cell, True), {"prop": 95}),
        ("text to image, prop alone", prop_prompts(args.per_cell, False), {"prop": 95}),
    ):
        prompts = prompts[::every]
        images = generate(pipeline, prompts, title, args.seed, args.steps, args.guidance)
        answers = oracle.read(images)
        save_misread(prompts, images, answers, args.cache / f"misread {title.replace(',', '')}.png".replace(" ", "-"))
        for table in read_prompted(title, prompts, answers):
            tables.append(table)
            print_table(table)
            at_least = targets.get(table.name.rpartition(": ")[2])
            generated_measures.append(Measure(table.name, table.share_right, "%", table.count, at_least=at_least))
            if table.name == "text to image: foreground":
                generated_measures.append(table.lowest_class)
        if title == "text to image":
            generated_measures += measure_distance(oracle, prompts, answers, args.seed)
    if args.dataset:
        dataset_measures, dataset_tables = read_dataset(oracle, args.dataset)
        for table in dataset_tables:
            print_table(table)
        tables += dataset_tables
        generated_measures += dataset_measures
    print_measures(generated_measures)
    measures += generated_measures
    missed = [m for m in measures if m.verdict not in ("", "OK")]
    print(f"\n{sum(m.verdict == 'OK' for m in measures)} targets reached, {len(missed)} missed")
    for m in missed:
        print(f"  {m.name}: {m.value:.2f} {m.unit}, {m.verdict}")

    if args.quick and not args.out:
        return
    report = {
        "command": describe_command("fidelity"),
        **describe_origin(),
        "settings": {
            "seed": args.seed, "steps": args.steps, "guidance_scale": args.guidance, "scheduler": "DDIM",
            "per_cell": args.per_cell, "held_out": args.held_out, "round_trips": num_round_trips, "blur": BLUR,
            "classifiers": dataclasses.asdict(settings),
        },
        "machine": {
            "device": torch.device(args.device).type, "cpu_cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "architecture": platform.machine(),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "seconds": round(time.monotonic() - began),
        "measures": [{**dataclasses.asdict(m), "verdict": m.verdict} for m in measures],
        "tables": {table.name: {true: dict(counts) for true, counts in table.classes.items()} for table in tables},
    }  # fmt: skip
    out = args.out or ROOT / "benchmarks" / "results" / "fidelity.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(
        f"Wrote {strip_location(str(out))}"
        + ("" if args.quick else f"; misread images are in {strip_location(str(args.cache))}")
    )


if __name__ == "__main__":
    main()
