"""Accuracy of scorers of labels: `python benchmarks/trust_scorers.py`.

Builds D3S sets of the pocket world and lets scorers judge both labels of each image from its pixels. An oracle trained
on drawings alone (`oracle.py`) defines the truth: a label is wrong if the oracle sees another class, or none. Measures
agreement on the demo, and balanced accuracy and recall of wrong labels on sets that contain some:

- `shuffled`: the demo with the labels of a share of its images exchanged, foregrounds and backgrounds separately;
- `vanished`: the demo, and images from prompts that name a scene alone, whose labels still name the pasted object;
- `blurred`: generated at full strength without guidance, so that objects are drawn badly and some are lost;
- `hasty`: generated without a guide in 4 steps.

The scorer `classifier` is a second oracle: same architecture, other drawings. The agreement of the two on a set shows
how reliable the truth is there. `pocket` is also measured on the images for which they agree.

A scorer calls a label right if its probability is above a threshold. Thresholds are chosen on drawings with exchanged
labels, so that no generated image is seen before it is judged. With `--choose DIR`, they are chosen on a generated set
from other seeds instead, if it has wrong labels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import DatasetDict, load_dataset
from oracle import HEADS, Classifier, Settings, draw_many, load_or_train, to_pixels
from PIL import Image
from results import ROOT, Row, make_parser, make_scratch, report
from transformers import AutoModelForImageClassification, AutoTokenizer, CLIPModel

from figureground.core import intervals
from figureground.methods.d3s import D3S
from figureground.models.bundled import MATCHER, ROBUST
from figureground.models.opening import open_network, open_part
from figureground.models.weights import fingerprint_files
from figureground.pocket import matcher, questions, robust, world

LABELS = ("foreground", "background")
CLASSES: Mapping[str, tuple[str, ...]] = {"foreground": world.FOREGROUNDS, "background": world.BACKGROUNDS}
SETS: Mapping[str, Mapping[str, Any]] = {
    "vanished": {"prompt": "a scene, {background}", "strength": 0.7},
    "blurred": {"strength": 1.0, "guidance_scale": 1.0},
    "hasty": {"guide": "none", "num_inference_steps": 4},
}
"""Settings in which the sets with wrong labels differ from the demo."""
Scorer = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Takes uint8 images (n, 3, size, size); returns, for each label that it knows, probabilities (n, classes or more)."""


class Judged(NamedTuple):
    """Images with labels, and the truth."""

    images: np.ndarray
    """uint8 (n, 3, size, size)."""
    labels: dict[str, np.ndarray]
    """int64 (n,), in the order of `CLASSES`."""
    seen: dict[str, np.ndarray]
    """int64 (n,): the class that the image shows, in the same order; higher numbers mean none."""

    def right(self, label: str) -> np.ndarray:
        """Return whether each image shows its label, bool (n,)."""
        return self.seen[label] == self.labels[label]


class Measured(NamedTuple):
    """Judgements of one label by one scorer on one set."""

    of: str
    label: str
    scorer: str
    threshold: float
    n: int
    wrong: int
    """Number of images whose label is wrong by the oracle."""
    agreement: intervals.Interval
    balanced_accuracy: intervals.Interval | None
    """None if all labels are right, or all wrong; the same applies to the two recalls."""
    recall_of_wrong: intervals.Interval | None
    recall_of_right: intervals.Interval | None
    roc_auc: float | None


# --- sets -------------------------------------------------------------------------------------------


def build_dataset(directory: Path, seed: int, per_cell: int, quick: bool, **settings: Any) -> Path:
    """Build a D3S set of the pocket world, or resume it."""
    quick_settings = {"limit": 12, "num_inference_steps": 2} if quick else {}
    common = {"per_cell": {"train": per_cell}, "seed": seed, "formats": ["parquet"]}
    builder = D3S("pocket", **{**common, **settings, **quick_settings})
    builder.build(directory)
    return directory


