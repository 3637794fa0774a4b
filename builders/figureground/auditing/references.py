"""Real against generated: how far the images are from photographs, and of what use they are for photographs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.auditing.features import read_features
from figureground.auditing.fidelity import NEIGHBOURS, clipped_coverage, clipped_density, frechet_distance
from figureground.auditing.findings import MAX_KEYS, Finding, Section, join_sections
from figureground.auditing.probe import MAX_IMAGES, TooFew, assign_folds, probe
from figureground.auditing.samples import Samples
from figureground.auditing.transfer import auc_interval, fit_and_predict, sign_test
from figureground.core import intervals
from figureground.core.errors import FiguregroundError, plural
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


def report_references(
    samples: Samples,
    references: DatasetImages | FolderImages,
    network: Classifier,
    *,
    batch_size: int = 64,
    show_progress: bool = True,
) -> Section:
    """Compare a dataset's images with references, with as many images of each class on either side.

    Returns:
        Report, JSON; candidates for findings; p-values of all tests.

    Raises:
        FiguregroundError: No reference can be read, or features aren't finite.
    """
    rng = np.random.default_rng(derive_seed(0, "audit", "references"))
    reference_rows, reference_features = _read_references(references, network, rng, batch_size, show_progress)
    labels = samples.foregrounds
    report: dict[str, Any] = {
        "name": references.name,
        "unreadable": getattr(references, "unreadable", {}),
        "other_classes": references.unknown,
    }
    reference_label = references.label[reference_rows]
    chosen, chosen_references, left_out = [], [], []
    for k in np.unique(samples.foreground).tolist():
        class_rows, class_references = np.flatnonzero(samples.foreground == k), np.flatnonzero(reference_label == k)
        n = min(len(class_rows), len(class_references))
        if n < MIN_OF_CLASS:
            left_out.append(labels[k])
            continue
        chosen.append(rng.choice(class_rows, n, replace=False))
        chosen_references.append(rng.choice(class_references, n, replace=False))
    report["left_out"] = left_out
    if not chosen:
        report["reason"] = f"Not measured: no class has {MIN_OF_CLASS} images on either side."
        return Section(report)
    rows, rows_of_references = np.concatenate(chosen), np.concatenate(chosen_references)
    if len(rows) > MAX_IMAGES // 2:  # in pairs, so that the sides keep equally many of each class
        kept = rng.choice(len(rows), MAX_IMAGES // 2, replace=False)
        rows, rows_of_references = rows[kept], rows_of_references[kept]
    rows = np.sort(rows)
    generated = read_features(
        network, ((samples.keys[row], image) for row, image, _ in samples.decode(rows)), len(rows),
        batch_size=batch_size, title=f"{network.name} on {samples.name}", show_progress=show_progress,
    )  # fmt: skip
    x, y = generated, reference_features[rows_of_references]
    objects, their_objects = samples.objects[rows], references.objects[reference_rows][rows_of_references]
    label, their_label = samples.foreground[rows], reference_label[rows_of_references]
    report |= {"images": len(rows), "features": x.shape[1]}
    report["frechet_distance"] = _measure_frechet(x, y, rng)
    report |= _measure_clipped(y, x)
    separability = _measure_separability(samples, rows, x, y, label, their_label, objects, their_objects)
    utility = _measure_utility(samples, x, y, label, their_label, objects, their_objects)
    report |= {"separability": separability.report, "utility": utility.report}
    return join_sections(report, (separability, utility))


def _read_references(
    references: DatasetImages | FolderImages,
    network: Classifier,
    rng: np.random.Generator,
    batch_size: int,
    show_progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of readable references of known classes, and their features, float (n, d)."""
    rows = np.flatnonzero(references.label >= 0)
    if len(rows) > MAX_IMAGES:
        rows = np.sort(rng.choice(rows, MAX_IMAGES, replace=False))
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
        network, images(), len(rows), batch_size=batch_size, title=f"{network.name} on {references.name}",
        show_progress=show_progress,
    )  # fmt: skip
    if not read:
        first = next(iter(getattr(references, "unreadable", {}).items()), ("", ""))
        raise FiguregroundError(
            f"--references {references.name}: none of its {plural(len(rows), 'image')} can be read; the first is "
            f"{': '.join(first)}."
        )
    return np.array(read), features


