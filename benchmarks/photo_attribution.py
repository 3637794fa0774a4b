"""Attention and attribution of real classifiers on photographs, and the regions that SCGS and DDB select."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photo_classifiers import make_percent_row
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
MAX_CELLS = 24


def measure_attribution(inputs: Inputs) -> tuple[list[Row], dict[str, Any]]:
    """Measure the share of attribution inside hand-drawn masks of horses, for the predicted class."""
    pairs = inputs.horses[:: max(1, len(inputs.horses) // (2 if inputs.quick else HORSES))][:HORSES]
    rows, notes = [], {}
    gradcam_class = _import_gradcam(inputs.gradcam)
    for path in inputs.networks[:: max(1, len(inputs.networks) - 1)]:  # the smallest and the largest
        classifier = open_classifier(str(path))
        edge = classifier.preprocessing.crop[0] if classifier.preprocessing.crop else 224
        images, masks = zip(*(_square(pair, classifier.preprocessing.size or edge) for pair in pairs), strict=True)
        with torch.inference_mode():
            targets = classifier.read(images).logits.argmax(1).tolist()
        geometry = mask_geometry(classifier.preprocessing)
        visible_masks = [
            geometry(torch.from_numpy(mask.astype(np.float32))[None, None])[0, 0].numpy() for mask in masks
        ]
        own_maps = [_center(found, edge) for found in compute_attention(classifier, images, targets, batch_size=8)]
        rows += _shares(f"attribution: {path.name}: Grad-CAM++", own_maps, visible_masks)
        if gradcam_class is not None:
            gradcam_maps = _attend_gradcam(gradcam_class, classifier, images, targets, edge)
            rows += _shares(f"attribution: {path.name}: Grad-CAM++ of pytorch-grad-cam", gradcam_maps, visible_masks)
            correlations = [
                float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(own_maps, gradcam_maps, strict=True)
            ]
            rows.append(Row(
                f"attribution: {path.name}: correlation of both maps, median", float(np.median(correlations)), "",
                *np.quantile(correlations, [0.05, 0.95]).tolist(),
            ))  # fmt: skip
        found = share_inside(classifier, images, masks, targets, steps=2 if inputs.quick else STEPS, batch_size=8)
        rows.append(make_percent_row(f"attribution: {path.name}: Integrated Gradients", mean([found.attribution])))
        rows.append(make_percent_row(f"attribution: {path.name}: area of the masks", mean([found.area])))
        notes[path.name] = {"n": len(images), "classes": sorted({classifier.labels[k] for k in targets})[:20]}
    return rows, {"networks": notes, "beside": "pytorch-grad-cam" if gradcam_class is not None else None}


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
    inside = [float((map_ * mask).sum() / max(map_.sum(), 1e-9)) for map_, mask in zip(maps, masks, strict=True)]
    return [make_percent_row(name, mean([np.clip(inside, 0, 1)]))]


def _import_gradcam(folder: Path | None) -> Any:
    """Return pytorch-grad-cam's class, or None if no folder is given."""
    if folder is None:
        return None
    sys.path.append(str(folder))
    from pytorch_grad_cam import GradCAMPlusPlus

    return GradCAMPlusPlus


def _attend_gradcam(
    gradcam_class: Any, classifier: Classifier, images: Sequence[Image.Image], targets: Sequence[int], edge: int
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
    maps = []
    with gradcam_class(model=Logits().eval(), target_layers=[layer]) as camera:
        for image, target in zip(images, targets, strict=True):
            pixels = classifier.prepare(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255)
            pixels.requires_grad_()  # the classifier's weights are frozen
            maps.append(camera(input_tensor=pixels, targets=[ClassifierOutputTarget(target)])[0])
    return maps


def measure_regions(inputs: Inputs) -> tuple[list[Row], dict[str, Any]]:
    """Measure the regions that SCGS would repaint in images that ERM gets wrong, and DDB's masks of objects."""
    models = sorted((inputs.work / "compare" / "train" / "erm").glob("erm-seed-*"))
    if not models:
        raise SystemExit("regions: measure the part waterbirds first, whose ERM classifier is looked at.")
    classifier, segmenter = open_classifier(str(models[0])), open_segmenter(inputs.segmenter)
    test = read_groups(inputs.work / "bed").of_split(2)
    test_rows = np.arange(len(test))
    images = [draw().convert("RGB") for _, draw in test.read(test_rows)]
    masks = [draw() for _, draw in test.read_masks(test_rows)]
    with torch.inference_mode():
        predicted = torch.cat([classifier.read(images[i : i + 16]).logits.argmax(1) for i in range(0, len(images), 16)])
    names = [classifier.labels[k] for k in predicted]
    wrong = [i for i in test_rows if names[i] != test.classes[test.y[i]]] or list(test_rows[:2])
    order = np.random.default_rng(derive_seed(0, "photographs", "errors")).permutation(wrong)[:MAX_CELLS]
    maps = compute_attention(classifier, [images[i] for i in order], [int(predicted[i]) for i in order], batch_size=8)
    regions = [mask_by_quantile(map_, QUANTILE) for map_ in maps]
    cells = []
    for i, mask in zip(order, regions, strict=True):
        cells += [(f"as {names[i]}", images[i]), ("attended", _darken_outside(images[i], mask))]
    inputs.sheet("scgs", cells)
    outside = [float((mask & ~masks[i]).sum() / max(1, mask.sum())) for i, mask in zip(order, regions, strict=True)]
    areas = [float(1 - masks[i].mean()) for i in order]
    coverage, overlaps, cells = [], [], []
    sampled = test_rows[:: max(1, len(test_rows) // (4 if inputs.quick else 64))]
    for i in sampled:
        (probability,) = segmenter([images[i]], ["object"])
        chosen = decide_mask(probability, 0.5, grow=round(DILATION * max(probability.shape)))
        covered = 0.0 if isinstance(chosen, str) else float((chosen & masks[i]).sum() / masks[i].sum())
        coverage.append(covered)
        plain = probability > 0.5
        overlaps.append(float((plain & masks[i]).sum() / (plain | masks[i]).sum()))
        cells.append(
            (f"{covered:.2f} covered", images[i] if isinstance(chosen, str) else _darken_outside(images[i], chosen))
        )
    inputs.sheet("ddb", cells)
    rows = [
        make_percent_row(
            f"regions: SCGS: attended, but outside the object (n={len(order)})", mean([np.array(outside)])
        ),
        make_percent_row("regions: SCGS: area outside the object, the same images", mean([np.array(areas)])),
        make_percent_row(
            f"regions: DDB: share of the object inside its mask (n={len(coverage)})", mean([np.array(coverage)])
        ),
        make_percent_row("regions: DDB: IoU of the mask before it is dilated", mean([np.array(overlaps)])),
    ]
    return rows, {"classifier": models[0].name, "errors": len(wrong), "test": len(test_rows)}


def _darken_outside(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """Return an image darkened outside a region."""
    pixels = np.asarray(image)
    return Image.fromarray(np.where(mask[..., None], pixels, pixels // 4).astype(np.uint8))
