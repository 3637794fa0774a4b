"""Real classifiers and cut-outs on photographs: accuracy, masks compared with drawn ones, objects on other scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import efficientnet_lite
import numpy as np
import torch
from photo_inputs import Inputs, Photograph, explain_unusable, fill, make_alpha
from PIL import Image, ImageOps
from results import Row

from figureground.core.intervals import Interval, difference, mean, wilson
from figureground.recipe.sample import derive_seed
from figureground.vision.classifiers import Classifier, imagenet_nouns, open_classifier

EVERY = 4
"""Every fourth photograph is classified."""
MAX_OBJECTS = 200
"""Number of objects to move, from every second photograph."""
SCENES = 3
"""Number of other scenes onto which each object is pasted."""
GREY = (128, 128, 128)
VERSIONS = ("photograph", "grey", "own scene", "other scenes")


def write_random(out: Path, scale: efficientnet_lite.Scale) -> None:
    """Write a network with random weights, for a quick run."""
    if not (out / "preprocessor_config.json").is_file():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = efficientnet_lite.build(scale, tuple(noun for noun, _ in imagenet_nouns()))
        efficientnet_lite.save(network, scale.edge, out)


@torch.inference_mode()
def predict_correctly(classifier: Classifier, images: Sequence[Image.Image], labels: Sequence[int]) -> np.ndarray:
    """Return whether the most probable class is the label, bool (n,)."""
    predicted = [classifier.read(images[start : start + 16]).logits.argmax(1) for start in range(0, len(images), 16)]
    return torch.cat(predicted).numpy() == np.asarray(labels)


def make_percent_row(name: str, interval: Interval, unit: str = "%", **targets: Any) -> Row:
    """Return a row with a share or a difference of shares, and its interval."""
    value, low, high = (100 * end for end in interval)
    return Row(name, value, unit, low, high, **targets)


def measure_accuracy(inputs: Inputs) -> tuple[list[Row], dict[str, Any]]:
    """Measure top-1 accuracy, to check the conversion only: the networks may have been trained on these photographs."""
    photographs = inputs.photographs[:: 6 if inputs.quick else EVERY]
    images, labels = [photograph.read() for photograph in photographs], [photograph.label for photograph in photographs]
    rows = []
    for path in inputs.networks:
        hits = predict_correctly(open_classifier(str(path)), images, labels)
        targets: dict[str, Any] = {} if inputs.quick else {"at_least": 85.0}
        rows.append(
            make_percent_row(f"classifiers: {path.name}: top-1", wilson(float(hits.mean()), len(hits)), **targets)
        )
    return rows, {"n": len(photographs)}


def measure_cutouts(inputs: Inputs) -> tuple[list[Row], dict[str, Any]]:
    """Compare cut-outs with hand-drawn masks, at the masks' resolution."""
    overlaps, rejections, cells = [], [], []
    for path, mask_path in inputs.horses[: 4 if inputs.quick else None]:
        image = Image.open(path).convert("RGB")
        image.thumbnail((500, 500), Image.Resampling.LANCZOS)
        probability = inputs.probability("horses", path.stem, image)
        truth = np.asarray(Image.open(mask_path).convert("L")) >= 128
        resized = Image.fromarray(probability).resize(truth.shape[::-1], Image.Resampling.BILINEAR)
        mask = np.asarray(resized) > 0.5
        overlaps.append(float((mask & truth).sum() / max(1, (mask | truth).sum())))
        rejections.append(explain_unusable(probability))
        cells.append((f"{path.stem} {overlaps[-1]:.2f}", on_grey(image, make_alpha(probability))))
    order = np.argsort(overlaps)
    inputs.sheet("horses-worst", [cells[i] for i in order[:48]])
    inputs.sheet("horses", cells[:: max(1, len(cells) // 48)])
    iou, passed = np.array(overlaps), np.array([reason is None for reason in rejections])
    targets = {} if inputs.quick else {"at_least": 0.88}
    rows = [_iou("cutouts: mean IoU, all horses", iou, **targets)]
    if passed.any():
        rows.append(_iou("cutouts: mean IoU, horses that pass the gates", iou[passed]))
    rows.append(make_percent_row("cutouts: horses that pass the gates", wilson(float(passed.mean()), len(passed))))
    rows.append(Row("cutouts: median IoU", float(np.median(iou)), "", *np.quantile(iou, [0.25, 0.75]).tolist()))
    reasons = [reason for reason in rejections if reason is not None]
    return rows, {"n": len(iou), "left_out": {name: reasons.count(name) for name in sorted(set(reasons))}}


def _iou(name: str, values: np.ndarray, **targets: float) -> Row:
    value, low, high = mean([values])
    return Row(f"{name} (n={len(values)})", value, "", low, high, **targets)


def on_grey(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """Return an object on grey."""
    return Image.composite(image, Image.new("RGB", image.size, GREY), alpha)


def choose_cutouts(inputs: Inputs) -> list[tuple[Photograph, Image.Image, Image.Image]]:
    """Return photographs with clean cut-outs, spread over the classes, and the cut-outs' alpha channels."""
    cutouts = []
    for photograph in inputs.photographs[:: 1 if inputs.quick else 2]:
        image = photograph.read()
        probability = inputs.probability("photographs", photograph.name, image)
        if explain_unusable(probability) is None:
            cutouts.append((photograph, image, make_alpha(probability)))
    if len(cutouts) <= MAX_OBJECTS:
        return cutouts
    return [cutouts[i] for i in np.linspace(0, len(cutouts) - 1, MAX_OBJECTS).round().astype(int)]


def measure_moved(inputs: Inputs) -> tuple[list[Row], dict[str, Any]]:
    """Measure how accuracy changes between versions of an image; own scenes have pasting artefacts too."""
    cutouts = choose_cutouts(inputs)
    scenes = [fill(image, alpha) for _, image, alpha in cutouts]
    labels = [photograph.label for photograph, _, _ in cutouts]
    hits: dict[str, dict[str, np.ndarray]] = {path.name: {} for path in inputs.networks}
    versions = {
        "photograph": [[image] for _, image, _ in cutouts],
        "grey": [[on_grey(image, alpha)] for _, image, alpha in cutouts],
        "own scene": [
            [Image.composite(image, scene, alpha)] for (_, image, alpha), scene in zip(cutouts, scenes, strict=True)
        ],
        "other scenes": [
            [Image.composite(image, _fit_scene(scenes[k], image.size), alpha) for k in _choose_other_scenes(i, labels)]
            for i, (_, image, alpha) in enumerate(cutouts)
        ],
    }
    inputs.sheet("scenes", [(name, versions[name][i][0]) for i in range(0, len(cutouts), -(-len(cutouts) // 12))
                            for name in VERSIONS])  # fmt: skip
    for path in inputs.networks:
        classifier = open_classifier(str(path))
        for name, images_by_object in versions.items():
            flat = predict_correctly(
                classifier,
                [image for object_images in images_by_object for image in object_images],
                [label for images, label in zip(images_by_object, labels, strict=True) for _ in images],
            )
            hits[path.name][name] = flat.reshape(len(images_by_object), -1).mean(1)
    objects = np.arange(len(cutouts))
    rows = []
    for network, hits_by_version in hits.items():
        for first, second in (("own scene", "photograph"), ("grey", "own scene"), ("other scenes", "own scene")):
            interval = difference([hits_by_version[first]], [hits_by_version[second]], ([objects], [objects]))
            rows.append(
                make_percent_row(f"scenes: {network}: {first} − {second} (n={len(cutouts)})", interval, "points")
            )
    return rows, {"n": len(cutouts), "other_scenes": SCENES}


def _choose_other_scenes(i: int, labels: Sequence[int]) -> list[int]:
    """Return the indices of random scenes for an object, taken from objects of other classes."""
    eligible = [k for k in range(len(labels)) if labels[k] != labels[i]]
    rng = np.random.default_rng(derive_seed(0, "photographs", f"scene {i}"))
    return rng.choice(eligible, SCENES, replace=len(eligible) < SCENES).tolist()


def _fit_scene(scene: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a scene, scaled and cropped around its centre to a size."""
    return ImageOps.fit(scene, size, Image.Resampling.BILINEAR)
