"""Datasets that SCGS and DDB made: what they are made from, what is in them, and a build that is killed on the way."""

import csv
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from commands import run, start, wait_for
from PIL import Image
from tiny_classifiers import make_classifier

from figureground.methods.base import Method

SIZES: dict[str, Any] = {"size": 32, "num_inference_steps": 2, "batch_size": 4, "threads": 1, "image_format": "png"}
EASY: dict[str, Any] = {
    "training": {"epochs": 2}, "sources": 3, "per_source": 1, "segmenter": "true-masks", "token_images": 3,
    "inversion": {"max_train_steps": 2}, "attribution_steps": 2, **SIZES,
}  # fmt: skip
"""DDB on a few dozen pocketbirds of 32 pixels, in seconds."""
STAGES = "_figureground/stages"
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def rows(out: Path) -> list[dict[str, Any]]:
    """The rows of all Parquet files."""
    return [row for path in sorted((out / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def draw(
    folder: Path, y: Sequence[str], n: int, attributes: bool = True, validation: int = 2,
    shade: Callable[[int], int] = lambda i: 40 + 6 * i,
) -> str:  # fmt: skip
    """A table of images of certain classes, n of each in training: a square of the class's colour on grey."""
    lines = ["filename,split,y" + (",a" if attributes else "")]
    for label, name in enumerate(y):
        for i in range(n + validation):
            file = f"{label}-{i}.png"
            folder.mkdir(exist_ok=True)
            array = np.full((32, 32, 3), shade(i) if i < n else i, np.uint8)
            array[8:24, 8:24] = COLOURS[label % len(COLOURS)]
            Image.fromarray(array).save(folder / file)
            mask = np.zeros((32, 32), np.uint8)
            mask[8:24, 8:24] = 255
            Image.fromarray(mask).save(folder / f"{label}-{i}.mask.png")
            lines.append(f"{file},{int(i >= n)},{name}" + (f",{'xy'[i % 2]}" if attributes else ""))
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return str(folder)


def sure(folder: Path, labels: Sequence[str], bias: Sequence[float]) -> str:
    """A random classifier that leans to some of its classes."""
    from safetensors.torch import load_file, save_file

    path = make_classifier(folder, labels=dict(enumerate(labels)))
    weights = load_file(path / "model.safetensors")
    weights["classifier.1.bias"][:] = weights["classifier.1.bias"].new_tensor(bias)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return str(path)


def torn(folder: Path, labels: Sequence[str], data: Path) -> str:
    """A random classifier of two classes that gives each of them half of a table's training images."""
    from figureground.vision.classifiers import open_classifier

    opened = open_classifier(sure(folder, labels, (0, 0)))
    with (data / "metadata.csv").open() as table:
        names = [row["filename"] for row in csv.DictReader(table) if row["split"] == "train"]
    logits = opened.read([Image.open(data / name).convert("RGB") for name in names]).logits
    lead = float((logits[:, 0] - logits[:, 1]).median())
    shutil.rmtree(folder)
    return sure(folder, labels, (0, lead))


def list_planned_images(method: Method, out: Path) -> list[dict[str, Any]]:
    """Labels and provenance of the images that a method plans, after running its planning stages."""
    method.show_progress = False
    method.run_planning_stages(out)
    plan = method.plan()
    specs = [spec for shard in plan.shards() for spec in plan.specs(shard)]
    return [{"foreground": spec.foreground, **method.provenance(spec)} for spec in specs]


def build_with_a_kill(
    method: str, data: Path, out: Path, settings: dict[str, Any], at: str, options: Sequence[str] = ()
) -> set[str]:
    """Build with the command, which is killed as soon as a file is there, and then goes on to the end.

    Args:
        at: The file, below `_figureground/stages`.
        options: Further ones of the command.

    Returns:
        The stages that were done by the kill. None was done again.
    """
    values = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    arguments = ["build", method, "--data", str(data), "--out", str(out), *values, *options]
    process = start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for((out / STAGES / at).exists, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = {path: path.stat().st_mtime_ns for path in (out / STAGES).glob("*/done.json")}
    code, _, errors = run(*arguments)
    assert code == 0, errors
    assert {path: path.stat().st_mtime_ns for path in before} == before
    return {path.parent.name for path in before}
