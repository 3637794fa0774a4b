"""What the benchmarks share: rows of a table, the JSON that is kept, the class of the machine, a place to work in.

Nothing here, and nothing that is kept, names a host, a user or a path outside the repository.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from figureground.models.bundled import ROBUST, SEGMENTER
from figureground.models.weights import fingerprint, fingerprint_files
from figureground.recipe.document import FORMAT

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("datasets", "diffusers", "numpy", "pillow", "pyarrow", "torch", "transformers", "webdataset")
MEGABYTE = 1e6


@dataclass(frozen=True)
class Row:
    """One measured number, and what is asked of it."""

    name: str
    value: float
    unit: str
    low: float | None = None
    """The least of the repeats; None where there was one."""
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def wanted(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} to {self.at_most:g} {self.unit}"
        if self.at_least is not None:
            return f">= {self.at_least:g} {self.unit}"
        return f"<= {self.at_most:g} {self.unit}" if self.at_most is not None else ""

    @property
    def verdict(self) -> str:
        """`reached`, `missed`, or nothing if nothing is asked."""
        if not self.wanted:
            return ""
        enough = self.at_least is None or self.value >= self.at_least
        return "reached" if enough and (self.at_most is None or self.value <= self.at_most) else "missed"


def median(
    name: str, values: Sequence[float], unit: str, *, at_least: float | None = None, at_most: float | None = None
) -> Row:
    """A row of the median of repeated measurements, with their range."""
    low, high = (min(values), max(values)) if len(values) > 1 else (None, None)
    return Row(name, statistics.median(values), unit, low, high, at_least, at_most)


def median_ratio(name: str, above: Sequence[float], below: Sequence[float], *, at_least: float | None = None) -> Row:
    """A row of the median of ratios of what was measured in the same round."""
    return median(name, [a / b for a, b in zip(above, below, strict=True)], "×", at_least=at_least)


def print_rows(rows: Sequence[Row]) -> None:
    """Prints a table to read."""
    wide = max(len(row.name) for row in rows)
    print(f"\n{'':<{wide}}  {'median':>10} {'unit':<10} {'range of repeats':>19}  wanted")
    for row in rows:
        spread = "" if row.low is None or row.high is None else f"{number(row.low)} to {number(row.high)}"
        verdict = f"{row.wanted}: {row.verdict}" if row.verdict else ""
        print(f"{row.name:<{wide}}  {number(row.value):>10} {row.unit:<10} {spread:>19}  {verdict}".rstrip())


def number(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def arguments(description: str | None, name: str) -> argparse.ArgumentParser:
    """A parser of what every benchmark takes; `name` is the file of its results, without a suffix."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help=f"where the JSON goes (default: benchmarks/results/{name}.json)")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "out" / "benchmarks", help="a folder on the disk that is to be measured"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; kept only with --out")
    return parser


@contextlib.contextmanager
def scratch(work: Path) -> Iterator[Path]:
    """A new folder in `work`, removed afterwards."""
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=work) as folder:
        yield Path(folder)


def read_cpu() -> str:
    """The processor's model, family and number, as far as the system says them."""
    said: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, colon, value = line.partition(":")
            if colon:
                said.setdefault(name.strip(), value.strip())
    if "model name" not in said:
        return platform.processor() or platform.machine()
    return f"{said['model name']}, family {said.get('cpu family', '?')}, model {said.get('model', '?')}"


def machine(**more: Any) -> dict[str, Any]:
    """The class of machine, and how busy it is; no names."""
    return {
        "cpu": read_cpu(),
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "nice": os.nice(0),
        **more,
    }


def peak_memory() -> float:
    """The most memory, in MB, that this process has had resident."""
    # Not getrusage, whose number a new process has from the one that started it.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / MEGABYTE
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / MEGABYTE


def shown(argument: str) -> str:
    """A command line argument as a report shows it: a path relative to the repository, or its name alone."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def without_places(arguments: Sequence[str]) -> list[str]:
    """Command line arguments but for `--out` and `--work`, which change nothing that is measured."""
    kept, after = [], ""
    for argument in arguments:
        if after not in ("--out", "--work") and not argument.startswith(("--out", "--work=")):
            kept.append(shown(argument))
        after = argument
    return [argument for argument in kept if argument != "--work"]


def origin(checkpoint: str | None = None) -> dict[str, Any]:
    """What results depend on beside settings and libraries: the version of the format, the commit, and the weights.

    Args:
        checkpoint: What was measured beside the bundled weights: a directory, a Hub id, or `pocket`.

    Returns:
        `format`; `commit`, with `+changes` where tracked files differ from it, and None outside a repository;
        `weights`, SHA-256 by name.
    """
    weights = {
        "pocket": fingerprint("pocket", None), "robust": fingerprint_files(ROBUST),
        "segmenter": fingerprint_files(SEGMENTER),
    }  # fmt: skip
    if checkpoint not in (None, "pocket"):
        weights[Path(checkpoint).name] = fingerprint(checkpoint, None)
    return {"format": FORMAT, "commit": read_commit(), "weights": weights}


def read_commit() -> str | None:
    """The commit that is checked out; `+changes` says that tracked files, results apart, differ from it."""
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
    """Prints the rows and keeps them as JSON, with the command and the class of machine.

    Args:
        name: Of the benchmark, `generate` of `generate.py`.
        args: What `arguments` parsed; a `--quick` run is kept only where `--out` says.
        rows: What was measured.
        settings: What it was measured with.
        began: `time.monotonic()` at the start.
        of_machine: What is to be said of the machine beside `machine()`.
        checkpoint: What was measured beside the bundled weights.
        more: Further entries of the JSON.
    """
    print_rows(rows)
    missed = [row for row in rows if row.verdict == "missed"]
    print(f"\n{sum(row.verdict == 'reached' for row in rows)} targets reached, {len(missed)} missed")
    if args.quick and not args.out:
        return
    document = {
        "command": " ".join([f"python benchmarks/{name}.py", *without_places(sys.argv[1:])]),
        **origin(checkpoint),
        "settings": dict(settings),
        "machine": machine(**(of_machine or {})),
        "versions": {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}},
        "seconds": round(time.monotonic() - began),
        "rows": [{**dataclasses.asdict(row), "verdict": row.verdict} for row in rows],
        **more,
    }
    out = args.out or ROOT / "benchmarks" / "results" / f"{kept_name(name, args)}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(f"Wrote {shown(str(out))}")


def kept_name(name: str, args: argparse.Namespace) -> str:
    """The name under which results are kept: those of other weights than the bundled ones have their own."""
    weights = getattr(args, "random_weights", None)
    return f"{name}-{weights}" if weights else name
