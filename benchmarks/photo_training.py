"""Training methods on a biased set of photographs; see `photo_bed`."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import efficientnet_lite
import photo_bed
from paired import holm, subtract
from photo_inputs import Inputs
from PIL import Image
from results import Row
from transformers import ViTImageProcessorPil

from figureground.comparison.comparing import compare
from figureground.learn.settings import Training
from figureground.learn.training import train

METHODS = ("erm", "reweight", "jtt", "groupdro", "dfr", "paste")
CONTROL = "erm, scenes independent of classes"
"""ERM on the same objects and scenes without the bias, to show how well the objects can be learned at all."""
UNBIASED = "erm-unbiased"
SEEDS = 6
EPOCHS, RATE = 4, 3e-4
"""Chosen before any comparison: 48 optimiser steps, and a peak learning rate at which a pretrained network fits within
them."""
PER_CLASS, PER_CELL = 180, (20, 64)
INPUT = 128
"""Edge of the network's input, in pixels."""
OVERRIDES: dict[str, dict[str, Any]] = {
    "jtt": {"first_epochs": 1, "upweight": 20, "count_first": True}, "groupdro": {"weight_decay": 1.0},
    "paste": {"masks": "true"},
}  # fmt: skip
"""Settings by method; the epochs of both of JTT's models count towards its budget."""


def write_bed(inputs: Inputs, name: str = "bed", aligned: float = photo_bed.ALIGNED) -> Path:
    """Write the set of photographs, and a sheet of some of its images."""
    photographs = [
        photograph
        for photograph in inputs.photographs
        if photograph.label in photo_bed.DOGS or photograph.label in photo_bed.MAMMALS
    ]
    probabilities = {
        photograph.name: inputs.probability("photographs", photograph.name, photograph.read())
        for photograph in photographs
    }
    objects = photo_bed.choose_objects(inputs.photographs, probabilities)
    scenes = photo_bed.choose_scenes(inputs.photographs)
    per_class, per_cell = (8, (2, 2)) if inputs.quick else (PER_CLASS, PER_CELL)
    bed = photo_bed.write(inputs.work / name, objects, probabilities, scenes, per_class, per_cell, aligned)
    paths = sorted(path for path in bed.glob("*.png") if not path.name.endswith(".mask.png"))
    inputs.sheet(name, [(path.stem, Image.open(path)) for path in paths[:: max(1, len(paths) // 64)]])
    return bed


def write_backbone(inputs: Inputs) -> Path:
    """Write the smallest network with preprocessing for small inputs; return its directory."""
    out = inputs.work / "networks" / f"{inputs.networks[0].name}-small"
    if not (out / "preprocessor_config.json").is_file():
        edge = 32 if inputs.quick else INPUT
        shutil.copytree(inputs.networks[0], out, ignore=shutil.ignore_patterns("preprocessor*"), dirs_exist_ok=True)
        ViTImageProcessorPil(
            size={"height": edge, "width": edge}, resample=3, image_mean=[efficientnet_lite.MEAN] * 3,
            image_std=[efficientnet_lite.STD] * 3,
        ).save_pretrained(out)  # fmt: skip
    return out


def measure(inputs: Inputs) -> tuple[list[Row], dict[str, Any]]:
    """Compare the training methods at equal steps; a stopped comparison is resumed."""
    bed, seeds = write_bed(inputs), 2 if inputs.quick else SEEDS
    training: dict[str, Any] = {
        "backbone": str(write_backbone(inputs)), "epochs": 2 if inputs.quick else EPOCHS, "learning_rate": RATE,
        "batch_size": 8 if inputs.quick else 32,
    }  # fmt: skip
    out = inputs.work / "compare"
    compared = compare(
        bed, METHODS, seeds, out, training=training, overrides=OVERRIDES, device="cpu", workers=1, show_progress=False
    )
    unbiased = inputs.work / UNBIASED
    train(
        Training("erm", **training), write_bed(inputs, "bed-unbiased", 0.5), unbiased, seeds=seeds, device="cpu",
        workers=1, show_progress=False,
    )  # fmt: skip
    folders = {name: (out / "train").glob("paste*" if name == "paste" else name) for name in METHODS}
    scores = {name: _read_scores(score_folders) for name, score_folders in {**folders, CONTROL: [unbiased]}.items()}
    rows = [
        Row(
            f"waterbirds: {name}: {measure}",
            statistics.mean(values.values()),
            "%",
            min(values.values()),
            max(values.values()),
        )
        for name in scores
        for measure, values in scores[name].items()
    ]
    worst = {name: subtract(scores[name]["worst group"], scores["erm"]["worst group"]) for name in METHODS[1:]}
    adjusted = holm([difference.p if difference.p is not None else 1.0 for difference in worst.values()])
    for (name, difference), p in zip(worst.items(), adjusted, strict=True):
        rows.append(Row(
            f"waterbirds: {name} − erm: worst group (n={difference.n}, Holm p={p:.3g})", difference.mean, "points",
            difference.low, difference.high,
        ))  # fmt: skip
    facts = {
        "seeds": seeds, "training": {**training, "backbone": Path(training["backbone"]).name}, "overrides": OVERRIDES,
        "images": compared["images"], "scores": scores,
    }  # fmt: skip
    return rows, facts


def _read_scores(folders: Iterable[Path]) -> dict[str, dict[int, float]]:
    """Return worst-group and average accuracy on test, in percent, by measure and seed."""
    scores: dict[str, dict[int, float]] = {"worst group": {}, "average": {}}
    for path in (marker for folder in folders for marker in folder.rglob("seed-*.json")):
        record = json.loads(path.read_text())
        if "test" in record:
            scores["worst group"][record["seed"]] = 100 * record["test"]["worst"]
            scores["average"][record["seed"]] = 100 * record["test"]["average"]
    return scores
