"""Attention and attribution of real classifiers on photographs, and the regions that SCGS and DDB select."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photo_classifiers import percent
from photo_inputs import Inputs
from PIL import Image
from results import Row

from figureground.core.intervals import mean
from figureground.data.layouts import read_groups
from figureground.recipe.sample import derive_seed
from figureground.vision.attention import compute_attention, find_layer, mask_by_quantile
from figureground.vision.attribution import STEPS, mask_geometry, share_inside
from figureground.vision.classifiers import Classifier, open_classifier
from figureground.vision.segmentation import decide_mask, open_segmenter

HORSES = 32
QUANTILE, DILATION = 0.7, 0.03
"""Defaults of SCGS's threshold and of DDB's dilation."""
SHOWN = 24


def attribute(inputs: Inputs) -> tuple[list[Row], dict[str, Any]]:
    """Measure the share of attribution inside hand-drawn masks of horses, for the predicted class."""
    pairs = inputs.horses[:: max(1, len(inputs.horses) // (2 if inputs.quick else HORSES))][:HORSES]
    rows, notes = [], {}
    theirs = _find_theirs(inputs.gradcam)
    for path in inputs.networks[:: max(1, len(inputs.networks) - 1)]:  # the smallest and the largest
        classifier = open_classifier(str(path))
        edge = classifier.preprocessing.crop[0] if classifier.preprocessing.crop else 224
        images, masks = zip(*(_square(each, classifier.preprocessing.size or edge) for each in pairs), strict=True)
        with torch.inference_mode():
            targets = classifier.read(images).logits.argmax(1).tolist()
        geometry = mask_geometry(classifier.preprocessing)
        seen = [geometry(torch.from_numpy(mask.astype(np.float32))[None, None])[0, 0].numpy() for mask in masks]
        ours = [_center(found, edge) for found in compute_attention(classifier, images, targets, batch_size=8)]
        rows += _shares(f"attribution: {path.name}: Grad-CAM++", ours, seen)
        if theirs is not None:
            others = _attend_theirs(theirs, classifier, images, targets, edge)
            rows += _shares(f"attribution: {path.name}: Grad-CAM++ of pytorch-grad-cam", others, seen)
            alike = [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(ours, others, strict=True)]
            rows.append(Row(f"attribution: {path.name}: correlation of both maps, median", float(np.median(alike)), "",
                            *np.quantile(alike, [0.05, 0.95]).tolist()))  # fmt: skip
        found = share_inside(classifier, images, masks, targets, steps=2 if inputs.quick else STEPS, batch_size=8)
        rows.append(percent(f"attribution: {path.name}: Integrated Gradients", mean([found.attribution])))
        rows.append(percent(f"attribution: {path.name}: area of the masks", mean([found.area])))
        notes[path.name] = {"n": len(images), "classes": sorted({classifier.labels[k] for k in targets})[:20]}
    return rows, {"networks": notes, "beside": "pytorch-grad-cam" if theirs is not None else None}


def _square(pair: tuple[Path, Path], edge: Any) -> tuple[Image.Image, np.ndarray]:
    """Return the central square of a photograph and of its mask, at the size to which the classifier resizes."""
    image, mask = Image.open(pair[0]).convert("RGB"), Image.open(pair[1]).convert("L")
    square = []
    for each in (image, mask):
        side = min(each.size)
        left, top = (each.width - side) // 2, (each.height - side) // 2
        square.append(each.resize((edge, edge), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))
    return square[0], np.asarray(square[1]) >= 128


def _center(values: np.ndarray, edge: int) -> np.ndarray:
    top, left = ((length - edge) // 2 for length in values.shape)
    return values[top : top + edge, left : left + edge]


def _shares(name: str, maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[Row]:
    inside = [float((each * mask).sum() / max(each.sum(), 1e-9)) for each, mask in zip(maps, masks, strict=True)]
    return [percent(name, mean([np.clip(inside, 0, 1)]))]


def _find_theirs(folder: Path | None) -> Any:
    """Return pytorch-grad-cam's class, or None if no folder is given."""
    if folder is None:
        return None
    sys.path.append(str(folder))
    from pytorch_grad_cam import GradCAMPlusPlus

    return GradCAMPlusPlus