def _measure_frechet(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Return the Fréchet distance, and what random divisions of all images into two halves give."""
    if len(x) <= x.shape[1]:
        return {
            "reason": f"Not measured: each side has only {plural(len(x), 'image')} of the shared classes, and needs "
            f"more than the network's {x.shape[1]} features."
        }
    pooled, by_chance = np.concatenate([x, y]), []
    for _ in range(SPLITS_BY_CHANCE):
        order = rng.permutation(len(pooled))
        by_chance.append(frechet_distance(pooled[order[: len(x)]], pooled[order[len(x) :]]))
    return {"value": frechet_distance(x, y), "chance": float(np.mean(by_chance))}


def _measure_clipped(real: np.ndarray, generated: np.ndarray) -> dict[str, Any]:
    if len(real) <= 2 * NEIGHBOURS:
        reason = f"Not measured: more than {2 * NEIGHBOURS} images are needed, and there are {len(real):,}."
        return {"clipped_density": {"reason": reason}, "clipped_coverage": {"reason": reason}}
    return {
        "clipped_density": {"value": clipped_density(real, generated), "neighbours": NEIGHBOURS},
        "clipped_coverage": {"value": clipped_coverage(real, generated), "neighbours": NEIGHBOURS},
    }


def _measure_separability(
    samples: Samples, rows: np.ndarray, x: np.ndarray, y: np.ndarray, label: np.ndarray, their_label: np.ndarray,
    objects: np.ndarray, their_objects: np.ndarray,
) -> Section:  # fmt: skip
    """Probe whether an image is generated, given its class."""
    is_real = np.repeat([0, 1], [len(x), len(y)])
    # An object on both sides, such as a cut-out from a reference, must not be in training and test.
    all_objects = np.concatenate([objects, their_objects])
    try:
        result = probe(np.concatenate([x, y]), is_real, all_objects, nuisance=np.concatenate([label, their_label]))
    except TooFew as reason:
        return Section({"reason": f"Not measured: {reason}."})
    scores, real = result.scores[:, 0], is_real[result.rows] == 1
    used_objects = all_objects[result.rows]
    auc = auc_interval(scores[~real], scores[real], used_objects[~real], used_objects[real])
    summary = {"auc": auc._asdict(), "p": result.p}
    order = result.rows[np.argsort(-scores, kind="stable")]
    own_keys = [samples.keys[rows[i]] for i in order if i < len(x)]
    text = (
        f"A linear probe tells the images from the references: AUC {auc.value:.2f} ({auc.low:.2f} to {auc.high:.2f}; "
        "0.5 is chance). A classifier that sees both can use it."
    )
    finding = Finding(
        "references", text, effect=max(0.0, 2 * auc.value - 1), keys=tuple(own_keys[:MAX_KEYS]),
        beside=tuple(own_keys[::-1][: MAX_KEYS // 2]), p=result.p, numbers=summary,
    )  # fmt: skip
    return Section(summary, [finding], [result.p])


def _measure_utility(
    samples: Samples, x: np.ndarray, y: np.ndarray, label: np.ndarray, their_label: np.ndarray, objects: np.ndarray,
    their_objects: np.ndarray,
) -> Section:  # fmt: skip
    """Train a probe on the images and one on references, and test both on held-out references.

    In each fold, both have as many training images of each class.
    """
    classes, their_class = np.unique(their_label, return_inverse=True)
    if len(classes) < 2:
        return Section({"reason": "Not measured: the sides share only one class."})
    own_class = np.searchsorted(classes, label)
    object_ids, groups = np.unique(their_objects, return_inverse=True)
    rng = np.random.default_rng(derive_seed(0, "audit", "utility"))
    fold = assign_folds(groups, their_class, rng)
    predicted_here, predicted_by_references = np.full(len(y), -1), np.full(len(y), -1)
    for number in np.unique(fold):
        test, train = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        # Objects of the test images must not be in training here either.
        usable = np.flatnonzero(~np.isin(objects, object_ids[groups[test]]))
        chosen = []
        for k in range(len(classes)):
            candidates = usable[own_class[usable] == k]
            chosen.append(
                rng.choice(candidates, min(len(candidates), int((their_class[train] == k).sum())), replace=False)
            )
        chosen_rows = np.concatenate(chosen)
        if len(np.unique(own_class[chosen_rows])) < len(classes) or len(np.unique(their_class[train])) < len(classes):
            return Section({"reason": "Not measured: a fold lacks a class."})
        predicted_here[test] = fit_and_predict(x[chosen_rows], own_class[chosen_rows], y[test], len(classes))
        predicted_by_references[test] = fit_and_predict(y[train], their_class[train], y[test], len(classes))
    right_here, right_by_references = predicted_here == their_class, predicted_by_references == their_class
    groups_of = [their_objects[their_class == k] for k in range(len(classes))]
    sides = [[each[their_class == k] for k in range(len(classes))] for each in (right_here, right_by_references)]
    mean = [intervals.mean(side, groups_of) for side in sides]
    gap = intervals.difference(sides[1], sides[0], (groups_of, groups_of))
    p = sign_test(right_by_references, right_here, their_objects)
    summary = {
        "trained_here": mean[0]._asdict(), "trained_on_references": mean[1]._asdict(), "difference": gap._asdict(),
        "p": p, "classes": len(classes),
    }  # fmt: skip
    if gap.value <= 0:
        return Section(summary, p_values=[p])
    worst = min(range(len(classes)), key=lambda k: sides[0][k].mean() - sides[1][k].mean())
    name = samples.foregrounds[classes[worst]]
    text = (
        f"A probe trained on these images classifies {100 * mean[0].value:.1f}% of held-out references correctly, one "
        f"trained on as many references {100 * mean[1].value:.1f}%: {100 * gap.value:.1f} points fewer "
        f"({100 * gap.low:.1f} to {100 * gap.high:.1f}), most of all for {name}."
    )
    keys = tuple(samples.keys[row] for row in np.flatnonzero(samples.foreground == classes[worst])[:MAX_KEYS])
    finding = Finding("references", text, effect=gap.value, classes=(name,), keys=keys, p=p, numbers=summary)
    return Section(summary, [finding], [p])
