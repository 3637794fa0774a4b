"""Shared helpers of the benchmarks: table rows, JSON results, the class of the machine, and scratch folders.

Neither this code nor the results name a host, a user or a path outside the repository.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from figureground.models.bundled import ROBUST, SEGMENTER
from figureground.models.weights import fingerprint, fingerprint_files
from figureground.recipe.document import FORMAT

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("datasets", "diffusers", "numpy", "pillow", "pyarrow", "torch", "transformers", "webdataset")
MEGABYTE = 1e6


@dataclass(frozen=True)
class Row:
    """A measured number and its target."""

    name: str
    value: float
    unit: str
    low: float | None = None
    """Minimum of the repeats; None for a single measurement."""
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} to {self.at_most:g} {self.unit}"
        if self.at_least is not None:
            return f">= {self.at_least:g} {self.unit}"
        return f"<= {self.at_most:g} {self.unit}" if self.at_most is not None else ""

    @property
    def verdict(self) -> str:
        """`reached`, `missed`, or an empty string without a target."""
        if not self.target:
            return ""
        enough = self.at_least is None or self.value >= self.at_least
        return "reached" if enough and (self.at_most is None or self.value <= self.at_most) else "missed"


def median(
    name: str, values: Sequence[float], unit: str, *, at_least: float | None = None, at_most: float | None = None
) -> Row:
    """Return a row with the median and range of repeated measurements."""
    low, high = (min(values), max(values)) if len(values) > 1 else (None, None)
    return Row(name, statistics.median(values), unit, low, high, at_least, at_most)


def median_ratio(name: str, above: Sequence[float], below: Sequence[float], *, at_least: float | None = None) -> Row:
    """Return a row with the median of the ratios of measurements in the same round."""
    return median(name, [a / b for a, b in zip(above, below, strict=True)], "×", at_least=at_least)


def print_rows(rows: Sequence[Row]) -> None:
    """Print the rows as a table."""
    width = max(len(row.name) for row in rows)
    print(f"\n{'':<{width}}  {'median':>10} {'unit':<10} {'range of repeats':>19}  wanted")
    for row in rows:
        spread = "" if row.low is None or row.high is None else f"{format_number(row.low)} to {format_number(row.high)}"
        verdict = f"{row.target}: {row.verdict}" if row.verdict else ""
        print(f"{row.name:<{width}}  {format_number(row.value):>10} {row.unit:<10} {spread:>19}  {verdict}".rstrip())


def format_number(value: float) -> str:
    """Format a number with three significant digits, or with all digits before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def make_parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """Return a parser with the common options; `name` is the benchmark's results file, without a suffix."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help=f"JSON file to write (default: benchmarks/results/{name}.json)")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "out" / "benchmarks", help="a folder on the disk to be measured"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, as a smoke test; results are kept only with --out"
    )
    return parser


@contextlib.contextmanager
def make_scratch(work: Path) -> Iterator[Path]:
    """Create a new folder in `work`, and remove it afterwards."""
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=work) as folder:
        yield Path(folder)


def read_cpu() -> str:
    """Return the processor's model, family and number, as far as the system reports them."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.strip(), value.strip())
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']}, family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}"


def describe_machine(**more: Any) -> dict[str, Any]:
    """Return the class of machine and its load, without naming the machine."""
    return {
        "cpu": read_cpu(),
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "nice": os.nice(0),
        **more,
    }


def peak_memory() -> float:
    """Return the peak resident memory of this process, in MB."""
    # Not getrusage, whose value a new process inherits from its parent.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / MEGABYTE
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / MEGABYTE


def strip_location(argument: str) -> str:
    """Return a command line argument for reports: a path relative to the repository, or only its name.

    A path may follow a kind, as in `onnx:/models/net.onnx`.
    """
    prefix, colon, path_text = argument.partition(":")
    if colon and Path(path_text).is_absolute():
        return f"{prefix}:{strip_location(path_text)}"
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def strip_locations(arguments: Sequence[str]) -> list[str]:
    """Return command line arguments without `--out` and `--work`, which don't affect measurements."""
    filtered, previous = [], ""
    for argument in arguments:
        if previous not in ("--out", "--work") and not argument.startswith(("--out", "--work=")):
            filtered.append(strip_location(argument))
        previous = argument
    return [argument for argument in filtered if argument != "--work"]


def describe_command(name: str) -> str:
    """Return the command of this process, a benchmark, without places on this machine."""
    return " ".join([f"python benchmarks/{name}.py", *strip_locations(sys.argv[1:])])


def find_versions() -> dict[str, str | None]:
    """Return the versions of `LIBRARIES`; None for one that isn't installed."""
    versions_by_library: dict[str, str | None] = {}
    for library in LIBRARIES:
        versions_by_library[library] = None
        with contextlib.suppress(PackageNotFoundError):
            versions_by_library[library] = version(library)
    return versions_by_library


def describe_origin(checkpoint: str | None = None) -> dict[str, Any]:
    """Return the format version, commit and weights, on which results depend besides settings and libraries.

    Args:
        checkpoint: The measured checkpoint: a directory, a Hub id, or `pocket`. Bundled weights are always included.

    Returns:
        `format`; `commit`, with `+changes` if tracked files differ from it, and None outside a repository; `weights`,
        SHA-256 by name.
    """
    weights = {
        "pocket": fingerprint("pocket", None), "robust": fingerprint_files(ROBUST),
        "segmenter": fingerprint_files(SEGMENTER),
    }  # fmt: skip
    if checkpoint not in (None, "pocket"):
        weights[Path(checkpoint).name] = fingerprint(checkpoint, None)
    return {"format": FORMAT, "commit": read_commit(), "weights": weights}


def read_commit() -> str | None:
    """Return the current commit; with `+changes` if tracked files other than results differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changes.strip() else commit


def report(
    name: str,
    args: argparse.Namespace,
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    began: float,
    *,
    of_machine: Mapping[str, Any] | None = None,
    checkpoint: str | None = None,
    **more: Any,
) -> None:
    """Print the rows and save them as JSON, with the command and the class of machine.

    Args:
        name: Name of the benchmark, such as `generate` for `generate.py`.
        args: Arguments parsed by `make_parser`; a `--quick` run is saved only with `--out`.
        rows: The measurements.
        settings: Settings of the measurements.
        began: `time.monotonic()` at the start.
        of_machine: Facts about the machine besides `describe_machine()`.
        checkpoint: The measured checkpoint besides the bundled weights.
        more: Further entries of the JSON.
    """
    print_rows(rows)
    missed_rows = [row for row in rows if row.verdict == "missed"]
    print(f"\n{sum(row.verdict == 'reached' for row in rows)} targets reached, {len(missed_rows)} missed")
    if args.quick and not args.out:
        return
    document = {
        "command": describe_command(name),
        **describe_origin(checkpoint),
        "settings": dict(settings),
        "machine": describe_machine(**(of_machine or {})),
        "versions": {"python": platform.python_version(), **find_versions()},
        "seconds": round(time.monotonic() - began),
        "rows": [{**dataclasses.asdict(row), "verdict": row.verdict} for row in rows],
        **more,
    }
    out = args.out or ROOT / "benchmarks" / "results" / f"{name_results(name, args)}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(f"Wrote {strip_location(str(out))}")


def name_results(name: str, args: argparse.Namespace) -> str:
    """Return the name for saving results; results of other weights than the bundled ones have a name of their own."""
    weights, rungs = getattr(args, "random_weights", None), getattr(args, "ladder", False)
    return "-".join(part for part in (name, "ladder" * rungs, weights) if part)
