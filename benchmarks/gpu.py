"""Checks of builds on a GPU, step by step: `python benchmarks/gpu.py pocket`; `benchmarks/gpu.sh` runs them all.

- `pocket`: builds in float32, float16 and bfloat16, each twice: whether the bytes are the same, how far pixels differ
  from those of a CPU, and the share of right labels by the oracle.
- `resume`: a build that is killed and resumed, compared with one that isn't interrupted.
- `batch-size`: the batch size that a build finds, the seconds that the search takes, and whether that batch fits.
- `two-workers`: two processes on one device, compared with one.

Everything is written as tars, so neither pyarrow nor datasets is needed. On a CPU the steps check the same things.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ladder import compare_right_labels, find_right_labels, read_built
from oracle import Classifier, Settings, load_or_train
from results import Row, make_parser, make_scratch, report

from figureground.core import accelerator
from figureground.methods.d3s import D3S
from figureground.recipe.plan import Plan

STEPS = ("pocket", "resume", "batch-size", "two-workers")
DTYPES = ("float32", "float16", "bfloat16")
SECONDS_FOR_A_SHARD = 300.0


class Bench:
    """Builds small datasets of one recipe.

    Args:
        images: Images of a dataset.
        device: Device of the builds.
        folder: Where they are written.
        changes: Settings that differ from the config `pocket`.
    """

    def __init__(self, images: int, device: str, folder: Path, changes: dict[str, Any]):
        self.images, self.device, self.folder = images, device, folder
        self._fields: dict[str, Any] = {
            "device": device, "formats": ["webdataset"], "limit": images, "shard_size": max(2, images // 4), **changes,
        }  # fmt: skip

    def build(self, name: str, **changes: Any) -> tuple[Path, float]:
        """Build into a new folder; return it, and images per second including startup."""
        began = time.perf_counter()
        out = D3S("pocket", **{**self._fields, **changes}).build(self.folder / name, show_progress=False)
        return out, self.images / (time.perf_counter() - began)

    def start(self, name: str, **changes: Any) -> tuple[Path, subprocess.Popen[bytes]]:
        """Start a build as a command."""
        out = self.folder / name
        settings = [f"--set={name}={json.dumps(value)}" for name, value in {**self._fields, **changes}.items()]
        command = [sys.executable, "-m", "figureground", "build", "d3s", *settings, "--out", str(out)]
        return out, subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def plan(self) -> Plan:
        return D3S("pocket", **self._fields).plan()


def hash_tars(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every tar."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "webdataset").glob("*.tar")}


def have_same_bytes(one: Path, other: Path) -> int:
    """Return 1 if two datasets have the same bytes, else 0."""
    return int(hash_tars(one) == hash_tars(other) != {})


def mean_pixel_difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Return the mean pixel difference between images with the same keys, in levels of 255."""
    keys = one.keys() & other
    return float(np.mean([np.abs(one[key].astype(float) - other[key]).mean() for key in keys]))


def check_pocket(bench: Bench, oracle: Classifier) -> list[Row]:
    cpu, _ = bench.build("cpu", device="cpu", dtype="float32")
    reference = read_built(cpu)
    cpu_right, rows = find_right_labels(oracle, bench.plan(), reference), []
    rows.append(Row("cpu, float32: right labels", 100 * float(np.mean(list(cpu_right.values()))), "%"))
    for dtype in DTYPES:
        one, _ = bench.build(f"{dtype}-1", dtype=dtype)
        other, speed = bench.build(f"{dtype}-2", dtype=dtype)
        images = read_built(one)
        comparison = compare_right_labels(find_right_labels(oracle, bench.plan(), images), cpu_right)
        difference = [100 * comparison[name] for name in ("difference", "low", "high")]
        rows += [
            Row(f"{dtype}: speed with all starts", speed, "images/s"),
            Row(f"{dtype}: same bytes twice", have_same_bytes(one, other), "of 1", at_least=1),
            Row(f"{dtype}: difference of pixels from a CPU's", mean_pixel_difference(images, reference), "of 255"),
            Row(f"{dtype}: right labels", 100 * comparison["right"], "%"),
            Row(f"{dtype} − CPU, right labels", *(difference[0], "points", *difference[1:])),
            Row(f"{dtype}: labels as right", int(comparison["as_right"]), "of 1", at_least=1),
        ]
    return rows