def _attend_theirs(
    theirs: Any, classifier: Classifier, images: Sequence[Image.Image], targets: Sequence[int], edge: int
) -> list[np.ndarray]:
    """Return pytorch-grad-cam's maps for the layer at which ours are computed."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = classifier.network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.network(pixels).logits

    layer = classifier.network.get_submodule(find_layer(classifier.network, (edge, edge)).name)
    found = []
    with theirs(model=Logits().eval(), target_layers=[layer]) as camera:
        for image, target in zip(images, targets, strict=True):
            pixels = classifier.prepare(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255)
            pixels.requires_grad_()  # the classifier's weights are frozen
            found.append(camera(input_tensor=pixels, targets=[ClassifierOutputTarget(target)])[0])
    return found


def find_regions(inputs: Inputs) -> tuple[list[Row], dict[str, Any]]:
    """Measure the regions that SCGS would repaint in images that ERM gets wrong, and DDB's masks of objects."""
    models = sorted((inputs.work / "compare" / "train" / "erm").glob("erm-seed-*"))
    if not models:
        raise SystemExit("regions: measure the part waterbirds first, whose ERM classifier is looked at.")
    classifier, segmenter = open_classifier(str(models[0])), open_segmenter(inputs.segmenter)
    test = read_groups(inputs.work / "bed").of_split(2)
    every = np.arange(len(test))
    images = [draw().convert("RGB") for _, draw in test.read(every)]
    masks = [draw() for _, draw in test.read_masks(every)]
    with torch.inference_mode():
        predicted = torch.cat([classifier.read(images[i : i + 16]).logits.argmax(1) for i in range(0, len(images), 16)])
    names = [classifier.labels[k] for k in predicted]
    wrong = [i for i in every if names[i] != test.classes[test.y[i]]] or list(every[:2])
    order = np.random.default_rng(derive_seed(0, "photographs", "errors")).permutation(wrong)[:SHOWN]
    maps = compute_attention(classifier, [images[i] for i in order], [int(predicted[i]) for i in order], batch_size=8)
    regions = [mask_by_quantile(each, QUANTILE) for each in maps]
    cells = []
    for i, mask in zip(order, regions, strict=True):
        cells += [(f"as {names[i]}", images[i]), ("attended", _shaded(images[i], mask))]
    inputs.sheet("scgs", cells)
    beside = [float((mask & ~masks[i]).sum() / max(1, mask.sum())) for i, mask in zip(order, regions, strict=True)]
    areas = [float(1 - masks[i].mean()) for i in order]
    found, alike, cells = [], [], []
    chosen = every[:: max(1, len(every) // (4 if inputs.quick else 64))]
    for i in chosen:
        (probability,) = segmenter([images[i]], ["object"])
        mask = decide_mask(probability, 0.5, grow=round(DILATION * max(probability.shape)))
        covered = 0.0 if isinstance(mask, str) else float((mask & masks[i]).sum() / masks[i].sum())
        found.append(covered)
        plain = probability > 0.5
        alike.append(float((plain & masks[i]).sum() / (plain | masks[i]).sum()))
        cells.append((f"{covered:.2f} covered", images[i] if isinstance(mask, str) else _shaded(images[i], mask)))
    inputs.sheet("ddb", cells)
    rows = [
        percent(f"regions: SCGS: attended, but outside the object (n={len(order)})", mean([np.array(beside)])),
        percent("regions: SCGS: area outside the object, the same images", mean([np.array(areas)])),
        percent(f"regions: DDB: share of the object inside its mask (n={len(found)})", mean([np.array(found)])),
        percent("regions: DDB: IoU of the mask before it is dilated", mean([np.array(alike)])),
    ]
    return rows, {"classifier": models[0].name, "errors": len(wrong), "test": len(every)}


def _shaded(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """Return an image darkened outside a region."""
    pixels = np.asarray(image)
    return Image.fromarray(np.where(mask[..., None], pixels, pixels // 4).astype(np.uint8))
