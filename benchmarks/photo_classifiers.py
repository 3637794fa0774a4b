"""Real classifiers and cut-outs on photographs: accuracy, masks compared with drawn ones, objects on other scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import efficientnet_lite
import numpy as np
import torch
from photo_inputs import Inputs, Photograph, alpha_of, fill, why_unusable
from PIL import Image, ImageOps
from results import Row

from figureground.core.intervals import Interval, difference, mean, wilson
from figureground.recipe.sample import derive_seed
from figureground.vision.classifiers import Classifier, imagenet_nouns, open_classifier

EVERY = 4
"""Every fourth photograph is classified."""
MOST_OBJECTS = 200
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
def right(classifier: Classifier, images: Sequence[Image.Image], labels: Sequence[int]) -> np.ndarray:
    """Return whether the most probable class is the label, bool (n,)."""
    found = [classifier.read(images[start : start + 16]).logits.argmax(1) for start in range(0, len(images), 16)]
    return torch.cat(found).numpy() == np.asarray(labels)


def percent(name: str, interval: Interval, unit: str = "%", **wanted: float) -> Row:
    """Return a row with a share or a difference of shares, and its interval."""
    value, low, high = (100 * end for end in interval)
    return Row(name, value, unit, low, high, **wanted)


def classify(inputs: Inputs) -> tuple[list[Row], dict[str, Any]]:
    """Measure top-1 accuracy, to check the conversion only: the networks may have been trained on these photographs."""
    chosen = inputs.photographs[:: 6 if inputs.quick else EVERY]
    images, labels = [each.read() for each in chosen], [each.label for each in chosen]
    rows = []
    for path in inputs.networks:
        hits = right(open_classifier(str(path)), images, labels)
        wanted = {} if inputs.quick else {"at_least": 85.0}
        rows.append(percent(f"classifiers: {path.name}: top-1", wilson(float(hits.mean()), len(hits)), **wanted))
    return rows, {"n": len(chosen)}


def cut_out(inputs: Inputs) -> tuple[list[Row], dict[str, Any]]:
    """Compare cut-outs with hand-drawn masks, at the masks' resolution."""
    found, gated, shown = [], [], []
    for path, drawn in inputs.horses[: 4 if inputs.quick else None]:
        image = Image.open(path).convert("RGB")
        image.thumbnail((500, 500), Image.Resampling.LANCZOS)
        probability = inputs.probability("horses", path.stem, image)
        truth = np.asarray(Image.open(drawn).convert("L")) >= 128
        fitted = Image.fromarray(probability).resize(truth.shape[::-1], Image.Resampling.BILINEAR)
        mask = np.asarray(fitted) > 0.5
        found.append(float((mask & truth).sum() / max(1, (mask | truth).sum())))
        gated.append(why_unusable(probability))
        shown.append((f"{path.stem} {found[-1]:.2f}", on_grey(image, alpha_of(probability))))
    order = np.argsort(found)
    inputs.sheet("horses-worst", [shown[i] for i in order[:48]])
    inputs.sheet("horses", shown[:: max(1, len(shown) // 48)])
    iou, passed = np.array(found), np.array([reason is None for reason in gated])
    wanted = {} if inputs.quick else {"at_least": 0.88}
    rows = [_iou("cutouts: mean IoU, all horses", iou, **wanted)]
    if passed.any():
        rows.append(_iou("cutouts: mean IoU, horses that pass the gates", iou[passed]))
    rows.append(percent("cutouts: horses that pass the gates", wilson(float(passed.mean()), len(passed))))
    rows.append(Row("cutouts: median IoU", float(np.median(iou)), "", *np.quantile(iou, [0.25, 0.75]).tolist()))
    reasons = [reason for reason in gated if reason is not None]
    return rows, {"n": len(iou), "left_out": {name: reasons.count(name) for name in sorted(set(reasons))}}


def _iou(name: str, values: np.ndarray, **wanted: float) -> Row:
    value, low, high = mean([values])
    return Row(f"{name} (n={len(values)})", value, "", low, high, **wanted)


def on_grey(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """Return an object on grey."""
    return Image.composite(image, Image.new("RGB", image.size, GREY), alpha)


def choose(inputs: Inputs) -> list[tuple[Photograph, Image.Image, Image.Image]]:
    """Return photographs with clean cut-outs, spread over the classes, and the cut-outs' alpha channels."""
    found = []
    for each in inputs.photographs[:: 1 if inputs.quick else 2]:
        image = each.read()
        probability = inputs.probability("photographs", each.name, image)
        if why_unusable(probability) is None:
            found.append((each, image, alpha_of(probability)))
    if len(found) <= MOST_OBJECTS:
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, MOST_OBJECTS).round().astype(int)]


def move(inputs: Inputs) -> tuple[list[Row], dict[str, Any]]:
    """Measure how accuracy changes between versions of an image; own scenes have pasting artefacts too."""
    chosen = choose(inputs)
    scenes = [fill(image, alpha) for _, image, alpha in chosen]
    labels = [each.label for each, _, _ in chosen]
    hits: dict[str, dict[str, np.ndarray]] = {path.name: {} for path in inputs.networks}
    versions = {
        "photograph": [[image] for _, image, _ in chosen],
        "grey": [[on_grey(image, alpha)] for _, image, alpha in chosen],
        "own scene": [
            [Image.composite(image, scene, alpha)] for (_, image, alpha), scene in zip(chosen, scenes, strict=True)
        ],
        "other scenes": [
            [Image.composite(image, _fitted(scenes[k], image.size), alpha) for k in _others(i, labels)]
            for i, (_, image, alpha) in enumerate(chosen)
        ],
    }
    inputs.sheet("scenes", [(name, versions[name][i][0]) for i in range(0, len(chosen), -(-len(chosen) // 12))
                            for name in VERSIONS])  # fmt: skip
    for path in inputs.networks:
        classifier = open_classifier(str(path))
        for name, of in versions.items():
            flat = right(classifier, [image for some in of for image in some],
                         [label for some, label in zip(of, labels, strict=True) for _ in some])  # fmt: skip
            hits[path.name][name] = flat.reshape(len(of), -1).mean(1)
    objects = np.arange(len(chosen))
    rows = []
    for network, by in hits.items():
        for first, second in (("own scene", "photograph"), ("grey", "own scene"), ("other scenes", "own scene")):
            paired = difference([by[first]], [by[second]], ([objects], [objects]))
            rows.append(percent(f"scenes: {network}: {first} − {second} (n={len(chosen)})", paired, "points"))
    return rows, {"n": len(chosen), "other_scenes": SCENES}


def _others(i: int, labels: Sequence[int]) -> list[int]:
    """Return the indices of random scenes for an object, taken from objects of other classes."""
    known = [k for k in range(len(labels)) if labels[k] != labels[i]]
    rng = np.random.default_rng(derive_seed(0, "photographs", f"scene {i}"))
    return rng.choice(known, SCENES, replace=len(known) < SCENES).tolist()


def _fitted(scene: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a scene, scaled and cropped around its centre to a size."""
    return ImageOps.fit(scene, size, Image.Resampling.BILINEAR)
