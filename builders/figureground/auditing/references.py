"""Real against generated: how far the images are from photographs, and of what use they are for photographs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.auditing.features import read_features
from figureground.auditing.fidelity import NEIGHBOURS, clipped_coverage, clipped_density, frechet_distance
from figureground.auditing.findings import MOST_KEYS, Finding
from figureground.auditing.probe import MOST_IMAGES, TooFew, fold_of, probe
from figureground.auditing.samples import Samples
from figureground.auditing.transfer import auc_interval, fit_and_predict, sign_test
from figureground.core import intervals
from figureground.core.errors import FiguregroundError, counted
from figureground.data.images import DatasetImages, FolderImages
from figureground.recipe.sample import derive_seed
from figureground.sources.images import UnreadableImage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

    from figureground.vision.classifiers import Classifier

MIN_OF_CLASS = 5
"""Minimum number of images of a class on either side; classes with fewer are left out."""
SPLITS_BY_CHANCE = 5
"""Number of random divisions that give the Fréchet distance by chance."""


def of_references(
    samples: Samples,
    references: DatasetImages | FolderImages,
    network: Classifier,
    *,
    batch_size: int = 64,
    show_progress: bool = True,
) -> tuple[dict[str, Any], list[Finding], list[float]]:
    """Compare a dataset's images with references, with as many images of each class on either side.

    Returns:
        Report, JSON; candidates for findings; p-values of all tests.

    Raises:
        FiguregroundError: No reference can be read, or features aren't finite.
    """
    rng = np.random.default_rng(derive_seed(0, "audit", "references"))
    theirs, real = _read_references(references, network, rng, batch_size, show_progress)
    labels = samples.foregrounds
    report: dict[str, Any] = {
        "name": references.name,
        "unreadable": getattr(references, "unreadable", {}),
        "other_classes": references.unknown,
    }
    label_there = references.label[theirs]
    own, other, left_out = [], [], []
    for k in np.unique(samples.foreground).tolist():
        here, there = np.flatnonzero(samples.foreground == k), np.flatnonzero(label_there == k)
        n = min(len(here), len(there))
        if n < MIN_OF_CLASS:
            left_out.append(labels[k])
            continue
        own.append(rng.choice(here, n, replace=False))
        other.append(rng.choice(there, n, replace=False))
    report["left_out"] = left_out
    if not own:
        report["reason"] = f"Not measured: no class has {MIN_OF_CLASS} images on either side."
        return report, [], []
    rows, other_rows = np.sort(np.concatenate(own)), np.concatenate(other)
    if len(rows) > MOST_IMAGES // 2:
        rows = np.sort(rng.choice(rows, MOST_IMAGES // 2, replace=False))
        other_rows = rng.choice(other_rows, MOST_IMAGES // 2, replace=False)
    generated = read_features(
        network, ((samples.keys[row], image) for row, image, _ in samples.decoded(rows)), len(rows),
        batch_size=batch_size, what=f"{network.name} on {samples.name}", show_progress=show_progress,
    )  # fmt: skip
    x, y = generated, real[other_rows]
    objects, their_objects = samples.objects[rows], references.objects[theirs][other_rows]
    label, their_label = samples.foreground[rows], label_there[other_rows]
    report |= {"images": len(rows), "features": x.shape[1]}
    report["frechet_distance"] = _frechet(x, y, rng)
    report |= _clipped(y, x)
    told, findings, tests = _separability(samples, rows, x, y, label, their_label, objects, their_objects)
    report["separability"] = told
    told, more, p = _utility(samples, x, y, label, their_label, objects, their_objects)
    report["utility"] = told
    return report, findings + more, tests + p


def _read_references(
    references: DatasetImages | FolderImages, network: Classifier, rng: np.random.Generator, batch_size: int, show: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of readable references of known classes, and their features, float (n, d)."""
    rows = np.flatnonzero(references.label >= 0)
    if len(rows) > MOST_IMAGES:
        rows = np.sort(rng.choice(rows, MOST_IMAGES, replace=False))
    read: list[int] = []

    def images() -> Iterator[tuple[str, Image.Image]]:
        for row, draw in references.read(rows):
            try:
                image = draw()
            except UnreadableImage as error:
                if not isinstance(references, FolderImages):
                    raise
                references.skip(row, error)
                continue
            read.append(row)
            yield references.keys[row], image

    features = read_features(
        network, images(), len(rows), batch_size=batch_size, what=f"{network.name} on {references.name}",
        show_progress=show,
    )  # fmt: skip
    if not read:
        first = next(iter(getattr(references, "unreadable", {}).items()), ("", ""))
        raise FiguregroundError(
            f"--references {references.name}: none of its {counted(len(rows), 'image')} can be read; the first is "
            f"{': '.join(first)}."
        )
    return np.array(read), features


