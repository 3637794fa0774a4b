"""Memory growth of a build: `python benchmarks/memory.py`.

Runs `figureground build d3s` with the pocket model in a separate process, with many small shards, and reads that
process's resident memory after every shard. The first shards are skipped, because libraries, weights and buffers are
loaded then. Prints a table, writes JSON, and draws the curve as a PNG beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from results import MEGABYTE, ROOT, Row, make_parser, make_scratch, report, strip_location

from figureground.shards.shard import MARKERS

IMAGES_A_SHARD, STEPS = 4, 4
"""Minimal values, so that memory growth, if any, is due to the number of shards."""
SECONDS_BETWEEN_LOOKS = 0.02


class Reading(NamedTuple):
    shards: int
    """Number of finished shards."""
    megabytes: float
    seconds: float


def watch(command: Sequence[str], out: Path, log: Path) -> list[Reading]:
    """Run a build; return its resident memory just after each shard, or after the last of several."""
    readings: list[Reading] = []
    start = time.perf_counter()
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        build_process = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                megabytes = build_process.memory_info().rss / MEGABYTE
            except psutil.Error:
                break  # the process is exiting
            num_done = sum(1 for _ in (out / MARKERS).glob("[!.]*.json"))
            if num_done and (not readings or num_done > readings[-1].shards):
                readings.append(Reading(num_done, megabytes, time.perf_counter() - start))
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        raise SystemExit(f"The build failed:\n{log.read_text()}")
    return readings


def slope(readings: Sequence[Reading]) -> float:
    """Return the slope of a straight line through the readings, in MB per 100 shards."""
    shards, megabytes = np.array([(r.shards, r.megabytes) for r in readings]).T
    return float(100 * np.polyfit(shards, megabytes, 1)[0])


def growth(readings: Sequence[Reading]) -> float:
    """Return the growth in per cent from the first to the last fifth of the readings, by medians."""
    megabytes = [r.megabytes for r in readings]
    fifth = max(1, len(megabytes) // 5)
    return float(100 * (np.median(megabytes[-fifth:]) / np.median(megabytes[:fifth]) - 1))


def print_curve(readings: Sequence[Reading], lines: int = 20) -> None:
    """Print a line for every n-th shard, with a bar proportional to the memory used."""
    highest = max(r.megabytes for r in readings)
    print(f"\n{'shards':>7}  {'MB':>6}")
    for r in readings[:: max(1, len(readings) // lines)]:
        print(f"{r.shards:>7}  {r.megabytes:>6.0f}  {'#' * round(50 * r.megabytes / highest)}")


def draw_curve(readings: Sequence[Reading], passed_over: int, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axes.axvspan(0, passed_over, color="0.92", label="passed over")
    axes.plot([r.shards for r in readings], [r.megabytes for r in readings], linewidth=1.2, label="resident memory")
    axes.set(xlabel="shards done", ylabel="MB", ylim=(0, 1.15 * max(r.megabytes for r in readings)), xlim=(0, None))
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = make_parser(__doc__, "memory")
    parser.add_argument("--shards", type=int, default=500)
    parser.add_argument("--passed-over", type=int, default=100, help="shards at the start that are skipped")
    args = parser.parse_args()
    if args.quick:
        args.shards, args.passed_over = 12, 2
    if args.passed_over > args.shards - 10:
        parser.error("at least 10 shards must be left to measure")
    began = time.monotonic()
    images = args.shards * IMAGES_A_SHARD
    settings = {
        "per_cell": {"train": -(-images // 100)}, "limit": images, "shard_size": IMAGES_A_SHARD,
        "batch_size": IMAGES_A_SHARD, "num_inference_steps": STEPS, "threads": 1,
    }  # fmt: skip
    with make_scratch(args.work) as work:
        command = [sys.executable, "-m", "figureground.cli.main", "build", "d3s", "--out", str(work / "built")]
        for name, value in settings.items():
            command += ["--set", f"{name}={json.dumps(value)}"]
        readings = watch(command, work / "built", work / "log.txt")
    measured = [r for r in readings if r.shards > args.passed_over]
    rows = [
        Row("memory after the first shards", measured[0].megabytes, "MB"),
        Row("memory at the end", measured[-1].megabytes, "MB"),
        Row("most memory", max(r.megabytes for r in readings), "MB"),
        Row("growth, last fifth over first fifth", growth(measured), "%", at_most=2),
        Row("slope of a straight line", slope(measured), "MB a 100 shards"),
        Row("speed", args.shards / readings[-1].seconds, "shards/s"),
    ]
    print_curve(readings)
    if not args.quick or args.out:
        image = (args.out or ROOT / "benchmarks" / "results" / "memory.json").with_suffix(".png")
        draw_curve(readings, args.passed_over, image)
        print(f"Wrote {strip_location(str(image))}")
    report(
        "memory", args, rows, {"shards": args.shards, "passed_over": args.passed_over, **settings}, began,
        curve=[[r.shards, round(r.megabytes, 1)] for r in readings],
    )  # fmt: skip


if __name__ == "__main__":
    main()
