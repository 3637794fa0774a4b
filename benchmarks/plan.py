"""Cost of planning ten million images: `python benchmarks/plan.py`.

Plans D3S on ImageNet's 1000 classes and 10 backgrounds, 1000 images per cell, each in a new process: from prompts
alone, and from guides, with tiny cut-outs and scenes made for this benchmark. Measures the time in seconds for the
Specs of the middle shard, from a builder that has not planned before, and the peak resident memory. Reading the recipe
is measured separately: with guides, it lists, hashes and decodes their files, in time proportional to their number.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from results import Row, make_parser, make_scratch, median, peak_memory, report


def make_images(folder: Path, names: list[str], count: int, channels: int) -> None:
    """Write small, distinct images into a folder for each name."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (8, 8, channels), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def measure_in_process(fields: dict[str, Any]) -> dict[str, float]:
    """Plan in this process, and return the measurements."""
    began = time.perf_counter()
    from figureground.methods.d3s import D3S

    imported = time.perf_counter()
    builder = D3S("imagenet", **fields)
    read = time.perf_counter()
    plan = builder.plan()
    shards = plan.shards()
    specs = list(plan.specs(shards[len(shards) // 2]))
    planned = time.perf_counter()
    assert len({spec.key for spec in specs}) == len(specs)
    if "torch" in sys.modules:
        raise SystemExit("planning has loaded torch")
    return {
        "images": sum(plan.totals().values()), "shards": len(shards), "specs": len(specs),
        "import": imported - began, "recipe": read - imported, "plan": planned - read, "memory": peak_memory(),
    }  # fmt: skip


def measure(fields: dict[str, Any]) -> dict[str, float]:
    """Plan in a new process, and return the measurements."""
    command = [sys.executable, __file__, "--here", json.dumps(fields)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = make_parser(__doc__, "plan")
    parser.add_argument("--per-cell", type=int, default=1000, help="images per cell")
    parser.add_argument("--cutouts", type=int, default=4, help="files per class")
    parser.add_argument("--scenes", type=int, default=20, help="files per background")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--here", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure_in_process(json.loads(args.here))))
        return
    if args.quick:
        args.per_cell, args.cutouts, args.scenes, args.rounds = 2, 1, 1, 1
    began = time.monotonic()
    from figureground.methods.d3s import D3S

    with make_scratch(args.work) as work:
        recipe = D3S("imagenet")
        make_images(work / "cutouts", [noun.name for noun in recipe.classes], args.cutouts, 4)
        make_images(work / "scenes", [noun.name for noun in recipe.backgrounds], args.scenes, 3)
        common = {"per_cell": {"train": args.per_cell}}
        ways = {
            "prompts alone": {**common, "guide": "none"},
            "guides": {
                **common, "guide": "paste", "cutouts": str(work / "cutouts"), "scenes": str(work / "scenes"),
            },
        }  # fmt: skip
        runs_by_way: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, fields in ways.items():
                runs_by_way[name].append(measure(fields))
    rows: list[Row] = []
    for name, runs in runs_by_way.items():
        print(f"{name}: {runs[0]['images']:,} images in {runs[0]['shards']:,} shards")
        rows.append(median(f"{name}: Specs of one shard", [r["plan"] for r in runs], "s", at_most=1))
        rows.append(median(f"{name}: peak memory", [r["memory"] for r in runs], "MB", at_most=300))
        rows.append(median(f"{name}: recipe read", [r["recipe"] for r in runs], "s"))
    rows.append(median("import of the method", [r["import"] for runs in runs_by_way.values() for r in runs], "s"))
    settings = {
        "images": runs_by_way["guides"][0]["images"], "shards": runs_by_way["guides"][0]["shards"],
        "images_a_shard": runs_by_way["guides"][0]["specs"], "classes": len(recipe.classes),
        "backgrounds": len(recipe.backgrounds), "cutouts_a_class": args.cutouts,
        "scenes_a_background": args.scenes, "rounds": args.rounds,
    }  # fmt: skip
    report("plan", args, rows, settings, began)


if __name__ == "__main__":
    main()