def read_dataset(directory: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the images of all splits, uint8 (n, 3, size, size), and their labels.

    Raises:
        ValueError: The dataset has a class that the pocket world doesn't have.
    """
    dataset = load_dataset(str(directory))
    assert isinstance(dataset, DatasetDict)
    images: list[np.ndarray] = []
    labels: dict[str, list[int]] = {label: [] for label in LABELS}
    for rows in dataset.values():
        for label, values in labels.items():
            names = rows.features[label].names
            if unknown := sorted({*names} - {*CLASSES[label]}):
                raise ValueError(
                    f"{directory}, column {label!r}: the oracle knows only the pocket world, not "
                    f"{', '.join(unknown[:5])}; give a dataset built with the config `pocket`."
                )
            values += [CLASSES[label].index(names[i]) for i in rows[label]]
        images += [to_pixels(image) for image in rows["image"]]
    return np.stack(images), {label: np.array(values) for label, values in labels.items()}


def judge_by_oracle(oracle: Classifier, images: np.ndarray, labels: dict[str, np.ndarray]) -> Judged:
    """Return the images and labels with the truth according to the oracle."""
    seen = oracle.read(images).labels
    return Judged(images, labels, {label: seen[:, list(HEADS).index(label)] for label in LABELS})


def shuffle(judged: Judged, share: float, seed: int) -> Judged:
    """Exchange labels among a share of the images, chosen separately for foreground and background.

    Each of these images gets the label of another class.
    """
    labels = {}
    for label in LABELS:
        rng = world.generator(f"trust scorers, shuffled {label}", seed)
        own_labels, exchanged = judged.labels[label], judged.labels[label].copy()
        rows = rng.permutation(len(own_labels))[: round(share * len(own_labels))]
        # Sorting by class and shifting by the size of the largest class leaves no image with its own class.
        rows = rows[np.argsort(own_labels[rows], kind="stable")]
        exchanged[rows] = np.roll(own_labels[rows], int(np.bincount(own_labels[rows], minlength=1).max()))
        labels[label] = exchanged
    return judged._replace(labels=labels)


def join(first: Judged, second: Judged) -> Judged:
    """Return the images of both sets."""

    def join_by_label(get: Callable[[Judged], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {label: np.concatenate([get(first)[label], get(second)[label]]) for label in LABELS}

    return Judged(
        np.concatenate([first.images, second.images]),
        join_by_label(lambda j: j.labels),
        join_by_label(lambda j: j.seen),
    )


def make_drawings(count: int, seed: int, share: float) -> Judged:
    """Draw images, some without object or scene, and exchange a share of their labels."""
    images = draw_many(count, world.generator("trust scorers, drawings", seed), pasted=0.3)
    seen = {label: images.labels[:, list(HEADS).index(label)] for label in LABELS}
    rng = world.generator("trust scorers, labels where there is none", seed)
    labels = {
        label: np.where(shown < len(CLASSES[label]), shown, rng.integers(len(CLASSES[label]), size=count))
        for label, shown in seen.items()
    }
    return shuffle(Judged(images.images, labels, seen), share, seed)


# --- scorers ----------------------------------------------------------------------------------------


def open_matcher() -> Scorer:
    """Return the bundled matcher, which chooses among prompts for every class and for no class."""
    model = open_network(CLIPModel, MATCHER, "matcher", dtype=torch.float32).eval()
    texts = questions.Texts(open_part(AutoTokenizer, MATCHER, "matcher"))
    embeddings = {label: matcher.embed_candidates(model, texts, i) for i, label in enumerate(LABELS)}

    def score(images: np.ndarray) -> dict[str, np.ndarray]:
        return {
            label: matcher.compute_probabilities(model, images, candidates).numpy()
            for label, candidates in embeddings.items()
        }

    return score


def open_classifier(model: Classifier) -> Scorer:
    """Return a classifier of the oracle's architecture, trained on other drawings."""

    @torch.inference_mode()
    def score(images: np.ndarray) -> dict[str, np.ndarray]:
        device = next(model.parameters()).device
        parts_by_label: dict[str, list[np.ndarray]] = {label: [] for label in LABELS}
        for part in torch.from_numpy(images).split(128):
            logits = model(part.to(device).float().div(127.5).sub(1))
            for label, label_parts in parts_by_label.items():
                label_parts.append(logits[label].softmax(1).cpu().numpy())
        return {label: np.concatenate(label_parts) for label, label_parts in parts_by_label.items()}

    return score


def open_robust() -> Scorer:
    """Return the bundled robust classifier, which knows foregrounds only and always sees one."""
    model = open_network(AutoModelForImageClassification, ROBUST, "robust", dtype=torch.float32).eval()

    @torch.inference_mode()
    def score(images: np.ndarray) -> dict[str, np.ndarray]:
        batches = torch.from_numpy(images).split(128)
        parts = [robust.compute_logits(model, batch.float().div(255)).softmax(1) for batch in batches]
        return {"foreground": torch.cat(parts).numpy()}

    return score


# --- measurement ------------------------------------------------------------------------------------


def own_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the probability of each image's own label."""
    return probabilities[np.arange(len(labels)), labels]


def choose_threshold(p: np.ndarray, right: np.ndarray) -> float:
    """Return the threshold with the largest balanced accuracy; among several, the middle of the widest gap."""
    cuts = np.unique(np.concatenate([[0.0], p, [1.0]]))
    thresholds = (cuts[:-1] + cuts[1:]) / 2
    accuracy = np.array([((p[right] > t).mean() + (p[~right] <= t).mean()) / 2 for t in thresholds])
    best = np.flatnonzero(accuracy >= accuracy.max() - 1e-9)
    return float(thresholds[best[np.diff(cuts)[best].argmax()]])


def area_under_roc(p: np.ndarray, right: np.ndarray) -> float:
    """Return the area under the ROC curve: how often a right label has a higher p than a wrong one; ties count half."""
    above = (p[right][:, None] > p[~right]).mean()
    return float(above + (p[right][:, None] == p[~right]).mean() / 2)


def measure(set_name: str, label: str, scorer: str, p: np.ndarray, right: np.ndarray, threshold: float) -> Measured:
    """Compare a scorer's decisions with the truth; intervals are at level 0.95, over images."""
    is_called = p > threshold
    has_both = right.any() and not right.all()
    recalls = [is_called[right].astype(float), (~is_called[~right]).astype(float)]
    return Measured(
        set_name, label, scorer, threshold, len(p), int((~right).sum()),
        intervals.mean([(is_called == right).astype(float)]),
        intervals.mean(recalls) if has_both else None, intervals.mean(recalls[1:]) if has_both else None,
        intervals.mean(recalls[:1]) if has_both else None, area_under_roc(p, right) if has_both else None,
    )  # fmt: skip


def compare_oracles(
    set_name: str, judged: Judged, second_judged: Judged, p: Mapping[str, np.ndarray], thresholds: Mapping[str, float]
) -> tuple[list[Row], list[Measured]]:
    """Compare two oracles, and measure a scorer on the images for which they agree.

    Args:
        set_name: Name of the set.
        judged: The set with the first oracle's truth.
        second_judged: The same set with the second oracle's truth.
        p: float (n, classes or more), the scorer's probabilities by label.
        thresholds: The scorer's thresholds by label.

    Returns:
        Rows with the share of images on which both oracles agree whether the label is right; measurements on these.
    """
    rows, measures = [], []
    for label in LABELS:
        right = judged.right(label)
        agree = right == second_judged.right(label)
        value, low, high = (100 * share for share in intervals.mean([agree.astype(float)]))
        rows.append(Row(f"{set_name}, {label}: the oracles agree ({len(agree)}; {low:.1f} to {high:.1f})", value, "%"))
        own_p = own_probabilities(p[label], judged.labels[label])[agree]
        measures.append(measure(f"{set_name}, oracles agree", label, "pocket", own_p, right[agree], thresholds[label]))
    return rows, measures


def make_rows(measured: Measured) -> list[Row]:
    """Return the result rows, with targets, in per cent."""
    name = f"{measured.of}, {measured.label}, {measured.scorer}"
    share = 100 * measured.wrong / measured.n

    def row(quantity: str, interval: intervals.Interval, count: int, at_least: float | None) -> Row:
        value, low, high = (100 * share for share in interval)
        return Row(f"{name}: {quantity} ({count}; {low:.1f} to {high:.1f})", value, "%", at_least=at_least)

    if not measured.wrong or measured.of.startswith("demo"):
        return [row("agreement", measured.agreement, measured.n, 98)]
    rows = [Row(f"{name}: wrong labels by the oracle ({measured.n})", share, "%")]
    if measured.balanced_accuracy and measured.recall_of_wrong:
        rows += [
            row("balanced accuracy", measured.balanced_accuracy, measured.n, 95),
            row("recall of wrong labels", measured.recall_of_wrong, measured.wrong, 90),
        ]
    return rows


def save_disagreements(judged: Judged, label: str, p: np.ndarray, threshold: float, path: Path) -> None:
    """Save a sheet of up to 60 images on whose label scorer and oracle disagree, those wrong by the oracle last."""
    different = np.flatnonzero((p > threshold) != judged.right(label))
    different = different[np.argsort(~judged.right(label)[different], kind="stable")][:60]
    edge = 2 * world.SIZE
    sheet = Image.new("RGB", (10 * edge, max(1, -(-len(different) // 10)) * edge))
    for i, j in enumerate(different):
        image = Image.fromarray(judged.images[j].transpose(1, 2, 0)).resize((edge, edge), Image.Resampling.NEAREST)
        sheet.paste(image, (i % 10 * edge, i // 10 * edge))
        print(
            f"  {label} {i}: labelled {CLASSES[label][judged.labels[label][j]]}, p {p[j]:.3f}, "
            f"by the oracle {'right' if judged.right(label)[j] else 'wrong'}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def choose_thresholds(scorers: Mapping[str, Scorer], sets: Sequence[Judged]) -> dict[str, dict[str, float]]:
    """Return each scorer's threshold for each label that it knows.

    Each is chosen on the first of the sets in which some of the labels are wrong.
    """
    thresholds: dict[str, dict[str, float]] = {name: {} for name in scorers}
    for judged in sets:
        for name, score in scorers.items():
            for label, p in score(judged.images).items():
                right = judged.right(label)
                if right.any() and not right.all():
                    thresholds[name].setdefault(
                        label, choose_threshold(own_probabilities(p, judged.labels[label]), right)
                    )
    return thresholds


def measure_all(
    sets: Mapping[str, Judged],
    scores: Mapping[tuple[str, str], Mapping[str, np.ndarray]],
    thresholds: Mapping[str, Mapping[str, float]],
    sheets: Path | None,
) -> list[Measured]:
    """Measure all scorers on all sets.

    Args:
        sets: Judged sets by name.
        scores: Probabilities by label, for each scorer and set, by name.
        thresholds: Thresholds by label, for each scorer, by name.
        sheets: Folder for sheets of disagreements.
    """
    measures = []
    for (name, set_name), p_by_label in scores.items():
        judged = sets[set_name]
        for label, p in p_by_label.items():
            own_p, threshold = own_probabilities(p, judged.labels[label]), thresholds[name][label]
            measures.append(measure(set_name, label, name, own_p, judged.right(label), threshold))
            if sheets:
                print(f"{set_name}, {label}, {name}: disagreements")
                save_disagreements(judged, label, own_p, threshold, sheets / f"{set_name}-{label}-{name}.png")
    return measures


def to_json(measured: Measured) -> dict[str, Any]:
    return {
        name: value._asdict() if isinstance(value, intervals.Interval) else value
        for name, value in measured._asdict().items()
    }


def main(command: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = make_parser(__doc__, "trust_scorers")
    add = parser.add_argument
    add("--demo", type=Path, help="a D3S set of the config `pocket` (default: one is built)")
    for name in SETS:
        add(f"--{name}", type=Path, help=f"the set `{name}` (default: it is built)")
    add("--choose", type=Path, help="a set with wrong labels on which thresholds are chosen (default: drawings)")
    add("--cache", type=Path, default=ROOT / "out" / "fidelity", help="trained classifiers")
    add("--sheets", type=Path, help="folder for sheets of images on which scorer and oracle disagree")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="device for training classifiers")
    add("--seed", type=int, default=0, help="seed of the oracle, the sets and the exchange of labels")
    add("--per-cell", type=int, default=6, help="images per cell of the demo; a third of it in the other sets")
    add("--shuffled", type=float, default=0.3, help="share of images whose labels are exchanged")
    add("--drawings", type=int, default=1000, help="number of drawings on which thresholds are chosen")
    add(
        "--no-classifier",
        action="store_true",
        help="leave out the classifier, which takes a quarter of an hour to train",
    )
    args = parser.parse_args(command)
    settings = Settings()
    if args.quick:
        # Barely trained classifiers and a few images: all of the code runs, but the numbers are meaningless.
        args.per_cell, args.drawings, settings = 1, 40, Settings(pool=640, epochs=2)
    with make_scratch(args.work) as work:
        if args.quick:
            args.cache = work / "cache"
        run_benchmark(args, settings, work)


def run_benchmark(args: argparse.Namespace, settings: Settings, work: Path) -> None:
    """Build and judge the sets, measure all scorers, print and write JSON.

    Args:
        args: The parsed command line.
        settings: Training settings of the classifiers.
        work: A folder for the sets that are built.
    """
    began = time.monotonic()
    oracle = load_or_train("oracle", args.seed, args.cache, args.device, settings)
    demo = args.demo or build_dataset(work / "demo", args.seed, args.per_cell, args.quick)
    sets = {"demo": judge_by_oracle(oracle, *read_dataset(demo))}
    sets["shuffled"] = shuffle(sets["demo"], args.shuffled, args.seed)
    for i, (name, settings_of) in enumerate(SETS.items(), 1):
        per_cell = max(1, args.per_cell // 3)
        directory = getattr(args, name) or build_dataset(
            work / name, args.seed + i, per_cell, args.quick, **settings_of
        )
        sets[name] = judge_by_oracle(oracle, *read_dataset(directory))
    sets["vanished"] = join(sets["demo"], sets["vanished"])
    chosen_on = [make_drawings(args.drawings, args.seed, args.shuffled)]
    if args.choose:
        chosen_on.insert(0, judge_by_oracle(oracle, *read_dataset(args.choose)))
    scorers: dict[str, Scorer] = {"pocket": open_matcher(), "robust": open_robust()}
    second_oracle = None
    if not args.no_classifier:
        second_oracle = load_or_train("scorer of labels", args.seed + 1, args.cache, args.device, settings)
        scorers["classifier"] = open_classifier(second_oracle)
    thresholds = choose_thresholds(scorers, chosen_on)
    scores = {
        (name, set_name): score(judged.images) for name, score in scorers.items() for set_name, judged in sets.items()
    }
    measures = measure_all(sets, scores, thresholds, args.sheets)
    rows = [row for measured in measures for row in make_rows(measured)]
    if second_oracle:
        for set_name, judged in sets.items():
            second_judged = judge_by_oracle(second_oracle, judged.images, judged.labels)
            agreement, agreed_measures = compare_oracles(
                set_name, judged, second_judged, scores["pocket", set_name], thresholds["pocket"]
            )
            rows += [*agreement, *(row for measured in agreed_measures for row in make_rows(measured))]
            measures += agreed_measures
    report(
        "trust_scorers", args, rows,
        {
            "seed": args.seed, "matcher": fingerprint_files(MATCHER), "shuffled": args.shuffled,
            "sets": {name: dict(settings_of) for name, settings_of in SETS.items()},
            "images": {name: len(judged.images) for name, judged in sets.items()},
            "thresholds": "a generated set" if args.choose else f"{args.drawings} drawings",
        },
        began, measures=[to_json(measured) for measured in measures],
    )  # fmt: skip


if __name__ == "__main__":
    main()
