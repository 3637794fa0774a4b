"""Numerics that pixels depend on besides the recipe (device, dtype, batch size, versions), fixed by the first shard."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from figureground.core.differences import differences
from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError, create_text, read_object, replace_text
from figureground.core.shapes import Count, Each, Optional, check_shape
from figureground.core.terminal import remark

VERSIONED = ("figureground", "torch", "diffusers", "transformers", "pillow", "numpy", "pyarrow", "webdataset")
"""Libraries whose versions can change pixels or file bytes."""


def library_versions(*more: str) -> dict[str, str]:
    """Return the versions of `VERSIONED`, and of further libraries."""
    found = {}
    for name in (*VERSIONED, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def usable_cores() -> int:
    """Return the number of processor cores that this process may use; a batch system may grant only some.

    A lower `OMP_NUM_THREADS` is respected too.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdigit() and int(asked) else cores


def cpu_model() -> str:
    """Return the name of this machine's CPU, such as `AMD EPYC 7763 64-Core Processor`; its architecture if unknown.

    Linux says it in `/proc/cpuinfo`, macOS in `sysctl`, Windows in the environment.
    """
    if platform.system() == "Darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
            return told.strip() or platform.machine()
    with suppress(OSError):
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        facts = dict(reversed([(key.strip(), value.strip()) for key, _, value in _pairs(told)]))
        if name := facts.get("model name") or facts.get("Model") or _arm(facts):
            return name
    return platform.processor() or platform.machine()


def _pairs(text: str) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in text.splitlines() if ":" in line]


def _arm(facts: dict[str, str]) -> str:
    """Return implementer, part and revision: ARM servers give these numbers in place of a name."""
    names = ("CPU implementer", "CPU part", "CPU variant", "CPU revision")
    numbers = [f"{name.removeprefix('CPU ')} {facts[name]}" for name in names if name in facts]
    return f"{platform.machine()} ({', '.join(numbers)})" if numbers else ""


def create_once(path: Path, text: str) -> None:
    """Write a file atomically, unless another process was first."""
    with suppress(FileExistsError):
        create_text(path, text)


_SHAPE = {
    "device": str, "dtype": str, "batch_size": Count, "threads": Optional((Count, None)),
    "revision": Optional((str, None)), "versions": Optional(Each(str)), "mixed": Optional([dict]),
}  # fmt: skip


def read_numerics(path: Path) -> dict[str, Any]:
    """Read the numerics that `settle_numerics` recorded in a dataset.

    Raises:
        FileError: They can't be read, or a field is missing or has the wrong type; names the field.
        OSError: They don't exist.
    """
    settled = read_object(path, root=path.parent.parent)
    try:
        check_shape(settled, _SHAPE)
    except ValueError as error:
        raise FileError(path, f"{error}. Restore it from a copy, or build into another directory") from None
    return settled


def settle_numerics(path: Path, mine: dict[str, Any], allow_mixed: bool, started: bool) -> None:
    """Record the numerics, or compare them with the recorded ones.

    Args:
        started: Whether a shard exists or is being rendered; before that, the numerics may still change.

    Raises:
        FiguregroundError: They differ, and mixing is not allowed.
    """
    if not started or not path.exists():
        replace_text(path, json.dumps({**mine, "mixed": []}, indent=2) + "\n")
        return
    refuse_other_numerics(path, mine, allow_mixed)
    settled = read_numerics(path)
    mixed = settled.pop("mixed", [])
    if _lacks_cpu(settled, mine):
        remark(
            f"{path}: an earlier release recorded only {settled['processor']!r} as the processor of the first shards. "
            f"They are taken to be of this one, {mine['processor']!r}, which is required from now on."
        )
        settled |= {"processor": mine["processor"]}
        replace_text(path, json.dumps({**settled, "mixed": mixed}, indent=2) + "\n")
    if settled != mine and mine not in mixed:
        replace_text(path, json.dumps({**settled, "mixed": [*mixed, mine]}, indent=2) + "\n")


def refuse_other_numerics(path: Path, mine: dict[str, Any], allow_mixed: bool) -> None:
    """Raise FiguregroundError if the recorded numerics differ from these, unless mixing is allowed."""
    settled = read_numerics(path)
    settled.pop("mixed", None)
    if _lacks_cpu(settled, mine):
        settled["processor"] = mine["processor"]
    changed = differences(settled, mine)
    if changed and not allow_mixed:
        raise FiguregroundError(
            f"{path}: existing shards were made with other numerics, so the rest would differ in the last "
            "bit:\n  "
            + "\n  ".join(changed)
            + "\nUse the same, or allow it with --set allow_mixed_numerics=true; the card will report it."
        )


def _lacks_cpu(settled: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Whether the recorded processor is only the architecture of this machine, as earlier releases wrote it."""
    theirs = settled.get("processor")
    return mine.get("device") != "cuda" and theirs == platform.machine() and theirs != mine.get("processor")