def check_resume(bench: Bench) -> list[Row]:
    complete, _ = bench.build("whole")
    out, process = bench.start("killed")
    deadline = time.monotonic() + SECONDS_FOR_A_SHARD
    while not list((out / "_figureground" / "shards").glob("[!.]*.json")):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise SystemExit("resume: the build ended, or took too long, before it could be killed.")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    num_left = len(hash_tars(complete)) - len(hash_tars(out))
    _, process = bench.start("killed")
    code = process.wait()
    return [
        Row("shards left when it was killed", num_left, "shards", at_least=1),
        Row("exit code of the same command again", code, "", at_most=0),
        Row("same bytes as without the kill", have_same_bytes(complete, out), "of 1", at_least=1),
    ]


def check_batch_size(bench: Bench) -> list[Row]:
    began = time.perf_counter()
    out, speed = bench.build("found", batch_size=None)
    batch_size = json.loads((out / "_figureground" / "numerics.json").read_text())["batch_size"]
    rows = [
        Row("batch size found", batch_size, "images", at_least=1, at_most=max(2, bench.images // 4)),
        Row("build with the search", time.perf_counter() - began, "s"),
        Row("speed with the search", speed, "images/s"),
    ]
    _, given_speed = bench.build("given", batch_size=batch_size)
    rows.append(Row("speed with that size given", given_speed, "images/s"))
    if torch.cuda.is_available():
        rows.append(Row("peak memory of torch", torch.cuda.max_memory_allocated() / 1e9, "GB"))
    few, _ = bench.build("few", batch_size=None, limit=2, shard_size=2)
    rows.append(Row("batch size found for two images", json.loads(
        (few / "_figureground" / "numerics.json").read_text())["batch_size"], "images", at_most=2))  # fmt: skip
    return rows


def check_two_workers(bench: Bench) -> list[Row]:
    options = {"batch_size": 8, "threads": 1}
    one, one_speed = bench.build("one", workers=1, **options)
    two, two_speed = bench.build("two", workers=2, **options)
    return [
        Row("one worker, with all starts", one_speed, "images/s"),
        Row("two workers on one device, with all starts", two_speed, "images/s"),
        Row("same bytes by one and by two", have_same_bytes(one, two), "of 1", at_least=1),
    ]


def main() -> None:
    parser = make_parser(__doc__, "gpu-STEP")
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []], help="steps (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--images", type=int, default=400, help="images of each dataset")
    parser.add_argument("--oracle-cache", type=Path, help="folder of the trained oracle, such as out/fidelity")
    args = parser.parse_args()
    began, changes = time.monotonic(), {}
    steps, device = args.steps or STEPS, accelerator.choose_device(args.device)
    if args.quick:
        args.images, changes = 4, {"num_inference_steps": 4, "threads": 1, "batch_size": 2}
    rows = []
    with make_scratch(args.work) as work:
        for step in steps:
            print(f"{step} on {device}", flush=True)
            bench = Bench(args.images, str(device), work / step, changes)
            if step == "pocket":
                oracle_settings = Settings(pool=128, epochs=1) if args.quick else Settings()
                oracle = load_or_train("oracle", 0, args.oracle_cache or work, "cpu", oracle_settings)
                rows += check_pocket(bench, oracle)
            else:
                check = {"resume": check_resume, "batch-size": check_batch_size, "two-workers": check_two_workers}
                rows += check[step](bench)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    settings = {"steps": list(steps), "images": args.images, "config": "pocket", **changes}
    args.steps = "-".join(steps)
    report("gpu", args, rows, settings, began, of_machine={"device": name, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for the same bytes
    main()