def _frechet(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Return the Fréchet distance, and what random divisions of all images into two halves give."""
    if len(x) <= x.shape[1]:
        return {
            "reason": f"Not measured: each side has only {counted(len(x), 'image')} of the shared classes, and needs "
            f"more than the network's {x.shape[1]} features."
        }
    pooled, by_chance = np.concatenate([x, y]), []
    for _ in range(SPLITS_BY_CHANCE):
        order = rng.permutation(len(pooled))
        by_chance.append(frechet_distance(pooled[order[: len(x)]], pooled[order[len(x) :]]))
    return {"value": frechet_distance(x, y), "chance": float(np.mean(by_chance))}


def _clipped(real: np.ndarray, generated: np.ndarray) -> dict[str, Any]:
    if len(real) <= 2 * NEIGHBOURS:
        reason = f"Not measured: more than {2 * NEIGHBOURS} images are needed, and there are {len(real):,}."
        return {"clipped_density": {"reason": reason}, "clipped_coverage": {"reason": reason}}
    return {
        "clipped_density": {"value": clipped_density(real, generated), "neighbours": NEIGHBOURS},
        "clipped_coverage": {"value": clipped_coverage(real, generated), "neighbours": NEIGHBOURS},
    }


def _separability(
    samples: Samples, rows: np.ndarray, x: np.ndarray, y: np.ndarray, label: np.ndarray, their_label: np.ndarray,
    objects: np.ndarray, their_objects: np.ndarray,
) -> tuple[dict[str, Any], list[Finding], list[float]]:  # fmt: skip
    """Probe whether an image is generated, given its class."""
    is_real = np.repeat([0, 1], [len(x), len(y)])
    # An object on both sides, such as a cut-out from a reference, must not be in training and test.
    both = np.concatenate([objects, their_objects])
    try:
        result = probe(np.concatenate([x, y]), is_real, both, nuisance=np.concatenate([label, their_label]))
    except TooFew as reason:
        return {"reason": f"Not measured: {reason}."}, [], []
    scores, real = result.scores[:, 0], is_real[result.rows] == 1
    used = both[result.rows]
    auc = auc_interval(scores[~real], scores[real], used[~real], used[real])
    told = {"auc": auc._asdict(), "p": result.p}
    order = result.rows[np.argsort(-scores, kind="stable")]
    ours = [samples.keys[rows[i]] for i in order if i < len(x)]
    text = (
        f"A linear probe tells the images from the references: AUC {auc.value:.2f} ({auc.low:.2f} to {auc.high:.2f}; "
        "0.5 is chance). A classifier that sees both can use it."
    )
    finding = Finding(
        "references", text, effect=max(0.0, 2 * auc.value - 1), keys=tuple(ours[:MOST_KEYS]),
        beside=tuple(ours[::-1][: MOST_KEYS // 2]), p=result.p, numbers=told,
    )  # fmt: skip
    return told, [finding], [result.p]


def _utility(
    samples: Samples, x: np.ndarray, y: np.ndarray, label: np.ndarray, their_label: np.ndarray, objects: np.ndarray,
    their_objects: np.ndarray,
) -> tuple[dict[str, Any], list[Finding], list[float]]:  # fmt: skip
    """Train a probe on the images and one on references, and test both on held-out references.

    In each fold, both have as many training images of each class.
    """
    classes, at = np.unique(their_label, return_inverse=True)
    if len(classes) < 2:
        return {"reason": "Not measured: the sides share only one class."}, [], []
    own_at = np.searchsorted(classes, label)
    known, groups = np.unique(their_objects, return_inverse=True)
    rng = np.random.default_rng(derive_seed(0, "audit", "utility"))
    fold = fold_of(groups, at, rng)
    here, there = np.full(len(y), -1), np.full(len(y), -1)
    for each in np.unique(fold):
        test, train = np.flatnonzero(fold == each), np.flatnonzero(fold != each)
        # Objects of the test images must not be in training here either.
        usable = np.flatnonzero(~np.isin(objects, known[groups[test]]))
        chosen = []
        for k in range(len(classes)):
            its = usable[own_at[usable] == k]
            chosen.append(rng.choice(its, min(len(its), int((at[train] == k).sum())), replace=False))
        mine = np.concatenate(chosen)
        if len(np.unique(own_at[mine])) < len(classes) or len(np.unique(at[train])) < len(classes):
            return {"reason": "Not measured: a fold lacks a class."}, [], []
        here[test] = fit_and_predict(x[mine], own_at[mine], y[test], len(classes))
        there[test] = fit_and_predict(y[train], at[train], y[test], len(classes))
    right, wanted = here == at, there == at
    groups_of = [their_objects[at == k] for k in range(len(classes))]
    sides = [[each[at == k] for k in range(len(classes))] for each in (right, wanted)]
    mean = [intervals.mean(side, groups_of) for side in sides]
    gap = intervals.difference(sides[1], sides[0], (groups_of, groups_of))
    p = sign_test(wanted, right, their_objects)
    told = {
        "trained_here": mean[0]._asdict(), "trained_on_references": mean[1]._asdict(), "difference": gap._asdict(),
        "p": p, "classes": len(classes),
    }  # fmt: skip
    if gap.value <= 0:
        return told, [], [p]
    worst = min(range(len(classes)), key=lambda k: sides[0][k].mean() - sides[1][k].mean())
    name = samples.foregrounds[classes[worst]]
    text = (
        f"A probe trained on these images classifies {100 * mean[0].value:.1f}% of held-out references correctly, one "
        f"trained on as many references {100 * mean[1].value:.1f}%: {100 * gap.value:.1f} points fewer "
        f"({100 * gap.low:.1f} to {100 * gap.high:.1f}), most of all for {name}."
    )
    keys = tuple(samples.keys[row] for row in np.flatnonzero(samples.foreground == classes[worst])[:MOST_KEYS])
    return told, [Finding("references", text, effect=gap.value, classes=(name,), keys=keys, p=p, numbers=told)], [p]
